"""What TimescaleDB does by itself and plain PostgreSQL does not: partitions ahead, roll-ups, retention.

Of several workers one does a round; an advisory lock decides which. With TimescaleDB only the plain tables' retention is
left to do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sinks.timescale.rows import DAY_MS, Rows

log = logging.getLogger(__name__)

LOCK = 0x70696C6F75
AHEAD_DAYS = 2
MINUTES_A_ROUND = 600
"""A round rolls up so many minutes at most, so that one after a long history stays short; the next goes on."""
DELETED_A_ROUND = 50_000
PASSED_OVER_MAX = 20
"""After so many rounds that the lock kept us from, one is done without it: anybody who may connect can hold an advisory lock,
and two rounds at once do no harm."""

PARTITIONED_DAYS = {"metrics": 40, "logs": 40, "records": 40, "rollup_1m": 100, "rollup_15m": 800}
PLAIN_DAYS = {
    "business": 400,
    "changes": 400,
    "operations": 90,
    "security": 400,
    "signals": 400,
    "incidents": 400,
    "dead_letters": 90,
}


class Partitions:
    """Makes the days that a batch needs. Days that are known to be there cost a look into a set."""

    def __init__(self, timescale: bool = False) -> None:
        self.timescale = timescale
        self._there: dict[str, set[date]] = {"metrics": set(), "logs": set(), "records": set()}

    async def ensure(self, connection: Any, rows: Rows, minutes: Iterable[int]) -> None:
        """Make the partitions of these rows, unless TimescaleDB makes them."""
        if self.timescale:
            return
        scraped = {_day(minute * 60_000) for minute in minutes}
        await self._ensure(connection, "metrics", scraped)
        await self._ensure(connection, "logs", {row[0].date() for row in rows.tables["logs"]})
        await self._ensure(connection, "records", scraped | {row[0].date() for row in rows.tables["records"]})

    async def _ensure(self, connection: Any, table: str, days: set[date]) -> None:
        if missing := days - self._there[table]:
            await connection.execute(_ADD_PARTITIONS, table, sorted(missing))
            self._there[table] |= missing


class Upkeep:
    """Does a round every so often, on a connection of its own. Trouble is logged once and counted, and tried again."""

    def __init__(self, every_s: float, connect: Callable[[], Awaitable[Any]], clock: Callable[[], int]) -> None:
        self._every_s, self._connect, self._clock = every_s, connect, clock
        self._task: asyncio.Task[None] | None = None
        self._passed_over = 0
        self.rounds = self.failures = self.minutes_rolled_up = self.partitions_dropped = self.rows_deleted = 0

    def start(self) -> None:
        """Begin, if it has not begun."""
        if self._task is None and self._every_s:
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop; a round under way is rolled back."""
        task, self._task = self._task, None
        if task:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        failing = False
        while True:
            try:
                await self.round()
                failing = False
            except Exception as error:  # noqa: BLE001 (whatever it is, the next round is tried)
                self.failures += 1
                if not failing:
                    log.warning("upkeep of the store failed", extra={"reason": str(error)})
                failing = True
            await asyncio.sleep(self._every_s)

    async def round(self) -> None:
        """One round, unless another worker is at it."""
        connection = await self._connect()
        try:
            is_ours = await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK)
            self._passed_over = 0 if is_ours else self._passed_over + 1
            if is_ours or self._passed_over > PASSED_OVER_MAX:
                await self._do(connection)
                self.rounds += 1
                self._passed_over = 0
        finally:
            await connection.close(timeout=5)

    async def _do(self, connection: Any) -> None:
        now_ms = self._clock()
        if not await connection.fetchval("SELECT timescaledb FROM pilothouse_store"):
            await self._make_days_ahead(connection, now_ms)
            self.minutes_rolled_up += await connection.fetchval(_ROLL_UP, _minute(now_ms), MINUTES_A_ROUND)
            for table, days in PARTITIONED_DAYS.items():
                before = _day(now_ms - days * DAY_MS)
                if table == "rollup_15m":
                    before = before.replace(day=1)  # its partitions are months; one goes when all of it is too old
                self.partitions_dropped += await connection.fetchval(_DROP_PARTITIONS, table, before)
        for table, days in PLAIN_DAYS.items():
            status = await connection.execute(_delete(table), _minute(now_ms - days * DAY_MS), DELETED_A_ROUND)
            self.rows_deleted += int(status.split()[-1])

    async def _make_days_ahead(self, connection: Any, now_ms: int) -> None:
        days = [_day(now_ms + ahead * DAY_MS) for ahead in range(AHEAD_DAYS + 1)]
        for table in PARTITIONED_DAYS:
            await connection.execute(_ADD_PARTITIONS, table, days)


def _day(time_ms: int) -> date:
    return (date(1970, 1, 1)) + timedelta(days=time_ms // DAY_MS)


def _minute(time_ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(minutes=time_ms // 60_000)


def _delete(table: str) -> str:
    return f"DELETE FROM {table} WHERE ctid IN (SELECT ctid FROM {table} WHERE time < $1 LIMIT $2)"


_ADD_PARTITIONS = "SELECT pilothouse_add_partitions($1, $2::date[])"
_DROP_PARTITIONS = "SELECT pilothouse_drop_partitions($1, $2)"
_ROLL_UP = "SELECT pilothouse_roll_up($1, $2)"
