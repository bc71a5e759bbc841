"""What PostgreSQL's errors mean: away with a mend, bad data, or our bug."""

from __future__ import annotations

import asyncpg
import pytest

from sinks.timescale.trouble import is_bad_data, unavailable

URL = "postgresql://joe:secret@db.example:5433/store"


@pytest.mark.parametrize(
    ("error", "mend"),
    [
        (asyncpg.DiskFullError("could not extend file"), "free space"),
        (asyncpg.ReadOnlySQLTransactionError("cannot execute COPY"), "give the primary's address"),
        (asyncpg.InvalidPasswordError("password authentication failed"), "PILOTHOUSE_DATABASE_URL"),
        (asyncpg.TooManyConnectionsError("sorry, too many clients already"), "max_connections"),
        (asyncpg.CannotConnectNowError("the database system is starting up"), "tried again"),
        (asyncpg.InsufficientPrivilegeError("permission denied for table metrics"), "GRANT pilothouse_writer"),
        (asyncpg.UndefinedTableError('relation "metrics" does not exist'), "migrate"),
        (asyncpg.DeadlockDetectedError("deadlock detected"), "tried again"),
        (ConnectionRefusedError(111, "refused"), "Is the server up"),
        (TimeoutError(), "Is the server up"),
        (asyncpg.InterfaceError("connection is closed"), "Is the server up"),
    ],
)
def test_a_server_that_cannot_serve_is_away_and_the_mend_is_said(error: Exception, mend: str) -> None:
    away = unavailable(error, URL)
    assert away is not None
    assert mend in str(away)
    assert "db.example:5433/store" in str(away)
    assert "secret" not in str(away)
    assert not is_bad_data(error)


@pytest.mark.parametrize(
    "error",
    [asyncpg.CharacterNotInRepertoireError("0x00"), asyncpg.DataError("overflow"), asyncpg.CheckViolationError("x")],
)
def test_rows_that_are_refused_are_bad_data(error: Exception) -> None:
    assert is_bad_data(error)
    assert unavailable(error, URL) is None


@pytest.mark.parametrize("error", [asyncpg.PostgresSyntaxError("x"), asyncpg.InterfaceError("busy"), KeyError("x")])
def test_everything_else_is_our_bug(error: Exception) -> None:
    assert unavailable(error, URL) is None
    assert not is_bad_data(error)
