"""The recovery protocol of one partition, on a bus in memory that acknowledges when it is told to."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from pydantic import BaseModel, Field

from processors.fold import PartitionFold, Plan
from processors.lineage import Entry, Writer, restore
from processors.runner import Gap, Message, Pace, Runner
from processors.step import Item, Step, StepConfig, json_state, never, whole_cell
from schemas.codec import Envelope, Wire, encode, encode_heartbeat
from schemas.records import DeadLetter, Heartbeat, OperationsEvent, Phase, Severity, Signal
from schemas.topics import DEAD_LETTERS, FLEET, INPUTS, OPERATIONS

TOPIC = INPUTS.index(OPERATIONS)


class Told(BaseModel):
    """The names that were seen."""

    names: list[str] = Field(default_factory=list)


def echo(config: StepConfig, state: Told, item: Item) -> tuple[Told, list[Any]]:
    if item.record.name == "bad":
        raise ZeroDivisionError("bad")
    state.names.append(item.record.name)
    found = Signal(
        cell="eu1", time_ms=item.at_ms, id=item.record.name, phase=Phase.OPEN, detector="echo", cause="echo:x", resource="x",
        started_ms=item.at_ms, severity=Severity.INFO, score=0.5, summary="", tenants=("t" * 200,) * (5_000 * (item.record.name == "too-long")),
    )  # fmt: skip
    return state, [found]


ECHO = Step("echo", StepConfig, (OperationsEvent,), whole_cell, Told, echo, *json_state(Told), due=never)


class Bus:
    """Keeps what is sent; it stands on its topic once `deliver` is called."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.wires: list[tuple[str, Wire]] = []
        self.state: list[Entry] = []
        self._futures: list[asyncio.Future[object]] = []

    async def send(self, topic: str, partition: int | None, wire: Wire) -> asyncio.Future[object]:
        self.sent.append(topic)
        self.wires.append((topic, wire))
        return self._future()

    async def send_state(self, partition: int, entry: Entry) -> asyncio.Future[object]:
        self.state.append(entry)
        return self._future()

    def _future(self) -> asyncio.Future[object]:
        self._futures.append(asyncio.get_running_loop().create_future())
        return self._futures[-1]

    async def deliver(self) -> None:
        """Everything that was sent so far stands on its topic, and so does what follows from it."""
        while any(not one.done() for one in self._futures):
            for one in self._futures:
                if not one.done():
                    one.set_result(None)
            for _ in range(5):
                await asyncio.sleep(0)


class House:
    def __init__(self, fold: PartitionFold | None = None) -> None:
        self.bus, self.acknowledged, self.now_s = Bus(), dict[int, int](), 0.0
        fold = fold or PartitionFold(Plan.of([ECHO]))
        self.runner = Runner(
            0,
            fold,
            Writer("w"),
            self.bus,
            self.acknowledged.__setitem__,
            self.clock,
            Pace(snapshot_after_s=5.0),
        )

    def clock(self) -> float:
        """Whatever is done between two looks takes a millisecond."""
        self.now_s += 0.001
        return self.now_s

    async def read(self, offset: int, name: str | None, at_ms: int, sequence: int | None = None) -> None:
        """An event called `name`, or a heartbeat. Sequences go with the offsets unless one is given."""
        if name is None:
            wire = encode_heartbeat(Heartbeat(publisher="p", time_ms=at_ms))
        else:
            event = OperationsEvent(cell="eu1", time_ms=at_ms, resource="r", system="s", name=name)
            wire = encode(event, Envelope("p", sequence or offset + 1, at_ms))
        await self.runner.on_message(Message(TOPIC, offset, wire.key, wire.value, wire.headers, wire.timestamp_ms))


async def test_nothing_is_acknowledged_before_findings_and_snapshot_stand_on_their_topics() -> None:
    house = House()
    await house.read(0, "a", 1_000)
    await house.read(1, None, 9_000)
    await house.read(2, "b", 9_500)
    await house.runner.flush()
    await asyncio.sleep(0)
    assert house.bus.sent == ["signals.detections.v1"]
    assert not house.bus.state, "the snapshot waits for the finding"
    assert not house.acknowledged
    await house.bus.deliver()
    assert house.acknowledged == {TOPIC: 2}, "b waits for its place in the order"


