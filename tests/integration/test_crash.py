"""Lines of an Odoo log flow while worker, sink, ingest and broker are killed with -9: nothing is lost, nothing doubled.

A slow Redis gives signals meanwhile; those told live are the same, byte for byte, as those of an undisturbed replay. CI
kills six times over 20,000 lines; the soak kills twenty times over 100,000. The seed is printed, so a failure can be had again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import redis.asyncio as redis_client

from pilothouse.settings import Settings
from tests.support.house import House, house

VICTIMS = ("process", "sink", "ingest", "broker")
LIMITS_S = {"process": 15.0, "sink": 15.0, "ingest": 15.0, "broker": 30.0}


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[House]:
    with _directory() as path:
        async with house(settings, path) as one:
            one.append(50)
            assert await one.all_stored(60) == (50, 50), one.program("sink").log.read_text()[-2_000:]
            yield one


@contextmanager
def _directory() -> Iterator[Path]:
    """Not pytest's: under root its parents are closed to the user that PostgreSQL runs as."""
    with tempfile.TemporaryDirectory(prefix="pilothouse-crash-") as name:
        Path(name).chmod(0o711)
        yield Path(name) / "data"


async def kill(one: House, victim: str) -> None:
    if victim != "broker":
        await one.program(victim).kill()
        return
    assert one.stack.kafka
    await one.stack.kafka.kill()
    await one.stack.kafka.start()


async def stutter(one: House) -> None:
    """A Redis that pauses for half a second, again and again: signals for the processors to find."""
    async with redis_client.Redis.from_url(one.stack.valkey["eu1"].url) as client:
        await asyncio.sleep(20)  # what is usual must be known first
        while True:
            for _ in range(10):
                await client.client_pause(700, all=True)
                await asyncio.sleep(0.8)
            await asyncio.sleep(12)


async def flow(one: House, lines: int, seconds: float) -> None:
    """So many lines, spread evenly."""
    steps = int(seconds * 10)
    for _ in range(steps):
        one.append(lines // steps)
        await asyncio.sleep(seconds / steps)


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


async def crash(settings: Settings, *, lines: int, kills: int, seconds: float, seed: int) -> None:
    began_ms = round(time.time() * 1000)
    async with running(settings) as one:
        noise = asyncio.create_task(stutter(one))
        stream = asyncio.create_task(flow(one, lines, seconds))
        took = await killed_at_random(one, kills, seconds / kills / 2, random.Random(seed))
        await stream
        noise.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await noise
        rows, distinct = await one.all_stored(90)
        assert (rows, distinct) == (one.written, one.written), f"seed {seed}: {one.written - distinct} lost"
        await asyncio.sleep(8)  # what was written last has left the grace and stands on the signals' topics
        result = await one.replayed(began_ms, round(time.time() * 1000) - 5_000)
        assert not result.differs, f"seed {seed}: {result.summary()}"
        assert result.told, "no signal was told, so nothing was compared"
        for victim, times in took.items():
            assert max(times) <= LIMITS_S[victim], f"seed {seed}: first record after a kill of {victim} took {times}"


async def test_six_kills_lose_and_double_nothing(embedded_settings: Settings) -> None:
    await crash(embedded_settings, lines=20_000, kills=6, seconds=60, seed=20_261_121)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_twenty_kills_lose_and_double_nothing(embedded_settings: Settings, seed: int) -> None:
    await crash(embedded_settings, lines=100_000, kills=20, seconds=300, seed=seed)
