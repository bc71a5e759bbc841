"""Rows and Kafka offsets in one database transaction: what is stored is stored once, whatever is killed when.

A batch's transaction moves the offsets of its partitions by compare-and-set, then writes the rows. If another worker has
moved them meanwhile, nothing is written and this one reads anew where it stands. Points are copied straight into their
table: a staging table and ON CONFLICT would cost two to three times as much.

Beside each offset stands the id of the topic that it is an offset of: of a topic made anew nothing is stored yet. The last
sequences are the sources' and outlive the topic.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from aiokafka import TopicPartition

from schemas import topics as catalogue
from schemas.codec import Reason, Rejected
from schemas.records import Scrape
from sinks.sink import Assignment, Batch, Message, Opened, OutOfStep, Refuse, SinkUnavailable, Unwritable
from sinks.timescale import copy_format
from sinks.timescale.rows import COLUMNS, Row, Rows, add, ledger, letter_row
from sinks.timescale.series_index import Ids, SeriesIndex
from sinks.timescale.trouble import NAME, is_bad_data, unavailable
from sinks.timescale.upkeep import Partitions, Upkeep

log = logging.getLogger(__name__)

# Spans go to the OTLP backend, which can show them; nothing here reads them.
TOPICS = tuple(
    topic.name for topic in (*catalogue.INPUTS, *catalogue.SIGNALS, catalogue.DEAD_LETTERS) if topic != catalogue.SPANS
)

COPIED = ("records", "logs")
"""Written by COPY. Row security, which the other tables have, refuses COPY; theirs are INSERTs."""


CHUNK_BYTES = 128 * 1024
"""What is handed to COPY at a time."""


def now_ms() -> int:
    """The clock against which the window of stored times is judged."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Config:
    """Where the store is and how long it may take."""

    database_url: str = field(repr=False)
    topics: Sequence[str] = TOPICS
    connect_timeout_s: float = 10.0
    statement_timeout_s: float = 60.0
    upkeep_every_s: float = 15.0
    """Pause between two rounds of upkeep (partitions, roll-ups, retention); 0: none."""
    clock: Callable[[], int] = now_ms
    connect: Callable[..., Awaitable[Any]] = asyncpg.connect


@dataclass(slots=True)
class Stored:
    """What went into the database. Only ever grows."""

    points: int = 0
    rows: int = 0
    transactions: int = 0


@dataclass(slots=True)
class _Prepared:
    """A batch laid out as rows, ready for its transaction."""

    rows: Rows
    scrapes: list[tuple[Message, Scrape, Ids]] = field(default_factory=list)
    points: int = 0
    minutes: set[int] = field(default_factory=set)
    refused: list[tuple[Message, Rejected]] = field(default_factory=list)


