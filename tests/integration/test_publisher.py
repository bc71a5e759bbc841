"""From the spool to a real Kafka: nothing is lost, nothing overtakes, whatever is killed."""

from __future__ import annotations

import asyncio
import base64
import itertools
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord

from ingest.app import IngestSettings, ReceiverSettings, now_ms, run_ingest, running
from ingest.backfill import backfill
from ingest.counts import Count, Counts
from ingest.producer import connector
from ingest.publisher import Publisher
from ingest.receivers.http import Server
from ingest.rounds import partition_of
from ingest.spool import Spool
from ingest.topics import TopicsError, ensure_topics
from pilothouse.services.stack import Stack
from schemas.codec import Received, decode
from schemas.estate import Cell, Estate, Reference, Tenant
from schemas.records import Change, DeadLetter, Heartbeat, Record, Scrape
from schemas.series import identity
from schemas.topics import CHANGES, DEAD_LETTERS, INPUTS, METRICS, TOPICS

PARTITIONS = 3
TIMEOUT_S = 3.0
HOUR_MS = 3_600_000


@pytest.fixture
async def prefix(kafka: str) -> str:
    """Topics of this test alone."""
    prefix = f"t{uuid4().hex[:8]}."
    await ensure_topics({"bootstrap_servers": kafka}, prefix, PARTITIONS)
    return prefix


@asynccontextmanager
async def opened(file: Path, clock: Callable[[], int] = now_ms) -> AsyncIterator[Spool]:
    spool = Spool(file, name="ingest", clock=clock)
    await spool.open()
    try:
        yield spool
    finally:
        await spool.close()


@asynccontextmanager
async def killed(stack: Stack) -> AsyncIterator[None]:
    """Without Kafka inside the block."""
    assert stack.kafka
    await stack.kafka.kill()
    try:
        yield
    finally:
        await stack.kafka.start()


async def read(kafka: str, topic: str) -> dict[int, list[ConsumerRecord]]:
    """Everything in the topic, by partition."""
    async with AIOKafkaConsumer(bootstrap_servers=kafka, auto_offset_reset="earliest") as consumer:
        there = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(there)
        ends = await consumer.end_offsets(there)
        log: dict[int, list[ConsumerRecord]] = defaultdict(list)
        async with asyncio.timeout(30):
            for partition in there:
                consumer.seek(partition, 0)
            while any(len(log[partition.partition]) < end for partition, end in ends.items()):
                for partition, messages in (await consumer.getmany(timeout_ms=500)).items():
                    log[partition.partition].extend(messages)
        return log


def decoded(messages: list[ConsumerRecord]) -> list[Received | Heartbeat]:
    read = [decode(message.headers, message.value, message.timestamp) for message in messages]
    return [one for one in read if isinstance(one, Received | Heartbeat)]


def scrape(number: int, cell: str = "eu1") -> Scrape:
    return Scrape.of({"m": float(number)}, cell=cell, resource="db", system="postgresql", time_ms=now_ms())


def numbers(received: list[Received]) -> list[int]:
    return [int(one.record.values[0] or 0) for one in received if isinstance(one.record, Scrape)]


async def test_nothing_is_lost_or_overtakes_when_kafka_is_killed_under_load(
    stack: Stack, kafka: str, prefix: str, tmp_path: Path
) -> None:
    counts, told = Counts(), 0
    stop = asyncio.Event()
    async with opened(tmp_path / "spool.db") as spool:
        publisher = Publisher(
            spool, connector({"bootstrap_servers": kafka}, prefix, TIMEOUT_S), counts=counts, heartbeat_s=0.2
        )

        async def load() -> None:
            nonlocal told
            while not stop.is_set():
                await spool.accept([scrape(told + one, cell=f"cell-{one}") for one in range(8)])
                told += 8
                await asyncio.sleep(0.005)

        async def until(condition: Callable[[], bool]) -> None:
            while not condition():  # noqa: ASYNC110 (counters, not events)
                await asyncio.sleep(0.02)

        async with asyncio.timeout(120), running(publisher.run()), asyncio.TaskGroup() as tasks:
            tasks.create_task(load())
            await until(lambda: counts[Count.SENT] > 800)
            async with killed(stack):
                before = told
                await until(lambda: counts[Count.ROUND_FAILED] >= 3 and told > before + 2000)
            sent = counts[Count.SENT]
            await until(lambda: counts[Count.SENT] > sent + 3000)
            stop.set()
            await until(lambda: spool.records == 0)
        source = spool.source

    log = await read(kafka, prefix + METRICS.name)
    seen: dict[int, int] = {}
    for messages in log.values():
        last_sequence = last_beat_ms = 0
        for one in decoded(messages):
            if isinstance(one, Heartbeat):
                last_beat_ms = max(last_beat_ms, one.time_ms)
            elif one.envelope.sequence > last_sequence:
                assert one.envelope.recorded_ms >= last_beat_ms, "recorded before a heartbeat that it stands behind"
                assert one.envelope.source == source
                last_sequence = one.envelope.sequence
                seen[one.envelope.sequence] = numbers([one])[0]
    assert sorted(seen.values()) == list(range(told)), "each once, by sequences that only grow"


