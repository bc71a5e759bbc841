"""What happens to topics under a sink's feet, on real servers: made anew, shortened by retention, poisoned."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from random import Random
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from schemas.codec import Envelope, encode
from schemas.records import OperationsEvent, Scrape
from sinks.consumer import run_sink
from sinks.kafka_clients import Kafka
from sinks.migrations import migrate
from sinks.sink import Assignment, Batch, Config, Counts, Opened, Refuse, Sink, SinkUnavailable
from sinks.timescale import Config as StoreConfig
from sinks.timescale import Timescale

NOW_MS = time.time_ns() // 1_000_000
TIMEOUT_S = 60.0


class Listed:
    """A sink that goes by the group's offsets and keeps sequences in a list."""

    name = "listed"

    def __init__(self, topic: str, kept: list[int]) -> None:
        self.topics, self.kept = (topic,), kept

    async def open(self, assignment: Assignment) -> Opened:
        return Opened()

    async def write(self, batch: Batch, refuse: Refuse) -> None:
        self.kept.extend(message.content.envelope.sequence for message in batch.messages)

    async def close(self) -> None:
        pass


class Bench:
    """A topic of a test's own, a store, and a list beside it."""

    def __init__(self, bootstrap: str, database_url: str, producer: Any, admin: Any) -> None:
        self.kafka = {"bootstrap_servers": bootstrap}
        self.url, self.producer, self.admin = database_url, producer, admin
        self.topic, self.letters = f"topics.{uuid4().hex[:8]}", f"letters.{uuid4().hex[:8]}"
        self.kept: list[int] = []
        self.sequence = 0

    async def create(self, partitions: int = 1) -> None:
        """The topic, as soon as the one before is gone."""
        async with asyncio.timeout(TIMEOUT_S):
            while (await self.admin.create_topics([NewTopic(self.topic, partitions, 1)])).topic_errors[0][1]:  # noqa: ASYNC110 (servers have no events)
                await asyncio.sleep(0.05)

    async def put(self, count: int, **more: Any) -> None:
        """So many records with the next sequences."""
        for _ in range(count):
            self.sequence += 1
            fields = {"cell": "eu1", "resource": "r", "system": "odoo", "time_ms": NOW_MS, "name": "n", **more}
            await self.put_as(OperationsEvent(**fields), f"source-{self.topic}", self.sequence)

    async def put_as(self, record: Any, source: str, sequence: int, **change: bytes) -> None:
        """One record under a name; headers may be changed."""
        wire = encode(record, Envelope(source, sequence, NOW_MS))
        headers = [(name, change.get(name, text)) for name, text in wire.headers]
        await self.producer.send_and_wait(self.topic, wire.value, wire.key, 0, wire.timestamp_ms, headers)

    def sink(self, which: str) -> Sink:
        """One that stores its offsets, or one that does not."""
        if which == "listed":
            return Listed(self.topic, self.kept)
        return Timescale(StoreConfig(self.url, topics=(self.topic, self.letters), upkeep_every_s=0))

    def start(self, sink: Sink, stop: asyncio.Event, **more: Any) -> tuple[asyncio.Task[None], Counts]:
        """Feed the sink."""
        config = Config(group=f"{sink.name}.{self.topic}", dead_letters=self.letters, idle_commit_s=0.5, **more)
        counts = Counts()
        return asyncio.create_task(run_sink(sink, self.kafka, stop, config, counts)), counts

    async def held(self, which: str) -> list[int]:
        """Sequences that it has, in order."""
        if which == "listed":
            return sorted(self.kept)
        connection = await asyncpg.connect(self.url)
        try:
            return [row[0] for row in await connection.fetch("SELECT sequence FROM records ORDER BY 1")]
        finally:
            await connection.close()

    async def until_held(self, which: str, count: int, timeout_s: float = TIMEOUT_S) -> None:
        """Return when it has so many."""
        async with asyncio.timeout(timeout_s):
            while len(await self.held(which)) < count:  # noqa: ASYNC110 (servers have no events)
                await asyncio.sleep(0.1)


@pytest.fixture
async def bench(kafka: str, database_url: str) -> AsyncIterator[Bench]:
    await migrate(database_url)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        bench = Bench(kafka, database_url, producer, admin)
        await admin.create_topics([NewTopic(bench.letters, 1, 1)])
        await bench.create()
        yield bench
        await admin.delete_topics([bench.topic, bench.letters])
    await admin.close()


