"""Rounds: how rows reach Kafka in order, whatever fails.

A round is some rows of the queue. Every topic-partition (a lane) gets its rows as batches, one after the other: a
batch is sent only after Kafka has stored the one before it, and the next round only after all of this one. So what
a partition holds is always a beginning of the queue, and no hole in the sequence is ever filled later. After a
failure the producer is made anew, for an idempotent one that has met a broker's restart may be stuck for ever, and
the batches that are not known to be stored are sent again; readers know them by source and sequence.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

from aiokafka.partitioner import murmur2

from ingest.counts import Count, Counts
from ingest.oversize import MAX_BODY_BYTES, letters
from ingest.spool import Row
from schemas.codec import Envelope, Reason, Wire, enclose, encode_dead_letter, encode_heartbeat
from schemas.records import DeadLetter, Heartbeat
from schemas.topics import DEAD_LETTERS, INPUTS

log = logging.getLogger(__name__)

MAX_BATCH_BYTES = MAX_BODY_BYTES  # before compression; fits a broker's default of 1 MiB also when nothing is gained
WIRE_BYTES = 400  # of a message besides key and value: headers and framing
CARRIED = (*INPUTS, DEAD_LETTERS)


class Lane(NamedTuple):
    """A partition of a topic, by the topic's name in the catalogue."""

    topic: str
    partition: int


class TooLarge(Exception):  # noqa: N818 (an answer of the broker)
    """The broker takes no batch of this size."""


class Producer(Protocol):
    """One connection to Kafka, made for some rounds and thrown away at the first failure."""

    async def partitions(self, topic: str) -> int:
        """How many partitions the topic has. Raises what the client raises."""

    async def store(self, batches: Mapping[Lane, Sequence[Wire]]) -> dict[Lane, Exception | None]:
        """Write one batch a lane and wait: None where it is stored, else why that is not known."""

    async def close(self) -> None:
        """Let go of everything, also when Kafka is away; nothing is sent any more."""


Connect = Callable[[], Awaitable[Producer]]
Batches = deque[list[Wire]]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds from one attempt to the next: doubling from the first to the longest, with jitter."""

    first_s: float = 0.2
    longest_s: float = 5.0

    def delay_s(self, failures: int) -> float:
        """The pause after so many failures in a row."""
        return float(min(self.longest_s, self.first_s * 2 ** min(failures - 1, 30)) * random.uniform(0.5, 1.0))


class Rounds:
    """Sends rounds of rows under one source. `connect` makes a producer."""

    def __init__(
        self,
        connect: Connect,
        *,
        source: str,
        counts: Counts | None = None,
        backoff: Backoff | None = None,
        cells: Callable[[], Collection[str]] | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        """`cells` are those whose partitions are beaten on, None for all; `clock` says when a heartbeat is sent, Unix ms."""
        self._cells, self._clock = cells, clock
        self._connect, self._source = connect, source
        self._counts = counts if counts is not None else Counts()
        self._backoff = backoff or Backoff()
        self._producer: Producer | None = None
        self._partitions: dict[str, int] = {}
        self._failures = 0

    async def send(self, rows: Sequence[Row]) -> list[DeadLetter]:
        """Return when Kafka has all rows, however long that takes; what it will never take comes back as letters."""
        lanes = await self._plan(rows)
        refused: list[DeadLetter] = []
        while lanes:
            outcomes = await self._store({lane: batches[0] for lane, batches in lanes.items()})
            refused += settle(lanes, outcomes)
            await self._judge([error for error in outcomes.values() if error])
        self._counts[Count.SENT] += sum(row.type != Heartbeat.type for row in rows)
        self._counts[Count.OVERSIZED] += len(refused)
        return refused

    async def close(self) -> None:
        """Let go of the connection."""
        if self._producer:
            producer, self._producer = self._producer, None
            await producer.close()

    async def _plan(self, rows: Sequence[Row]) -> dict[Lane, Batches]:
        while True:
            try:
                producer = await self._connected()
                for topic in CARRIED:
                    if topic.name not in self._partitions:
                        self._partitions[topic.name] = await producer.partitions(topic.name)
                cells, sent_ms = self._cells and self._cells(), self._clock and self._clock()
                return plan(rows, self._source, self._partitions, cells, sent_ms)
            except Exception as error:  # noqa: BLE001 (logged and counted; the rows are safe)
                await self._judge([error])

    async def _store(self, heads: Mapping[Lane, Sequence[Wire]]) -> Mapping[Lane, Exception | None]:
        try:
            return await (await self._connected()).store(heads)
        except Exception as error:  # noqa: BLE001 (logged and counted; the rows are safe and sent again)
            return dict.fromkeys(heads, error)

    async def _connected(self) -> Producer:
        if self._producer is None:
            self._producer = await self._connect()
        return self._producer

    async def _judge(self, errors: Sequence[Exception]) -> None:
        """After a failure the producer is made anew; after one that may pass, with a pause."""
        if errors:
            await self.close()
        passing = [error for error in errors if not isinstance(error, TooLarge)]
        if passing:
            await self._pause(passing[0])
        elif self._failures:
            log.info("Kafka takes records again", extra={"failures": self._failures})
            self._failures = 0

    async def _pause(self, error: Exception) -> None:
        self._failures += 1
        self._counts[Count.ROUND_FAILED] += 1
        if self._failures in (1, 10, 100):
            log.warning("Kafka does not take records", extra={"error": repr(error), "failures": self._failures})
        await asyncio.sleep(self._backoff.delay_s(self._failures))


def plan(
    rows: Iterable[Row],
    source: str,
    partitions: Mapping[str, int],
    cells: Collection[str] | None = None,
    sent_ms: int | None = None,
) -> dict[Lane, Batches]:
    """The batches of every lane, in the order of the rows.

    A heartbeat goes to the partitions of `cells` in every input topic, None for all of them, and says when it was sent.
    """
    lanes: dict[Lane, Batches] = {}
    sizes: dict[Lane, int] = {}
    for row in rows:
        wire = _wire(row, source, sent_ms)
        size = len(wire.value) + WIRE_BYTES
        for lane in _lanes_of(row, partitions, cells):
            sizes[lane] = sizes.get(lane, MAX_BATCH_BYTES) + size
            if sizes[lane] > MAX_BATCH_BYTES:
                lanes.setdefault(lane, deque()).append([])
                sizes[lane] = size
            lanes[lane][-1].append(wire)
    return lanes


def partition_of(key: str, partitions: int) -> int:
    """The partition that Kafka's default partitioner gives the key."""
    return _hash(key) % partitions


