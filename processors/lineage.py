"""Snapshots that survive a kill at any moment: whole or not at all, and only what has changed.

A snapshot of a partition is many records of one compacted Kafka partition: the changed parts first, in chunks, then a
commit that lists where every part stands. A reader takes the commit that has folded most and whose parts are all
there; folds are deterministic, so it does not matter which worker wrote it. Each writer has keys of its own and begins
with a whole snapshot, so a revoked worker's late writes harm nobody. Each part alternates between two keys (slots), so
that compaction never removes the committed one for the sake of one whose commit did not follow.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

Key = tuple[str, ...]

CHUNK_BYTES = 256 * 1024
COMMIT = "commit"


class Entry(NamedTuple):
    """One record of the state topic; value None is a tombstone."""

    key: bytes
    value: bytes | None


class _Stand(NamedTuple):
    """Where a part stands."""

    slot: int
    chunks: int
    generation: int
    checksum: int


@dataclass
class Writer:
    """Turns snapshots of one partition into records, remembering what it has written.

    `writer` is unique to a worker's hold on a partition; `inherited` are the keys found at restore, which are removed
    once the first snapshot of this writer stands.
    """

    writer: str
    inherited: list[bytes] = field(default_factory=list)
    generation: int = 0
    _stands: dict[Key, _Stand] = field(default_factory=dict)

    def parts(self, parts: Mapping[Key, bytes]) -> list[Entry]:
        """The changed parts; all of them must be acknowledged before the commit is sent."""
        self.generation += 1
        return [entry for key, data in parts.items() for entry in self._changed(key, data)]

    def commit(self, parts: Mapping[Key, bytes], folded: tuple[int, ...]) -> Entry:
        """The record that makes the snapshot count. `folded` orders snapshots: how far the log was folded."""
        table = [[list(key), *self._stands[key][:3]] for key in parts]
        self._stands = {key: self._stands[key] for key in parts}
        body = {"writer": self.writer, "generation": self.generation, "folded": folded, "parts": table}
        return Entry(orjson.dumps([COMMIT, self.writer]), orjson.dumps(body))

    def tombstones(self) -> list[Entry]:
        """What may be removed after the first commit: everything that stood there before this writer."""
        gone, self.inherited = self.inherited, []
        return [Entry(key, None) for key in gone]

    def _changed(self, key: Key, data: bytes) -> Iterable[Entry]:
        before, checksum = self._stands.get(key), zlib.crc32(data)
        chunks = max(1, -(-len(data) // CHUNK_BYTES))
        if before and (before.checksum, before.chunks) == (checksum, chunks):
            return
        slot = 1 - before.slot if before else 0
        self._stands[key] = _Stand(slot, chunks, self.generation, checksum)
        head = self.generation.to_bytes(8, "big")
        for number in range(chunks):
            piece = data[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
            yield Entry(_chunk_key(self.writer, key, number, slot), head + piece)


class Restored(NamedTuple):
    """What stands in the state topic: the parts of the best snapshot, and every key found."""

    parts: dict[Key, bytes]
    keys: list[bytes]


def restore(entries: Iterable[tuple[bytes, bytes | None]]) -> Restored:
    """The best whole snapshot among the records of a partition, in the order of the log.

    What is no commit, or points to what is no part, is passed over: whoever wrote it, a worker always starts.
    """
    latest: dict[bytes, list[bytes]] = {}
    for key, value in entries:
        if value is None:
            latest.pop(key, None)
        else:
            latest.setdefault(key, []).append(value)
    commits = [read for key, values in latest.items() if _is_commit(key) for value in values if (read := _read(value))]
    for commit in sorted(commits, key=lambda one: one["folded"], reverse=True):
        with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError, OverflowError):
            if (parts := _collect(commit, latest)) is not None:
                return Restored(parts, list(latest))
    return Restored({}, list(latest))


def _read(value: bytes) -> Any:
    """A commit; None of what is none."""
    try:
        commit = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    folded = commit.get("folded") if isinstance(commit, dict) else None
    is_one = isinstance(folded, list) and bool(folded) and all(type(one) is int for one in folded)
    return commit if is_one else None


def _collect(commit: Any, found: Mapping[bytes, list[bytes]]) -> dict[Key, bytes] | None:
    parts: dict[Key, bytes] = {}
    for names, slot, chunks, generation in commit["parts"]:
        head = generation.to_bytes(8, "big")
        pieces = []
        for number in range(chunks):
            versions = found.get(_chunk_key(commit["writer"], tuple(names), number, slot), ())
            piece = next((value for value in reversed(versions) if value[:8] == head), None)
            if piece is None:
                return None
            pieces.append(piece[8:])
        parts[tuple(names)] = b"".join(pieces)
    return parts


def _chunk_key(writer: str, key: Key, number: int, slot: int) -> bytes:
    return orjson.dumps([writer, *key, number, slot])


def _is_commit(key: bytes) -> bool:
    return key.startswith(b'["commit",')
