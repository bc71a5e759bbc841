"""One key sends a million series to a worker on real Kafka, and a lock in the same cell is told meanwhile."""

from __future__ import annotations

import asyncio
import time

import pytest
from aiokafka import AIOKafkaProducer

from pilothouse.settings import Settings
from schemas.codec import Envelope, encode
from schemas.records import Scrape, Signal
from schemas.series import identity
from schemas.topics import DETECTIONS, METRICS
from tests.support.house import House, now_ms, running

pytestmark = pytest.mark.alone

SERIES, A_SCRAPE = 1_000_000, 10_000
TOLD_S, WORKER_MIB = 30.0, 700.0


async def flood(one: House) -> None:
    """A million series of one publisher, as one that puts an id into an attribute sends them, in many resources."""
    async with AIOKafkaProducer(
        **one.kafka, acks="all", compression_type="lz4", max_request_size=4 * 2**20
    ) as producer:
        for number in range(SERIES // A_SCRAPE):
            names = [identity("shop.requests", {"request.id": f"{number}-{other:05}"}) for other in range(A_SCRAPE)]
            points: dict[str, float | None] = dict.fromkeys(names, 1.0)
            record = Scrape.of(points, cell="eu1", resource=f"shop-{number % 20}", system="otlp", time_ms=now_ms())
            wire = encode(record, Envelope("shop-key", number, record.time_ms))
            await producer.send_and_wait(
                METRICS.name, wire.value, wire.key, headers=wire.headers, timestamp_ms=record.time_ms
            )


async def told(one: House, cause: str, timeout_s: float) -> Signal:
    """The first signal of a cause that begins so."""
    async with asyncio.timeout(timeout_s):
        while True:
            for received in (two for found in (await one.published(DETECTIONS.name)).values() for two in found):
                if isinstance(received.record, Signal) and received.record.cause.startswith(cause):
                    return received.record
            await asyncio.sleep(0.3)


async def test_a_million_series_of_one_key_leave_the_worker_small_and_a_lock_told(embedded_settings: Settings) -> None:
    async with running(embedded_settings) as one:
        worker, most = one.program("process"), 0.0
        pid = worker.pid
        flooding = asyncio.create_task(flood(one))
        await asyncio.sleep(2)
        began = time.monotonic()
        locking = asyncio.create_task(one.put_locks("watcher"))
        lock = asyncio.create_task(told(one, "postgresql.lock:acme", 120))
        while not (flooding.done() and lock.done()):
            most = max(most, await asyncio.to_thread(lambda: worker.pss_mib))
            if lock.done() and lock.exception():
                break
            took_s = time.monotonic() - began if not lock.done() else 0.0
            assert took_s <= TOLD_S, worker.log.read_text()[-2_000:]
            await asyncio.sleep(0.5)
        await asyncio.gather(flooding, locking, lock)
        found = await told(one, "pilothouse.publisher:shop-key", 60)
        said = " ".join(fact.text for fact in found.evidence)
        assert "shop.requests" in said
        assert "request.id" in said
        await asyncio.sleep(10)  # a snapshot of all of it
        most = max(most, await asyncio.to_thread(lambda: worker.pss_mib))
        assert most <= WORKER_MIB
        assert (worker.running, worker.pid) == (True, pid), worker.log.read_text()[-2_000:]
        await one.next_stored(60)
