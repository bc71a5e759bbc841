"""Looks at one PostgreSQL server through one connection.

A look is about six short statements, each under `statement_timeout`; one more only while somebody waits for a lock, one
every minute for the costliest statements, and one every five minutes for sizes. A part that fails for want of a grant,
an extension or time is left unmeasured and told at the edge; the other parts go on.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import asyncpg
import psutil
from pydantic import Field

from ingest.collector import INFO, WARN, Collected, CollectorKind, Options, Target, Unavailable
from ingest.collectors.edges import Edges
from ingest.collectors.postgresql import locks, points, queries
from ingest.collectors.postgresql.look import Look, mend, no_extension, no_grant
from ingest.collectors.postgresql.points import Databases
from ingest.collectors.postgresql.queries import EXTENSION, Server
from ingest.collectors.postgresql.statements import Cost, Evictions, Interval, Texts
from ingest.collectors.sql_text import normalise
from schemas.records import MAX_SERIES, OperationsEvent, Record, Scalar

APPLICATION_NAME = "pilothouse"
REPROBE_MS = 60_000
LONG_AGO_MS = -(10**15)
STATEMENTS = "pilothouse.collector.statements"
# InternalClientError is what a connection says that the server ended while nobody listened.
LOST = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class PostgresqlOptions(Options):
    """What may be set for one server."""

    statement_timeout_s: float = Field(2.0, gt=0, le=60, description="A statement that takes longer is given up, s.")
    top_queries: int = Field(10, ge=0, le=50, description="Costliest statements told of each database; 0 for none.")
    top_interval_s: float = Field(60.0, gt=0, description="Time from one telling of them to the next, s.")
    size_interval_s: float = Field(300.0, gt=0, description="Time from one measuring of sizes to the next, s.")
    blocked_after_s: float = Field(0.5, ge=0, description="A wait for a lock that lasts longer names its blocker, s.")
    cpus: float | None = Field(
        None,
        gt=0,
        description="CPUs that the server has; sessions at work are held against them to see whether it is full.",
    )
    odoo_is_here: bool = Field(False, description="Odoo's processes run on this host and carry the pids that it says.")


class Postgresql:
    """The connection, and what one look must know of the last."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._options = target.options(PostgresqlOptions)
        self._edges = Edges(target)
        self._interval, self._texts, self._evictions = Interval(), Texts(), Evictions()
        self._connection: asyncpg.Connection[Any] | None = None
        self._have = Server({})
        self._probed_ms = self._sized_ms = LONG_AGO_MS

    async def collect(self, now_ms: int, position: str | None) -> Collected:
        """All that can be measured now; there is no position, because the views hold the present only."""
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._connect()
                self._probed_ms = LONG_AGO_MS
            return await self._look(Look(self._connection, now_ms))
        except LOST as error:
            self._drop()
            reason = str(error) or f"no answer within {self._target.resource.timeout_s:g} s"
            raise self._unavailable(reason, mend(error)) from error
        except BaseException:
            # A look that was given up leaves an answer on the way; the next one must not take it for its own.
            self._drop()
            raise

    async def close(self) -> None:
        """Leave without waiting for an answer."""
        self._drop()

    async def _look(self, look: Look) -> Collected:
        await self._probe(look)
        await self._server_and_databases(look)
        events = [*await self._activity(look), *await self._statements(look)]
        await self._whole_server(look)
        await self._sizes(look)
        look.found[STATEMENTS] = look.asked
        return Collected([*self._scrapes(look), *events, *self._edges.told(look.faults, look.now_ms, look.tried)])

    async def _probe(self, look: Look) -> None:
        """Which views and columns there are: of a new connection, and again while something is missing."""
        age_ms = look.now_ms - self._probed_ms
        if age_ms < REPROBE_MS or (self._probed_ms != LONG_AGO_MS and not self._edges.open):
            return
        rows = await look.ask(queries.PROBE, list(queries.VIEWS))
        columns = {row["view"]: frozenset(row["columns"]) for row in rows}
        schema = next((row["schema"] for row in rows if row["view"] == EXTENSION), None)
        self._have, self._probed_ms = Server(columns, schema), look.now_ms

    async def _server_and_databases(self, look: Look) -> None:
        (look.server,) = await look.ask(queries.server(self._have))
        rows = await look.ask(queries.databases(self._have))
        look.databases = Databases(self._target.cell.tenant_of_database, [row["database"] for row in rows])
        look.counted += [look.server, *rows]
        look.found |= points.of_server(look.server)
        if self._options.cpus is not None:
            look.found["postgresql.cpu.count"] = self._options.cpus
        look.found |= points.of_databases(look.databases, rows, look.server["times_io"])

    async def _activity(self, look: Look) -> list[Record]:
        if not look.server["sees_all"]:
            look.fault("activity", no_grant(look.server["role"]))
        rows = await look.part("activity", queries.ACTIVITY) if look.server["sees_all"] else None
        if rows is None:
            look.found |= points.without_activity(look.databases)
            return []
        look.found |= points.of_activity(look.databases, rows)
        if self._options.odoo_is_here:
            look.found |= points.of_orphans(look.databases, rows, psutil.pids())
        return await self._waits(look) if any(row["waiting"] for row in rows) else []

    async def _waits(self, look: Look) -> list[Record]:
        rows = await look.part("locks", queries.waits(self._have))
        if rows is None:
            look.found |= look.databases.every(["postgresql.lock.wait.max"], None)
            return []
        look.found |= points.of_waits(look.databases, rows)
        return [
            self._event(
                "postgresql.lock.blocked", WARN, locks.sentence(tree), locks.attributes(tree), tree.database, look
            )
            for tree in locks.trees(rows, self._options.blocked_after_s)
        ]

    async def _statements(self, look: Look) -> list[Record]:
        if self._have.statements_schema is None:
            look.fault("statements", no_extension(look.server["database"]))
            return []
        rows = await look.part("statements", queries.statements(self._have))
        if rows is None:
            look.found |= look.databases.every(points.OF_STATEMENTS, None)
            return []
        look.counted += rows
        mended = self._evictions.mended(rows, points.OF_STATEMENTS.values())
        look.found |= points.of_statements(look.databases, mended)
        due = self._options.top_queries and self._interval.due(look.now_ms, int(self._options.top_interval_s * 1000))
        return await self._top_statements(look) if due and look.server["sees_all"] else []

    async def _top_statements(self, look: Look) -> list[Record]:
        rows = await look.part("top statements", queries.top_statements(self._have))
        if rows is None:
            return []
        length_s, costs = self._interval.costliest(rows, self._options.top_queries, look.now_ms)
        if missing := self._texts.missing(cost.id for cost in costs):
            texts = await look.part("top statements", queries.statement_texts(self._have), missing)
            self._texts.learn({row["id"]: normalise(row["query"] or "") for row in texts or ()})
        return [self._top_statement(cost, length_s, look) for cost in costs]

    def _top_statement(self, cost: Cost, length_s: float, look: Look) -> Record:
        body = f"{cost.sums.calls:.0f} executions took {cost.sums.time_s:.2f} s of the last {length_s:.0f} s in {cost.database}"
        attributes: dict[str, Scalar] = {
            "db.namespace": cost.database,
            "db.query.text": self._texts.get(cost.id) or "",
            "postgresql.query.id": str(cost.id),
            "postgresql.query.calls": cost.sums.calls,
            "postgresql.query.time_s": cost.sums.time_s,
            "postgresql.query.share": cost.share,
            "postgresql.query.rows": cost.sums.rows,
            "postgresql.query.blocks_read": cost.sums.blocks_read,
            "postgresql.query.interval_s": length_s,
        }
        return self._event("postgresql.query.top", INFO, body, attributes, cost.database, look)

    async def _whole_server(self, look: Look) -> None:
        if self._have.has("pg_stat_io"):
            rows = await look.part("io", queries.IO) or ()
            look.counted += rows
            look.found |= points.of_io(rows, look.server["times_io"], look.server["times_wal_io"])
        if look.server["sees_all"]:
            look.found |= points.of_replication(await look.part("replication", queries.REPLICATION) or ())

    async def _sizes(self, look: Look) -> None:
        """PostgreSQL asks the file system for every file of a database, so this is done seldom."""
        look.found |= look.databases.every(["postgresql.database.size"], None)
        if look.now_ms - self._sized_ms >= self._options.size_interval_s * 1000:
            self._sized_ms = look.now_ms
            look.found |= points.of_sizes(look.databases, await look.part("sizes", queries.SIZES) or ())

    def _scrapes(self, look: Look) -> list[Record]:
        """The points as one scrape; as several of the size that a record may have, where there are very many databases."""
        start_ms = points.start_ms(look.counted, look.now_ms)
        series = sorted(look.found)
        parts = [series[first : first + MAX_SERIES] for first in range(0, len(series), MAX_SERIES)]
        return [
            self._target.scrape({one: look.found[one] for one in part}, look.now_ms, start_time_ms=start_ms)
            for part in parts
        ]

    def _event(
        self, name: str, severity: int, body: str, attributes: dict[str, Scalar], database: str | None, look: Look
    ) -> Record:
        return OperationsEvent(
            **self._target.identity(),
            time_ms=look.now_ms,
            tenant=look.databases.tenant(database) or self._target.resource.tenant,
            name=name,
            severity_number=severity,
            body=body,
            attributes=attributes,
        )

    async def _connect(self) -> asyncpg.Connection[Any]:
        timeout_s, statement_timeout_s = self._target.resource.timeout_s, self._options.statement_timeout_s
        settings = {
            "application_name": APPLICATION_NAME,
            "statement_timeout": f"{statement_timeout_s * 1000:.0f}",
            "lock_timeout": f"{statement_timeout_s * 500:.0f}",
            "default_transaction_read_only": "on",
            # Nothing that the owner of a database put on the path may run with our rights.
            "search_path": "pg_catalog",
        }
        try:
            return await asyncpg.connect(
                self._target.url, timeout=timeout_s, command_timeout=statement_timeout_s + 1, server_settings=settings
            )
        except ValueError as error:
            raise self._unavailable(str(error), "Its url should read postgresql://USER@HOST:PORT/DATABASE") from error

    def _unavailable(self, reason: str, outlook: str) -> Unavailable:
        place = urlsplit(self._target.url).netloc.rpartition("@")[2]
        return Unavailable(self._target.resource.name, f"{place}: {reason}", outlook)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


KIND = CollectorKind("postgresql", Postgresql, PostgresqlOptions)