async def test_records_of_a_cell_meet_in_one_partition_with_their_times(
    kafka: str, prefix: str, tmp_path: Path
) -> None:
    async with opened(tmp_path / "spool.db") as spool:
        records = [scrape(number, cell=f"cell-{number % 5}") for number in range(20)]
        await spool.accept(records)
        async with running(Publisher(spool, connector({"bootstrap_servers": kafka}, prefix)).run()):
            await spool.emptied.wait()
    for partition, messages in (await read(kafka, prefix + METRICS.name)).items():
        for one in decoded(messages):
            if isinstance(one, Received):
                assert partition_of(one.record.cell, PARTITIONS) == partition
                assert one.record in records
    for topic in INPUTS:
        log = await read(kafka, prefix + topic.name)
        beats = {partition for partition, messages in log.items() if Heartbeat in map(type, decoded(messages))}
        assert beats == set(range(PARTITIONS)), topic.name


async def test_a_record_too_large_for_kafka_becomes_dead_letters_and_the_others_pass(
    kafka: str, prefix: str, tmp_path: Path
) -> None:
    noise = random.Random(3)
    points: dict[str, float | None] = {
        identity("m", {"noise": base64.b64encode(noise.randbytes(75)).decode()}): noise.random() for _ in range(18_000)
    }
    huge = Scrape.of(points, cell="eu1", resource="db", system="postgresql", time_ms=now_ms())
    counts = Counts()
    async with opened(tmp_path / "spool.db") as spool:
        await spool.accept([scrape(0), scrape(1), huge, scrape(2)])
        async with running(Publisher(spool, connector({"bootstrap_servers": kafka}, prefix), counts=counts).run()):
            await spool.emptied.wait()
    log = await read(kafka, prefix + METRICS.name)
    received = [one for messages in log.values() for one in decoded(messages) if isinstance(one, Received)]
    assert numbers(received) == [0, 1, 2]
    letters = [
        DeadLetter.model_validate_json(message.value or b"")
        for messages in (await read(kafka, prefix + DEAD_LETTERS.name)).values()
        for message in messages
    ]
    assert b"".join(base64.b64decode(one.payload) for one in letters) == huge.model_dump_json().encode()
    assert {one.reason for one in letters} == {"oversized"}
    assert counts[Count.ROUND_FAILED] == 0


async def test_a_producer_whose_kafka_is_away_leaves_nothing_behind(
    stack: Stack, kafka: str, prefix: str, tmp_path: Path
) -> None:
    counts = Counts()
    async with opened(tmp_path / "spool.db") as spool:
        tasks = asyncio.all_tasks()
        publisher = Publisher(spool, connector({"bootstrap_servers": kafka}, prefix, timeout_s=0.5), counts=counts)
        running_publisher = asyncio.create_task(publisher.run())
        await spool.accept([scrape(0)])
        await spool.emptied.wait()
        async with killed(stack):
            await spool.accept([scrape(1)])
            while counts[Count.ROUND_FAILED] < 3:  # noqa: ASYNC110 (a counter, not an event)
                await asyncio.sleep(0.02)
            begun_s = time.monotonic()
            running_publisher.cancel()
            await asyncio.wait([running_publisher])
            assert time.monotonic() - begun_s < 5
            assert asyncio.all_tasks() == tasks
            assert spool.records == 1


