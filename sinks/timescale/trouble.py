"""What PostgreSQL's errors mean for a sink: its system is away, the data are bad, or the bug is ours.

Source: PostgreSQL documentation, appendix A, error codes (classes are the first two characters).
"""

from __future__ import annotations

import asyncpg

from schemas.endpoints import where as where_of
from sinks.sink import SinkUnavailable

NAME = "timescale"

# The longest matching prefix counts.
MENDS: dict[str, str] = {
    "08": "Is the server up, and does the address lead to it? It is tried again",
    "25006": "The database is read-only (a standby, or default_transaction_read_only): give the primary's address",
    "28": "Check user and password in PILOTHOUSE_DATABASE_URL, and pg_hba.conf",
    "3D000": "The database does not exist: create it, or correct PILOTHOUSE_DATABASE_URL",
    "40": "Two transactions met; it is tried again",
    "42501": "The user lacks a right: GRANT pilothouse_writer to it, or migrate as the owner of the database",
    "42704": "Roles are missing: migrate as a user that may create them, or create them by hand",
    "42P01": "A table is missing: migrate the database with this release first",
    "42703": "A column is missing: migrate the database with this release first",
    "42883": "A function is missing: migrate the database with this release first",
    "53100": "The disk of the database is full: free space or shorten the retention; nothing is lost meanwhile",
    "53200": "The server is out of memory; it is tried again",
    "53300": "All connections are taken: raise max_connections or close some",
    "53": "The server lacks a resource; it is tried again",
    "55": "Another session holds what is needed; it is tried again",
    "57": "The server is starting, stopping or was told to cancel; it is tried again",
    "58": "The server's disk or operating system failed: read its log",
    "XX": "The server reports damage inside: read its log",
}
RETRY_AFTER_S = {"40": 0.1, "55": 0.5, "57": 1.0}
DATA_CLASSES = ("21", "22", "23", "54")

# What asyncpg says of a connection that went away amid an operation, besides that it is closed.
LOST = ("closed", "another operation is")


def unavailable(error: BaseException, database_url: str) -> SinkUnavailable | None:
    """The error as a system that is away, or None when it is something else."""
    where = f"PostgreSQL at {where_of(database_url, 5432, with_path=True)}"
    if isinstance(error, asyncpg.PostgresError):
        code = error.sqlstate or ""
        prefix = max((one for one in MENDS if code.startswith(one)), key=len, default="")
        if not prefix:
            return None
        return SinkUnavailable(NAME, f"{where}: {error} ({code})", MENDS[prefix], RETRY_AFTER_S.get(prefix[:2], 5.0))
    if isinstance(error, OSError | TimeoutError) or (
        isinstance(error, asyncpg.InterfaceError) and any(words in str(error) for words in LOST)
    ):
        return SinkUnavailable(NAME, f"{where}: {error or type(error).__name__}", MENDS["08"], 1.0)
    return None


def is_bad_data(error: BaseException) -> bool:
    """Whether the rows are at fault, so that fewer of them may pass.

    asyncpg itself refuses what a column's type cannot hold, with a ValueError or an OverflowError.
    """
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith(DATA_CLASSES)
    return isinstance(error, ValueError | OverflowError)
