"""From the cells' records to a story of the fleet, in memory: killed anywhere and resumed, it tells the same bytes."""

from __future__ import annotations

import asyncio

import pytest

from pilothouse.programs import fleet_plan, plan
from processors.fold import PartitionFold
from processors.lineage import Entry, Writer, restore
from processors.runner import Message, Runner
from schemas.codec import Envelope, Heartbeat, Received, Wire, decode, encode, encode_heartbeat
from schemas.records import Incident
from schemas.topics import FLEET, INPUTS, topic_of
from tests.support.hurt import hurt_by_a_release

T0 = 1_795_262_400_000
CELLS = ("eu1", "us1", "ap1")


class Bus:
    """Keeps what goes to the fleet; everything stands on its topic at once."""

    def __init__(self) -> None:
        self.fleet: list[Wire] = []

    async def send(self, topic: str, partition: int | None, wire: Wire) -> asyncio.Future[object]:
        if topic == FLEET.name:
            assert partition is None
            self.fleet.append(wire)
        return self._done()

    async def send_state(self, partition: int, entry: Entry) -> asyncio.Future[object]:
        return self._done()

    def _done(self) -> asyncio.Future[object]:
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future


class Partition:
    """One cell's partition, as a worker runs it."""

    def __init__(self, number: int, bus: Bus) -> None:
        fold = PartitionFold(plan(None))
        self.runner = Runner(number, fold, Writer("w"), bus, lambda *_: None, lambda: 0.0)
        self.offsets = [0] * len(INPUTS)

    async def put(self, topic: int, wire: Wire) -> None:
        offset, self.offsets[topic] = self.offsets[topic], self.offsets[topic] + 1
        await self.runner.on_message(Message(topic, offset, wire.key, wire.value, wire.headers, wire.timestamp_ms))

    async def beat(self, at_ms: int) -> None:
        for topic in self.runner.fold.plan.listens:
            await self.put(topic, encode_heartbeat(Heartbeat(publisher="p", time_ms=at_ms)))


async def fleet_log() -> list[Received | Heartbeat]:
    """What the workers of three cells write to the fleet's topic."""
    bus = Bus()
    cells = {cell: Partition(number, bus) for number, cell in enumerate(CELLS)}
    for one in cells.values():
        await one.beat(T0 - 60_000)
    for late_s, (cell, one) in zip((0, 20, 45), cells.items(), strict=True):
        for number, record in enumerate(hurt_by_a_release(cell, T0 + late_s * 1_000)):
            wire = encode(record, Envelope(cell, number, record.time_ms))
            await one.put(INPUTS.index(topic_of(record)), wire)
    for second in range(0, 180, 5):
        for one in cells.values():
            await one.beat(T0 + second * 1_000)
    assert {wire.key for wire in bus.fleet} == {b"fleet"}, "all of it meets in one partition"
    told = [decode(wire.headers, wire.value, wire.timestamp_ms) for wire in bus.fleet]
    return [one for one in told if isinstance(one, Received | Heartbeat)]


def fold(one: PartitionFold, log: list[Received | Heartbeat], since: int = 0) -> list[bytes]:
    found = [told for offset in range(since, len(log)) for told in one.feed(0, offset, log[offset])]
    return [encode(told.record, told.envelope).value for told in found]


def story(told: list[bytes]) -> list[Incident]:
    return [Incident.model_validate_json(one) for one in told]


async def test_a_release_that_hurts_in_three_cells_is_one_story_of_all_of_them() -> None:
    told = story(fold(PartitionFold(fleet_plan(None)), await fleet_log()))
    assert {one.causes[0].cause for one in told} == {"release:odoo@2.4.1"}
    assert len({one.id for one in told}) == 1
    assert [one.version for one in told] == list(range(1, len(told) + 1))
    assert {part.cell for part in told[-1].parts} == set(CELLS)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.7, 0.9])
async def test_a_killed_fleet_tells_the_same_bytes(share: float) -> None:
    log = await fleet_log()
    whole = fold(PartitionFold(fleet_plan(None)), log)
    cut = round(share * len(log))
    first = PartitionFold(fleet_plan(None))
    told = fold(first, log[:cut])
    writer, parts, floor = Writer("w"), first.snapshot(), first.order.floor()
    second = PartitionFold.restore(fleet_plan(None), restore([*writer.parts(parts), writer.commit(parts, (1,))]).parts)
    assert told + fold(second, log, floor[0]) == whole


async def test_what_a_restarted_worker_tells_the_fleet_again_changes_nothing() -> None:
    log = await fleet_log()
    again = [one for part in (log[: len(log) // 2], log) for one in part]
    fleet = PartitionFold(fleet_plan(None))
    assert fold(fleet, again) == fold(PartitionFold(fleet_plan(None)), log)
    assert fleet.counts["duplicates"] > 0
