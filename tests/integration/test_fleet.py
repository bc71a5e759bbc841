"""The same release hurts in three cells: one story of the fleet on a real Kafka, told once although the worker is killed."""

from __future__ import annotations

import asyncio

from pilothouse.programs import fleet_plan
from pilothouse.settings import Settings
from processors.fold import PartitionFold
from processors.steps.fleet import FLEET as FLEET_CELL
from schemas.codec import Received, encode
from schemas.records import Incident, Phase
from schemas.topics import FLEET, INCIDENTS
from tests.support.house import House, now_ms, running
from tests.support.hurt import hurt_by_a_release

CELLS = ("eu2", "us1", "ap1")
CAUSE = "release:odoo@2.4.1"


async def hurt(one: House, cell: str, sequence: int) -> None:
    """A release, and a scheduled action that is switched off by its failures right afterwards."""
    at_ms = now_ms()
    released, stopped = hurt_by_a_release(cell, at_ms)
    await one.put(released, f"test-{cell}", sequence, at_ms)
    await one.put(stopped, f"test-{cell}", sequence, at_ms + 1)


async def stories(one: House, topic: str) -> list[Received]:
    """Incidents on a topic, those of a partition in their order."""
    return [got for told in (await one.published(topic)).values() for got in told if isinstance(got.record, Incident)]


async def story_of_the_fleet(one: House, cells: int) -> list[Received]:
    async with asyncio.timeout(90):
        while True:
            told = [got for got in await stories(one, INCIDENTS.name) if got.record.cell == FLEET_CELL]
            if told and len({part.cell for part in told[-1].record.parts}) >= cells:
                return told
            await asyncio.sleep(1)


async def stored(one: House, identity: str, version: int) -> None:
    """Wait until the store has this version of a story."""
    async with asyncio.timeout(30):
        while not await one.fetch("SELECT 1 FROM incidents WHERE id = $1 AND version = $2", identity, version):  # noqa: ASYNC110
            await asyncio.sleep(0.5)


async def test_one_release_that_hurts_in_three_cells_is_one_incident_of_the_fleet(embedded_settings: Settings) -> None:
    began_ms = now_ms()
    async with running(embedded_settings) as one:
        await hurt(one, CELLS[0], 1)
        await hurt(one, CELLS[1], 1)
        await story_of_the_fleet(one, 2)
        await one.program("process").kill()
        await hurt(one, CELLS[2], 1)
        told = await story_of_the_fleet(one, 3)
        copies = await one.published(FLEET.name)
        await stored(one, told[-1].record.id, told[-1].record.version)
        await asyncio.sleep(3)  # what was told last has left the grace
        replayed = await one.replayed(began_ms, now_ms() - 2_000)
    assert not replayed.differs, replayed.summary()
    assert {got.record.causes[0].cause for got in told} == {CAUSE}
    assert len({got.record.id for got in told}) == 1
    assert told[0].record.phase is Phase.OPEN
    # Told twice at most under the same sequence: what a reader keeps grows by one version at a time.
    kept = {got.envelope.sequence: got.record.version for got in told}
    assert list(kept.values()) == list(range(1, len(kept) + 1))
    assert sum(bool(got) for got in copies.values()) == 1, "what cells share meets in one partition"
    assert len({encode(got.record, got.envelope).value for got in told}) == len(kept)


def test_the_plan_of_the_fleet_reads_one_topic() -> None:
    fold = PartitionFold(fleet_plan(None))
    assert fold.order.topics == (0,)
    assert fold.plan.inputs == (FLEET,)
