"""Brings a database to the newest schema, from the program and from several workers at once."""

from __future__ import annotations

import asyncpg
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from sinks.timescale.trouble import unavailable

LOCK = 0x70696C6F74  # an advisory lock of our own: of several workers that start, one migrates


async def migrate(database_url: str, revision: str = "head") -> None:
    """Upgrade to `revision`; a database that is there already is left alone.

    Raises SinkUnavailable with the mend when the server is away, the password is wrong or a right is missing.
    """

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(database_url, timeout=10)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
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
    command.upgrade(config, revision)


def _cause(error: BaseException) -> BaseException:
    """What asyncpg said, under SQLAlchemy's wrapping."""
    while not isinstance(error, asyncpg.PostgresError | OSError) and error.__cause__ is not None:
        error = error.__cause__
    return error
