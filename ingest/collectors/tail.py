"""Follows a log file through rotation, so that a line is neither lost nor read twice.

A place is an inode, an offset and a fingerprint: the digest of the file's first bytes. The fingerprint tells a file that
was truncated and written anew (copytruncate) from the one that was read before, and finds the copy in which the unread
rest stands. Files that rotation made beside the log (`odoo.log.1`, `odoo.log-20261121`) are read to their end, oldest
first, before the log itself; compressed ones are not read.

Only regular files are opened, and never in a way that waits: a pipe, a folder or a loop of links in a file's place is an
error of the log itself, and passed over among the rotated ones. A rotated file that is closed to us is missing, no more.

What is whole is the reader's business: half a line at the end is left unread by not counting it as used.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, Field

HEAD_BYTES = 256
MAX_ROTATED = 1_000  # of the files that rotation made, the newest
_ROTATED = re.compile(r"^[.-][0-9][0-9.T_-]*+")
_MOVED_TIMES = 3


class NotAFile(OSError):  # noqa: N818 (it says what is there)
    """Where a log should be stands something else: a folder, a pipe, a device."""


class _Moved(Exception):  # noqa: N818 (it says what happened)
    """The file was rotated between the look at its name and its opening."""


class Place(BaseModel):
    """Where reading goes on. `ended` says that the previous look found the end of a file that was rotated away."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    inode: int = Field(0, ge=0)
    offset: int = Field(0, ge=0, lt=2**63)
    head: str = ""
    head_bytes: int = Field(0, ge=0, le=HEAD_BYTES)
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes from one file, from `place` on, and what is known about what may follow them.

    `whole` says that nothing will follow them in this file; `written_ms` is when the file was last written. `missing`
    says what rotation took away unread, None if nothing. `first` are the first bytes of the file. `behind` is how many
    bytes of the log stand behind them, in all of its files.
    """

    data: bytes
    place: Place
    first: bytes
    written_ms: int
    whole: bool = False
    missing: str | None = None
    behind: int = 0

    def after(self, used: int) -> Place:
        """The place behind the first `used` bytes of `data`."""
        offset = self.place.offset + used
        head = self.first[:offset]
        return self.place.model_copy(update={"offset": offset, "head": _digest(head), "head_bytes": len(head)})


@dataclass(frozen=True, slots=True)
class _File:
    """One file of the log: the log itself or one that rotation made of it."""

    path: Path
    inode: int
    size: int
    written_ns: int
    live: bool

    def read(self, place: Place, max_bytes: int) -> Piece:
        """A piece of this file from the place's offset on."""
        with self._open() as opened:
            first = opened.read(HEAD_BYTES)
            opened.seek(place.offset)
            data = opened.read(max_bytes)
        ended = not self.live and place.offset + len(data) >= self.size
        # A writer that had the file open while it was renamed may still add to it: it is whole at the second look only.
        here = place.model_copy(update={"inode": self.inode, "ended": ended})
        behind = max(0, self.size - place.offset - len(data))
        return Piece(data, here, first, self.written_ns // 1_000_000, whole=ended and place.ended, behind=behind)

    def holds(self, place: Place) -> bool:
        """Whether this is the file that was read: long enough, and it begins as it did. A rotated one that is closed does not."""
        if self.size < place.offset:
            return False
        try:
            with self._open() as opened:
                return _digest(opened.read(place.head_bytes)) == place.head
        except OSError:
            if self.live:
                raise
            return False

    @contextlib.contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        with _opened(self.path) as file:
            if os.fstat(file.fileno()).st_ino != self.inode:
                raise _Moved
            yield file


def end_of(path: Path) -> Place:
    """The place behind everything that the log holds now. Raises OSError when it cannot be read."""
    file = _file(path, live=True)
    return file.read(Place(inode=file.inode, offset=file.size), 0).after(0)


def read(path: Path, place: Place, max_bytes: int) -> Piece:
    """Up to `max_bytes` from `place` on; `Place()` is the beginning of the log as it is.

    Takes one small read and never waits for a writer. Raises FileNotFoundError when neither the log nor the place's file
    is there, NotAFile when something else is in its place, and OSError when it is closed to us or the disk fails.
    """
    for _ in range(_MOVED_TIMES):
        with contextlib.suppress(_Moved):
            return _read(path, place, max_bytes)
    raise FileNotFoundError(f"{path} is rotated again and again")


def _read(path: Path, place: Place, max_bytes: int) -> Piece:
    files = _family(path)
    found = _where(files, place)
    if found is None:
        return _begin(path, files, place, max_bytes)
    piece, later = files[found].read(place, max_bytes), files[found + 1 :]
    if piece.whole and not piece.data and later:
        piece, later = later[0].read(Place(), max_bytes), later[1:]
    return replace(piece, behind=piece.behind + sum(file.size for file in later))


def _begin(path: Path, files: list[_File], place: Place, max_bytes: int) -> Piece:
    """The log from its beginning: it was never read, or what was read is gone, which is said."""
    last = files[-1]
    if not last.live:
        raise FileNotFoundError(path)
    piece = last.read(Place(), max_bytes)
    if not place.inode:
        return piece
    gone = "is in a file that is closed to us" if any(file.inode == place.inode for file in files[:-1]) else ""
    why = gone or f"of {path} before it was truncated or rotated away"
    return replace(piece, missing=f"what followed byte {place.offset} {why}")


def _where(files: list[_File], place: Place) -> int | None:
    """Which file the place is in. By inode, else by fingerprint: copytruncate leaves the content in another inode."""
    if not place.inode:
        return None
    by_inode = [index for index, file in enumerate(files) if file.inode == place.inode]
    copies = [index for index, file in enumerate(files) if file.inode != place.inode and place.head_bytes]
    return next((index for index in by_inode + copies if files[index].holds(place)), None)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading. Raises OSError; does not wait for the other end of a pipe."""
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(number, "rb") as file:
        _must_be_a_file(path, os.fstat(number).st_mode)
        yield file


def _must_be_a_file(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise NotAFile(f"{path} is {kinds.get(stat.S_IFMT(mode), 'a device')}, not a file")


def _digest(head: bytes) -> str:
    return hashlib.sha256(head).hexdigest()[:32] if head else ""


def _family(path: Path) -> list[_File]:
    """The log and the files that rotation made of it, oldest first, the log itself last. Never empty."""
    rotated = sorted(_rotated(path), key=_age)[-MAX_ROTATED:]
    if rotated and not os.path.lexists(path):
        return rotated
    return [*rotated, _file(path, live=True)]


def _rotated(path: Path) -> Iterator[_File]:
    """What rotation made of the log; none where the folder may be passed but not listed."""
    try:
        names = os.listdir(path.parent)
    except OSError:
        return
    for name in names:
        if name.startswith(path.name) and _ROTATED.fullmatch(name[len(path.name) :]):
            # Gone meanwhile, or something else than a file with such a name.
            with contextlib.suppress(OSError):
                yield _file(path.with_name(name), live=False)


def _age(file: _File) -> tuple[int, int]:
    """Oldest first; of files written in one tick of the file system's clock the higher number is older."""
    number = file.path.suffix[1:]
    return file.written_ns, -int(number) if number.isdecimal() and len(number) < 4 else 0


def _file(path: Path, *, live: bool) -> _File:
    status = path.stat()
    _must_be_a_file(path, status.st_mode)
    return _File(path, status.st_ino, status.st_size, status.st_mtime_ns, live)
