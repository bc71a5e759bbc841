"""One sink's failure is its own: the others go on, it is begun anew, and it says why."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest

from schemas.codec import Envelope, encode
from schemas.records import DeadLetter, OperationsEvent
from schemas.topics import DEAD_LETTERS, OPERATIONS
from sinks.context import Task
from sinks.sink import Assignment, Batch, Config, Opened, Refuse
from sinks.supervision import Part, keep_running
from tests.support import virtual_time
from tests.support.memory_kafka import MemoryKafka

NOW_MS = 1_795_000_000_000


class Kept:
    """A sink that keeps sequences in a list of somebody else's; `before` may fail on one."""

    topics: Sequence[str] = (OPERATIONS.name,)

    def __init__(self, name: str, kept: list[int], before: Callable[[int], None] = lambda _: None) -> None:
        self.name, self.kept, self.before = name, kept, before

    async def open(self, assignment: Assignment) -> Opened:
        return Opened()

    async def write(self, batch: Batch, refuse: Refuse) -> None:
        sequences = [message.content.envelope.sequence for message in batch.messages]
        for one in sequences:
            self.before(one)
        self.kept.extend(sequences)

    async def close(self) -> None:
        pass


async def prepared() -> None:
    """Nothing is to be prepared."""


def put(kafka: MemoryKafka, *sequences: int) -> None:
    event = OperationsEvent(cell="eu1", resource="r", system="odoo", time_ms=NOW_MS, name="n")
    for sequence in sequences:
        wire = encode(event, Envelope("s", sequence, NOW_MS))
        kafka.put(OPERATIONS.name, wire.value, wire.headers, timestamp=NOW_MS)


def lived(parts: list[Part], seconds: float = 1_000.0, *sequences: int) -> MemoryKafka:
    """Let the parts run for a while beside a log of these sequences."""
    kafka = MemoryKafka(Random(3))

    async def live() -> None:
        for topic in (OPERATIONS, DEAD_LETTERS):
            kafka.create(topic.name)
        put(kafka, *sequences)
        stop = asyncio.Event()
        running = asyncio.create_task(keep_running(parts, kafka.client(), stop))
        await asyncio.sleep(seconds)
        stop.set()
        await running

    virtual_time.run(live())
    return kafka


def part(name: str, kept: list[int], before: Callable[[int], None] = lambda _: None) -> Part:
    return Part(name, lambda: Task(Kept(name, kept, before), Config(group=name)), prepared)


def test_one_that_cannot_be_made_takes_nobody_along_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    kept: list[int] = []

    def never() -> Task:
        raise ValueError("route dba: its secret must be whsec_ and then base64")

    broken = Part("alerts.dba", never, prepared)
    lived([broken, part("otlp", kept)], 1_000.0, 1, 2, 3)
    assert kept == [1, 2, 3]
    assert broken.counts.failures > 10
    assert broken.counts.failing == 1
    assert "whsec_" in broken.reason
    assert sum(record.message.startswith("a sink fails") for record in caplog.records) == 1


def test_one_whose_system_cannot_be_prepared_begins_when_it_can() -> None:
    kept: list[int] = []
    tries = 0

    async def prepare() -> None:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise UnicodeError("label too long")

    late = part("timescale", kept)
    late.prepare = prepare
    lived([late], 1_000.0, 1, 2)
    assert kept == [1, 2]
    assert (late.counts.failures, late.counts.failing, late.reason) == (3, 0, "")


def test_a_record_on_which_a_sink_itself_fails_is_given_up_and_the_others_are_written() -> None:
    kept: list[int] = []

    def label_too_long(sequence: int) -> None:
        if sequence == 4:
            raise UnicodeError("label too long")

    one = part("alerts.dba", kept, label_too_long)
    kafka = lived([one], 1_000.0, *range(1, 9))
    assert sorted(set(kept)) == [1, 2, 3, 5, 6, 7, 8]
    assert one.counts.gave_up == 1
    assert one.counts.failing == 0
    (letter,) = [
        DeadLetter.model_validate_json(r.value or b"") for r in kafka.topics[DEAD_LETTERS.name].logs[0].records
    ]
    assert "label too long" in letter.detail


def test_a_sink_that_fails_on_everything_gives_up_a_few_and_then_nothing_more() -> None:
    def broken(_: int) -> None:
        raise ZeroDivisionError

    one = part("otlp", [], broken)
    lived([one], 20_000.0, *range(1, 200))
    assert one.counts.gave_up == 10
    assert one.counts.failing == 1


def test_stopping_does_not_wait_for_a_preparation_that_hangs() -> None:
    async def hangs() -> None:
        await asyncio.sleep(1e9)

    one = part("timescale", [])
    one.prepare = hangs
    lived([one], 5.0)


def test_a_cancelled_supervision_ends(caplog: Any) -> None:
    async def live() -> None:
        kafka = MemoryKafka(Random(3))
        for topic in (OPERATIONS, DEAD_LETTERS):
            kafka.create(topic.name)
        running = asyncio.create_task(keep_running([part("otlp", [])], kafka.client(), asyncio.Event()))
        await asyncio.sleep(5)
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()

    virtual_time.run(live())
