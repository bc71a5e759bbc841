"""The loop that all sinks share, on a real broker with a list for a sink."""

from __future__ import annotations

import asyncio
import base64
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from schemas.codec import Envelope, Wire, encode, encode_heartbeat
from schemas.records import DeadLetter, Heartbeat, OperationsEvent
from sinks.consumer import run_sink
from sinks.sink import Assignment, Batch, Config, Counts, Opened, Refuse, SinkUnavailable


@dataclass
class ListSink:
    """Keeps what is written; `before` may fail a write."""

    topics: Sequence[str]
    before: Callable[[Batch], None] = lambda _: None
    written: list[int] = field(default_factory=list)
    name: str = "list"
    opened: int = 0
    closed: int = 0

    async def open(self, assignment: Assignment) -> Opened:
        assert assignment.cluster_id
        self.opened += 1
        return Opened()

    async def write(self, batch: Batch, refuse: Refuse) -> None:
        self.before(batch)
        self.written.extend(message.content.envelope.sequence for message in batch.messages)

    async def close(self) -> None:
        self.closed += 1


@dataclass
class Bus:
    bootstrap: str
    producer: Any
    topic: str
    letters: str

    async def put(self, *sequences: int) -> None:
        event = OperationsEvent(cell="eu1", resource="r", system="odoo", time_ms=1, name="n")
        for sequence in sequences:
            await self.put_wire(encode(event, Envelope("ingest-0", sequence, 1_795_000_000_000)))

    async def put_wire(self, wire: Wire) -> None:
        await self.producer.send_and_wait(self.topic, wire.value, wire.key, 0, wire.timestamp_ms, wire.headers)

    def config(self, **more: Any) -> Config:
        return Config(**{"group": self.topic, "dead_letters": self.letters, **more})

    async def run(self, sink: ListSink, until: Callable[[], bool], **more: Any) -> Counts:
        """Feed the sink until the condition holds."""
        counts, stop = Counts(), asyncio.Event()
        config = self.config(**more)
        task = asyncio.create_task(run_sink(sink, {"bootstrap_servers": self.bootstrap}, stop, config, counts))
        await _wait(lambda: until() or task.done())
        stop.set()
        await task
        return counts

    async def committed(self) -> int:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        offsets = await admin.list_consumer_group_offsets(self.topic)
        await admin.close()
        at = offsets.get(TopicPartition(self.topic, 0))
        return at.offset if at else 0


