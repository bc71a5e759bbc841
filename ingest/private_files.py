"""Files that only the program's own user may read: what the spool holds is other people's business.

SQLite gives `-wal` and `-shm` the mode of the file they belong to, so that file is made before SQLite opens it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

FILE_MODE, FOLDER_MODE = 0o600, 0o700
COMPANIONS = ("", "-wal", "-shm", "-journal", "-reserve")


def make_private(path: Path) -> None:
    """Make the file at `path` and its folder if they are missing, and take others' rights from what is there already.

    A folder is narrowed only where it holds nothing but this file and its companions: a shared one is not ours to
    close. Raises OSError when the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    # Never opened when it is there: closing it again would drop the locks of SQLite in this process.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))
    ours = [path.with_name(path.name + companion) for companion in COMPANIONS]
    for file in ours:
        _narrow(file, FILE_MODE)
    if {entry.name for entry in path.parent.iterdir()} <= {file.name for file in ours}:
        _narrow(path.parent, FOLDER_MODE)


def _narrow(path: Path, mode: int) -> None:
    # What belongs to somebody else cannot be changed, and is not worth a start that fails.
    with contextlib.suppress(OSError):
        found = path.lstat()
        if not stat.S_ISLNK(found.st_mode) and stat.S_IMODE(found.st_mode) & 0o077 and found.st_uid == os.geteuid():
            path.chmod(mode)
