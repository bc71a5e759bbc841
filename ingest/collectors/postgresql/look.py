"""One look at a server: what was asked, what was found, which parts failed and what would mend them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import asyncpg
import orjson

from ingest.collector import Fault, Target
from ingest.collectors.postgresql.points import Databases, Points, Row
from ingest.collectors.postgresql.queries import EXTENSION
from ingest.poll import OUR_FAULT, Poll, number
from ingest.readable import readable

Rows = list[dict[str, Any]]

MAX_TEXT = 16_384


class Columns(NamedTuple):
    """What the columns of a statement hold: numbers, but for these. A row without one of `needs` is ill."""

    texts: frozenset[str] = frozenset()
    flags: frozenset[str] = frozenset()
    lists: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()


class Look(Poll):
    """The statements of one look, and what they gave.

    `counted` are the rows with cumulative columns, whose resets say since when they count.
    """

    def __init__(self, target: Target, connection: asyncpg.Connection[Any], now_ms: int) -> None:
        super().__init__(target, now_ms, explain=explain, is_fatal=self.is_lost)
        self.connection = connection
        self.asked = 0
        self.counted: list[Row] = []
        self.server: Row = {}
        self.databases = Databases({}, ())

    async def ask(self, columns: Columns, sql: str, *arguments: Any) -> Rows:
        """The rows that can be read, each as `columns` says; raises what asyncpg raises."""
        self.asked += 1
        rows: Rows = []
        for row in await self.connection.fetch(sql, *arguments):
            with self.row(row, _shown):
                rows.append(_typed(dict(row), columns))
        return rows

    def each(self, rows: Iterable[Row], found: Callable[[Row], Points]) -> None:
        """The points of the rows, row by row."""
        for row in rows:
            with self.row(row, _shown):
                self.points |= found(row)

    def is_lost(self, error: Exception) -> bool:
        """Whether nothing can be asked any more. A statement that does not end in time is among it: who knows what it does."""
        if isinstance(error, OSError | asyncpg.InternalClientError | asyncpg.PostgresConnectionError):
            return True
        if isinstance(error, asyncpg.InterfaceError | asyncpg.PostgresError):
            return self.connection.is_closed()
        return False


def _typed(row: dict[str, Any], columns: Columns) -> dict[str, Any]:
    if missing := [name for name in columns.needs if row[name] is None]:
        raise ValueError(f"{', '.join(sorted(missing))} is missing")
    return {name: _value(name, value, columns) for name, value in row.items()}


def _value(name: str, value: Any, columns: Columns) -> Any:
    if value is None:
        return None
    if name in columns.texts:
        return readable(value, MAX_TEXT)
    if name in columns.flags:
        return bool(value)
    if name in columns.lists:
        return [int(one) for one in value]
    found = number(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return found


def _shown(row: Mapping[str, Any]) -> bytes:
    """A row for the dead letters. Of a statement only its length: it may hold anybody's data."""
    shown = {
        name: f"{len(value)} characters or bytes" if name == "query" and value is not None else value
        for name, value in dict(row).items()
    }
    return orjson.dumps(shown, default=repr, option=orjson.OPT_NON_STR_KEYS)


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
        case UnicodeError():
            return "Its message is in another encoding than UTF-8; see the server's log, user and password first"
        case asyncpg.ProtocolViolationError():
            return "Name the server itself, not a connection pool such as PgBouncer before it"
        case _:
            return "Check that the server runs and that its address can be reached from here"


def explain(error: Exception) -> Fault | None:
    """What keeps a part from being measured; None for what nobody has foreseen."""
    if not isinstance(error, asyncpg.PostgresError | UnicodeError | OverflowError):
        return None
    reason = str(error).partition("\n")[0]
    return Fault(reason, _mend_of_part(error), key=getattr(error, "sqlstate", None) or type(error).__name__)


def _mend_of_part(error: Exception) -> str:
    match error:
        case asyncpg.InsufficientPrivilegeError():
            return "GRANT pg_monitor TO the collector's role"
        case asyncpg.QueryCanceledError() | asyncpg.LockNotAvailableError():
            return "Raise the resource's option statement_timeout_s if the server may be kept busy for longer"
        case asyncpg.ObjectNotInPrerequisiteStateError():
            return f"Set shared_preload_libraries = '{EXTENSION}' and restart the server"
        case asyncpg.CharacterNotInRepertoireError() | asyncpg.UntranslatableCharacterError():
            return (
                "Another database's encoding is in the way: name one in SQL_ASCII in the resource's url to read it all"
            )
        case asyncpg.PostgresError():
            return "The rest of the look goes on without it"
        case _:
            return OUR_FAULT