async def _wait(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        await asyncio.sleep(0.02)


@pytest.fixture
async def bus(kafka: str) -> AsyncIterator[Bus]:
    name = uuid4().hex[:8]
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.create_topics([NewTopic(f"loop.{name}", 1, 1), NewTopic(f"loop-letters.{name}", 1, 1)])
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        yield Bus(kafka, producer, f"loop.{name}", f"loop-letters.{name}")
    await admin.close()


async def test_what_was_written_is_committed_and_does_not_come_again(bus: Bus) -> None:
    await bus.put(1, 2, 3)
    sink = ListSink([bus.topic])
    await bus.run(sink, lambda: len(sink.written) == 3)
    assert await bus.committed() == 3
    await bus.put(4)
    again = ListSink([bus.topic])
    await bus.run(again, lambda: bool(again.written))
    assert (sink.written, again.written) == ([1, 2, 3], [4])
    assert (sink.opened, sink.closed) == (1, 1)


async def test_a_bug_in_the_sink_ends_the_loop_uncommitted(bus: Bus) -> None:
    def broken(_: Batch) -> None:
        raise ZeroDivisionError

    await bus.put(1)
    sink = ListSink([bus.topic], broken)
    with pytest.raises(ZeroDivisionError):
        await bus.run(sink, lambda: False)
    assert sink.closed == 1
    assert await bus.committed() == 0


async def test_a_sink_that_is_away_gets_the_same_batch_until_it_is_back(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[list[int]] = []

    def away_twice(batch: Batch) -> None:
        tries.append([message.offset for message in batch.messages])
        if len(tries) <= 2:
            raise SinkUnavailable("list", "it is away", "Wait", 0.01)

    await bus.put(1, 2)
    sink = ListSink([bus.topic], away_twice)
    counts = await bus.run(sink, lambda: len(sink.written) == 2)
    assert tries[0] == tries[1] == tries[2]
    assert (counts.unavailable, sink.written) == (2, [1, 2])
    assert [record.message for record in caplog.records].count("sink waits") == 1


async def test_stopping_while_the_sink_is_away_takes_no_longer_than_a_moment(bus: Bus) -> None:
    def away(_: Batch) -> None:
        raise SinkUnavailable("list", "it is away", "Wait", 3600)

    await bus.put(1)
    sink = ListSink([bus.topic], away)
    counts = Counts()
    stop = asyncio.Event()
    task = asyncio.create_task(run_sink(sink, {"bootstrap_servers": bus.bootstrap}, stop, bus.config(), counts))
    await _wait(lambda: counts.unavailable > 0)
    stop.set()
    async with asyncio.timeout(20):
        await task
    assert await bus.committed() == 0


async def test_a_batch_that_was_given_up_is_never_overtaken_by_the_next(bus: Bus) -> None:
    def away_for_the_first(batch: Batch) -> None:
        if any(message.content.envelope.sequence == 1 for message in batch.messages):
            raise SinkUnavailable("list", "it is away", "Wait", 3600)

    await bus.put(1, 2)
    sink = ListSink([bus.topic], away_for_the_first)
    counts, stop = Counts(), asyncio.Event()
    one_by_one = bus.config(batch_records_max=1)
    task = asyncio.create_task(run_sink(sink, {"bootstrap_servers": bus.bootstrap}, stop, one_by_one, counts))
    await _wait(lambda: counts.unavailable > 0 and counts.records == 2)
    stop.set()
    await task
    assert (sink.written, await bus.committed()) == ([], 0)
    again = ListSink([bus.topic])
    await bus.run(again, lambda: len(again.written) == 2)
    assert again.written == [1, 2]


async def test_repeated_records_heartbeats_and_bad_bytes_never_reach_the_sink(bus: Bus) -> None:
    await bus.put(1, 2, 1, 2)
    await bus.put_wire(encode_heartbeat(Heartbeat(publisher="ingest-0", time_ms=1)))
    await bus.put_wire(Wire(b"k", b"\xff{", [("ce_type", b"com.pilothouse.operations.v1")], 5))
    await bus.put(3)
    sink = ListSink([bus.topic])
    counts = await bus.run(sink, lambda: 3 in sink.written)
    assert sink.written == [1, 2, 3]
    assert (counts.repeated, counts.heartbeats, counts.rejected, counts.records) == (2, 1, 1, 6)
    assert await bus.committed() == 7
    assert await _first_letter(bus) == (bus.topic, 5, b"\xff{")


async def _first_letter(bus: Bus) -> tuple[str, int, bytes]:
    partition = TopicPartition(bus.letters, 0)
    async with AIOKafkaConsumer(bootstrap_servers=bus.bootstrap, auto_offset_reset="earliest") as consumer:
        consumer.assign([partition])
        consumer.seek(partition, 0)
        async with asyncio.timeout(60):
            letter = DeadLetter.model_validate_json((await consumer.getone()).value)
    return letter.topic, letter.offset, base64.b64decode(letter.payload)


CHILD = """
import asyncio, sys
from sinks.consumer import run_sink
from sinks.sink import Config, Opened

class Printer:
    name, topics = "printer", (sys.argv[2],)
    async def open(self, assignment): return Opened()
    async def write(self, batch, refuse): print(len(batch.messages), flush=True)
    async def close(self): pass

config = Config(group=sys.argv[2], instance_id=sys.argv[3] or None)
asyncio.run(run_sink(Printer(), {"bootstrap_servers": sys.argv[1]}, asyncio.Event(), config))
"""


@pytest.mark.alone
@pytest.mark.parametrize(("instance_id", "seconds"), [("", 15), ("sink-0", 4)])
async def test_a_worker_that_replaces_a_killed_one_is_soon_at_work(bus: Bus, instance_id: str, seconds: float) -> None:
    """A dead member holds its partitions until its session ends; one of the same name takes its place at once."""
    await bus.put(1)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, bus.bootstrap, bus.topic, instance_id, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout
    async with asyncio.timeout(60):
        assert await child.stdout.readline() == b"1\n"
    child.kill()
    await child.wait()
    await bus.put(2)
    started = time.monotonic()
    sink = ListSink([bus.topic])
    await bus.run(sink, lambda: 2 in sink.written, instance_id=instance_id or None)
    took_s = time.monotonic() - started
    print(f"rejoined after {took_s:.1f} s")
    assert took_s < seconds
