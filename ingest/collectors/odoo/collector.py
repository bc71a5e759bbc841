"""Odoo 16-19 through its own PostgreSQL tables: crons, job queue, mails, modules, and the documents of the business.

One connection a database, read only, every statement bounded by a time-out of its own. What a database lacks (no stock, no
job queue) is left out without fuss; what is there but closed to the role, or too slow, is left out and said, with the
mend. Only gauges and counters of groups that were read are told: a gap is not a zero.

Source: Odoo's models of 16-19 and rows recorded on running 17, 18 and 19.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import asyncpg

from ingest.collector import Collected, CollectorKind, Target, Unavailable
from ingest.collectors.edges import Edges, Fault
from ingest.collectors.odoo import crons, documents, jobs, upkeep
from ingest.collectors.odoo.look import Group, Look, OdooOptions
from ingest.collectors.odoo.memory import Memory
from ingest.collectors.odoo.schema import Schema, epoch_ms, probe

GROUPS = (crons.GROUP, jobs.GROUP, jobs.DEAD, upkeep.MAILS, upkeep.MODULES, *documents.GROUPS)
PROBE_INTERVAL_MS = 600_000
CLOSE_TIMEOUT_S = 2.0
# A role without pg_monitor sees when its own transactions began, and of others null.
_OLDEST = f"""
    SELECT {epoch_ms("min(xact_start)")} FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
_AWAY = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.InternalClientError,  # what asyncpg raises when the server's farewell comes between two queries
)
_REFUSED: tuple[tuple[type[Exception], str], ...] = (
    (asyncpg.InvalidAuthorizationSpecificationError, "See the user and the password behind the resource's url"),
    (asyncpg.InvalidCatalogNameError, "See the database name in the resource's url"),
    (asyncpg.TooManyConnectionsError, "Raise max_connections, or find who holds them"),
    (asyncpg.InsufficientPrivilegeError, "GRANT CONNECT ON DATABASE to the role"),
)

Clock = Callable[[asyncpg.Connection], Awaitable[int]]


async def server_clock(connection: asyncpg.Connection) -> int:
    """The database server's clock, Unix ms."""
    return int(await connection.fetchval(f"SELECT {epoch_ms('clock_timestamp()')}"))


class Odoo:
    """Looks at one tenant's database. `clock` gives the server's time; tests put another in its place."""

    def __init__(self, target: Target, clock: Clock = server_clock) -> None:
        if target.resource.tenant is None:
            raise ValueError(f"resource {target.resource.name}: tenant is missing; name the one whose database it is")
        self._target, self._clock = target, clock
        self._options = target.options(OdooOptions)
        self._edges = Edges(target)
        self._connection: asyncpg.Connection | None = None
        self._schema: Schema | None = None
        self._probed_ms = 0

    async def collect(self, now_ms: int, position: str | None) -> Collected:
        """One look. Raises Unavailable when the database is away or refuses the role."""
        memory = Memory.model_validate_json(position) if position else Memory(since_ms=now_ms)
        try:
            connection = await self._connected()
            look = await self._begin(connection, memory, now_ms)
            faults = {group.name: fault for group in GROUPS if (fault := await self._group(look, group))}
        except BaseException as error:
            await self._drop()
            # asyncpg's ValueErrors say that what we passed was wrong.
            if isinstance(error, _AWAY) and not isinstance(error, ValueError):
                raise self._away(error) from error
            raise
        scrape = self._target.scrape(look.points, now_ms, start_time_ms=memory.since_ms)
        told = self._edges.told(faults, now_ms)
        return Collected([scrape, *look.records, *told], memory.model_dump_json())

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close(timeout=CLOSE_TIMEOUT_S)

    async def _begin(self, connection: asyncpg.Connection, memory: Memory, now_ms: int) -> Look:
        if self._schema is None or now_ms - self._probed_ms >= PROBE_INTERVAL_MS:
            self._schema, self._probed_ms = await probe(connection), now_ms
        look = Look(
            self._target, self._options, connection, self._schema, memory, now_ms, await self._clock(connection)
        )
        look.oldest_ms = await connection.fetchval(_OLDEST)
        return look

    async def _group(self, look: Look, group: Group) -> Fault | None:
        """Read one group; what kept it from being read."""
        try:
            return await self._read(look, group)
        except (asyncpg.UndefinedColumnError, asyncpg.UndefinedTableError):
            # A module was installed, upgraded or removed since the schema was probed.
            self._schema = look.schema = await probe(look.connection)
        try:
            return await self._read(look, group)
        except (asyncpg.UndefinedColumnError, asyncpg.UndefinedTableError) as error:
            return Fault(str(error), "See that the role's search_path finds Odoo's tables first")

    async def _read(self, look: Look, group: Group) -> Fault | None:
        if closed := group.closed(look.schema):
            return Fault(f"{', '.join(closed)} is closed to us", _grant(closed, look.schema))
        if not group.is_there(look.schema):
            return None
        look.group = group.name
        try:
            await group.look(look)
        except asyncpg.QueryCanceledError:
            limit_ms = self._options.statement_timeout_ms
            mend = "Make an index on write_date, look less often, or raise statement_timeout_ms"
            return Fault(f"a query takes longer than {limit_ms} ms", mend)
        except asyncpg.InsufficientPrivilegeError as error:
            return Fault(str(error), _grant(group.needs, look.schema))
        look.points.update(look.memory.counters.get(group.name, {}))
        return None

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = None
            self._connection = await self._connect()
        return self._connection

    async def _connect(self) -> asyncpg.Connection:
        settings = {
            "application_name": "pilothouse",
            "default_transaction_read_only": "on",
            "statement_timeout": str(self._options.statement_timeout_ms),
        }
        timeout_s = self._target.resource.timeout_s
        try:
            return await asyncpg.connect(self._target.url, timeout=timeout_s, server_settings=settings)
        except tuple(kind for kind, _ in _REFUSED) as error:
            mend = next(mend for kind, mend in _REFUSED if isinstance(error, kind))
            raise Unavailable(self._target.resource.name, _one_line(error), mend) from error

    async def _drop(self) -> None:
        """Let go at once: after an error or a time-out nobody knows what still runs on it."""
        connection, self._connection, self._schema = self._connection, None, None
        if connection is not None and not connection.is_closed():
            connection.terminate()
        await asyncio.sleep(0)

    def _away(self, error: BaseException) -> Unavailable:
        mend = "See that PostgreSQL runs there and lets this host in (listen_addresses, pg_hba.conf, firewall)"
        return Unavailable(self._target.resource.name, _one_line(error), mend)


def _grant(tables: Iterable[str], schema: Schema) -> str:
    return f"GRANT SELECT ON {', '.join(tables)} TO {schema.role}"


def _one_line(error: BaseException) -> str:
    """The message on one line, without any address that holds a password."""
    return " ".join(str(error).split()) or type(error).__name__


KIND = CollectorKind("odoo", Odoo, OdooOptions)
