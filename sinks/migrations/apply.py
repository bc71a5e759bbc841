"""Brings a database to the newest schema, from the program and from several workers at once."""

from __future__ import annotations

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from sinks.timescale.trouble import unavailable

LOCK = 0x70696C6F74
"""Of several workers that start, one migrates. An advisory lock is for a database that has no table of ours yet: later anybody
who may connect could hold it, and a lock on a table of ours is taken."""
VERSIONS = "pilothouse_schema"


async def migrate(database_url: str, revision: str = "head") -> None:
    """Upgrade to `revision`; a database that is there already is left alone, also by a role that could not change it.

    Raises SinkUnavailable with the mend when the server is away, the password is wrong or a right is missing.
    """

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(database_url, timeout=10)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            await connection.execute(text("SET LOCAL lock_timeout = '30s'"))
            await connection.run_sync(_upgrade, revision)
    except (DBAPIError, asyncpg.PostgresError, OSError, TimeoutError) as error:
        if away := unavailable(_cause(error), database_url):
            raise away from error
        raise
    finally:
        await engine.dispose()


def _upgrade(connection: Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", "sinks:migrations")
    config.attributes["connection"] = connection
    wanted = ScriptDirectory.from_config(config).as_revision_number(revision)
    if _version(connection) == wanted:
        return
    _lock(connection)
    command.upgrade(config, revision)


def _version(connection: Connection) -> str | None:
    """The revision that the database is at; None while it has none. Raises when the role may not know."""
    if connection.scalar(text(f"SELECT to_regclass('{VERSIONS}')")) is None:
        return None
    version = connection.scalar(text(f"SELECT version_num FROM {VERSIONS}"))
    return None if version is None else str(version)


def _lock(connection: Connection) -> None:
    if _version(connection) is None:
        connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
    if _version(connection) is not None:  # another may have made it meanwhile
        connection.execute(text(f"LOCK TABLE {VERSIONS} IN SHARE ROW EXCLUSIVE MODE"))


def _cause(error: BaseException) -> BaseException:
    """What asyncpg said, under SQLAlchemy's wrapping."""
    while not isinstance(error, asyncpg.PostgresError | OSError) and error.__cause__ is not None:
        error = error.__cause__
    return error
