"""From an event published to its webhook received, while 50,000 points a second flow through the same worker.

A lock tree is published every other second, each of another cell, so that nothing is grouped; the alert that follows is
received by a real webhook. The time includes the grace, the worker, the correlator, the alerts sink and its signature. Load
that fell behind is made up for, so a pause of the machine slows nothing but what it delays.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from aiokafka import AIOKafkaProducer

from pilothouse.bench import LATEST_S
from pilothouse.demo.receiver import Receiver
from pilothouse.evaluation.estate import CELLS, POINTS, Estate, cell
from pilothouse.settings import Settings
from pilothouse.supervisor import Program, Supervisor
from pilothouse.whole import environment, make_topics
from schemas.codec import Envelope, Wire, encode, encode_heartbeat
from schemas.records import Heartbeat, OperationsEvent, Record
from schemas.topics import INPUTS, topic_of

SCRAPES_A_SECOND = 100
URL, KEY = "PILOTHOUSE_BENCH_URL", "PILOTHOUSE_BENCH_KEY"
WARM_UP_S, EVENT_EVERY_S = 12.0, 2.0


async def measure(settings: Settings, events: int = 25) -> dict[str, Any]:
    """`p50_s` and `p99_s` of `events` alerts, with the rate of points that was reached and the cells whose alert never came."""
    config = settings.data_dir / "estate"
    await make_topics(settings)
    async with Receiver() as receiver:
        await asyncio.to_thread(_write_estate, config, events)
        os.environ.update(environment(settings) | {URL: receiver.url, KEY: receiver.secret})
        supervisor = Supervisor(_programs(settings, config))
        await supervisor.up()
        try:
            sent, rate = await _drive(settings, events)
        finally:
            await supervisor.down()
        return answer(sent, receiver.alerts, rate)


def _write_estate(config: Path, events: int) -> None:
    config.mkdir(exist_ok=True)
    names = [cell(number) for number in range(CELLS)] + [_event_cell(number) for number in range(events)]
    route = {
        "name": "bench",
        "url": {"env": URL},
        "secret": {"env": KEY},
        "min_severity": "info",
        "allow_private": True,
    }
    estate = {"cells": [{"name": one, "tenants": [{"name": f"tenant-{one}"}]} for one in names], "routes": [route]}
    (config / "estate.yaml").write_text(yaml.safe_dump(estate))


def _programs(settings: Settings, config: Path) -> list[Program]:
    verbs = {"process": ["process", "-c", str(config)], "sink": ["sink", "alerts", "-c", str(config)]}
    home, logs = settings.data_dir / "programs", settings.data_dir / "logs"
    return [Program(f"program/{name}", verb, home / name, logs) for name, verb in verbs.items()]


async def _drive(settings: Settings, events: int) -> tuple[dict[str, float], float]:
    assert settings.kafka
    producer = AIOKafkaProducer(**settings.kafka.aiokafka_options(), acks="all", linger_ms=5, compression_type="lz4")
    await producer.start()
    source = _Source(producer, settings.partitions)
    flow = asyncio.create_task(source.flow())
    sent: dict[str, float] = {}
    try:
        await asyncio.sleep(WARM_UP_S)
        began, before = time.monotonic(), source.estate.scrapes
        for number in range(events):
            place = _event_cell(number)
            sent[place] = time.time()
            await source.send(_lock(place))
            await asyncio.sleep(EVENT_EVERY_S)
        rate = (source.estate.scrapes - before) * POINTS / (time.monotonic() - began)
        await asyncio.sleep(LATEST_S)
    finally:
        flow.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await flow
        await producer.stop()
    return sent, rate


class _Source:
    """Scrapes at a steady rate, a heartbeat every half second, all in the order of time."""

    def __init__(self, producer: AIOKafkaProducer, partitions: int) -> None:
        self._producer, self._partitions = producer, partitions
        self.estate, self._sequence = Estate(), 0

    async def flow(self) -> None:
        due, beat = time.monotonic(), 0.0
        while True:
            await self.send(self.estate.scrape(_now_ms()))
            if time.monotonic() - beat >= 0.5:
                beat = time.monotonic()
                await self._beat()
            due += 1 / SCRAPES_A_SECOND
            await asyncio.sleep(max(due - time.monotonic(), 0))

    async def send(self, record: Record) -> None:
        self._sequence += 1
        wire = encode(record, Envelope("bench", self._sequence, _now_ms()))
        await self._put(topic_of(record).name, wire)

    async def _beat(self) -> None:
        wire = encode_heartbeat(Heartbeat(publisher="bench", time_ms=_now_ms()))
        for topic in INPUTS:
            for partition in range(self._partitions):
                await self._put(topic.name, wire, partition)

    async def _put(self, topic: str, wire: Wire, partition: int | None = None) -> None:
        await self._producer.send(
            topic, wire.value, wire.key, headers=wire.headers, timestamp_ms=wire.timestamp_ms, partition=partition
        )


def _event_cell(number: int) -> str:
    return f"event-{number:03}"


def _lock(place: str) -> OperationsEvent:
    attributes = {"postgresql.waiting.count": 9, "postgresql.waiting.max_s": 9.0, "postgresql.blocker.pid": 1}
    return OperationsEvent(
        cell=place,
        time_ms=_now_ms(),
        resource=f"pg-{place}",
        system="postgresql",
        tenant=f"tenant-{place}",
        name="postgresql.lock.blocked",
        attributes=attributes,
    )


def answer(sent: Mapping[str, float], alerts: Iterable[tuple[float, Any]], rate: float) -> dict[str, Any]:
    """The figures of events sent (Unix s by cell) and of the alerts that came (Unix s and body)."""
    took: dict[str, float] = {}
    for at_s, body in alerts:
        place = body["data"]["cell"]
        if place in sent:
            took.setdefault(place, at_s - sent[place])
    # An alert that never came took longer than any that did: a percentile that falls on one is not known.
    ordered = sorted(took.values())
    p50, p99 = (
        round(ordered[place], 3) if (place := int(share * len(sent))) < len(ordered) else None for share in (0.5, 0.99)
    )
    return {
        "p50_s": p50,
        "p99_s": p99,
        "events": len(sent),
        "missing": sorted(sent.keys() - took.keys()),
        "points_per_second": round(rate),
    }


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