async def test_a_snapshot_is_due_when_the_oldest_record_is_old_enough() -> None:
    house = House()
    await house.read(0, "a", 1_000)
    house.now_s = 4.9
    await house.read(1, None, 9_000)
    assert not house.acknowledged
    house.now_s = 5.0
    await house.read(2, None, 9_100)
    await house.bus.deliver()
    assert house.acknowledged == {TOPIC: 3}


async def test_a_partition_that_was_taken_away_acknowledges_nothing_more() -> None:
    house = House()
    await house.read(0, "a", 1_000)
    await house.read(1, None, 9_000)
    await house.runner.flush()
    await asyncio.sleep(0)
    house.runner.abandon()
    await house.bus.deliver()
    assert not house.acknowledged


async def test_a_successor_starts_where_the_snapshot_stands_and_reads_on_from_what_was_acknowledged() -> None:
    house = House()
    await house.read(0, "a", 1_000)
    await house.read(1, None, 9_000)
    await house.read(2, "b", 9_500)
    await house.runner.flush()
    await asyncio.sleep(0)
    await house.bus.deliver()
    found = restore((entry.key, entry.value) for entry in house.bus.state)
    successor = House(PartitionFold.restore(Plan.of([ECHO]), found.parts))
    await successor.read(2, "b", 9_500)
    await successor.read(3, None, 20_000)
    assert successor.bus.sent == ["signals.detections.v1"], "a was told before, b was not"


async def test_a_hole_in_the_offsets_is_refused() -> None:
    house = House()
    await house.read(7, "a", 1_000)
    with pytest.raises(Gap, match="read offset 9 where 8 was expected"):
        await house.read(9, "b", 1_100)


async def test_what_retention_took_while_nobody_read_is_passed_over_and_counted() -> None:
    house = House()
    await house.read(0, "a", 1_000)
    await house.read(1, None, 9_000)
    fold = PartitionFold.restore(Plan.of([ECHO]), house.runner.fold.snapshot())
    fold.pass_expired(TOPIC, 2)
    assert not fold.counts["expired"]
    fold.pass_expired(TOPIC, 50)
    assert fold.counts["expired"] == 48
    successor = House(fold)
    await successor.read(50, "b", 90_000)
    await successor.read(51, None, 99_000)
    assert len(successor.bus.sent) == 1
    with pytest.raises(Gap, match="read offset 60 where 52 was expected"):
        await successor.read(60, "c", 100_000)


async def test_a_record_on_which_a_step_raises_is_put_aside_and_the_others_go_on() -> None:
    house = House()
    await house.read(0, "bad", 1_000)
    await house.read(1, "a", 1_001)
    await house.read(2, None, 9_000)
    assert sorted(house.bus.sent) == [DEAD_LETTERS.name, "signals.detections.v1"]


async def test_others_run_while_a_heartbeat_makes_many_records_certain() -> None:
    house = House()
    for offset in range(100):
        await house.read(offset, f"event-{offset}", 1_000 + offset)
    reading = asyncio.create_task(house.read(100, None, 9_000))
    await asyncio.sleep(0)
    assert 0 < len(house.bus.sent) < 100
    await reading
    assert len(house.bus.sent) == 100


async def test_a_partition_that_is_lost_while_its_state_is_packed_writes_no_snapshot() -> None:
    house = House(PartitionFold(Plan.of([ECHO])))
    for cell in range(10):  # ten units of state, each a piece of work
        event = OperationsEvent(cell=f"cell-{cell}", time_ms=1_000, resource="r", system="s", name="a")
        wire = encode(event, Envelope("p", cell + 1, 1_000))
        await house.runner.on_message(Message(TOPIC, cell, wire.key, wire.value, wire.headers, wire.timestamp_ms))
    await house.read(10, None, 9_000)
    flushing = asyncio.create_task(house.runner.flush())
    await asyncio.sleep(0)
    assert not flushing.done()
    house.runner.abandon()
    await flushing
    await house.bus.deliver()
    assert house.bus.state == []
    assert house.acknowledged == {}


async def letters_of(house: House) -> list[DeadLetter]:
    return [DeadLetter.model_validate_json(wire.value) for topic, wire in house.bus.wires if topic == DEAD_LETTERS.name]


