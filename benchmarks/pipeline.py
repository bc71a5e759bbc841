"""Points a CPU second through real Kafka and Faust into signals, beside a bare loop that only decodes the same records.

Both read the same topics from the start with one process each. The worker runs every registered step with the recovery
protocol on (snapshots, acknowledgements in order); CPU is that of its whole process, all threads, from its first record
to its last. The bare loop is aiokafka, orjson and numpy: the least that anybody could do with these records.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
import uuid
from typing import Any

import numpy as np
import orjson
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from ingest.topics import ensure_topics
from pilothouse.settings import Settings
from processors.agents import Worker, run
from processors.fold import Plan
from processors.steps.registry import STEPS
from schemas.codec import Envelope, encode, encode_heartbeat
from schemas.records import Heartbeat, Scrape
from schemas.topics import INPUTS, METRICS

POINTS, RESOURCES, CELLS, PARTITIONS = 500, 100, 20, 24
SPEC = "PILOTHOUSE_BENCH_PIPELINE"


async def measure(settings: Settings, scrapes: int = 12_000) -> dict[str, Any]:
    """Load `scrapes` records of 500 points, then measure worker and bare loop one after the other."""
    assert settings.kafka
    kafka, data_dir = settings.kafka.aiokafka_options(), str(settings.data_dir / "faust")
    prefix = f"bench-{uuid.uuid4().hex[:8]}."
    await ensure_topics(kafka, prefix=prefix, partitions=PARTITIONS)
    spec = {"kafka": kafka, "prefix": prefix, "data_dir": data_dir, "scrapes": scrapes}
    beats = await _load(kafka, prefix, scrapes)
    bare = await _child("bare", spec)
    worker = await _child("worker", {**spec, "messages": scrapes + beats})
    points = scrapes * POINTS
    return {
        "points_per_cpu_second": round(points / worker["cpu_s"]),
        "points_per_second": round(points / worker["wall_s"]),
        "ratio_to_bare": round(bare["cpu_s"] / worker["cpu_s"], 3),
        "bare_points_per_cpu_second": round(points / bare["cpu_s"]),
        "pss_mib": round(worker["pss_mib"], 1),
        "points_per_scrape": POINTS,
        "scrapes": scrapes,
        "heartbeats": beats,
        "series": POINTS * RESOURCES,
    }


async def _load(kafka: dict[str, Any], prefix: str, scrapes: int) -> int:
    rng = np.random.default_rng(1)
    names = sorted(f'postgresql.bench.{n:03}{{tenant.id="tenant-{n % 20:02}"}}' for n in range(POINTS))
    layout = "\n".join(names)
    start = 1_795_000_000_000
    producer = AIOKafkaProducer(**kafka, acks="all", linger_ms=20, compression_type="lz4", max_batch_size=2**20)
    await producer.start()
    beats = 0
    for number in range(scrapes):
        at = start + 1_000 * (number // RESOURCES)
        resource = number % RESOURCES
        values = tuple(np.round(50 + 5 * rng.standard_normal(POINTS), 4).tolist())
        record = Scrape(
            cell=f"cell-{resource % CELLS}",
            resource=f"pg-{resource}",
            system="bench",
            time_ms=at,
            series=layout,
            values=values,
        )
        wire = encode(record, Envelope("bench", number + 1, at))
        await producer.send(prefix + METRICS.name, wire.value, wire.key, headers=wire.headers, timestamp_ms=at)
        if resource == RESOURCES - 1:
            beats += await _beat(producer, prefix, at + 1)
    beats += await _beat(producer, prefix, start + 1_000 * (scrapes // RESOURCES) + 60_000)
    await producer.stop()
    return beats


async def _beat(producer: AIOKafkaProducer, prefix: str, time_ms: int) -> int:
    wire = encode_heartbeat(Heartbeat(publisher="bench", time_ms=time_ms))
    for topic in INPUTS:
        for partition in range(PARTITIONS):
            await producer.send(
                prefix + topic.name, wire.value, headers=wire.headers, partition=partition, timestamp_ms=time_ms
            )
    return len(Plan.of(STEPS.values()).listens) * PARTITIONS


async def _child(role: str, spec: dict[str, Any]) -> dict[str, float]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.pipeline",
        role,
        env={**os.environ, SPEC: json.dumps(spec)},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(600):
        out, _ = await process.communicate()
    answer: dict[str, float] = json.loads(out.decode().strip().splitlines()[-1])
    return answer


async def _bare(spec: dict[str, Any]) -> dict[str, float]:
    reader = AIOKafkaConsumer(
        **spec["kafka"], enable_auto_commit=False, auto_offset_reset="earliest", max_partition_fetch_bytes=4 * 2**20
    )
    await reader.start()
    places = [TopicPartition(spec["prefix"] + METRICS.name, number) for number in range(PARTITIONS)]
    reader.assign(places)
    for place in places:
        reader.seek(place, 0)
    read, points, cpu, wall = 0, 0.0, time.process_time(), time.perf_counter()
    while read < spec["scrapes"]:
        for messages in (await reader.getmany(timeout_ms=1_000, max_records=500)).values():
            for message in messages:
                record = orjson.loads(message.value)
                if "values" in record:
                    points += np.array(record["values"], dtype=np.float64).size
                    read += 1
    answer = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall, "pss_mib": _pss_mib()}
    await reader.stop()
    return answer


def _worker(spec: dict[str, Any]) -> None:
    worker = Worker(Plan.of(STEPS.values()), spec["kafka"], spec["prefix"])
    seen, began = 0, (0.0, 0.0)
    fold = worker.on_event

    async def counted(event: Any) -> None:
        nonlocal seen, began
        if not seen:
            began = time.process_time(), time.perf_counter()
        seen += 1
        await fold(event)
        if seen == spec["messages"]:
            for runner in worker.runners.values():
                await runner.flush()
                await runner.settle()
            answer = {
                "cpu_s": time.process_time() - began[0],
                "wall_s": time.perf_counter() - began[1],
                "pss_mib": _pss_mib(),
            }
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
            os._exit(0)

    worker.on_event = counted  # type: ignore[method-assign]
    run(worker, f"bench-{random.getrandbits(32):x}", spec["data_dir"])


def _pss_mib() -> float:
    return float(psutil.Process().memory_full_info().pss) / 2**20


if __name__ == "__main__":
    given = json.loads(os.environ[SPEC])
    if sys.argv[1] == "worker":
        _worker(given)
    else:
        sys.stdout.write(json.dumps(asyncio.run(_bare(given))) + "\n")
