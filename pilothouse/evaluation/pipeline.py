"""Points a CPU second through real Kafka and Faust into signals, beside a bare loop that only decodes the same records.

All read the same topics from the start, one process each, in turns; of the rounds the median is told, with its spread. The worker
runs with the recovery protocol on (snapshots, acknowledgements in order), once with the baseline alone, which is what
peers are given on a like task and what compares while steps come and go, and once with every registered step
(`every_step`). CPU is that of the whole process, all threads,
from its first record to its last snapshot. The bare loop is aiokafka on uvloop, orjson and numpy, and reads no
topic but that of the scrapes: the least that anybody could do with these records.

There is about one heartbeat a scrape; a
worker that has a core to itself, at 500 points a scrape, sees fewer. What each step costs is told from a fold in memory.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import orjson
import psutil
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from ingest.topics import ensure_topics
from pilothouse.evaluation.estate import POINTS, RESOURCES, START_MS, Estate
from pilothouse.settings import Settings
from processors.agents import Batch, Worker, run
from processors.fold import CellFold, Plan
from processors.step import Findings, Item, Step
from processors.steps.registry import STEPS
from processors.store import Store
from schemas.codec import Envelope, encode, encode_heartbeat
from schemas.records import Heartbeat, Scrape
from schemas.topics import DEAD_LETTERS, INPUTS, METRICS, SIGNALS, STATE

PARTITIONS, INTERVAL_MS = 24, 1_000
FETCH_BYTES = 4 * 2**20
ALL, BASELINE = tuple(STEPS), ("baseline",)
SPEC = "PILOTHOUSE_BENCH_PIPELINE"


async def measure(settings: Settings, scrapes: int = 12_000, rounds: int = 3) -> dict[str, Any]:
    """Load `scrapes` records of 500 points, then measure workers and bare loop in turns."""
    assert settings.kafka
    kafka = settings.kafka.aiokafka_options()
    prefix = f"bench-{uuid.uuid4().hex[:8]}."
    await ensure_topics(kafka, prefix=prefix, partitions=PARTITIONS)
    beats = await _load(kafka, prefix, scrapes)
    spec = {
        "kafka": kafka,
        "prefix": prefix,
        "data_dir": str(settings.data_dir / "faust"),
        "scrapes": scrapes,
        "beats": beats,
    }
    bare, every, baseline = [], [], []
    for _ in range(rounds):
        bare.append(await _child("bare", spec))
        every.append(await _fresh(spec, ALL))
        baseline.append(await _fresh(spec, BASELINE))
    bare_cpu_s = median(one["cpu_s"] for one in bare)
    return {
        **_told(baseline, bare_cpu_s, scrapes),
        "every_step": _told(every, bare_cpu_s, scrapes),
        "bare_points_per_cpu_second": round(scrapes * POINTS / bare_cpu_s),
        "bare_pss_mib": round(median(one["pss_mib"] for one in bare), 1),
        "step_us_per_scrape": await _child("steps", spec),
        "points_per_scrape": POINTS,
        "scrapes": scrapes,
        "series": POINTS * RESOURCES,
        "rounds": rounds,
    }


def _told(worker: list[dict[str, float]], bare_cpu_s: float, scrapes: int) -> dict[str, Any]:
    points, cpu_s = scrapes * POINTS, sorted(one["cpu_s"] for one in worker)
    return {
        "points_per_cpu_second": round(points / median(cpu_s)),
        "points_per_cpu_second_spread": [round(points / cpu_s[-1]), round(points / cpu_s[0])],
        "points_per_second": round(points / median(one["wall_s"] for one in worker)),
        "ratio_to_bare": round(bare_cpu_s / median(cpu_s), 3),
        "pss_mib": round(median(one["pss_mib"] for one in worker), 1),
        "messages": round(worker[0]["messages"]),
        "signals": round(worker[0]["signals"]),
    }


async def _fresh(spec: dict[str, Any], steps: tuple[str, ...]) -> dict[str, float]:
    """A worker that finds no snapshot: what it writes goes to topics of its own, which are gone afterwards."""
    out = f"bench-{uuid.uuid4().hex[:8]}."
    names = [out + topic.name for topic in (*SIGNALS, DEAD_LETTERS, STATE)]
    admin = AIOKafkaAdminClient(**spec["kafka"])
    await admin.start()
    await admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names])
    try:
        return await _child("worker", {**spec, "steps": steps, "out": out})
    finally:
        await admin.delete_topics(names)
        await admin.close()


async def _load(kafka: dict[str, Any], prefix: str, scrapes: int) -> int:
    """Publish the scrapes, a heartbeat after each look at all resources; how many heartbeats a partition has."""
    producer = AIOKafkaProducer(**kafka, acks="all", linger_ms=20, compression_type="lz4", max_batch_size=2**20)
    await producer.start()
    beats = 0
    for number, record in enumerate(_scrapes(scrapes), 1):
        at = record.time_ms
        wire = encode(record, Envelope("bench", number, at))
        await producer.send(prefix + METRICS.name, wire.value, wire.key, headers=wire.headers, timestamp_ms=at)
        if number % RESOURCES == 0 or number == scrapes:
            beats += 1
            await _beat(producer, prefix, at + (1 if number < scrapes else 60_000))
    await producer.stop()
    return beats


def _scrapes(count: int) -> Iterator[Scrape]:
    estate = Estate()
    for number in range(count):
        yield estate.scrape(START_MS + INTERVAL_MS * (number // RESOURCES))


async def _beat(producer: AIOKafkaProducer, prefix: str, time_ms: int) -> None:
    wire = encode_heartbeat(Heartbeat(publisher="bench", time_ms=time_ms))
    for topic in INPUTS:
        for partition in range(PARTITIONS):
            await producer.send(
                prefix + topic.name, wire.value, headers=wire.headers, partition=partition, timestamp_ms=time_ms
            )


async def _child(role: str, spec: dict[str, Any]) -> dict[str, float]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pilothouse.evaluation.pipeline",
        role,
        env={**os.environ, SPEC: json.dumps(spec)},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(600):
        out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the {role} of the benchmark ended with {process.returncode}; what it said stands above")
    answer: dict[str, float] = json.loads(out.decode().strip().splitlines()[-1])
    return answer


class _Clock:
    """CPU and wall time since it was made, and the memory held now."""

    def __init__(self) -> None:
        self._cpu_s, self._wall_s = time.process_time(), time.perf_counter()

    def tell(self, **more: float) -> None:
        """Write one line of JSON for the parent."""
        answer = {
            "cpu_s": time.process_time() - self._cpu_s,
            "wall_s": time.perf_counter() - self._wall_s,
            "pss_mib": psutil.Process().memory_full_info().pss / 2**20,
        }
        sys.stdout.write(json.dumps({**answer, **more}) + "\n")
        sys.stdout.flush()


async def _bare(spec: dict[str, Any]) -> None:
    reader = AIOKafkaConsumer(
        **spec["kafka"], enable_auto_commit=False, auto_offset_reset="earliest", max_partition_fetch_bytes=FETCH_BYTES
    )
    await reader.start()
    places = [TopicPartition(spec["prefix"] + METRICS.name, number) for number in range(PARTITIONS)]
    reader.assign(places)
    for place in places:
        reader.seek(place, 0)
    read, points, clock = 0, 0.0, _Clock()
    while read < spec["scrapes"]:
        for messages in (await reader.getmany(timeout_ms=1_000, max_records=500)).values():
            for message in messages:
                record = orjson.loads(message.value)
                if "values" in record:
                    points += np.array(record["values"], dtype=np.float64).size
                    read += 1
    clock.tell()
    await reader.stop()


def _worker(spec: dict[str, Any]) -> None:
    plan = Plan.of([STEPS[name] for name in spec["steps"]])
    worker = Worker(plan, spec["kafka"], spec["prefix"])
    worker.store = Store(spec["kafka"], spec["out"])
    messages = spec["scrapes"] + spec["beats"] * PARTITIONS * len(plan.listens)
    handle, seen = worker.on_batch, 0
    clock: _Clock | None = None

    async def counted(batch: Batch, consumer: Any) -> None:
        nonlocal seen, clock
        clock = clock or _Clock()
        await handle(batch, consumer)
        seen += len(batch.records)
        if seen >= messages:
            await asyncio.gather(*(runner.finish() for runner in worker.runners.values()))
            clock.tell(messages=messages, signals=_signals(worker, spec["scrapes"]))
            os._exit(0)

    worker.on_batch = counted  # type: ignore[method-assign]
    run(worker, spec["out"] + "worker", spec["data_dir"])


def _steps(spec: dict[str, Any]) -> None:
    """CPU of each step in microseconds a scrape, without Kafka; a step that passes all of them over costs 0."""
    spent = dict.fromkeys(STEPS, 0)
    cells: dict[str, CellFold] = {}
    plan = Plan.of([_timed(step, spent) for step in STEPS.values()])
    for record in _scrapes(spec["scrapes"]):
        cell = cells.setdefault(record.cell, CellFold(plan, record.cell))
        cell.tick(record.time_ms)
        cell.fold(Item(record.time_ms, record))
    sys.stdout.write(json.dumps({name: round(ns / 1000 / spec["scrapes"], 1) for name, ns in spent.items()}) + "\n")


def _timed(step: Step[Any, Any], spent: dict[str, int]) -> Step[Any, Any]:
    def fold(config: Any, state: Any, item: Item) -> tuple[Any, Findings]:
        began = time.thread_time_ns()
        told = step.step(config, state, item)
        spent[step.name] += time.thread_time_ns() - began
        return told

    return replace(step, step=fold)


def _signals(worker: Worker, scrapes: int) -> int:
    counts = [runner.fold.counts for runner in worker.runners.values()]
    folded, failed = (sum(count[name] for count in counts) for name in ("records", "failed"))
    if (folded, failed) != (scrapes, 0):
        raise RuntimeError(f"{folded} of {scrapes} scrapes were folded and {failed} failed; a rate would mean nothing")
    return sum(count["signals"] for count in counts)


if __name__ == "__main__":
    given = json.loads(os.environ[SPEC])
    match sys.argv[1]:
        case "worker":
            _worker(given)
        case "steps":
            _steps(given)
        case _:
            uvloop.run(_bare(given))
