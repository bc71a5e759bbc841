"""Sale orders, pickings and invoices: which are open, and which state each has reached since the last look.

Changes are found by `write_date`, which is when the transaction began: rows appear late, so an overlap is read at every
look, and as far back as the oldest open transaction that the role can see. A document is told when its state is
not the one that was told last. Where a document has no index on `write_date` each look scans its table;
`CREATE INDEX CONCURRENTLY ON stock_picking (write_date)` and the like make it cheap.

`times_ms` is when the state was reached, as well as Odoo tells it: `date_order` of a confirmed order (confirmation sets it),
`date_done` of a done picking, `create_date` of a draft, `write_date` otherwise. Amounts are in the books' currency.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ingest.collector import WARN
from ingest.collectors.odoo.look import Group, Look, naive, number
from ingest.collectors.odoo.memory import Documents, Known
from ingest.collectors.odoo.schema import Schema, epoch_ms
from schemas.records import BusinessBatch

MAX_TOLD = 10_000  # of one type in one look, which is one batch; the rest follows at the next
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Shape:
    """A type of document as SQL over its table `d`, put together from the columns that are there.

    `open` is the condition of those that still need work and `waiting` their states; `reached` is when the state was
    reached. `order` is the sale order's id, or `origin` the name of one.
    """

    open: str
    waiting: tuple[str, ...]
    reached: str
    amount: str
    deadline: str
    order: str = "NULL::int"
    origin: str = "NULL::text"
    warehouse: str = "NULL::text"
    carrier: str = "NULL::text"
    joins: str = ""
    only: str = "true"


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of document: Odoo's model, its table, and the states whose counters begin at 0."""

    model: str
    table: str
    shape: Callable[[Schema], Shape]
    counted: tuple[str, ...]


def sale_order(schema: Schema) -> Shape:
    """A confirmed order is open until everything is delivered, or without deliveries until it is invoiced."""
    if schema.has("sale_order", "delivery_status"):
        undone = "d.delivery_status IN ('pending', 'started', 'partial')"
    elif schema.has("sale_order", "invoice_status"):
        undone = "d.invoice_status = 'to invoice'"
    else:
        undone = "false"
    warehouse, warehouse_join = _warehouse(schema, "sale_order", "d")
    carrier, carrier_join = _carrier(schema, "sale_order")
    ordered = "d.date_order" if schema.has("sale_order", "date_order") else "NULL"
    return Shape(
        open=f"d.state IN ('draft', 'sent') OR (d.state = 'sale' AND {undone})",
        waiting=("draft", "sent", "sale"),
        # A date_order from before the row, or typed in for later, is no confirmation.
        reached=f"""CASE WHEN d.state = 'draft' THEN d.create_date
                         WHEN d.state = 'sale' AND {ordered} > d.create_date AND {ordered} <= d.write_date THEN {ordered}
                         ELSE d.write_date END""",
        amount=_order_amount(schema, "d"),
        deadline=schema.or_null("sale_order", "commitment_date", type_="timestamp"),
        order="d.id",
        warehouse=warehouse,
        carrier=carrier,
        joins=f"{warehouse_join} {carrier_join}",
    )


def stock_picking(schema: Schema) -> Shape:
    """A picking has the value of the order that it serves."""
    by_id = schema.has("stock_picking", "sale_id") and schema.has("sale_order", "id", "amount_total")
    order_join = "LEFT JOIN sale_order o ON o.id = d.sale_id" if by_id else ""
    type_join, warehouse, warehouse_join = "", "NULL::text", ""
    if schema.has("stock_picking", "picking_type_id") and schema.has("stock_picking_type", "id", "warehouse_id"):
        type_join = "LEFT JOIN stock_picking_type t ON t.id = d.picking_type_id"
        warehouse, warehouse_join = _warehouse(schema, "stock_picking_type", "t")
    carrier, carrier_join = _carrier(schema, "stock_picking")
    deadline = schema.or_null("stock_picking", "date_deadline", type_="timestamp")
    done = schema.or_null("stock_picking", "date_done", type_="timestamp")
    return Shape(
        open="d.state IN ('waiting', 'confirmed', 'assigned')",
        waiting=("waiting", "confirmed", "assigned"),
        reached=f"""CASE WHEN d.state = 'draft' THEN d.create_date
                         WHEN d.state = 'done' THEN coalesce({done}, d.write_date)
                         ELSE d.write_date END""",
        amount=_order_amount(schema, "o") if by_id else "NULL::float8",
        deadline=f"coalesce({deadline}, {schema.or_null('stock_picking', 'scheduled_date', type_='timestamp')})",
        order="d.sale_id" if by_id else "NULL::int",
        # Sales write their name into origin, alone or with the customer's reference: S00033 - PO-1008.
        origin=f"split_part({schema.or_null('stock_picking', 'origin')}, ' - ', 1)",
        warehouse=warehouse,
        carrier=carrier,
        joins=f"{order_join} {type_join} {warehouse_join} {carrier_join}",
    )