class Timescale:
    """The sink of the store. Its counts are `stored`, `index.dropped` and `upkeep`."""

    name = NAME

    def __init__(self, config: Config) -> None:
        self.config = config
        self.topics = config.topics
        self.stored = Stored()
        self.index = SeriesIndex()
        self._cluster = ""
        self._offsets: dict[TopicPartition, int] = {}
        self._ids: dict[TopicPartition, str] = {}
        self._connection: Any = None
        self._partitions = Partitions()
        self.upkeep = Upkeep(config.upkeep_every_s, self._connect, config.clock)

    async def open(self, assignment: Assignment) -> Opened:
        """Take the partitions; the offsets and sequences in the database say where they stand."""
        partitions = sorted(assignment.partitions)
        key = (assignment.cluster_id, [one.topic for one in partitions], [one.partition for one in partitions])
        ids = [assignment.topic_ids.get(one.topic, "") for one in partitions]
        begins = [assignment.begins.get(one, 0) for one in partitions]
        connection = await self._connected()
        with self._judged():
            async with connection.transaction():
                await connection.execute(_ADD_OFFSETS, *key, ids, begins)
                anew = await connection.fetch(_BEGIN_ANEW, *key, ids)
                offsets = await connection.fetch(_OFFSETS, *key)
            sequences = await connection.fetch(_SEQUENCES, *key)
        self._cluster = assignment.cluster_id
        self._offsets = {TopicPartition(row[0], row[1]): row[2] for row in offsets}
        self._ids = {TopicPartition(row[0], row[1]): row[3] for row in offsets}
        self.upkeep.start()
        last = {(TopicPartition(row[0], row[1]), row[2]): row[3] for row in sequences}
        return Opened(self._offsets, last, anew=frozenset(TopicPartition(row[0], row[1]) for row in anew if row[2]))

    async def write(self, batch: Batch, refuse: Refuse) -> None:
        """Store the batch, or nothing of it. Raises Unwritable when the database refuses some of its rows."""
        try:
            connection = await self._connected()
            with self._judged(is_writing=True):
                await self._store(connection, batch, refuse)
        except SinkUnavailable as away:
            if isinstance(away.__cause__, asyncpg.InterfaceError) and self._connection is not None:
                # It is of no use any more, though it may not know that it is closed.
                self._connection.terminate()
                self._connection = None
            raise

    async def close(self) -> None:
        """End the upkeep and the connection."""
        await self.upkeep.close()
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                await connection.close(timeout=5)

    async def _store(self, connection: Any, batch: Batch, refuse: Refuse) -> None:
        prepared = await self._prepare(connection, batch)
        await self._partitions.ensure(connection, prepared.rows, prepared.minutes)
        async with connection.transaction():
            await self._move(connection, batch)
            await self._insert(connection, prepared)
            # Before the commit, so that none is lost; after the rows, so that a second try does not send it again.
            for message, rejected in prepared.refused:
                await refuse(message, rejected)
        self._offsets.update(batch.next_offsets)
        self._count(prepared)

    async def _prepare(self, connection: Any, batch: Batch) -> _Prepared:
        prepared = _Prepared(Rows())
        now = self.config.clock()
        for message in batch.messages:
            if rejected := add(prepared.rows, message, now):
                prepared.refused.append((message, rejected))
        for letter in batch.letters:
            prepared.rows.tables["dead_letters"].append(letter_row(letter))
        for message, scrape in prepared.rows.scrapes:
            try:
                prepared.scrapes.append((message, scrape, await self.index.ids(connection, scrape)))
                prepared.minutes.add(scrape.time_ms // 60_000)
            except (ValueError, asyncpg.PostgresError) as error:
                if not is_bad_data(error):
                    raise
                prepared.refused.append((message, Rejected(Reason.INVALID, str(error), message.payload)))
        return prepared

    async def _move(self, connection: Any, batch: Batch) -> None:
        """Offsets and sequences, by compare-and-set. Raises OutOfStep when they are not where we left them."""
        moves = [
            (*one, self._offsets[one], offset, self._ids[one]) for one, offset in sorted(batch.next_offsets.items())
        ]
        status = await connection.execute(_MOVE, self._cluster, *_columns(moves, 5))
        if status != f"UPDATE {len(moves)}":
            raise OutOfStep(f"{len(moves)} partitions were to move, but: {status}")
        last = [(*partition, source, sequence) for (partition, source), sequence in sorted(batch.sequences.items())]
        if last:
            await connection.execute(_SEEN, self._cluster, *_columns(last, 4))

    async def _insert(self, connection: Any, prepared: _Prepared) -> None:
        if prepared.scrapes:
            await connection.copy_to_table(
                "metrics", source=_points(prepared), columns=copy_format.POINT_COLUMNS, format="binary"
            )
            if not self._partitions.timescale:
                await connection.execute(_DUE, sorted(prepared.minutes))
        for table, rows in prepared.rows.tables.items():
            if rows and table in COPIED:
                await connection.copy_records_to_table(table, records=rows, columns=COLUMNS[table])
            elif rows:
                await connection.executemany(_insert_into(table), rows)

    def _count(self, prepared: _Prepared) -> None:
        self.stored.transactions += 1
        self.stored.points += prepared.points
        self.stored.rows += prepared.points + sum(map(len, prepared.rows.tables.values()))

    async def _connected(self) -> Any:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._connect()
            self._partitions = await self._partitions_of(self._connection)
            # A database restored from a backup gives the ids anew.
            self.index.forget()
        return self._connection

    async def _connect(self) -> Any:
        timeout_ms = int(self.config.statement_timeout_s * 1000)
        settings = {"application_name": "pilothouse-sink", "statement_timeout": str(timeout_ms)}
        with self._judged():
            return await self.config.connect(
                self.config.database_url,
                timeout=self.config.connect_timeout_s,
                command_timeout=self.config.statement_timeout_s + 5,
                server_settings={**settings, "idle_in_transaction_session_timeout": str(timeout_ms), "jit": "off"},
            )

    async def _partitions_of(self, connection: Any) -> Partitions:
        with self._judged():
            return Partitions(timescale=await connection.fetchval("SELECT timescaledb FROM pilothouse_store"))

    def _judged(self, *, is_writing: bool = False) -> _Judge:
        return _Judge(self.config.database_url, is_writing)


class _Judge:
    """Turns PostgreSQL's errors into what they mean for the sink, and lets the others pass."""

    def __init__(self, database_url: str, is_writing: bool) -> None:
        self._database_url, self._is_writing = database_url, is_writing

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None or isinstance(error, SinkUnavailable | OutOfStep | Unwritable | asyncio.CancelledError):
            return
        if self._is_writing and is_bad_data(error):
            raise Unwritable(str(error)) from error
        if away := unavailable(error, self._database_url):
            raise away from error


async def _points(prepared: _Prepared) -> AsyncIterator[bytes]:
    """The points as COPY reads them. Each scrape is laid out while the server is busy with those before it."""
    chunk = bytearray(copy_format.HEADER)
    for message, scrape, ids in prepared.scrapes:
        copied, count = copy_format.points(scrape.time_ms, ids, scrape.values)
        prepared.points += count
        prepared.rows.tables["records"].append(ledger(message, count))
        chunk += copied
        if len(chunk) >= CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk + copy_format.TRAILER)


