"""`bench sink`: how fast the store takes points, beside asyncpg's COPY of the same rows into the same table.

Both write the same points in one run, in turns, each into the emptied table with its indexes: the sink from Kafka, with
decoding, look-up of series, offsets, ledger and commits; COPY (`copy_records_to_table`) from tuples that stand ready in memory, in one
call.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any
from uuid import uuid4

import asyncpg
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from pilothouse.settings import Settings
from schemas.codec import Envelope, encode
from schemas.records import Scrape
from sinks.consumer import run_sink
from sinks.migrations import migrate
from sinks.sink import Assignment, Batch, Config, Opened, Refuse
from sinks.timescale import Config as StoreConfig
from sinks.timescale import Timescale
from sinks.timescale.copy_format import POINT_COLUMNS
from sinks.timescale.rows import moment

SERIES = 500  # of one resource, as the design counts a scrape
RESOURCES = 20


@dataclass(frozen=True, slots=True)
class Size:
    """How much is written: about 25 s with the defaults on two shared cores."""

    scrapes: int = 1_500
    rounds: int = 4


async def measure(settings: Settings) -> dict[str, float]:
    """`run` on the servers that `settings` name."""
    assert settings.kafka
    assert settings.database_url
    return await run(settings.database_url, settings.kafka.aiokafka_options())


async def run(database_url: str, kafka: Mapping[str, Any], size: Size | None = None) -> dict[str, float]:
    """`rows_per_second` of the sink and `ratio_to_copy`, of each side's best round, and what they come from.

    The database must be the benchmark's own: it is migrated, filled and emptied. `kafka` is what every aiokafka client
    takes.
    """
    size = size or Size()
    await migrate(database_url)
    topic = f"bench.sink.{uuid4().hex[:8]}"
    connection = await asyncpg.connect(database_url)
    await _create(kafka, topic)
    try:
        sides = _Sides(database_url, kafka, topic, connection)
        await sides.round(_scrapes(RESOURCES), copy_first=False)  # makes the series, which happens once in their lives
        rounds = [await sides.round(_scrapes(size.scrapes), copy_first=bool(n % 2)) for n in range(size.rounds)]
    finally:
        await _delete(kafka, topic)
        await connection.close()
    # The best round of each side: what else runs on a shared machine only ever slows them.
    sink_s, copy_s = (min(side) for side in zip(*rounds, strict=True))
    points = size.scrapes * SERIES
    return {
        "rows_per_second": round(points / sink_s),
        "ratio_to_copy": round(copy_s / sink_s, 3),
        "copy_rows_per_second": round(points / copy_s),
        "ratio_to_copy_median": round(median(copy / sink for sink, copy in rounds), 3),
        "rows_a_round": points,
        "rounds": size.rounds,
    }


@dataclass(slots=True)
class _Sides:
    url: str
    kafka: Mapping[str, Any]
    topic: str
    connection: Any
    sequence: int = 0

    async def round(self, scrapes: Sequence[Scrape], copy_first: bool) -> tuple[float, float]:
        """Seconds that the sink took, and COPY, each into an empty table; the first pair of sides takes turns."""
        await self._publish(scrapes)
        copy_s = await self._copy(scrapes) if copy_first else 0.0
        sink_s = await self._sink(scrapes)
        return sink_s, copy_s or await self._copy(scrapes)

    async def _publish(self, scrapes: Sequence[Scrape]) -> None:
        async with AIOKafkaProducer(**self.kafka, compression_type="lz4", linger_ms=20) as producer:
            sends = []
            for scrape in scrapes:
                self.sequence += 1
                wire = encode(scrape, Envelope("bench", self.sequence, scrape.time_ms))
                sends.append(await producer.send(self.topic, wire.value, wire.key, 0, wire.timestamp_ms, wire.headers))
            await asyncio.gather(*sends)

    async def _sink(self, scrapes: Sequence[Scrape]) -> float:
        await self.connection.execute("TRUNCATE metrics")
        expected = len(scrapes)
        sink = _Timed(StoreConfig(self.url, topics=(self.topic,), upkeep_every_s=0), scrapes)
        await run_sink(sink, self.kafka, sink.done, Config(group=f"{self.topic}.group"))
        stored = await self.connection.fetchval("SELECT count(*) FROM metrics")
        if stored != expected * SERIES:
            raise RuntimeError(f"the sink stored {stored} points of {expected * SERIES}; a rate would mean nothing")
        return sink.finished - sink.started

    async def _copy(self, scrapes: Sequence[Scrape]) -> float:
        """All rows in one COPY, from tuples that are ready."""
        await self.connection.execute("TRUNCATE metrics")
        await self._make_partitions(scrapes)
        rows = [
            (moment(scrape.time_ms), 1 + series + SERIES * (index % RESOURCES), value)
            for index, scrape in enumerate(scrapes)
            for series, value in enumerate(scrape.values)
        ]
        gc.collect()
        started = time.perf_counter()
        await self.connection.copy_records_to_table("metrics", records=rows, columns=POINT_COLUMNS)
        return time.perf_counter() - started

    async def _make_partitions(self, scrapes: Sequence[Scrape]) -> None:
        if not await self.connection.fetchval("SELECT timescaledb FROM pilothouse_store"):
            days = sorted({moment(scrape.time_ms).date() for scrape in scrapes})
            await self.connection.execute("SELECT pilothouse_add_partitions('metrics', $1::date[])", days)


class _Timed(Timescale):
    """Clocks from the moment its partitions are its own to the last commit."""

    def __init__(self, config: StoreConfig, scrapes: Sequence[Scrape]) -> None:
        super().__init__(config)
        self.warm, self.expected, self.done = scrapes[:RESOURCES], len(scrapes), asyncio.Event()
        self.started = self.finished = 0.0

    async def open(self, assignment: Assignment) -> Opened:
        opened = await super().open(assignment)
        # Its cache is warm, as it is a minute after a start: a series is looked up once in a worker's life.
        for scrape in self.warm:
            await self.index.ids(self._connection, scrape)
        gc.collect()
        self.started = time.perf_counter()
        return opened

    async def write(self, batch: Batch, refuse: Refuse) -> None:
        await super().write(batch, refuse)
        self.expected -= len(batch.messages)
        if self.expected <= 0:
            self.finished = time.perf_counter()
            self.done.set()


def _scrapes(count: int) -> list[Scrape]:
    """Scrapes of some resources in turn, 15 s apart, up to now."""
    names = [f'db.statement.duration{{query="{one:04d}",tenant.id="tenant-{one % 5}"}}' for one in range(SERIES)]
    newest_ms = time.time_ns() // 1_000_000
    return [
        Scrape.of(
            {name: (one * 37 + index) % 1000 / 7 for one, name in enumerate(names)},
            cell="eu1",
            resource=f"pg-{index % RESOURCES}",
            system="postgresql",
            time_ms=newest_ms - (count - index) // RESOURCES * 15_000,
        )
        for index in range(count)
    ]


async def _create(kafka: Mapping[str, Any], topic: str) -> None:
    admin = AIOKafkaAdminClient(**kafka)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1)])
    await admin.close()


async def _delete(kafka: Mapping[str, Any], topic: str) -> None:
    admin = AIOKafkaAdminClient(**kafka)
    await admin.start()
    await admin.delete_topics([topic])
    await admin.close()