def account_move(schema: Schema) -> Shape:
    """Invoices, bills and refunds; plain journal entries are nobody's document."""
    signed = schema.or_null("account_move", "amount_total_signed", type_="numeric")
    total = schema.or_null("account_move", "amount_total", type_="numeric")
    return Shape(
        open="d.state = 'draft' AND d.move_type <> 'entry'",
        waiting=("draft",),
        reached="CASE WHEN d.state = 'draft' THEN d.create_date ELSE d.write_date END",
        amount=f"round(abs(coalesce({signed}, {total}))::numeric, 2)::float8",
        deadline=f"{schema.or_null('account_move', 'invoice_date_due', type_='date')}::timestamp",
        # An invoice of several orders names them all; the first one stands for them.
        origin=f"split_part({schema.or_null('account_move', 'invoice_origin')}, ', ', 1)",
        only="d.move_type <> 'entry'",
    )


def _order_amount(schema: Schema, alias: str) -> str:
    """A sale order's total in the books' currency: currency_rate is what one unit of that costs in the order's."""
    total = schema.or_null("sale_order", "amount_total", alias, "numeric")
    rate = schema.or_null("sale_order", "currency_rate", alias, "numeric")
    return f"round(({total} / coalesce(nullif({rate}, 0), 1))::numeric, 2)::float8"


def _warehouse(schema: Schema, table: str, alias: str) -> tuple[str, str]:
    """Name of the warehouse and the join that gives it."""
    if not schema.has(table, "warehouse_id") or not schema.has("stock_warehouse", "id", "name"):
        return "NULL::text", ""
    return schema.text("stock_warehouse", "name", "w"), f"LEFT JOIN stock_warehouse w ON w.id = {alias}.warehouse_id"


def _carrier(schema: Schema, table: str) -> tuple[str, str]:
    """Name of the carrier and the join that gives it; both columns come with the module `delivery`."""
    if not schema.has(table, "carrier_id") or not schema.has("delivery_carrier", "id", "name"):
        return "NULL::text", ""
    return schema.text("delivery_carrier", "name", "c"), "LEFT JOIN delivery_carrier c ON c.id = d.carrier_id"


KINDS = (
    Kind("sale.order", "sale_order", sale_order, ("sent", "sale", "cancel")),
    Kind("stock.picking", "stock_picking", stock_picking, ("confirmed", "assigned", "done", "cancel")),
    Kind("account.move", "account_move", account_move, ("draft", "posted")),
)


async def _look(look: Look, kind: Kind) -> None:
    """The backlog, and what has changed."""
    shape = kind.shape(look.schema)
    waiting = await look.connection.fetch(
        f"""
        SELECT d.state, count(*) AS documents, {epoch_ms(f"min({shape.reached})")} AS since_ms
        FROM {kind.table} d WHERE {shape.open} GROUP BY d.state
        """
    )
    stored = look.memory.documents.get(kind.model)
    # Floors are raised from where the clock stood before the rows were read.
    memory = Documents.unpack(stored) if stored else Documents(_overlap_us(look), 0, {})
    rows = await _changed(look, kind, shape, memory) if stored else await _first(look, kind, shape, memory)
    orders = await _orders_by_name(look, [row["origin"] for row in rows if row["order_id"] is None])
    _backlog(look, kind, shape, {row["state"]: row for row in waiting})
    news = [row for row in rows if memory.learn(row["id"], Known(row["state"], row["written_us"]))]
    _count(look, kind, news if stored else [])
    if news:
        look.records.append(_batch(look, kind, news, orders))
    # A write_date ahead of the clock must not hide what is written until then.
    newest_us = min(max((row["written_us"] for row in rows), default=0), look.server_ms * 1_000)
    memory.settle(min(newest_us, _overlap_us(look)) if len(rows) < MAX_TOLD else memory.floor_us)
    look.memory.documents[kind.model] = memory.pack()


def _overlap_us(look: Look) -> int:
    """Up to where no transaction that is still open can write, as far as we can see."""
    until_ms = look.server_ms - int(look.options.overlap_s * 1_000)
    # One that has been open for a day is forgotten, not busy.
    oldest_ms = max(look.oldest_ms or until_ms, look.server_ms - DAY_MS)
    return min(until_ms, oldest_ms) * 1_000


async def _first(look: Look, kind: Kind, shape: Shape, memory: Documents) -> list[Any]:
    """All open documents, newest first if there are too many, and what was written within the overlap."""
    where = f"({shape.open}) OR d.write_date > $1"
    order = f"d.write_date DESC, d.id DESC LIMIT {MAX_TOLD}"
    rows = await look.connection.fetch(_select(kind, shape, where, order), naive(memory.floor_us))
    if len(rows) == MAX_TOLD:
        body = f"More than {MAX_TOLD} open documents of {kind.model}: the oldest are counted but not told one by one"
        look.event("odoo.backlog.truncated", WARN, body, {"erp.document.type": kind.model})
    return rows[::-1]