async def test_topics_are_made_once_and_another_partition_count_is_named(kafka: str, prefix: str) -> None:
    await ensure_topics({"bootstrap_servers": kafka}, prefix, PARTITIONS)
    with pytest.raises(TopicsError, match=rf"{prefix}dead-letters\.v1 has 3, .* but 4 are configured"):
        await ensure_topics({"bootstrap_servers": kafka}, prefix, PARTITIONS + 1)
    assert {topic.name for topic in TOPICS} >= {topic.name for topic in INPUTS}


async def test_history_is_told_in_order_with_a_heartbeat_everywhere_every_six_hours(kafka: str, prefix: str) -> None:
    start_ms = 1_750_000_000_000 - 1_750_000_000_000 % (6 * HOUR_MS)
    moments: list[tuple[int, list[Record]]] = [(start_ms + hour * HOUR_MS, [scrape(hour)]) for hour in range(25)]
    connect = connector({"bootstrap_servers": kafka}, prefix)
    assert await backfill(moments, connect) == 25
    log = await read(kafka, prefix + METRICS.name)
    told = decoded(log[partition_of("eu1", PARTITIONS)])
    hours = [
        (
            type(one).__name__,
            ((one.time_ms if isinstance(one, Heartbeat) else one.envelope.recorded_ms) - start_ms) // HOUR_MS,
        )
        for one in told
    ]
    rest = iter(range(25))
    expected = [
        *itertools.chain.from_iterable(
            [*(("Received", hour) for hour in itertools.islice(rest, 6)), ("Heartbeat", beat)]
            for beat in (6, 12, 18, 24)
        ),
        ("Received", 24),
    ]
    assert hours == expected
    assert [one.envelope.sequence for one in told if isinstance(one, Received)] == list(range(1, 26))
    assert {one.envelope.source for one in told if isinstance(one, Received)} == {"history"}
    for topic in INPUTS:
        for messages in (await read(kafka, prefix + topic.name)).values():
            beats = [one.time_ms for one in decoded(messages) if isinstance(one, Heartbeat)]
            assert [(beat - start_ms) // HOUR_MS for beat in beats] == [6, 12, 18, 24]


async def test_history_that_falls_back_in_time_is_refused(kafka: str, prefix: str) -> None:
    with pytest.raises(ValueError, match="must be in the order of time"):
        await backfill([(2, []), (1, [])], connector({"bootstrap_servers": kafka}, prefix))


async def test_ingest_takes_changes_while_kafka_is_away_and_sends_them_at_its_next_start(
    kafka: str, prefix: str, tmp_path: Path
) -> None:
    estate = Estate(cells=(Cell(name="eu1", tenants=(Tenant(name="acme"),)),))
    keys = {"change": ReceiverSettings(keys=(Reference(env="KEY"),))}
    environ = {"KEY": "a-token-that-is-long-enough"}
    change = {
        "cell": "eu1",
        "change_id": "1",
        "kind": "release",
        "status": "started",
        "service": "odoo",
        "revision": "1",
    }

    async def one_run(bootstrap: str, *, body: dict[str, str] | None) -> None:
        settings = IngestSettings(
            spool=tmp_path / "spool.db",
            kafka={"bootstrap_servers": bootstrap},
            topic_prefix=prefix,
            partitions=PARTITIONS,
            receivers=keys,
        )
        stop, up = asyncio.Event(), asyncio.get_running_loop().create_future()
        run = asyncio.create_task(
            run_ingest(estate, settings, stop, environ=environ, started=lambda server, _: up.set_result(server))
        )
        await asyncio.wait([run, up], return_when=asyncio.FIRST_COMPLETED)
        server: Server = up.result()
        if body:
            headers = {"Authorization": f"Bearer {environ['KEY']}"}
            url = f"http://127.0.0.1:{server.port}/v1/changes"
            async with aiohttp.ClientSession() as http, http.post(url, json=body, headers=headers) as response:
                assert response.status == 202
        stop.set()
        await run

    await one_run("127.0.0.1:9", body=change)
    await one_run(kafka, body=None)
    log = await read(kafka, prefix + CHANGES.name)
    received = [one.record for messages in log.values() for one in decoded(messages) if isinstance(one, Received)]
    assert [type(record) for record in received] == [Change]
