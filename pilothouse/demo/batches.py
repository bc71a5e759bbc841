"""Heavy work of one tenant beside its people: what holds locks or fills the server. The faults start it as a process.

`posting`: month end, one transaction holds the invoice sequence and every open order. `storm`: an inventory count locks
the quants of all products in short turns. `edi`: a partner's import writes and joins without measure.
`strength` is 1 for a fault in full, about a third for its weak form.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import asyncpg

from pilothouse.demo.business import LOCK_SEQUENCE
from pilothouse.demo.seed import STOCK_LOCATION

POSTING, STORM, EDI = "posting", "storm", "edi"

SWEEP_S = 1.5  # the posting takes in the orders that have come since
HELD_S, FREE_S = 4.0, 6.0  # a weak posting commits and begins again
STORM_SESSIONS, STORM_HELD_S = 4, 0.45
EDI_SESSIONS = 20
EDI_ROWS, MATCHES = 4_000, 8

OPEN_ORDERS = """SELECT id FROM sale_order WHERE invoice_status <> 'invoiced' AND state <> 'cancel'
    ORDER BY id FOR UPDATE SKIP LOCKED"""
DRAFT_INVOICES = "SELECT id FROM account_move WHERE state = 'draft' ORDER BY id FOR UPDATE SKIP LOCKED"
HOT_QUANTS = f"SELECT id FROM stock_quant WHERE location_id = {STOCK_LOCATION} ORDER BY id FOR UPDATE"
# Each session has lines of its own, told apart by their quantity, so that sessions never wait for one another.
IMPORT = f"""INSERT INTO edi_import_line (partner_ref, product_ref, payload, quantity)
    SELECT 'C' || n % 200, 'SKU' || n % 60, repeat(md5(n::text), 8), $1 FROM generate_series(1, {EDI_ROWS}) n"""
MATCH = """SELECT count(*), max(md5(line.payload || partner.name)) FROM edi_import_line line
    JOIN res_partner partner ON partner.name LIKE '%' || substr(line.partner_ref, 2)
    WHERE line.quantity = $1 AND line.id % 40 = $2"""
CLEAR = "DELETE FROM edi_import_line WHERE quantity = $1"


async def run(tenant: dict[str, Any], kind: str, strength: float) -> None:
    """Do it until cancelled; what is not committed then is rolled back."""
    if kind == POSTING:
        await _post(tenant["finance_url"], strength)
    elif kind == STORM:
        await _storm(tenant["url"], strength)
    else:
        await _import(tenant["url"], strength)


async def _post(url: str, strength: float) -> None:
    connection = await _connect(url)
    while True:
        async with connection.transaction():
            await connection.fetch(LOCK_SEQUENCE)
            held_s = 0.0
            while strength >= 1 or held_s < HELD_S:
                await connection.fetch(DRAFT_INVOICES)
                await connection.fetch(OPEN_ORDERS)
                await asyncio.sleep(SWEEP_S)
                held_s += SWEEP_S
        await asyncio.sleep(FREE_S)


async def _storm(url: str, strength: float) -> None:
    sessions = max(2, round(STORM_SESSIONS * strength))
    async with asyncio.TaskGroup() as storm:
        for _ in range(sessions):
            storm.create_task(_count(url))


async def _count(url: str) -> None:
    connection = await _connect(url)
    while True:
        async with connection.transaction():
            await connection.fetch(HOT_QUANTS)
            await asyncio.sleep(STORM_HELD_S)


async def _import(url: str, strength: float) -> None:
    async with asyncio.TaskGroup() as importing:
        for number in range(EDI_SESSIONS):
            importing.create_task(_read_in(url, number, strength))


async def _read_in(url: str, number: int, strength: float) -> None:
    connection = await _connect(url)
    loop = asyncio.get_running_loop()
    while True:
        began_s = loop.time()
        await connection.execute(IMPORT, number)
        for part in range(MATCHES):
            await connection.fetch(MATCH, number, part)
        await connection.execute(CLEAR, number)
        # In its weak form the same work, with pauses.
        await asyncio.sleep((loop.time() - began_s) * (1 / strength - 1))


async def _connect(url: str) -> Any:
    return await asyncpg.connect(url, server_settings={"application_name": f"odoo-{os.getpid()}"})
