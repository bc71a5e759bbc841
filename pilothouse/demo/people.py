"""The people of one tenant: they sell, reserve, pick, ship and invoice through Odoo, all in one process.

Each looks at a list and works it off; so whatever was left lying by a fault is caught up with when it is over.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from pilothouse.demo import business
from pilothouse.demo.company import TENANTS, Plan, load, queue_of
from pilothouse.demo.erp import AWAY, Cursor, Erp, Spent
from pilothouse.demo.odoo_log import OdooLog

CONNECTIONS = 5
CUSTOMERS_MAX = 40  # waiting at once; more go elsewhere
LOOK_S = 1.0  # from one look at a list to the next, at a load of 1
LOOK_MAX_S = 5.0
BATCH = 10  # documents of one look
THINK_S = (0.4, 1.2)
PAUSE_AFTER_FAILURE_S = 1.0


class People:
    """All users of one tenant. `faster` is a factor on the load that the calendar gives."""

    def __init__(self, tenant: dict[str, Any], plan: Plan, valkey_url: str, log: OdooLog) -> None:
        self.erp = Erp(tenant, valkey_url, log, CONNECTIONS)
        self.faster = 1.0
        self._tenant, self._plan = TENANTS[tenant["name"]], plan
        self._customers: set[asyncio.Task[None]] = set()

    @property
    def load(self) -> float:
        """How busy it is now."""
        return self.faster * load(self._plan, self._tenant, time.time_ns() // 1_000_000)

    async def work(self) -> None:
        """Until cancelled."""
        await self.erp.open()
        try:
            async with asyncio.TaskGroup() as roles:
                roles.create_task(self._sell())
                roles.create_task(self._again(self._reserve))
                roles.create_task(self._again(self._ship, parity=0))
                roles.create_task(self._again(self._ship, parity=1))
                roles.create_task(self._again(self._invoice))
                roles.create_task(self._again(self._browse))
        finally:
            await self.erp.close()

    async def _sell(self) -> None:
        """Customers come as they like: the time between two of them is exponential."""
        while True:
            await asyncio.sleep(min(random.expovariate(self._tenant.orders_per_s * max(self.load, 0.001)), 60))
            if len(self._customers) < CUSTOMERS_MAX:
                customer = asyncio.create_task(self._serve())
                self._customers.add(customer)
                customer.add_done_callback(self._customers.discard)

    async def _serve(self) -> None:
        order = await self.erp.call("sale.order", "web_save", business.create_quotation)
        if order is not None:
            await asyncio.sleep(random.uniform(*THINK_S))
            await self.erp.call("sale.order", "action_confirm", _on(business.confirm, order))

    async def _again(self, role: Callable[..., Awaitable[None]], **given: int) -> None:
        """A role looks at its list again and again, more often the busier it is."""
        while True:
            await asyncio.sleep(random.uniform(0.7, 1.3) * min(LOOK_S / max(self.load, 0.001), LOOK_MAX_S))
            try:
                await role(**given)
            except AWAY:
                await asyncio.sleep(PAUSE_AFTER_FAILURE_S)

    async def _list(self, model: str, look: Callable[[Cursor, int], Awaitable[list[int]]]) -> list[int]:
        return await self.erp.call(model, "web_search_read", _on(look, BATCH)) or []

    async def _reserve(self) -> None:
        for picking in await self._list("stock.picking", business.pickings_to_reserve):
            await self.erp.call("stock.picking", "action_assign", _on(self._assign, picking))

    async def _assign(self, cursor: Cursor, picking: int) -> None:
        uuid = await business.reserve(cursor, picking)
        if uuid:
            cursor.after.append(partial(self._hand_over, uuid))

    async def _hand_over(self, uuid: str) -> None:
        """A committed job goes to the workers."""
        # In this order, because a worker may take it at once and would collide with us on its row.
        await self.erp.transact(_on(business.enqueue, uuid), Spent())
        await self.erp.valkey.call("LPUSH", queue_of(self._tenant.name), uuid)

    async def _ship(self, parity: int) -> None:
        pickings = await self._list("stock.picking", business.pickings_to_ship)
        for picking in [one for one in pickings if one % 2 == parity]:
            await self.erp.call("stock.picking", "button_validate", _on(business.ship, picking))

    async def _invoice(self) -> None:
        for order in await self._list("sale.order", business.orders_to_invoice):
            await self.erp.call("sale.order", "create_invoices", _on(business.create_invoice, order))
        for invoice in await self._list("account.move", business.invoices_to_post):
            await self.erp.call("account.move", "action_post", _on(business.post, invoice))

    async def _browse(self) -> None:
        model = random.choice(("sale.order", "stock.picking", "account.move"))
        await self.erp.call(model, "web_search_read", _on(business.browse, model))


def _on(action: Callable[[Cursor, Any], Awaitable[Any]], document: object) -> Callable[[Cursor], Awaitable[Any]]:
    """An action on a document, as the work of a request."""
    return lambda cursor: action(cursor, document)
