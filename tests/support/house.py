"""The whole of Pilothouse as processes on embedded servers, in a directory of its own, to be killed and asked.

The source is an Odoo log: lines are appended, ingest follows the file, and every line must be in the store exactly once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import redis.asyncio as redis_client
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from pilothouse import replay as replaying
from pilothouse.broker import partitions
from pilothouse.estate_files import load
from pilothouse.programs import plans
from pilothouse.services.stack import STORE, Stack
from pilothouse.settings import Settings
from pilothouse.supervisor import Program, Supervisor
from pilothouse.whole import environment, make_topics, our_programs
from schemas.codec import Envelope, Received, decode, encode
from schemas.estate import Estate
from schemas.records import OperationsEvent, Record
from schemas.topics import PARTITIONS, TOPICS, topic_of

ESTATE = """
cells:
  - name: eu1
    tenants: [{{name: acme}}, {{name: borealis}}]
    resources:
      - {{name: odoo-eu1, system: odoo_log, url: "file://{log}", interval_s: {interval_s}, options: {{ship: all}}}}
      - {{name: valkey-eu1, system: redis, url: {{env: HOUSE_VALKEY}}, interval_s: {interval_s}}}
"""
OTHERS = """
  - {name: eu2, tenants: [{name: acme}]}
  - {name: us1, tenants: [{name: acme}]}
  - {name: ap1, tenants: [{name: acme}]}
