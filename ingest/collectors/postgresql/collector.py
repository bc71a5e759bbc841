"""Looks at one PostgreSQL server through one connection.

A look is about six short statements, each under `statement_timeout`; one more only while somebody waits for a lock, one
every minute for the costliest statements, and one every five minutes for sizes. A part that fails for want of a grant,
an extension or time is left unmeasured and told at the edge; the other parts go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asyncpg
import psutil
from pydantic import Field

from ingest.addresses import address
from ingest.collector import INFO, WARN, Collected, CollectorKind, Options, Target, Unavailable
from ingest.collectors.postgresql import locks, points, queries
from ingest.collectors.postgresql.look import Columns, Look, Rows, mend, no_extension, no_grant
from ingest.collectors.postgresql.points import Databases
from ingest.collectors.postgresql.queries import EXTENSION, Server
from ingest.collectors.postgresql.statements import Cost, Evictions, Interval, Texts
from ingest.collectors.sql_text import normalise

APPLICATION_NAME = "pilothouse"
REPROBE_MS = 60_000
LONG_AGO_MS = -(10**15)
FORM = "postgresql://USER@HOST:PORT/DATABASE"
_NAMED = frozenset({"database"})
SERVER = Columns(
    texts=frozenset({"role", "database"}), flags=frozenset({"sees_all", "times_io", "times_wal_io", "is_standby"})
)
OF_A_DATABASE = Columns(texts=_NAMED, needs=_NAMED)
ACTIVITY = Columns(
    texts=frozenset({"database", "state"}),
    lists=frozenset({"odoo_pids"}),
    needs=frozenset({"database", "state", "backends", "waiting"}),
)
WAITS = Columns(
    texts=frozenset(
        {"database", "user_name", "application_name", "backend_type", "state", "query", "locktype", "relation"}
    ),
    lists=frozenset({"blockers"}),
    needs=frozenset({"pid"}),
)
SUMS = Columns(texts=_NAMED, needs=frozenset({"database", *points.OF_STATEMENTS.values()}))
TOP = Columns(texts=_NAMED, needs=frozenset({"database", "id", "calls", "time_s", "rows", "blocks_read"}))
TEXTS = Columns(texts=frozenset({"query"}), needs=frozenset({"id"}))
IO = Columns(texts=frozenset({"backend_type", "object"}), needs=frozenset({"backend_type", "object"}))
REPLICATION = Columns(texts=frozenset({"kind", "name", "address", "slot"}), needs=frozenset({"kind", "name"}))
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
        whose = f"resource {target.resource.name}"
        by_socket = "host=" in target.url.partition("?")[2]
        self._address = address(target.url, whose, FORM, ("postgresql", "postgres"), needs_host=not by_socket)
        self._interval, self._texts, self._evictions = Interval(), Texts(), Evictions()
        self._connection: asyncpg.Connection[Any] | None = None
        self._have = Server({})
        self._probed_ms = self._sized_ms = LONG_AGO_MS
        self._has_faults = False

    async def collect(self, now_ms: int, position: str | None) -> Collected:
        """All that can be measured now; there is no position, because the views hold the present only."""
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._connect()
                self._probed_ms = LONG_AGO_MS
            return await self._look(Look(self._target, self._connection, now_ms))
        except LOST as error:
            self._drop()
            reason = str(error).partition("\n")[0] or f"no answer within {self._target.resource.timeout_s:g} s"
            raise self._unavailable(reason, mend(error)) from error
        except BaseException:
            # A look that was given up leaves an answer on the way; the next one must not take it for its own.
            self._drop()
            raise

    async def close(self) -> None:
        """Leave without waiting for an answer."""
        self._drop()

    async def _look(self, look: Look) -> Collected:
        with look.group("schema"):
            await self._probe(look)
        await self._server(look)
        await self._databases(look)
        await self._activity(look)
        await self._statements(look)
        await self._whole_server(look)
        await self._sizes(look)
        look.points[STATEMENTS] = float(look.asked)
        self._has_faults = bool(look.faults)
        return look.collected(start_time_ms=points.start_ms(look.counted, look.now_ms))

    async def _probe(self, look: Look) -> None:
        """Which views and columns there are: of a new connection, and again while something is missing."""
        age_ms = look.now_ms - self._probed_ms
        if 0 <= age_ms < REPROBE_MS or (self._probed_ms != LONG_AGO_MS and not self._has_faults):
            return
        look.asked += 1
        rows = await look.connection.fetch(queries.PROBE, list(queries.VIEWS))
        columns = {row["view"]: frozenset(row["columns"]) for row in rows}
        is_ascii = look.connection.get_settings().server_encoding == "SQL_ASCII"
        schema = next((row["schema"] for row in rows if row["view"] == EXTENSION), None)
        self._have, self._probed_ms = Server(columns, schema, is_ascii), look.now_ms

    async def _server(self, look: Look) -> None:
        """The server as a whole in one statement; part by part when that fails, so that one view costs itself alone."""
        try:
            (look.server,) = await look.ask(SERVER, queries.server(self._have))
            look.tried |= set(queries.PARTS)
        except Exception as error:
            if look.is_lost(error):
                raise
            found: dict[str, Any] = {}
            for part in queries.PARTS:
                with look.group(part):
                    (row,) = await look.ask(SERVER, queries.server(self._have, [part]))
                    found |= row
            look.server = found
        look.counted.append(look.server)
        look.points |= points.of_server(look.server)
        if self._options.cpus is not None:
            look.points["postgresql.cpu.count"] = self._options.cpus

    async def _databases(self, look: Look) -> None:
        with look.group("databases"):
            rows = await look.ask(OF_A_DATABASE, queries.databases(self._have))
            look.databases = Databases(self._target.cell.tenant_of_database, [row["database"] for row in rows])
            look.counted += rows
            times_io = bool(look.server.get("times_io"))
            look.each(rows, lambda row: points.of_database(look.databases, row, times_io))

    async def _activity(self, look: Look) -> None:
        rows: Rows = []
        with look.group("activity", instead=lambda: points.without_activity(look.databases)):
            if look.server.get("sees_all") is False:
                look.fault("activity", no_grant(look.server["role"]))
                look.points |= points.without_activity(look.databases)
            else:
                rows = await look.ask(ACTIVITY, queries.activity(self._have))
                look.points |= points.of_activity(look.databases, rows)
                if self._options.odoo_is_here:
                    look.points |= points.of_orphans(look.databases, rows, psutil.pids())
        if any(row["waiting"] for row in rows):
            await self._waits(look)

    async def _waits(self, look: Look) -> None:
        with look.group("locks", instead=lambda: look.databases.every(["postgresql.lock.wait.max"], None)):
            rows = await look.ask(WAITS, queries.waits(self._have))
            look.points |= points.of_waits(look.databases, rows)
            trees, beyond = locks.trees(rows, self._options.blocked_after_s)
            look.left_out += beyond
            for tree in trees:
                with look.row(tree, lambda tree: f"the tree of pid {tree.pid}".encode()):
                    self._event(
                        "postgresql.lock.blocked",
                        WARN,
                        locks.sentence(tree),
                        locks.attributes(tree),
                        tree.database,
                        look,
                    )

    async def _statements(self, look: Look) -> None:
        if self._have.statements_schema is None:
            look.fault("statements", no_extension(look.server.get("database") or "the url's"))
            return
        with look.group("statements", instead=lambda: look.databases.every(points.OF_STATEMENTS, None)):
            rows = await look.ask(SUMS, queries.statements(self._have))
            look.counted += rows
            look.points |= look.databases.every(points.OF_STATEMENTS, 0.0)
            mended = self._evictions.mended(rows, points.OF_STATEMENTS.values())
            look.each(mended, lambda row: look.databases.columns(points.OF_STATEMENTS, row, row["database"]))
        if "statements" in look.faults or not self._options.top_queries or not look.server.get("sees_all"):
            return
        if self._interval.due(look.now_ms, int(self._options.top_interval_s * 1000)):
            await self._top_statements(look)

    async def _top_statements(self, look: Look) -> None:
        length_s, costs = 0.0, list[Cost]()
        with look.group("top statements"):
            rows = await look.ask(TOP, queries.top_statements(self._have))
            length_s, costs = self._interval.costliest(rows, self._options.top_queries, look.now_ms)
        with look.group("statement texts"):
            if missing := self._texts.missing(cost.id for cost in costs):
                for row in await look.ask(TEXTS, queries.statement_texts(self._have), missing):
                    with look.row(row, lambda row: f"the statement {row['id']}".encode()):
                        self._texts.learn({row["id"]: normalise(row["query"] or "")})
        with look.group("top statements told"):
            for cost in costs:
                self._top_statement(cost, length_s, look)

    def _top_statement(self, cost: Cost, length_s: float, look: Look) -> None:
        body = f"{cost.sums.calls:.0f} executions took {cost.sums.time_s:.2f} s of the last {length_s:.0f} s in {cost.database}"
        attributes: dict[str, object] = {
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
        self._event("postgresql.query.top", INFO, body, attributes, cost.database, look)

    async def _whole_server(self, look: Look) -> None:
        if self._have.has("pg_stat_io"):
            with look.group("io"):
                rows = await look.ask(IO, queries.IO)
                look.counted += rows
                times = bool(look.server.get("times_io")), bool(look.server.get("times_wal_io"))
                look.each(rows, lambda row: points.of_io(row, *times))
        if look.server.get("sees_all"):
            with look.group("replication"):
                rows = await look.ask(REPLICATION, queries.replication(self._have))
                look.each((row for row in rows if row["kind"] == "slot"), points.of_slot)
                look.points |= points.of_standbys(row for row in rows if row["kind"] == "standby")

    async def _sizes(self, look: Look) -> None:
        """PostgreSQL asks the file system for every file of a database, so this is done seldom."""
        look.points |= look.databases.every(["postgresql.database.size"], None)
        if not 0 <= look.now_ms - self._sized_ms < self._options.size_interval_s * 1000:
            self._sized_ms = look.now_ms
            with look.group("sizes"):
                rows = await look.ask(OF_A_DATABASE, queries.sizes(self._have))
                look.each(rows, lambda row: points.of_size(look.databases, row))

    def _event(
        self, name: str, severity: int, body: str, attributes: Mapping[str, object], database: str | None, look: Look
    ) -> None:
        look.event(name, severity, body, attributes, tenant=look.databases.tenant(database))

    async def _connect(self) -> asyncpg.Connection[Any]:
        timeout_s, statement_timeout_s = self._target.resource.timeout_s, self._options.statement_timeout_s
        settings = {
            "application_name": APPLICATION_NAME,
            "statement_timeout": f"{statement_timeout_s * 1000:.0f}",
            "lock_timeout": f"{statement_timeout_s * 500:.0f}",
            "default_transaction_read_only": "on",
            # Nothing that the owner of a database put on the path may run with our rights.
            "search_path": "pg_catalog, pg_temp",
            "row_security": "off",
        }
        try:
            connection = await asyncpg.connect(
                self._target.url, timeout=timeout_s, command_timeout=statement_timeout_s + 1, server_settings=settings
            )
        except UnicodeError as error:
            raise self._unavailable("its refusal is no UTF-8", mend(error)) from error
        except ValueError as error:
            raise self._unavailable("an option of its url cannot be read", f"It must read {FORM}") from error
        try:
            await connection.execute(queries.GUARD)
        except BaseException:
            connection.terminate()
            raise
        return connection

    def _unavailable(self, reason: str, outlook: str) -> Unavailable:
        return Unavailable(self._target.resource.name, f"{self._address.place}: {reason}", outlook)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


KIND = CollectorKind("postgresql", Postgresql, PostgresqlOptions, schemes=("postgresql", "postgres"))