async def stopped(task: asyncio.Task[None], stop: asyncio.Event) -> None:
    stop.set()
    await task


async def test_a_topic_made_anew_has_another_id(bench: Bench) -> None:
    broker = Kafka(bench.kafka)
    before = await id_other_than(broker, bench.topic, "")
    await bench.admin.delete_topics([bench.topic])
    await bench.create()
    await id_other_than(broker, bench.topic, before)
    assert (await broker.look([bench.topic, "none"])).topics.keys() == {bench.topic}
    await broker.close()


async def id_other_than(broker: Kafka, topic: str, known: str) -> str:
    """The topic's id, as soon as the broker knows of it; it hears from its controller a little later."""
    async with asyncio.timeout(TIMEOUT_S):
        while (found := (await broker.look([topic])).topics.get(topic, "")) in ("", known):  # noqa: ASYNC110 (servers have no events)
            await asyncio.sleep(0.05)
    return found


@pytest.mark.parametrize("which", ["timescale", "listed"])
@pytest.mark.parametrize("is_running", [True, False], ids=["meanwhile at work", "meanwhile stopped"])
async def test_a_topic_made_anew_loses_and_doubles_nothing(bench: Bench, which: str, is_running: bool) -> None:
    await bench.put(5)
    stop = asyncio.Event()
    task, counts = bench.start(bench.sink(which), stop)
    await bench.until_held(which, 5)
    if not is_running:
        await stopped(task, stop)
    broker = Kafka(bench.kafka)
    before = await id_other_than(broker, bench.topic, "")
    await bench.admin.delete_topics([bench.topic])
    await bench.create()
    # Until its broker has the new topic, too, it appends to the old one, which is about to go.
    await id_other_than(broker, bench.topic, before)
    await broker.close()
    await asyncio.sleep(0.2)
    await bench.put(8)
    if not is_running:
        stop = asyncio.Event()
        task, counts = bench.start(bench.sink(which), stop)
    await bench.until_held(which, 13, timeout_s=30)
    await stopped(task, stop)
    assert await bench.held(which) == list(range(1, 14))
    assert counts.topics_anew == 1 or not is_running


@pytest.mark.parametrize("which", ["timescale", "listed"])
async def test_what_retention_took_is_counted(bench: Bench, which: str) -> None:
    await bench.put(5)
    stop = asyncio.Event()
    task, counts = bench.start(bench.sink(which), stop)
    await bench.until_held(which, 5)
    await asyncio.sleep(0.5)
    await stopped(task, stop)
    await bench.put(10)
    await bench.admin.delete_records({TopicPartition(bench.topic, 0): RecordsToDelete(12)})
    stop = asyncio.Event()
    task, counts = bench.start(bench.sink(which), stop)
    await bench.until_held(which, 8)
    await stopped(task, stop)
    assert counts.expired == 7
    assert await bench.held(which) == [1, 2, 3, 4, 5, 13, 14, 15]


async def test_offsets_of_a_store_of_before_are_taken_over(bench: Bench) -> None:
    await bench.put(5)
    stop = asyncio.Event()
    task, _ = bench.start(bench.sink("timescale"), stop)
    await bench.until_held("timescale", 5)
    await stopped(task, stop)
    connection = await asyncpg.connect(bench.url)
    await connection.execute("UPDATE kafka_offsets SET topic_id = ''")  # as the release before left them
    await bench.put(3)
    stop = asyncio.Event()
    task, counts = bench.start(bench.sink("timescale"), stop)
    await bench.until_held("timescale", 8)
    await stopped(task, stop)
    assert counts.repeated == 0
    query = "SELECT next_offset FROM kafka_offsets WHERE topic = $1 AND topic_id <> ''"
    assert await connection.fetchval(query, bench.topic) == 8
    await connection.close()


