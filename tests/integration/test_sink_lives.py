"""Drawn lives of sinks on the real Kafka and PostgreSQL: what the contract says of them in memory holds here, too."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from random import Random
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from schemas.codec import Envelope, encode
from schemas.records import OperationsEvent
from sinks.consumer import run_sink
from sinks.kafka_clients import Kafka
from sinks.migrations import migrate
from sinks.sink import Assignment, Batch, Config, Counts, Opened, Refuse, Sink, SinkUnavailable
from sinks.timescale import Config as StoreConfig
from sinks.timescale import Timescale

pytestmark = [
    pytest.mark.soak,
    # A life that is killed while it connects leaves a connection to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]

LIVES = 50
PARTITIONS = 3
NOW_MS = time.time_ns() // 1_000_000
REFUSED = "what the database does not take"
EVENTS = ("put", "put", "put", "put", "rest", "rest", "join", "kill", "leave", "cut", "anew", "away")


class Listed:
    """A sink that goes by the group's offsets and keeps sequences in a list of its life."""

    name = "listed"

    def __init__(self, life: Life) -> None:
        self.topics, self.life = (life.topic,), life

    async def open(self, assignment: Assignment) -> Opened:
        return Opened()

    async def write(self, batch: Batch, refuse: Refuse) -> None:
        await asyncio.sleep(self.life.random.uniform(0, 0.05))
        if self.life.is_away:
            raise SinkUnavailable(self.name, "away", "Wait", 0.2)
        self.life.kept.update(message.content.envelope.sequence for message in batch.messages)

    async def close(self) -> None:
        pass


