"""A PostgreSQL in memory, as far as the store asks one: offsets, sequences and rows that move in one transaction."""

from __future__ import annotations

import asyncio
import copy
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import asyncpg

from schemas.records import OperationsEvent, Record
from schemas.topics import OPERATIONS
from sinks.context import Task
from sinks.kafka_clients import Broker
from sinks.sink import Config
from sinks.timescale import Config as StoreConfig
from sinks.timescale import Timescale
from tests.support.outside.base import NOW_MS, System

REFUSED = "what no column takes"


@dataclass
class Tables:
    """What is committed."""

    offsets: dict[tuple[str, str, int], tuple[int, str]] = field(default_factory=dict)
    sources: dict[tuple[str, str, int, str], int] = field(default_factory=dict)
    rows: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)


class Outside(System):
    """The database; its locks are one lock."""

    topic = OPERATIONS

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self.tables, self.lock = Tables(), asyncio.Lock()

    def task(self, broker: Broker) -> Task:
        """The store, on a connection of its own."""

        async def connect(*_: Any, **__: Any) -> Connection:
            await self.asked()
            return Connection(self)

        config = StoreConfig("postgresql://memory/store", upkeep_every_s=0, clock=lambda: NOW_MS, connect=connect)
        return Task(Timescale(config), Config(idle_commit_s=1.0))

    def record(self, number: int) -> Record:
        """An event that is a row."""
        return OperationsEvent(cell="eu1", resource="r", system="odoo", time_ms=NOW_MS, name=f"n{number}")

    def refused(self, number: int) -> Record:
        """An event whose row is refused."""
        return OperationsEvent(cell="eu1", resource="r", system="odoo", time_ms=NOW_MS, name=f"n{number}", body=REFUSED)

    def held(self) -> Counter[int]:
        """Rows by number."""
        names = (row[7] for table, row in self.tables.rows if table == "operations")
        return Counter(int(name[1:]) for name in names)


class Connection:
    """One connection: statements as the store writes them, found by what they begin with."""

    def __init__(self, database: Outside) -> None:
        self.database = database
        self._mine: Tables | None = None
        self._is_closed = False

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """All or nothing. The lock stands for the rows that both sides of a take-over want."""
        await self._asked()
        async with self.database.lock:
            self._mine = copy.deepcopy(self.database.tables)
            try:
                yield
                await self._asked()
                self.database.tables = self._mine
                self._mine = None
                self.database.answered()
            finally:
                self._mine = None

    async def execute(self, statement: str, *arguments: Any) -> str:
        """A statement without rows."""
        await self._asked()
        if "INSERT INTO kafka_offsets" in statement:
            cluster, *columns = arguments
            for topic, partition, identity, begin in zip(*columns, strict=True):
                self._tables.offsets.setdefault((cluster, topic, partition), (begin, identity))
            return "INSERT"
        if "UPDATE kafka_offsets" in statement:
            return self._move(*arguments)
        if "INSERT INTO sources" in statement:
            cluster, *columns = arguments
            for topic, partition, source, sequence in zip(*columns, strict=True):
                key = (cluster, topic, partition, source)
                self._tables.sources[key] = max(sequence, self._tables.sources.get(key, -1))
            return "INSERT"
        if "pilothouse_add_partitions" in statement:
            return "SELECT"
        raise AssertionError(statement)

    async def fetch(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """A statement with rows."""
        await self._asked()
        tables, (cluster, topics, partitions, *more) = self._tables, arguments
        places = list(zip(topics, partitions, strict=True))
        if "WITH before" in statement:
            return self._begin_anew(cluster, places, *more)
        if "FROM kafka_offsets" in statement:
            return [(*one, *tables.offsets[cluster, *one]) for one in places if (cluster, *one) in tables.offsets]
        assert "FROM sources" in statement
        return [(t, p, s, last) for (c, t, p, s), last in tables.sources.items() if c == cluster and (t, p) in places]

    async def fetchval(self, statement: str, *arguments: Any) -> Any:
        """One value: whether this is a TimescaleDB."""
        await self._asked()
        return False

    async def copy_records_to_table(
        self, table: str, *, records: Iterable[tuple[Any, ...]], columns: list[str]
    ) -> None:
        """Rows by COPY."""
        await self._insert(table, records)

    async def executemany(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Rows by INSERT."""
        found = re.search(r"INSERT INTO (\w+)", statement)
        assert found
        await self._insert(found[1], rows)

    async def close(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 (asyncpg's own)
        """Say good-bye."""
        self._is_closed = True

    def terminate(self) -> None:
        """Go without a word."""
        self._is_closed = True

    def is_closed(self) -> bool:
        """Whether it is."""
        return self._is_closed

    @property
    def _tables(self) -> Tables:
        return self.database.tables if self._mine is None else self._mine

    async def _asked(self) -> None:
        if self._is_closed:
            raise asyncpg.InterfaceError("connection is closed")
        try:
            await self.database.asked()
        except ConnectionError:
            self._is_closed = True
            raise

    async def _insert(self, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
        for number, row in enumerate(rows):
            if number % 20 == 0:
                await self._asked()
            if REFUSED in row:
                raise asyncpg.DataError(REFUSED)
            assert not any(isinstance(one, str) and "\x00" in one for one in row)
            self._tables.rows.append((table, row))

    def _move(self, cluster: str, *columns: Any) -> str:
        moved = 0
        for topic, partition, expected, reached, identity in zip(*columns, strict=True):
            if self._tables.offsets.get((cluster, topic, partition)) == (expected, identity):
                self._tables.offsets[cluster, topic, partition] = (reached, identity)
                moved += 1
        return f"UPDATE {moved}"

    def _begin_anew(self, cluster: str, places: list[Any], identities: list[str]) -> list[tuple[Any, ...]]:
        anew = []
        for place, identity in zip(places, identities, strict=True):
            offset, was = self._tables.offsets[cluster, *place]
            if identity and was != identity:
                self._tables.offsets[cluster, *place] = (0 if was else offset, identity)
                anew.append((*place, bool(was)))
        return anew
