"""Plays history into the topics: records of the past with the time at which they would have been recorded.

They go straight to Kafka, without a spool, for they can be made again. The publisher's clock is the history's: its
heartbeats say how far the past has been told, and stand in every partition of every input topic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count

from ingest.counts import Counts
from ingest.oversize import parts
from ingest.publisher import ROUND_BYTES
from ingest.rounds import Connect, Rounds
from ingest.spool import SENT_HEARTBEAT_BYTES, Row
from ingest.steady_clock import wall_ms
from schemas.codec import encode_dead_letter
from schemas.records import DeadLetter, Heartbeat, Record
from schemas.topics import DEAD_LETTERS, topic_of

SOURCE = "history"
HEARTBEAT_EVERY_MS = 6 * 3_600_000
ROUND_ROWS = 10_000

Moments = Iterable[tuple[int, Sequence[Record]]]
"""(recorded_ms, records) in the order of time."""


async def backfill(
    moments: Moments,
    connect: Connect,
    *,
    source: str = SOURCE,
    heartbeat_every_ms: int = HEARTBEAT_EVERY_MS,
    counts: Counts | None = None,
) -> int:
    """How many records were written. All of them are in Kafka when this returns.

    The sequence counts from 1, so the same history told again under the same source on the same topics is skipped by
    its readers, and another history needs another source. Raises ValueError when time falls.
    """
    rounds = Rounds(connect, source=source, counts=counts, clock=wall_ms)
    written = 0
    try:
        for rows in _rounds(_rows(moments, source, heartbeat_every_ms)):
            letters = await rounds.send(rows)
            if letters:
                await rounds.send([_letter_row(letter) for letter in letters])
            written += sum(row.type != Heartbeat.type for row in rows)
    finally:
        await rounds.close()
    return written


def _rows(moments: Moments, source: str, heartbeat_every_ms: int) -> Iterator[Row]:
    """A heartbeat at each full step of history and at its end; each says that all before it has been told."""
    sequence = count(1)
    last_ms = beaten_ms = -1
    for recorded_ms, records in moments:
        if recorded_ms < last_ms:
            raise ValueError(f"history must be in the order of time: {recorded_ms} comes after {last_ms}")
        step_ms = recorded_ms - recorded_ms % heartbeat_every_ms
        if last_ms >= 0 and step_ms > last_ms:
            beaten_ms = step_ms
            yield _heartbeat_row(source, step_ms)
        last_ms = recorded_ms
        for record in records:
            for part, body in parts(record):
                topic = topic_of(part).name
                yield Row(next(sequence), topic, part.cell, part.type, part.time_ms, recorded_ms, body)
    if last_ms > beaten_ms:
        yield _heartbeat_row(source, last_ms)


def _rounds(rows: Iterable[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += SENT_HEARTBEAT_BYTES if row.type == Heartbeat.type else row.size
        if size >= ROUND_BYTES or len(batch) >= ROUND_ROWS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _heartbeat_row(source: str, time_ms: int) -> Row:
    beat = Heartbeat(publisher=source, time_ms=time_ms)
    return Row(0, "", "", beat.type, time_ms, time_ms, beat.model_dump_json().encode())


def _letter_row(letter: DeadLetter) -> Row:
    wire = encode_dead_letter(letter)
    return Row(
        0, DEAD_LETTERS.name, (wire.key or b"").decode(), letter.type, letter.time_ms, letter.time_ms, wire.value
    )