async def test_texts_that_postgresql_refuses_are_cleaned_or_refused_wherever_they_stand(bench: Bench) -> None:
    """U+0000 in a body, in a header's source and in a series, a source longer than an index takes, a sequence beyond 63 bits."""
    event = OperationsEvent(cell="eu1", resource="r", system="odoo", time_ms=NOW_MS, name="n", body="a\x00b")
    await bench.put_as(event, "s", 1, ce_source=b"in\x00gest")
    await bench.put_as(event, "s", 2, ce_source=b"in\x00gest")
    await bench.put_as(event, "x" * 5_000, 3)
    await bench.put_as(event, "s", 4, ce_sequence=str(2**63).encode())
    series = 'up{a="y\x00"}'
    await bench.put_as(Scrape.of({series: 1.0}, cell="eu1", resource="r", system="odoo", time_ms=NOW_MS), "s", 5)
    await bench.put_as(event, "s", 6)
    stop = asyncio.Event()
    task, counts = bench.start(bench.sink("timescale"), stop, linger_s=1.0)
    await bench.until_held("timescale", 2)
    await stopped(task, stop)
    assert await bench.held("timescale") == [5, 6]
    assert counts.rejected == 4


async def test_an_outage_after_half_of_a_split_batch_is_stored_doubles_nothing(bench: Bench) -> None:
    class Torn(Timescale):
        """Loses its connection at each second transaction."""

        tries = 0

        async def _store(self, connection: Any, batch: Batch, refuse: Refuse) -> None:
            self.tries += 1
            if self.tries % 2 == 0:
                connection.terminate()
                raise SinkUnavailable(self.name, "torn", "It is tried again", 0.01)
            await super()._store(connection, batch, refuse)

    random = Random(7)
    for number in range(40):
        await bench.put(1, body="x" if random.random() < 0.9 else "y", attributes={"n": number})
    connection = await asyncpg.connect(bench.url)
    await connection.execute("ALTER TABLE operations ADD CHECK (body <> 'y')")
    stop = asyncio.Event()
    sink = Torn(StoreConfig(bench.url, topics=(bench.topic,), upkeep_every_s=0))
    task, counts = bench.start(sink, stop, linger_s=1.0)
    async with asyncio.timeout(TIMEOUT_S):
        while await connection.fetchval("SELECT sum(next_offset)::int FROM kafka_offsets") != 40:  # noqa: ASYNC110 (servers have no events)
            await asyncio.sleep(0.05)
    await stopped(task, stop)
    rows, names = await connection.fetchrow("SELECT count(*), count(DISTINCT sequence) FROM records")
    await connection.close()
    assert counts.split > 2
    assert counts.unavailable > 2
    assert (rows, names, counts.rejected) == (40 - counts.rejected, 40 - counts.rejected, counts.rejected)
    assert counts.rejected > 0


@pytest.mark.parametrize(
    "timestamp_ms", [0, NOW_MS + 3_000_000, NOW_MS - 90 * 86_400_000], ids=["1970", "ahead", "old"]
)
async def test_a_letter_about_a_record_of_any_time_reaches_kafka(bench: Bench, timestamp_ms: int) -> None:
    await bench.producer.send_and_wait(bench.topic, b"?", None, 0, timestamp_ms, [("ce_type", b"?")])
    await bench.put(1)
    stop = asyncio.Event()
    task, counts = bench.start(bench.sink("timescale"), stop)
    await bench.until_held("timescale", 1)
    await stopped(task, stop)
    assert (counts.rejected, counts.letters_lost) == (1, 0)


class NoText(str):
    """A name of a header as a producer in another language may write it."""

    def encode(self, *_: Any) -> bytes:
        return b"\xff"


async def put_unreadable(bench: Bench) -> None:
    """A record of which aiokafka can make nothing: it raises where it unpacks the batch."""
    batch = _DefaultRecordBatchBuilderPy(2, 0, 0, -1, -1, -1, 10_000)
    for offset, name in enumerate(("a", NoText("b"))):
        batch.append(offset, NOW_MS, None, b"?", [(name, b"?")])
    client = AIOKafkaClient(**bench.kafka)
    await client.bootstrap()
    wanted = [(bench.topic, [(0, bytes(batch.build()))])]
    answer = await client.send(client.get_random_node(), ProduceRequest(None, -1, 5_000, wanted))
    assert answer.topics[0][1][0][1] == 0
    await client.close()


async def test_a_record_that_the_client_itself_cannot_read_is_passed_over(bench: Bench) -> None:
    await bench.put(3)
    await put_unreadable(bench)
    await bench.put(3)
    stop = asyncio.Event()
    task, counts = bench.start(bench.sink("listed"), stop)
    await bench.until_held("listed", 6)
    await stopped(task, stop)
    assert bench.kept == [1, 2, 3, 4, 5, 6]
    assert counts.rejected == 2
