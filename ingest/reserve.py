"""Disk space that is kept for the day on which the disk is full.

What frees space needs a little space first: SQLite writes which pages become free before it frees them. So the spool keeps
a file of a few MiB beside it, gives it up when the disk is full, and takes it again once there is room. It holds random
bytes, because file systems that compress or share blocks would keep nothing of zeros.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

RESERVE_BYTES = 4 * 2**20
PLENTY = 4  # the reserve is taken only where so many times its size is free, so that it does not itself fill the disk


class Reserve:
    """The file at `path`, `size` bytes long or absent."""

    def __init__(self, path: Path, size: int = RESERVE_BYTES) -> None:
        self._path, self._size = path, size
        self._is_held = False

    def take(self) -> None:
        """Have the reserve on disk if there is plenty of room; otherwise leave things as they are."""
        if self._is_held:
            return
        try:
            self._is_held = self._is_whole() or self._written()
        except OSError:
            self._remove()

    def give(self) -> bool:
        """Free the space. Whether there was any."""
        had_some = self._path.exists()
        self._remove()
        return had_some

    def _is_whole(self) -> bool:
        return self._path.is_file() and self._path.stat().st_size == self._size

    def _written(self) -> bool:
        where = os.statvfs(self._path.parent)
        if where.f_bavail * where.f_frsize < PLENTY * self._size:
            return False
        with open(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(os.urandom(self._size))
            file.flush()
            os.fsync(file.fileno())
        return True

    def _remove(self) -> None:
        self._is_held = False
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