@lru_cache(maxsize=4096)
def _hash(key: str) -> int:
    return int(murmur2(key.encode())) & 0x7FFFFFFF


def _wire(row: Row, source: str, sent_ms: int | None) -> Wire:
    if row.type == Heartbeat.type:
        return encode_heartbeat(Heartbeat.model_validate_json(row.value), sent_ms)
    if row.type == DeadLetter.type:
        return encode_dead_letter(DeadLetter.model_validate_json(row.value))
    return enclose(row.type, row.key, row.time_ms, row.value, Envelope(source, row.seq, row.recorded_ms))


def _beaten(cells: Collection[str] | None, partitions: Mapping[str, int]) -> list[Lane]:
    """Where heartbeats go: what is told of a cell waits for the clocks of all topics of its partition."""
    found: list[Lane] = []
    for topic in INPUTS:
        count = partitions[topic.name]
        numbers = range(count) if cells is None else sorted({partition_of(cell, count) for cell in cells})
        found += [Lane(topic.name, number) for number in numbers]
    return found


def _lanes_of(row: Row, partitions: Mapping[str, int], cells: Collection[str] | None) -> Iterable[Lane]:
    if row.type == Heartbeat.type:
        return _beaten(cells, partitions)
    return (Lane(row.topic, partition_of(row.key, partitions[row.topic])),)


def settle(lanes: dict[Lane, Batches], outcomes: Mapping[Lane, Exception | None]) -> list[DeadLetter]:
    """Take out of the lanes what is stored and what Kafka will never take, which comes back."""
    refused: list[DeadLetter] = []
    for lane, error in outcomes.items():
        if isinstance(error, TooLarge):
            refused += _shrink(lane, lanes[lane])
        elif error is None:
            lanes[lane].popleft()
        if not lanes[lane]:
            del lanes[lane]
    return refused


def _shrink(lane: Lane, batches: Batches) -> list[DeadLetter]:
    """Put single records in the place of a batch that is too large; one that is too large alone is refused."""
    batch = batches.popleft()
    if len(batch) > 1:
        batches.extendleft([wire] for wire in reversed(batch))
        return []
    detail = f"the broker takes no record of {len(batch[0].value)} bytes on {lane.topic}"
    if lane.topic == DEAD_LETTERS.name:
        # A letter of a letter would be larger still, for ever.
        log.error("a dead letter is dropped: %s; raise max.message.bytes of the topic to 1 MiB", detail)
        return []
    return letters(
        batch[0].value,
        reason=Reason.OVERSIZED,
        detail=detail,
        topic=lane.topic,
        rejected_by="publisher",
        time_ms=batch[0].timestamp_ms,
    )
