"""One look at a server: what was asked, what was found, which parts failed and what would mend them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg

from ingest.collectors.edges import Fault
from ingest.collectors.postgresql.points import Databases, Points, Row
from ingest.collectors.postgresql.queries import EXTENSION

Rows = Sequence[Row]


class Look:
    """The statements of one look, and what they gave.

    `counted` are the rows with cumulative columns, whose resets say since when they count.
    """

    def __init__(self, connection: asyncpg.Connection[Any], now_ms: int) -> None:
        self._connection, self.now_ms = connection, now_ms
        self.asked = 0
        self.found: Points = {}
        self.tried: set[str] = set()
        self.faults: dict[str, Fault] = {}
        self.counted: list[Row] = []
        self.server: Row = {}
        self.databases = Databases({}, ())

    async def ask(self, sql: str, *arguments: Any) -> Rows:
        """The rows; raises what asyncpg raises."""
        self.asked += 1
        rows: Rows = await self._connection.fetch(sql, *arguments)
        return rows

    async def part(self, name: str, sql: str, *arguments: Any) -> Rows | None:
        """The rows, or None when this part alone fails: the connection still stands."""
        self.tried.add(name)
        try:
            return await self.ask(sql, *arguments)
        except asyncpg.PostgresError as error:
            if self._connection.is_closed():
                raise
            self.fault(name, Fault(str(error).partition("\n")[0], _mend_of_part(error)))
            return None

    def fault(self, name: str, fault: Fault) -> None:
        """A part that cannot be measured."""
        self.tried.add(name)
        self.faults[name] = fault


def no_grant(role: str) -> Fault:
    """The role sees nothing of other users' backends."""
    quoted = '"' + role.replace('"', '""') + '"'
    return Fault(f"role {role} sees only its own backends", f"GRANT pg_monitor TO {quoted}")


def no_extension(database: str) -> Fault:
    """Statements are not counted, or not where we look."""
    return Fault(
        f"{EXTENSION} is not installed in database {database}",
        f"CREATE EXTENSION {EXTENSION} in {database}, with shared_preload_libraries = '{EXTENSION}'",
    )


def mend(error: Exception) -> str:
    """What would bring back a server that let nobody look."""
    match error:
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return "Check user and password behind the resource's url, and pg_hba.conf"
        case asyncpg.InvalidCatalogNameError():
            return "Name a database that exists; every server has `postgres`"
        case asyncpg.InsufficientPrivilegeError():
            return "GRANT CONNECT ON DATABASE to the collector's role"
        case asyncpg.TooManyConnectionsError():
            return (
                "Raise max_connections, or reserve one (16+: reserved_connections, GRANT pg_use_reserved_connections)"
            )
        case asyncpg.ProtocolViolationError():
            return "Name the server itself, not a connection pool such as PgBouncer before it"
        case _:
            return "Check that the server runs and that its address can be reached from here"


def _mend_of_part(error: asyncpg.PostgresError) -> str:
    match error:
        case asyncpg.InsufficientPrivilegeError():
            return "GRANT pg_monitor TO the collector's role"
        case asyncpg.QueryCanceledError() | asyncpg.LockNotAvailableError():
            return "Raise the resource's option statement_timeout_s if the server may be kept busy for longer"
        case asyncpg.ObjectNotInPrerequisiteStateError():
            return f"Set shared_preload_libraries = '{EXTENSION}' and restart the server"
        case _:
            return "The rest of the look goes on without it"
