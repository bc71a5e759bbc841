"""Kafka goes away under load: everything waits on disk, comes in its order, and ingest stays small."""

from __future__ import annotations

import asyncio

import pytest

from pilothouse.settings import Settings
from schemas.records import LogBatch
from schemas.topics import LOGS
from tests.support.house import House, running

pytestmark = pytest.mark.alone

PER_SECOND = 1_000
INGEST_MIB = 200


async def outage(settings: Settings, seconds: float) -> None:
    async with running(settings) as one:
        assert one.stack.kafka
        stream = asyncio.create_task(one.flow(round(PER_SECOND * (seconds + 10)), seconds + 10))
        await asyncio.sleep(3)
        await one.stack.kafka.kill()
        await asyncio.sleep(seconds)
        memory_mib = one.program("ingest").pss_mib
        await one.stack.kafka.start()
        await stream
        rows, distinct = await one.all_stored(60 + seconds)
        assert (rows, distinct) == (one.written, one.written)
        assert max(memory_mib, one.program("ingest").pss_mib) <= INGEST_MIB
        assert await lines(one) == list(range(one.written))


async def lines(one: House) -> list[int]:
    """The numbers of the lines in the order in which they stand on their topic, each batch counted once."""
    told: list[int] = []
    last: dict[str, int] = {}
    for messages in (await one.published(LOGS.name)).values():
        for message in messages:
            record, envelope = message.record, message.envelope
            if not isinstance(record, LogBatch) or envelope.sequence <= last.get(envelope.source, -1):
                continue
            last[envelope.source] = envelope.sequence
            told += [int(body.rpartition(" ")[2]) for body in record.bodies if body.startswith("event number ")]
    return told


async def test_half_a_minute_without_kafka_loses_nothing_and_keeps_the_order(embedded_settings: Settings) -> None:
    await outage(embedded_settings, 30)


@pytest.mark.soak
async def test_five_minutes_without_kafka_lose_nothing_and_keep_the_order(embedded_settings: Settings) -> None:
    await outage(embedded_settings, 300)