def _columns(rows: Sequence[Row], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]


def _insert_into(table: str) -> str:
    columns = COLUMNS[table]
    names = ", ".join(f'"{column}"' for column in columns)
    # A letter may come twice; all else is written with the offsets and so comes once.
    conflict = " ON CONFLICT DO NOTHING" if table == "dead_letters" else ""
    return f"INSERT INTO {table} ({names}) VALUES ({', '.join(f'${n + 1}' for n in range(len(columns)))}){conflict}"


_PARTITIONS = "unnest($2::text[], $3::integer[]) AS mine (topic, partition)"
_WITH_IDS = "unnest($2::text[], $3::integer[], $4::text[]) AS mine (topic, partition, topic_id)"
_ADD_OFFSETS = """
    INSERT INTO kafka_offsets (cluster, topic, partition, topic_id, next_offset)
    SELECT $1, topic, partition, topic_id, begin
    FROM unnest($2::text[], $3::integer[], $4::text[], $5::bigint[]) AS mine (topic, partition, topic_id, begin)
    ON CONFLICT DO NOTHING"""
# An offset without an id is from a release before, or from a broker that tells none: it is taken for this topic's.
_BEGIN_ANEW = f"""
    WITH before AS (
        SELECT topic, partition, here.topic_id AS was, mine.topic_id AS is_now
        FROM kafka_offsets AS here JOIN {_WITH_IDS} USING (topic, partition)
        WHERE here.cluster = $1 AND mine.topic_id <> '' AND here.topic_id <> mine.topic_id FOR UPDATE OF here)
    UPDATE kafka_offsets AS here
    SET topic_id = is_now, next_offset = CASE WHEN was = '' THEN next_offset ELSE 0 END
    FROM before WHERE here.cluster = $1 AND here.topic = before.topic AND here.partition = before.partition
    RETURNING here.topic, here.partition, was <> '' AS is_anew"""
_OFFSETS = f"""
    SELECT topic, partition, next_offset, topic_id FROM kafka_offsets JOIN {_PARTITIONS} USING (topic, partition)
    WHERE cluster = $1"""
_SEQUENCES = f"""
    SELECT topic, partition, source, last_sequence FROM sources JOIN {_PARTITIONS} USING (topic, partition)
    WHERE cluster = $1"""
_MOVE = """
    UPDATE kafka_offsets AS here SET next_offset = move.reached
    FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::bigint[], $6::text[])
        AS move (topic, partition, expected, reached, topic_id)
    WHERE here.cluster = $1 AND here.topic = move.topic AND here.partition = move.partition
        AND here.next_offset = move.expected AND here.topic_id = move.topic_id"""
_SEEN = """
    INSERT INTO sources SELECT $1, * FROM unnest($2::text[], $3::integer[], $4::text[], $5::bigint[])
    ON CONFLICT (cluster, topic, partition, source)
    DO UPDATE SET last_sequence = greatest(sources.last_sequence, excluded.last_sequence)"""
_DUE = "INSERT INTO rollup_due SELECT to_timestamp(60 * minute) FROM unnest($1::bigint[]) AS minute"
