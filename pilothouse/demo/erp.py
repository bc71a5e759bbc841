"""How a process of Odoo works for one tenant: transactions, retries, sessions, log. What it does is in `business`.

As Odoo does: every request is one REPEATABLE READ transaction, repeated up to five times when it collides with another
(odoo/service/model.py), its statements and their time are counted (a failing one adds no time), and its line is written
when it has ended.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg

from pilothouse.demo.odoo_log import ERROR, INFO, OdooLog, path_of
from pilothouse.demo.resp import Valkey

Result = TypeVar("Result")
Work = Callable[["Cursor"], Awaitable[Result]]

TRIES = 5
RENDERING_S = (0.008, 0.02)  # between these, what Odoo's Python would take
# Odoo's ORM reads rights, rules, companies and caches before it does what was asked: a list takes ten statements and more,
# a button fifty and more. Fewer here, but many enough that a busy server is felt as it is in Odoo.
READS_OF_A_LIST, READS_OF_A_BUTTON = 5, 16
READS = (
    "SELECT id, login, company_id, partner_id FROM res_users WHERE id = $1",
    "SELECT id, name, currency_id FROM res_company WHERE id = 1 OR id = $1",
    "SELECT id, name, state FROM ir_module_module WHERE id = $1",
    "SELECT id, name, ref FROM res_partner WHERE id = $1",
    "SELECT id, default_code, product_tmpl_id FROM product_product WHERE id = $1",
    "SELECT id, code, name FROM account_journal WHERE id = 1 OR id = $1",
    "SELECT id, name, code, lot_stock_id FROM stock_warehouse WHERE id = 1 OR id = $1",
    "SELECT id, name, sequence_code FROM stock_picking_type WHERE id = 1 OR id = $1",
)
# The figures in the head of a list, which read a whole table.
FIGURES = (
    "SELECT state, count(*), max(scheduled_date) FROM stock_picking WHERE picking_type_id = 1 GROUP BY 1",
    "SELECT invoice_status, count(*), sum(amount_total) FROM sale_order WHERE user_id = 3 AND name ILIKE 'S%' GROUP BY 1",
)

COLLISIONS = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError)
AWAY = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)


@dataclass
class Spent:
    """What a request has cost so far."""

    statements: int = 0
    sql_s: float = 0.0


class Cursor:
    """Statements of one transaction. `after` is done once it is committed."""

    def __init__(self, connection: Any, version: int, spent: Spent) -> None:
        self.version = version
        self.after: list[Callable[[], Awaitable[object]]] = []
        self._connection, self._spent = connection, spent

    async def rows(self, statement: str, *values: object) -> list[Any]:
        """The rows that a statement gives."""
        began_s = time.perf_counter()
        self._spent.statements += 1
        rows: list[Any] = await self._connection.fetch(statement, *values)
        self._spent.sql_s += time.perf_counter() - began_s
        return rows

    async def value(self, statement: str, *values: object) -> Any:
        """The first column of the first row; None if there is none."""
        rows = await self.rows(statement, *values)
        return rows[0][0] if rows else None


class Erp:
    """One tenant's database as this process sees it, through at most `connections`."""

    def __init__(self, tenant: dict[str, Any], valkey_url: str, log: OdooLog, connections: int) -> None:
        self.database: str = tenant["name"]
        self.version: int = tenant["version"]
        self.log, self.valkey = log, Valkey(valkey_url)
        self._url: str = tenant["url"]
        self._connections = connections
        self._pool: Any = None

    async def open(self) -> None:
        """Connect as Odoo does: the process id stands in application_name."""
        self._pool = await asyncpg.create_pool(
            self._url,
            min_size=self._connections,
            max_size=self._connections,
            max_inactive_connection_lifetime=0,
            reset=_nothing,
            server_settings={"application_name": f"odoo-{os.getpid()}"},
        )

    async def close(self) -> None:
        """Leave at once; what was not committed is rolled back."""
        self.valkey.close()
        if self._pool is not None:
            self._pool.terminate()

    async def call(self, model: str, method: str, work: Work[Result]) -> Result | None:
        """A user's request: transaction, what follows it, line in the log. None when it failed, which the log says."""
        began_s, spent, result = time.perf_counter(), Spent(), None
        try:
            await asyncio.sleep(random.uniform(*RENDERING_S))
            result = await self.transact(_with_reads(method, work), spent)
        except AWAY as error:
            message = f"Exception during request handling. \nTraceback (most recent call last):\n{_named(error)}"
            self.log.write(ERROR, self.database, "odoo.http", message)
        path = path_of(self.version, model, method)
        self.log.request(self.database, path, 200, spent.statements, spent.sql_s, time.perf_counter() - began_s)
        return result

    async def transact(self, work: Work[Result], spent: Spent) -> Result:
        """Do work in one transaction, again after a collision; what it costs is added to `spent`."""
        for tries in range(1, TRIES):
            try:
                return await self._once(work, spent)
            except COLLISIONS as error:
                await asyncio.sleep(self._told_collision(error, tries))
        return await self._once(work, spent)

    async def _once(self, work: Work[Result], spent: Spent) -> Result:
        async with self._pool.acquire() as connection:
            cursor = Cursor(connection, self.version, spent)
            async with connection.transaction(isolation="repeatable_read"):
                result = await work(cursor)
        for afterwards in cursor.after:
            await afterwards()
        return result

    def _told_collision(self, error: Exception, tries: int) -> float:
        """Log a collision in Odoo's words; how long to wait before the next try, s."""
        wait_s = random.uniform(0.0, 2**tries)
        self.log.write(ERROR, self.database, "odoo.sql_db", f"bad query: UPDATE\nERROR: {error}\n")
        code = "DEADLOCK_DETECTED" if isinstance(error, asyncpg.DeadlockDetectedError) else "SERIALIZATION_FAILURE"
        message = f"{code}, {TRIES - tries} tries left, try again in {wait_s:.4f} sec..."
        self.log.write(INFO, self.database, "odoo.service.model", message)
        return wait_s


async def _nothing(_: object) -> None:
    """We leave nothing in a connection that would have to be cleared before the next transaction."""


def _with_reads(method: str, work: Work[Result]) -> Work[Result]:
    """The work as the ORM does it."""
    is_list = method == "web_search_read"

    async def all_of_it(cursor: Cursor) -> Result:
        for number in range(READS_OF_A_LIST if is_list else READS_OF_A_BUTTON):
            await cursor.rows(READS[number % len(READS)], number % 5 + 1)
        for figures in FIGURES if is_list else ():
            await cursor.rows(figures)
        return await work(cursor)

    return all_of_it


def _named(error: Exception) -> str:
    kind = type(error)
    return f"{kind.__module__}.{kind.__qualname__}: {error}"
