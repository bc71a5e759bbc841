"""Lines of an Odoo log flow while worker, sink, ingest and broker are killed with -9: nothing is lost, nothing doubled.

A slow Redis gives signals meanwhile; those told live are the same, byte for byte, as those of an undisturbed replay. CI
kills six times over 20,000 lines; the soak kills twenty times over 100,000. The seed is printed, so a failure can be had again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from pilothouse.broker import partitions
from pilothouse.settings import Settings
from schemas.topics import INPUTS
from tests.support.house import House, now_ms, running

pytestmark = pytest.mark.alone

VICTIMS = ("process", "sink", "ingest", "broker")
LIMITS_S = {"process": 15.0, "sink": 15.0, "ingest": 15.0, "broker": 30.0}


async def kill(one: House, victim: str) -> None:
    if victim != "broker":
        await one.program(victim).kill()
        return
    assert one.stack.kafka
    await one.stack.kafka.kill()
    await one.stack.kafka.start()


@asynccontextmanager
async def stuttering(one: House) -> AsyncIterator[None]:
    """Signals for the processors to find, again and again."""

    async def forever() -> None:
        await asyncio.sleep(20)  # what is usual must be known first
        while True:
            await one.stutter()
            await asyncio.sleep(12)

    task = asyncio.create_task(forever())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def killed_at_random(one: House, kills: int, pause_s: float, rng: random.Random) -> dict[str, list[float]]:
    """Kill, and measure how long it takes until a line written afterwards is in the store."""
    took: dict[str, list[float]] = {}
    for number in range(kills):
        await asyncio.sleep(rng.uniform(0.3, 1.0) * pause_s)
        victim = VICTIMS[number % len(VICTIMS)] if number < len(VICTIMS) else rng.choice(VICTIMS)
        began = time.monotonic()
        await kill(one, victim)
        await one.next_stored(60)
        took.setdefault(victim, []).append(time.monotonic() - began)
    return took


async def assert_nothing_differs(one: House, began_ms: int, what: str) -> None:
    """Every line is stored once, and the live signals are those of an undisturbed fold."""
    rows, distinct = await one.all_stored(90)
    assert (rows, distinct) == (one.written, one.written), f"{what}: {one.written - distinct} lost"
    await one.put_locks("watcher")  # a busy machine's pings stutter by themselves, and then nothing is told of them
    await asyncio.sleep(8)  # what was written last has left the grace and stands on the signals' topics
    result = await one.replayed(began_ms, now_ms() - 5_000)
    assert not result.differs, f"{what}: {result.summary()}"
    assert result.told, "no signal was told, so nothing was compared"


async def crash(settings: Settings, *, lines: int, kills: int, seconds: float, seed: int) -> None:
    began_ms = now_ms()
    async with running(settings) as one:
        stream = asyncio.create_task(one.flow(lines, seconds))
        async with stuttering(one):
            took = await killed_at_random(one, kills, seconds / kills / 2, random.Random(seed))
            await stream
        await assert_nothing_differs(one, began_ms, f"seed {seed}")
        for victim, times in took.items():
            assert max(times) <= LIMITS_S[victim], f"seed {seed}: first record after a kill of {victim} took {times}"


async def test_six_kills_lose_and_double_nothing(embedded_settings: Settings) -> None:
    await crash(embedded_settings, lines=20_000, kills=6, seconds=60, seed=20_261_121)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_twenty_kills_lose_and_double_nothing(embedded_settings: Settings, seed: int) -> None:
    await crash(embedded_settings, lines=100_000, kills=20, seconds=300, seed=seed)


async def joined_and_left(settings: Settings, *, lines: int, seconds: float, rounds: int) -> None:
    """A second worker joins under load and leaves: when told to, and by kill -9, in turn."""
    began_ms = now_ms()
    async with running(settings) as one:
        stream = asyncio.create_task(one.flow(lines, seconds))
        async with stuttering(one):
            for number in range(rounds):
                second = one.another_worker(number + 1)
                await second.start()
                await asyncio.sleep(seconds / rounds / 2)
                assert second.running, second.log.read_text()[-2_000:]
                await (second.kill() if number % 2 else second.stop())
                await one.next_stored(60)
                await asyncio.sleep(seconds / rounds / 4)
            await stream
        await assert_nothing_differs(one, began_ms, f"{rounds} joins")


async def test_a_second_worker_may_join_and_leave_under_load(embedded_settings: Settings) -> None:
    await joined_and_left(embedded_settings, lines=15_000, seconds=50, rounds=2)


@pytest.mark.soak
async def test_workers_may_join_and_leave_again_and_again(embedded_settings: Settings) -> None:
    await joined_and_left(embedded_settings, lines=100_000, seconds=300, rounds=10)


@pytest.mark.soak
async def test_a_worker_that_was_away_for_longer_than_records_are_kept_goes_on(embedded_settings: Settings) -> None:
    async with running(embedded_settings) as one:
        worker = one.program("process")
        await one.flow(500, 10)
        await asyncio.sleep(8)  # what was read stands in a snapshot
        await worker.stop()
        await one.flow(500, 5)
        await one.all_stored(60)
        await forget_everything(one)
        await worker.start()
        await one.flow(500, 10)
        await one.next_stored(60)
        for _ in range(20):
            if "records went by unread" in worker.log.read_text():
                break
            await asyncio.sleep(1)
        await asyncio.sleep(5)
        told = worker.log.read_text()
        assert worker.running, told[-2_000:]
        assert "records went by unread" in told, told[-2_000:]
        assert "was expected" not in told, told[-2_000:]


async def forget_everything(one: House) -> None:
    """As retention does: the log begins where it ended."""
    admin = AIOKafkaAdminClient(**one.kafka)
    await admin.start()
    async with AIOKafkaConsumer(**one.kafka) as reader:
        known = await partitions(one.kafka, [topic.name for topic in INPUTS])
        places = [TopicPartition(topic, number) for topic, numbers in known.items() for number in numbers]
        ends = await reader.end_offsets(places)
    await admin.delete_records({place: RecordsToDelete(before_offset=end) for place, end in ends.items() if end})
    await admin.close()
