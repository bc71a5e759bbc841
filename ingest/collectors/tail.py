"""Follows a log file through rotation, so that a line is neither lost nor read twice.

A place is an inode, an offset and a fingerprint: the digest of the file's first bytes. The fingerprint tells a file that
was truncated and written anew (copytruncate) from the one that was read before, and finds the copy in which the unread
rest stands. Files that rotation made beside the log (`odoo.log.1`, `odoo.log-20261121`) are read to their end, oldest
first, before the log itself; compressed ones are not read.

What is whole is the reader's business: half a line at the end is left unread by not counting it as used.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict

HEAD_BYTES = 256
_ROTATED = re.compile(r"[.-]\d[\d.T_-]*")


class Place(BaseModel):
    """Where reading goes on. `ended` says that the previous look found the end of a file that was rotated away."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inode: int = 0
    offset: int = 0
    head: str = ""
    head_bytes: int = 0
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes from one file, from `place` on, and what is known about what may follow them.

    `whole` says that nothing will follow them in this file; `written_ms` is when the file was last written. `missing`
    says what rotation took away unread, None if nothing. `first` are the first bytes of the file.
    """

    data: bytes
    place: Place
    first: bytes
    written_ms: int
    whole: bool = False
    missing: str | None = None

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
        with self.path.open("rb") as opened:
            first = opened.read(HEAD_BYTES)
            opened.seek(place.offset)
            data = opened.read(max_bytes)
        ended = not self.live and place.offset + len(data) >= self.size
        # A writer that had the file open while it was renamed may still add to it: it is whole at the second look only.
        here = place.model_copy(update={"inode": self.inode, "ended": ended})
        return Piece(data, here, first, self.written_ns // 1_000_000, whole=ended and place.ended)

    def holds(self, place: Place) -> bool:
        """Whether this is the file that was read: long enough, and it begins as it did."""
        if self.size < place.offset:
            return False
        with self.path.open("rb") as opened:
            return _digest(opened.read(place.head_bytes)) == place.head


def end_of(path: Path) -> Place:
    """The place behind everything that the log holds now. Raises OSError when it cannot be read."""
    file = _file(path, live=True)
    return file.read(Place(inode=file.inode, offset=file.size), 0).after(0)


def read(path: Path, place: Place, max_bytes: int) -> Piece:
    """Up to `max_bytes` from `place` on; `Place()` is the beginning of the log as it is.

    Blocks for one small read. Raises FileNotFoundError when neither the log nor the place's file is there, and
    PermissionError when it is closed to us.
    """
    files = _family(path)
    found = _where(files, place)
    if found is None:
        return _begin(path, files[-1], place, max_bytes)
    piece = files[found].read(place, max_bytes)
    if piece.whole and not piece.data and found + 1 < len(files):
        return files[found + 1].read(Place(), max_bytes)
    return piece


def _begin(path: Path, last: _File, place: Place, max_bytes: int) -> Piece:
    """The log from its beginning: it was never read, or what was read is gone, which is said."""
    if not last.live:
        raise FileNotFoundError(path)
    piece = last.read(Place(), max_bytes)
    if not place.inode:
        return piece
    return replace(
        piece, missing=f"what followed byte {place.offset} of {path} before it was truncated or rotated away"
    )


def _where(files: list[_File], place: Place) -> int | None:
    """Which file the place is in. By inode, else by fingerprint: copytruncate leaves the content in another inode."""
    if not place.inode:
        return None
    by_inode = [index for index, file in enumerate(files) if file.inode == place.inode]
    copies = [index for index, file in enumerate(files) if file.inode != place.inode and place.head_bytes]
    return next((index for index in by_inode + copies if files[index].holds(place)), None)


def _digest(head: bytes) -> str:
    return hashlib.sha256(head).hexdigest()[:32] if head else ""


def _family(path: Path) -> list[_File]:
    """The log and the files that rotation made of it, oldest first, the log itself last. Never empty."""
    siblings = [one for one in path.parent.glob(f"{path.name}?*") if _ROTATED.fullmatch(one.name[len(path.name) :])]
    rotated = sorted((_file(one, live=False) for one in siblings), key=_age)
    if rotated and not path.exists():
        return rotated
    return [*rotated, _file(path, live=True)]


def _age(file: _File) -> tuple[int, int]:
    """Oldest first; of files written in one tick of the file system's clock the higher number is older."""
    number = file.path.suffix[1:]
    return file.written_ns, -int(number) if number.isdecimal() and len(number) < 4 else 0


def _file(path: Path, *, live: bool) -> _File:
    status = path.stat()
    return _File(path, status.st_ino, status.st_size, status.st_mtime_ns, live)
