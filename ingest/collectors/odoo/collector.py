"""Odoo 16-19 through its own PostgreSQL tables: crons, job queue, mails, modules, and the documents of the business.

One connection a database, read only, every statement bounded by a time-out of its own. What a database lacks (no stock, no
job queue) is left out without fuss; what is there but closed to the role, or too slow, is left out and said, with the
mend. Only gauges and counters of groups that were read are told: a gap is not a zero.

The owner of the database is a tenant, and nothing of what he put there may run with our rights: see `schema.py` for what is
read at all, and `_BEGIN` for how. Each group is a transaction of its own, so that one that fails costs itself.

Source: Odoo's models of 16-19 and rows recorded on running 17, 18 and 19.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress

import asyncpg

from ingest.addresses import address
from ingest.collector import Collected, CollectorKind, Fault, Target, Unavailable
from ingest.collectors.odoo import crons, documents, jobs, upkeep
from ingest.collectors.odoo.look import Group, Look, OdooOptions
from ingest.collectors.odoo.memory import Memory
from ingest.collectors.odoo.schema import Schema, epoch_ms, probe

GROUPS = (crons.GROUP, jobs.GROUP, jobs.DEAD, upkeep.MAILS, upkeep.MODULES, *documents.GROUPS)
CLOSE_TIMEOUT_S = 2.0
SKEW_S = 60.0
LAST_MS = 10_000_000_000_000
FORM = "postgresql://USER@HOST:PORT/DATABASE"
# A role without pg_monitor sees when its own transactions began, and of others null; but everybody sees which are in progress.
_OPEN = f"""
    SELECT (SELECT {epoch_ms("min(xact_start)")} FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend') AS oldest_ms,
           pg_snapshot_xmin(now)::text::bigint AS oldest, pg_snapshot_xmax(now)::text::bigint AS next
    FROM pg_current_snapshot() AS now
"""
# Said anew in every transaction, so that nothing that stayed in the session counts. Names are looked up in pg_catalog alone.
# With row_security off a policy is an error instead of code that runs; constraints are not folded, which would run theirs;
# views and foreign tables are not even expanded, whatever stands in a table's place by now (servers since August 2024).
_BEGIN = """
    BEGIN READ ONLY;
    SET LOCAL search_path = pg_catalog, pg_temp;
    SET LOCAL row_security = off;
    SET LOCAL constraint_exclusion = off;
    SET LOCAL TimeZone = 'UTC';
    SET LOCAL statement_timeout = {timeout_ms};
    SET LOCAL lock_timeout = {timeout_ms};
    SELECT set_config('restrict_nonsystem_relation_kind', 'view, foreign-table', true)
        WHERE current_setting('restrict_nonsystem_relation_kind', true) IS NOT NULL;
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
        whose = f"resource {target.resource.name}"
        if target.resource.tenant is None:
            raise ValueError(f"{whose}: tenant is missing; name the one whose database it is")
        if target.resource.tenant not in target.cell.tenants_by_name:
            raise ValueError(f"{whose}: tenant {target.resource.tenant} is none of cell {target.cell.name}")
        self._target, self._clock = target, clock
        self._options = target.options(OdooOptions)
        by_socket = "host=" in target.url.partition("?")[2]
        self._address = address(target.url, whose, FORM, ("postgresql", "postgres"), needs_host=not by_socket)
        self._connection: asyncpg.Connection | None = None
        self._begin_sql = _BEGIN.format(timeout_ms=self._options.statement_timeout_ms)

    async def collect(self, now_ms: int, position: str | None) -> Collected:
        """One look. Raises Unavailable when the database is away or refuses the role."""
        try:
            connection = await self._connected()
            look = Look(
                self._target, self._options, connection, Memory(since_ms=now_ms), now_ms, self._explain, self._is_lost
            )
            look.memory = self._remembered(look, position)
            await self._look(look)
        except BaseException as error:
            await self._drop()
            # asyncpg's ValueErrors say that what we passed was wrong.
            if isinstance(error, _AWAY) and not isinstance(error, ValueError):
                raise self._away(error) from error
            raise
        return look.collected(look.memory.model_dump_json(), start_time_ms=look.memory.since_ms)

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close(timeout=CLOSE_TIMEOUT_S)

    def _remembered(self, look: Look, position: str | None) -> Memory:
        memory = look.restored(Memory, position) or Memory(since_ms=look.now_ms)
        tenant = look.target.resource.tenant or ""
        documents.name_the_currency(look, memory, look.target.cell.tenants_by_name[tenant].currency)
        return memory

    async def _look(self, look: Look) -> None:
        with look.group("schema"):
            async with self._transaction(look):
                look.schema = await probe(look.connection, self._options.db_schema)
        with look.group("server clock"):
            async with self._transaction(look):
                server_ms = int(await self._clock(look.connection))
            if not 0 <= server_ms < LAST_MS:
                raise ValueError(f"{str(server_ms)[:40]} ms is no time")
            look.server_ms = server_ms
        with look.group("open transactions"):
            async with self._transaction(look):
                (row,) = await look.connection.fetch(_OPEN)
            began_ms = look.memory.began_ms(int(row["oldest"]), int(row["next"]), look.server_ms)
            if began_ms is not None:  # of what has written; it may have begun earlier
                began_ms -= int(self._options.overlap_s * 1_000)
            look.oldest_ms = min((one for one in (row["oldest_ms"], began_ms) if one is not None), default=None)
        with look.group("database"):
            self._note(look)
        for group in GROUPS:
            with look.group(group.name), look.unchanged_unless_read():
                await self._read(look, group)

    def _note(self, look: Look) -> None:
        """What is amiss with the whole database."""
        skew_s = (look.server_ms - look.now_ms) / 1_000
        look.tried |= {"clock", "role", "heirs"}
        if abs(skew_s) >= SKEW_S:
            way = "ahead of" if skew_s > 0 else "behind"
            reason = f"the database's clock is {abs(skew_s):.0f} s {way} ours"
            look.fault("clock", Fault(reason, "Set both by NTP; times are told by ours", key=way))
        if look.schema.excess:
            reason = f"role {look.schema.role} {look.schema.excess}, and the owner of the database could use that"
            mend = "Give each tenant's database a role of its own that may SELECT from Odoo's tables and nothing else"
            look.fault("role", Fault(reason, mend, key="excess"))
        if look.schema.with_heirs:
            reason = f"tables inherit from {', '.join(sorted(look.schema.with_heirs))}; their rows are not read"
            look.fault("heirs", Fault(reason, "Odoo makes none: see who did", key="heirs"))

    async def _read(self, look: Look, group: Group) -> None:
        if refused := group.refused(look.schema):
            look.fault(group.name, refused)
        elif closed := group.closed(look.schema):
            look.fault(group.name, Fault(f"{', '.join(closed)} is closed to us", _grant(closed, look.schema)))
        elif group.is_there(look.schema):
            async with self._transaction(look):
                await group.look(look)
            look.points.update(look.memory.counters.get(group.name, {}))

    @asynccontextmanager
    async def _transaction(self, look: Look) -> AsyncIterator[None]:
        await look.connection.execute(self._begin_sql)
        try:
            yield
        except Exception:  # of a look that was given up nothing more is asked: its connection is dropped
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await look.connection.execute("ROLLBACK")
            raise
        await look.connection.execute("COMMIT")

    def _is_lost(self, error: Exception) -> bool:
        """Whether nothing can be asked any more."""
        if self._connection is None or self._connection.is_closed():
            return True
        return isinstance(error, OSError | asyncpg.PostgresConnectionError | asyncpg.InternalClientError)

    def _explain(self, error: Exception) -> Fault | None:
        limit_ms = self._options.statement_timeout_ms
        key = getattr(error, "sqlstate", None) or type(error).__name__
        reason = _one_line(error)
        match error:
            case asyncpg.QueryCanceledError():
                mend = "Make an index on write_date, look less often, or raise statement_timeout_ms"
                return Fault(f"a query takes longer than {limit_ms} ms", mend)
            case asyncpg.LockNotAvailableError():
                return Fault(f"a table is locked for longer than {limit_ms} ms", "See who holds it: pg_locks", key=key)
            case asyncpg.InsufficientPrivilegeError():
                mend = "GRANT SELECT on the group's tables to the role, and let no policy or view stand before them"
                return Fault(reason, mend, key=key)
            case asyncpg.UndefinedColumnError() | asyncpg.UndefinedTableError():
                # A module was installed, upgraded or removed since the schema was looked at, a moment ago.
                return Fault(reason, "It changed while it was read; it is asked again at the next look", key=key)
            case asyncpg.PostgresError():
                return Fault(reason, "The other groups go on without it", key=key)
            case _:
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
            "search_path": "pg_catalog, pg_temp",
        }
        timeout_s = self._target.resource.timeout_s
        try:
            return await asyncpg.connect(self._target.url, timeout=timeout_s, server_settings=settings)
        except tuple(kind for kind, _ in _REFUSED) as error:
            mend = next(mend for kind, mend in _REFUSED if isinstance(error, kind))
            raise Unavailable(self._target.resource.name, _one_line(error), mend) from error
        except UnicodeError as error:
            mend = "Its message is in another encoding than UTF-8; see the server's log, user and password first"
            raise Unavailable(self._target.resource.name, "its refusal is no UTF-8", mend) from error
        except ValueError as error:
            reason = "an option of its url cannot be read"
            raise Unavailable(self._target.resource.name, reason, f"It must read {FORM}") from error

    async def _drop(self) -> None:
        """Let go at once: after an error or a time-out nobody knows what still runs on it."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            connection.terminate()
        await asyncio.sleep(0)

    def _away(self, error: BaseException) -> Unavailable:
        mend = "See that PostgreSQL runs there and lets this host in (listen_addresses, pg_hba.conf, firewall)"
        return Unavailable(self._target.resource.name, f"{self._address.place}: {_one_line(error)}", mend)


def _grant(tables: Iterable[str], schema: Schema) -> str:
    return f"GRANT SELECT ON {', '.join(tables)} TO {schema.role}"


def _one_line(error: BaseException) -> str:
    """The message on one line, without any address that holds a password."""
    return " ".join(str(error).split()) or type(error).__name__


KIND = CollectorKind("odoo", Odoo, OdooOptions, schemes=("postgresql", "postgres"), needs_tenant=True)