async def test_what_a_step_raised_is_a_letter_with_its_name_and_a_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    house = House()
    await house.read(0, "bad", 1_000)
    await house.read(1, None, 9_000)
    (letter,) = await letters_of(house)
    assert (letter.reason, letter.rejected_by, letter.offset) == ("failed", "processors/echo", 0)
    assert "step echo raised ZeroDivisionError: bad" in letter.detail
    (record,) = [one for one in caplog.records if one.message == "a step failed"]
    assert record.exc_info
    assert record.__dict__["step"] == "echo"


async def test_a_finding_that_cannot_be_written_down_stops_nothing() -> None:
    house = House()
    await house.read(0, "too-long", 1_000)
    await house.read(1, "b", 1_001)
    await house.read(2, None, 9_000)
    (letter,) = await letters_of(house)
    assert letter.rejected_by == "processors/encode"
    assert house.bus.sent.count("signals.detections.v1") == 1
    assert house.runner.fold.counts["failed_encode"] == 1


async def test_a_letter_that_no_broker_would_take_is_cut_and_counted() -> None:
    house = House()
    await house.runner.on_message(Message(TOPIC, 0, b"k" * 10**6, b"x" * 10**7, [("h", b"v" * 10**6)], -5))
    (letter,) = await letters_of(house)
    assert letter.reason == "oversized"
    assert len(letter.model_dump_json()) < 900_000
    assert house.runner.fold.counts["letters_cut"] == 1


async def test_a_clock_that_is_not_believed_is_told_once_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    plan = replace(Plan.of([ECHO]), listens=(TOPIC,))
    house = House(PartitionFold(plan))
    for offset in range(4):
        await house.read(offset, None, 9_000 + 1_000 * offset + 10**9 * (offset > 1))
    (record,) = [one for one in caplog.records if "clock" in one.message]
    assert record.__dict__["publisher"] == "p"


@pytest.mark.parametrize(
    "value", [b"", b"[]", b"{}", b'{"folded": "x"}', b'{"folded": [1], "parts": 3}', b"\xff", b'{"folded": [9e99]}']
)
async def test_whatever_stands_among_the_snapshots_a_worker_starts(value: bytes) -> None:
    parts = PartitionFold(Plan.of([ECHO])).snapshot()
    writer = Writer("w")
    entries = [*writer.parts(parts), writer.commit(parts, (1,)), Entry(b'["commit","x"]', value)]
    assert restore(entries).parts == parts


async def test_a_worker_that_leaves_has_told_everything_that_its_last_snapshot_covers() -> None:
    house = House()
    for offset in range(100):
        await house.read(offset, f"event-{offset}", 1_000 + offset)
    reading = asyncio.create_task(house.read(100, None, 9_000))
    await asyncio.sleep(0)
    leaving = asyncio.create_task(house.runner.finish())
    await reading
    assert len(house.bus.sent) == 100
    assert not house.bus.state, "the snapshot waits for its turn, and for what was told to stand on its topic"
    await asyncio.sleep(0)
    await house.bus.deliver()
    await leaving
    assert house.acknowledged == {TOPIC: 101}


async def test_a_topic_that_ends_before_the_snapshot_is_another_one_and_is_read_from_its_beginning() -> None:
    house = House()
    for offset in range(40):
        await house.read(offset, "a", 1_000 + offset)
    await house.read(40, None, 9_000)
    fold = PartitionFold.restore(Plan.of([ECHO]), house.runner.fold.snapshot())
    fold.pass_expired(TOPIC, 0, 2)
    assert (fold.counts["topics_anew"], fold.counts["expired"]) == (1, 0)
    successor = House(fold)
    await successor.read(0, "b", 90_000, sequence=41)
    await successor.read(1, None, 99_000)
    assert len(successor.bus.sent) == 1


async def test_a_partition_that_catches_up_tells_the_fleet_the_time_at_which_it_does() -> None:
    """Another that is further on would else be contradicted by it, and time in the fleet would turn back."""
    house = House(PartitionFold(replace(Plan.of([ECHO]), listens=(TOPIC,), tells_fleet=True)))
    house.runner._wall_ms = lambda: 1_795_230_000_000
    await house.read(0, None, 9_000)
    (wire,) = [wire for topic, wire in house.bus.wires if topic == FLEET.name]
    assert wire.timestamp_ms == 1_795_230_000_000
    assert Heartbeat.model_validate_json(wire.value).time_ms == 7_000