"""
"""Cells of which tests publish records themselves: ingest beats for what the estate declares."""


@dataclass
class House:
    """A running Pilothouse."""

    stack: Stack
    supervisor: Supervisor
    estate: Estate
    config: Path
    log: Path
    written: int = 0

    @property
    def kafka(self) -> dict[str, Any]:
        assert self.stack.settings.kafka
        return self.stack.settings.kafka.aiokafka_options()

    def another_worker(self, number: int) -> Program:
        """A further worker, to be started by the test."""
        data = self.stack.settings.data_dir
        verb = ["process", "-c", str(self.config), "--instance", f"worker-{number}"]
        return Program(f"program/process-{number}", verb, data / "programs" / f"process-{number}", data / "logs")

    def program(self, name: str) -> Program:
        return next(one for one in self.supervisor.programs if one.name == f"program/{name}")

    def append(self, lines: int) -> None:
        """Write so many more lines to the Odoo log; the last one is cut in two writes, as a busy server does."""
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S,%f")[:-3]
        with self.log.open("a") as file:
            for _ in range(lines):
                tenant = ("acme", "borealis")[self.written % 2]
                file.write(f"{now} 4711 WARNING {tenant} odoo.addons.sale: ")
                file.flush() if self.written % 100 == 99 else None
                file.write(f"event number {self.written}\n")
                self.written += 1

    async def fetch(self, query: str, *arguments: Any) -> list[Any]:
        url = self.stack.settings.database_url
        connection = await asyncpg.connect(url)
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    async def stored(self) -> tuple[int, int]:
        """(rows, distinct lines) of the Odoo log in the store."""
        query = "SELECT count(*), count(DISTINCT body) FROM logs WHERE body LIKE 'event number %'"
        with contextlib.suppress(asyncpg.UndefinedTableError, OSError):
            row = (await self.fetch(query))[0]
            return row[0], row[1]
        return 0, 0

    async def all_stored(self, timeout_s: float) -> tuple[int, int]:
        """Wait until every written line is in the store; gives what is there in the end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while (await self.stored())[1] < self.written:  # noqa: ASYNC110 (a store has no event to wait for)
                    await asyncio.sleep(0.3)
        return await self.stored()

    async def replayed(self, since_ms: int, until_ms: int) -> replaying.Result:
        window = replaying.Window(since_ms, until_ms)
        return await replaying.replay(self.kafka, plans(self.estate), window, compare=True)

    async def flow(self, lines: int, seconds: float) -> None:
        """So many lines, spread evenly."""
        steps = int(seconds * 10)
        for _ in range(steps):
            self.append(lines // steps)
            await asyncio.sleep(seconds / steps)

    async def stutter(self, times: int = 10) -> None:
        """A Redis that pauses again and again: signals for the processors to find, once they know what is usual."""
        async with redis_client.Redis.from_url(self.stack.valkey["eu1"].url) as client:
            for _ in range(times):
                await client.client_pause(700, all=True)
                await asyncio.sleep(0.8)

    async def put(self, record: Record, source: str, sequence: int, recorded_ms: int) -> None:
        """Publish a record as a publisher of that name would have."""
        wire = encode(record, Envelope(source, sequence, recorded_ms))
        async with AIOKafkaProducer(**self.kafka, acks="all") as producer:
            topic = topic_of(record).name
            headers, at_ms = wire.headers, wire.timestamp_ms
            await producer.send_and_wait(topic, wire.value, wire.key, headers=headers, timestamp_ms=at_ms)

    async def put_locks(self, source: str, behind_ms: int = 0) -> None:
        """Lock waits, told at once; or those that were observed before, by somebody whose records come only now."""
        for number in range(12):
            recorded_ms = now_ms() - behind_ms
            waiting = OperationsEvent(
                cell="eu1",
                time_ms=recorded_ms,
                resource="postgresql-eu1",
                system="postgresql",
                tenant="acme",
                name="postgresql.lock.blocked",
                attributes={"postgresql.waiting.count": 9, "postgresql.waiting.max_s": 20.0 + number},
            )
            await self.put(waiting, source, number, recorded_ms)
            await asyncio.sleep(0.3)

    async def published(self, topic: str) -> dict[int, list[Received]]:
        """What stands on a topic now, by partition, heartbeats left out."""
        numbers = (await partitions(self.kafka, [topic]))[topic]
        found: dict[int, list[Received]] = {number: [] for number in numbers}
        async with AIOKafkaConsumer(**self.kafka, auto_offset_reset="earliest") as reader:
            places = [TopicPartition(topic, number) for number in numbers]
            reader.assign(places)
            left = {place: end for place, end in (await reader.end_offsets(places)).items() if end}
            for place in left:
                reader.seek(place, 0)
            while left:
                for place, messages in (await reader.getmany(timeout_ms=500)).items():
                    read = [decode(one.headers, one.value, one.timestamp) for one in messages]
                    found[place.partition] += [one for one in read if isinstance(one, Received)]
                left = {place: end for place, end in left.items() if await reader.position(place) < end}
        return found

    async def written_to_kafka(self) -> int:
        """How many records all topics have taken so far."""
        known = await partitions(self.kafka, [topic.name for topic in TOPICS])
        places = [TopicPartition(name, number) for name, numbers in known.items() for number in numbers]
        async with AIOKafkaConsumer(**self.kafka) as reader:
            return sum((await reader.end_offsets(places)).values())

    async def next_stored(self, timeout_s: float) -> float:
        """Append a line and give the seconds until a line newer than now is in the store."""
        began, (_, before) = time.monotonic(), await self.stored()
        async with asyncio.timeout(timeout_s):
            while (await self.stored())[1] <= before:
                self.append(1)
                await asyncio.sleep(0.1)
        return time.monotonic() - began


@asynccontextmanager
async def house(settings: Settings, directory: Path, *, is_idle: bool = False) -> AsyncIterator[House]:
    """Start everything; `settings` give caches, `directory` is made. One cell with all partitions, seldom looked at, `is_idle`."""
    await asyncio.to_thread(directory.mkdir, mode=0o711, exist_ok=True)
    own = settings.model_copy(
        update={"data_dir": directory, "kafka": None, "database_url": None, "partitions": PARTITIONS if is_idle else 4}
    )
    async with Stack(own, postgres=[STORE], valkey=["eu1"]) as stack:
        log, config = directory / "odoo.log", directory / "estate"
        log.touch()
        config.mkdir(exist_ok=True)
        told = ESTATE.format(log=log, interval_s=15 if is_idle else 0.5)
        (config / "estate.yaml").write_text(told if is_idle else told + OTHERS)
        before = dict(os.environ)
        os.environ.update(environment(stack.settings) | {"HOUSE_VALKEY": stack.valkey["eu1"].url})
        await make_topics(stack.settings)
        supervisor = Supervisor(our_programs(load(config), config, stack.settings))
        watch = asyncio.create_task(supervisor.watch())
        try:
            await supervisor.up()
            yield House(stack, supervisor, load(config), config, log)
        finally:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch
            await supervisor.down()
            os.environ.clear()
            os.environ.update(before)


@asynccontextmanager
async def running(settings: Settings, *, is_idle: bool = False) -> AsyncIterator[House]:
    """A house in a fresh directory, whose first lines are in the store."""
    with _directory() as path:
        async with house(settings, path, is_idle=is_idle) as one:
            one.append(50)
            assert await one.all_stored(60) == (50, 50), one.program("sink").log.read_text()[-2_000:]
            yield one


@contextmanager
def _directory() -> Iterator[Path]:
    """Not pytest's: under root its parents are closed to the user that PostgreSQL runs as."""
    with tempfile.TemporaryDirectory(prefix="pilothouse-house-") as name:
        Path(name).chmod(0o711)
        yield Path(name) / "data"


def now_ms() -> int:
    """Unix ms."""
    return round(time.time() * 1000)