async def _changed(look: Look, kind: Kind, shape: Shape, memory: Documents) -> list[Any]:
    """What was written above the floor and is not in the state that was told."""
    where = """(d.write_date, d.id) > ($1, $2) AND NOT EXISTS (
        SELECT FROM unnest($3::bigint[], $4::text[]) AS told (id, state) WHERE told.id = d.id AND told.state = d.state)"""
    window = memory.window
    query = _select(kind, shape, where, f"d.write_date, d.id LIMIT {MAX_TOLD}")
    states = [one.state for one in window.values()]
    return await look.connection.fetch(query, naive(memory.floor_us), memory.floor_id, list(window), states)


def _select(kind: Kind, shape: Shape, where: str, order: str) -> str:
    return f"""
        SELECT d.id, d.name, d.state, floor(extract(epoch FROM d.write_date) * 1000000)::bigint AS written_us,
               {epoch_ms(shape.reached)} AS reached_ms, {epoch_ms(shape.deadline)} AS deadline_ms,
               {shape.order} AS order_id, nullif({shape.origin}, '') AS origin, {shape.amount} AS amount,
               {shape.warehouse} AS warehouse, {shape.carrier} AS carrier
        FROM {kind.table} d {shape.joins}
        WHERE ({where}) AND d.state IS NOT NULL AND d.write_date IS NOT NULL AND {shape.only}
        ORDER BY {order}
    """


async def _orders_by_name(look: Look, names: list[str | None]) -> dict[str, tuple[int, float | None]]:
    """Id and value of the sale orders with these names, in one query for the whole look."""
    wanted = sorted({name for name in names if name})
    if not wanted or not look.schema.has("sale_order", "id", "name"):
        return {}
    amount = _order_amount(look.schema, "o")
    query = (
        f"SELECT o.name, min(o.id) AS id, min({amount}) AS amount FROM sale_order o WHERE o.name = ANY($1) GROUP BY 1"
    )
    return {row["name"]: (row["id"], number(row["amount"])) for row in await look.connection.fetch(query, wanted)}


def _backlog(look: Look, kind: Kind, shape: Shape, waiting: Mapping[str, Any]) -> None:
    """A state in which nothing waits is a 0."""
    for state in shape.waiting:
        row = waiting.get(state)
        attributes = {"erp.document.type": kind.model, "erp.document.state": state}
        look.gauge("erp.document.count", row["documents"] if row else 0, attributes)
        look.gauge("erp.document.age.max", look.age_s(row["since_ms"]) if row else 0.0, attributes)


def _count(look: Look, kind: Kind, news: list[Any]) -> None:
    """What was told at the first look had reached its state before we counted."""
    reached = Counter(dict.fromkeys(kind.counted, 0))
    reached.update(row["state"] for row in news)
    for state, documents in reached.items():
        attributes = {"erp.document.type": kind.model, "erp.document.state": state}
        look.count("erp.document.transitions", documents, attributes)
    if kind.model == "sale.order":
        look.count("erp.order.value", sum(number(row["amount"]) or 0.0 for row in news if row["state"] == "sale"))


def _batch(look: Look, kind: Kind, news: list[Any], orders: Mapping[str, tuple[int, float | None]]) -> BusinessBatch:
    named = [orders.get(row["origin"] or "", (None, None)) for row in news]
    amounts = [number(row["amount"]) for row in news]
    currency = look.target.cell.tenants_by_name[look.target.resource.tenant or ""].currency
    times_ms = tuple(_time_ms(row["reached_ms"]) or look.now_ms for row in news)
    first = kind.model not in look.memory.documents
    return BusinessBatch(
        **look.target.identity(),
        # The backlog of a first look is told now; a clock of the server that runs ahead does not move ours.
        time_ms=look.now_ms if first else min(max(times_ms), look.now_ms),
        tenants=(look.target.resource.tenant,) * len(news),
        times_ms=times_ms,
        document_types=(kind.model,) * len(news),
        document_ids=tuple(row["id"] for row in news),
        document_names=tuple(row["name"] for row in news),
        states=tuple(row["state"] for row in news),
        orders=tuple(row["order_id"] or order for row, (order, _) in zip(news, named, strict=True)),
        amounts=tuple(own if own is not None else by_name for own, (_, by_name) in zip(amounts, named, strict=True)),
        currencies=(currency,) * len(news),
        warehouses=tuple(row["warehouse"] for row in news),
        carriers=tuple(row["carrier"] for row in news),
        deadlines_ms=tuple(_time_ms(row["deadline_ms"]) for row in news),
    )


def _time_ms(value: int | None) -> int | None:
    """A time that a record can carry; None for the year 2999 that people type in."""
    return value if value is not None and 0 <= value < 10_000_000_000_000 else None


def _group(kind: Kind, *more: str) -> Group:
    def look_at(look: Look) -> Awaitable[None]:
        return _look(look, kind)

    needs = ("id", "name", "state", "create_date", "write_date", *more)
    return Group(kind.model, {kind.table: needs}, look_at)


GROUPS = (_group(KINDS[0], "amount_total"), _group(KINDS[1]), _group(KINDS[2], "move_type"))