class Life:
    """One topic, one store or list, and what happens to them."""

    def __init__(self, kafka: str, url: str, producer: Any, admin: Any, which: str, seed: int) -> None:
        self.kafka, self.url, self.producer, self.admin, self.which = (
            {"bootstrap_servers": kafka},
            url,
            producer,
            admin,
            which,
        )
        self.random = Random(f"{which} {seed}")
        self.topic, self.letters = f"life.{uuid4().hex[:8]}", f"letters.{uuid4().hex[:8]}"
        self.workers: list[tuple[asyncio.Task[None], asyncio.Event]] = []
        self.kept: Counter[int] = Counter()
        self.is_away = False
        self.topic_id = ""
        self.sequence = self.troubles = 0
        self.refused: set[int] = set()
        self.excused: set[int] = set()
        self.log: list[str] = []

    async def put(self) -> None:
        """Some records, now and then one that the store's database refuses, or one that was there before."""
        for _ in range(self.random.randint(1, 60)):
            self.sequence += 1
            is_refused = self.which == "timescale" and self.random.random() < 0.04
            if is_refused:
                self.refused.add(self.sequence)
            await self._put(self.sequence, REFUSED if is_refused else "fine")
            if self.random.random() < 0.05:
                await self._put(self.sequence, REFUSED if is_refused else "fine")

    async def _put(self, sequence: int, body: str) -> None:
        event = OperationsEvent(cell="eu1", resource="r", system="odoo", time_ms=NOW_MS, name="n", body=body)
        partition = sequence % PARTITIONS
        wire = encode(event, Envelope(f"{self.topic}/{partition}", sequence, NOW_MS))
        await self.producer.send_and_wait(self.topic, wire.value, wire.key, partition, wire.timestamp_ms, wire.headers)

    async def rest(self) -> None:
        """A while."""
        await asyncio.sleep(self.random.choice((0.05, 0.3, 1.0)))

    async def join(self) -> None:
        """One more worker."""
        if len(self.workers) < 2:
            self.troubles += 1
            self.start()

    async def kill(self) -> None:
        """A worker ends wherever it is, with nothing finished."""
        if self.workers:
            self.troubles += 1
            task, _ = self.workers.pop()
            task.cancel()
            await asyncio.wait([task])

    async def leave(self) -> None:
        """A worker is stopped."""
        if self.workers:
            self.troubles += 1
            await self._stopped(*self.workers.pop())

    async def cut(self) -> None:
        """All connections to the database are cut."""
        self.troubles += 1
        await self._asked(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pilothouse-sink' "
            "AND datname = current_database()"
        )

    async def away(self) -> None:
        """The list is away for a moment."""
        self.troubles += 1
        self.is_away = True
        await asyncio.sleep(0.5)
        self.is_away = False

    async def anew(self) -> None:
        """The topic is deleted and made anew."""
        self.troubles += 1
        await self.admin.delete_topics([self.topic])
        await self._create()
        self.excused |= set(range(1, self.sequence + 1)) - set(await self.held())

    def start(self) -> None:
        """A worker."""
        stop = asyncio.Event()
        config = Config(
            group=f"group.{self.topic}", dead_letters=self.letters, batch_records_max=self.random.choice((5, 50, 2_000)),
            idle_commit_s=0.5,
        )  # fmt: skip
        sink: Sink = Listed(self)
        if self.which == "timescale":
            sink = Timescale(StoreConfig(self.url, topics=(self.topic,), upkeep_every_s=0))
        self.workers.append((asyncio.create_task(run_sink(sink, self.kafka, stop, config, Counts())), stop))

    async def held(self) -> Counter[int]:
        """How often each sequence is held."""
        if self.which == "listed":
            return Counter(self.kept)
        rows = await self._asked("SELECT sequence, count(*) FROM records GROUP BY 1")
        return Counter({row[0]: row[1] for row in rows})

    async def live(self) -> None:
        """Draw and live it."""
        await self.admin.create_topics([NewTopic(self.letters, 1, 1)])
        await self._create()
        if self.which == "timescale":
            await migrate(self.url)
            await self._asked(f"ALTER TABLE operations ADD CHECK (body <> '{REFUSED}')")
        self.start()
        for _ in range(self.random.randint(4, 14)):
            event = self.random.choice(EVENTS)
            self.log.append(event)
            await getattr(self, event)()
        if not self.workers:
            self.start()
        await self._settle()
        for task, stop in self.workers:
            await self._stopped(task, stop)
        await self._check()
        await self.admin.delete_topics([self.topic, self.letters])

    async def _settle(self) -> None:
        for _ in range(600):
            missing = set(range(1, self.sequence + 1)) - set(await self.held()) - self.refused - self.excused
            if not missing:
                break
            await asyncio.sleep(0.2)
        assert not missing, f"missing {sorted(missing)[:20]} after {self.log}"
        await asyncio.sleep(1)

    async def _check(self) -> None:
        held, most = await self.held(), 1 if self.which == "timescale" else 1 + self.troubles
        assert max(held.values(), default=0) <= most, self.log
        assert not set(held) & self.refused, self.log

    async def _stopped(self, task: asyncio.Task[None], stop: asyncio.Event) -> None:
        stop.set()
        async with asyncio.timeout(60):
            await task

    async def _create(self) -> None:
        """The topic, once its broker has it, too: until then it appends to the old one, which is about to go."""
        async with asyncio.timeout(60):
            while (await self.admin.create_topics([NewTopic(self.topic, PARTITIONS, 1)])).topic_errors[0][1]:  # noqa: ASYNC110 (servers have no events)
                await asyncio.sleep(0.05)
            broker = Kafka(self.kafka)
            while (found := (await broker.look([self.topic])).topics.get(self.topic, "")) in ("", self.topic_id):  # noqa: ASYNC110 (as above)
                await asyncio.sleep(0.05)
            await broker.close()
        self.topic_id = found
        await asyncio.sleep(0.2)

    async def _asked(self, statement: str) -> list[Any]:
        connection = await asyncpg.connect(self.url)
        try:
            return list(await connection.fetch(statement))
        finally:
            await connection.close()


@pytest.fixture
async def clients(kafka: str) -> AsyncIterator[tuple[Any, Any]]:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    async with AIOKafkaProducer(bootstrap_servers=kafka, metadata_max_age_ms=1_000) as producer:
        yield producer, admin
    await admin.close()


@pytest.mark.parametrize("seed", range(LIVES // 2))
@pytest.mark.parametrize("which", ["timescale", "listed"])
async def test_a_drawn_life_on_real_servers_loses_nothing_and_doubles_nothing(
    kafka: str, database_url: str, clients: tuple[Any, Any], which: str, seed: int
) -> None:
    await Life(kafka, database_url, *clients, which, seed).live()
