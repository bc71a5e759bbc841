"""Sale orders, pickings and invoices: which are open, and which state each has reached since the last look.

Changes are found by `write_date`, which is when the transaction began: rows appear late, so an overlap is read at every
look, and as far back as the oldest open transaction that the role can see. A document is told when its state is
not the one that was told last. Where a document has no index on `write_date` each look scans its table;
`CREATE INDEX CONCURRENTLY ON stock_picking (write_date)` and the like make it cheap. What a look cannot see is a state that
was entered and left between two looks: a draft that is confirmed within seconds is told as confirmed alone.

`times_ms` is when the state was reached, as well as Odoo tells it: `date_order` of a confirmed order (confirmation sets it),
`date_done` of a done picking, `create_date` of a draft, `write_date` otherwise; by our own clock where the server's is wrong.

Amounts are in the currency of the books of the document's company, never added over two currencies and never converted:
Odoo's rates are those of its books' days, not of today. Where the tables of companies and currencies are closed to us the
estate's currency stands for one company; of several the amounts are then unmeasured, and that is said.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from ingest.collector import WARN, Fault
from ingest.collectors.odoo.look import Group, Look, naive, number
from ingest.collectors.odoo.memory import Documents, Known, Memory
from ingest.collectors.odoo.schema import Schema, epoch_ms
from ingest.poll import Poll
from schemas.records import BusinessBatch
from schemas.series import identity

MAX_TOLD = 10_000  # of one type in one look, which is one batch; the rest follows at the next
DAY_MS = 86_400_000
ORDER_VALUE = "erp.order.value"
_CURRENCY = re.compile("[A-Z]{3}")
_BLANKS = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Shape:
    """A type of document as SQL over its table `d`, put together from the columns that are there.

    `open` is the condition of those that still need work and `waiting` their states; `reached` is when the state was
    reached. `order` is the sale order's id, or `origin` the name of one.
    """

    open: str
    waiting: tuple[str, ...]
    reached: str
    total: str
    deadline: str
    rate: str = "NULL::float8"
    currency: str = "NULL::text"
    company: str = "NULL::bigint"
    order: str = "NULL::bigint"
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
    currency, currency_join = _currency(schema, "sale_order", "d")
    created, written, ordered = (schema.time("sale_order", one) for one in ("create_date", "write_date", "date_order"))
    return Shape(
        open=f"d.state IN ('draft', 'sent') OR (d.state = 'sale' AND {undone})",
        waiting=("draft", "sent", "sale"),
        # A date_order from before the row, or typed in for later, is no confirmation.
        reached=f"""CASE WHEN d.state = 'draft' THEN {created}
                         WHEN d.state = 'sale' AND {ordered} > {created} AND {ordered} <= {written} THEN {ordered}
                         ELSE {written} END""",
        total=schema.amount("sale_order", "amount_total"),
        rate=schema.amount("sale_order", "currency_rate"),
        currency=currency,
        company=schema.whole("sale_order", "company_id"),
        deadline=schema.time("sale_order", "commitment_date"),
        order="d.id::bigint",
        warehouse=warehouse,
        carrier=carrier,
        joins=f"{warehouse_join} {carrier_join} {currency_join}",
    )


def stock_picking(schema: Schema) -> Shape:
    """A picking has the value of the order that it serves."""
    by_id = schema.has("stock_picking", "sale_id") and schema.has("sale_order", "id", "amount_total")
    order_join = f"LEFT JOIN {schema.table('sale_order')} o ON o.id = d.sale_id" if by_id else ""
    currency, currency_join = _currency(schema, "sale_order", "o") if by_id else ("NULL::text", "")
    type_join, warehouse, warehouse_join = "", "NULL::text", ""
    if schema.has("stock_picking", "picking_type_id") and schema.has("stock_picking_type", "id", "warehouse_id"):
        type_join = f"LEFT JOIN {schema.table('stock_picking_type')} t ON t.id = d.picking_type_id"
        warehouse, warehouse_join = _warehouse(schema, "stock_picking_type", "t")
    carrier, carrier_join = _carrier(schema, "stock_picking")
    created, written, done, deadline, scheduled = (
        schema.time("stock_picking", one)
        for one in ("create_date", "write_date", "date_done", "date_deadline", "scheduled_date")
    )
    return Shape(
        open="d.state IN ('waiting', 'confirmed', 'assigned')",
        waiting=("waiting", "confirmed", "assigned"),
        reached=f"""CASE WHEN d.state = 'draft' THEN {created}
                         WHEN d.state = 'done' THEN coalesce({done}, {written})
                         ELSE {written} END""",
        total=schema.amount("sale_order", "amount_total", "o") if by_id else "NULL::float8",
        rate=schema.amount("sale_order", "currency_rate", "o") if by_id else "NULL::float8",
        currency=currency,
        company=schema.whole("sale_order", "company_id", "o") if by_id else "NULL::bigint",
        deadline=f"coalesce({deadline}, {scheduled})",
        order="d.sale_id::bigint" if by_id else "NULL::bigint",
        # Sales write their name into origin, alone or with the customer's reference: S00033 - PO-1008.
        origin=f"split_part({schema.text('stock_picking', 'origin')}, ' - ', 1)",
        warehouse=warehouse,
        carrier=carrier,
        joins=f"{order_join} {currency_join} {type_join} {warehouse_join} {carrier_join}",
    )


def account_move(schema: Schema) -> Shape:
    """Invoices, bills and refunds; plain journal entries are nobody's document."""
    signed, total = (schema.amount("account_move", one) for one in ("amount_total_signed", "amount_total"))
    currency, currency_join = _currency(schema, "account_move", "d")
    created, written = schema.time("account_move", "create_date"), schema.time("account_move", "write_date")
    return Shape(
        open="d.state = 'draft' AND d.move_type <> 'entry'",
        waiting=("draft",),
        reached=f"CASE WHEN d.state = 'draft' THEN {created} ELSE {written} END",
        total=f"abs(coalesce({signed}, {total}))",
        currency=currency,
        company=schema.whole("account_move", "company_id"),
        deadline=schema.time("account_move", "invoice_date_due"),
        # An invoice of several orders names them all; the first one stands for them.
        origin=f"split_part({schema.text('account_move', 'invoice_origin')}, ', ', 1)",
        only="d.move_type <> 'entry'",
        joins=currency_join,
    )


def _currency(schema: Schema, table: str, alias: str) -> tuple[str, str]:
    """The currency of the books of the document's company, and the joins that give it."""
    if not _has_currencies(schema) or not schema.has(table, "company_id"):
        return "NULL::text", ""
    company, currency = schema.table("res_company"), schema.table("res_currency")
    joins = f"LEFT JOIN {company} k ON k.id = {alias}.company_id LEFT JOIN {currency} m ON m.id = k.currency_id"
    return schema.text("res_currency", "name", "m"), joins


def _has_currencies(schema: Schema) -> bool:
    return schema.has("res_company", "id", "currency_id") and schema.has("res_currency", "id", "name")


def _warehouse(schema: Schema, table: str, alias: str) -> tuple[str, str]:
    """Name of the warehouse and the join that gives it."""
    if not schema.has(table, "warehouse_id") or not schema.has("stock_warehouse", "id", "name"):
        return "NULL::text", ""
    join = f"LEFT JOIN {schema.table('stock_warehouse')} w ON w.id = {alias}.warehouse_id"
    return schema.text("stock_warehouse", "name", "w"), join


def _carrier(schema: Schema, table: str) -> tuple[str, str]:
    """Name of the carrier and the join that gives it; both columns come with the module `delivery`."""
    if not schema.has(table, "carrier_id") or not schema.has("delivery_carrier", "id", "name"):
        return "NULL::text", ""
    join = f"LEFT JOIN {schema.table('delivery_carrier')} c ON c.id = d.carrier_id"
    return schema.text("delivery_carrier", "name", "c"), join


KINDS = (
    Kind("sale.order", "sale_order", sale_order, ("sent", "sale", "cancel")),
    Kind("stock.picking", "stock_picking", stock_picking, ("confirmed", "assigned", "done", "cancel")),
    Kind("account.move", "account_move", account_move, ("draft", "posted")),
)


@dataclass(frozen=True, slots=True)
class Document:
    """A row that was read: one entry of a batch, with its last write in us."""

    id: int
    written_us: int
    raw_state: str
    state: str
    entry: Mapping[str, Any]

    @property
    def value(self) -> tuple[str, float] | None:
        """Currency and amount, where both are known."""
        currency, amount = self.entry["currencies"], self.entry["amounts"]
        return None if currency is None or amount is None else (currency, amount)


async def _look(look: Look, kind: Kind) -> None:
    """The backlog, and what has changed."""
    shape = kind.shape(look.schema)
    waiting = await look.connection.fetch(
        f"""
        SELECT d.state, count(*) AS documents, {epoch_ms(f"min({shape.reached})")} AS since_ms
        FROM {look.schema.table(kind.table)} d WHERE {shape.open} GROUP BY d.state
        """
    )
    stored = look.memory.documents.get(kind.model)
    # Floors are raised from where the clock stood before the rows were read.
    memory = Documents.unpack(stored) if stored else Documents(_overlap_us(look), 0, {})
    rows = await _changed(look, kind, shape, memory) if stored else await _first(look, kind, shape, memory)
    orders = await _orders_by_name(look, [row["origin"] for row in rows if row["order_id"] is None])
    _backlog(look, kind, shape, {row["state"]: row for row in waiting})
    documents = _documents(look, kind, rows, orders)
    news = [one for one in documents if memory.learn(one.id, Known(one.raw_state, one.written_us))]
    _count(look, kind, news if stored else [])
    if news:
        look.records.append(_batch(look, kind, news))
    # A write_date ahead of the clock must not hide what is written until then. Infinite ones are read after all others.
    newest_us = min(max((one.written_us for one in documents), default=0), look.server_ms * 1_000)
    is_all = len(rows) < MAX_TOLD or any(row["written_us"] is None for row in rows)
    memory.settle(min(newest_us, _overlap_us(look)) if is_all else memory.floor_us)
    look.memory.documents[kind.model] = memory.pack()


def _documents(
    look: Look, kind: Kind, rows: list[Any], orders: Mapping[str, tuple[int, float | None, str | None]]
) -> list[Document]:
    """The rows that can be read; each of the others is a dead letter."""
    money = _money(look, rows)
    documents: list[Document] = []
    for row in rows:
        with look.row(row):
            documents.append(_document(look, kind, row, orders, money))
    return documents


def _document(
    look: Look,
    kind: Kind,
    row: Any,
    orders: Mapping[str, tuple[int, float | None, str | None]],
    money: Callable[[Any], tuple[float | None, str | None]],
) -> Document:
    """One row as an entry of a batch. Raises ValueError of what no batch can hold."""
    if row["written_us"] is None:
        raise ValueError("write_date is infinite")
    state = _BLANKS.sub("_", (row["state"] or "").strip())
    if not state:
        raise ValueError("the state is empty")
    order, order_amount, order_currency = orders.get(row["origin"] or "", (None, None, None))
    amount, currency = money(row)
    if amount is None:
        amount, currency = order_amount, order_currency or currency
    reached_ms = row["reached_ms"]
    entry = {
        "tenants": look.target.resource.tenant,
        # One that lies ahead of the server's own clock was typed in.
        "times_ms": _time_ms(None if reached_ms is None else look.ours(min(reached_ms, look.server_ms))) or look.now_ms,
        "document_types": kind.model,
        "document_ids": row["id"],
        "document_names": row["name"],
        "states": state,
        "orders": row["order_id"] or order,
        "amounts": amount,
        "currencies": currency,
        "warehouses": row["warehouse"],
        "carriers": row["carrier"],
        "deadlines_ms": _time_ms(row["deadline_ms"]),
    }
    return Document(row["id"], row["written_us"], row["state"], state, entry)


def _money(look: Look, rows: list[Any]) -> Callable[[Any], tuple[float | None, str | None]]:
    """What gives amount and currency of a row."""
    tenant = look.target.cell.tenants_by_name[look.target.resource.tenant or ""]
    if _has_currencies(look.schema):
        return lambda row: _in(row, row["currency"] if row["company"] is not None else tenant.currency)
    if len({row["company"] for row in rows if row["company"] is not None}) <= 1:
        return lambda row: _in(row, tenant.currency)
    mend = f"GRANT SELECT ON res_company, res_currency TO {look.schema.role}"
    look.fault("currencies", Fault("several companies, whose currencies are closed to us", mend))
    return lambda row: (None, None)


def _in(row: Any, currency: str | None) -> tuple[float | None, str | None]:
    """A row's total in the books' currency: the rate is what one unit of that costs in the document's."""
    if currency is None or not _CURRENCY.fullmatch(currency):
        return None, None
    total, rate = row["total"], row["rate"]
    # Nothing is unmeasured of a document without a total, but its value.
    return (None if total is None else number(round(total / (rate or 1.0), 2))), currency


def name_the_currency(look: Poll, memory: Memory, currency: str) -> None:
    """Counters that an earlier release kept without their currency go on under the tenant's."""
    tenant = {"tenant.id": look.target.resource.tenant or ""}
    before, after = identity(ORDER_VALUE, tenant), identity(ORDER_VALUE, {**tenant, "erp.currency": currency})
    for counters in memory.counters.values():
        if before in counters:
            counters[after] = counters.pop(before) + counters.get(after, 0.0)


def _overlap_us(look: Look) -> int:
    """Up to where no transaction that is still open can write, as far as we can see."""
    until_ms = look.server_ms - int(look.options.overlap_s * 1_000)
    # One that has been open for a day is forgotten, not busy.
    oldest_ms = max(look.oldest_ms or until_ms, look.server_ms - DAY_MS)
    return min(until_ms, oldest_ms) * 1_000


async def _first(look: Look, kind: Kind, shape: Shape, memory: Documents) -> list[Any]:
    """All open documents, newest first if there are too many, and what was written within the overlap."""
    where = f"({shape.open}) OR d.write_date > $1"
    order = f"isfinite(d.write_date) DESC, d.write_date DESC, d.id DESC LIMIT {MAX_TOLD}"
    rows = await look.connection.fetch(_select(look.schema, kind, shape, where, order), naive(memory.floor_us))
    if len(rows) == MAX_TOLD:
        body = f"More than {MAX_TOLD} open documents of {kind.model}: the oldest are counted but not told one by one"
        look.event("odoo.backlog.truncated", WARN, body, {"erp.document.type": kind.model})
    return rows[::-1]


async def _changed(look: Look, kind: Kind, shape: Shape, memory: Documents) -> list[Any]:
    """What was written above the floor and is not in the state that was told."""
    where = """(d.write_date, d.id) > ($1, $2) AND NOT EXISTS (
        SELECT FROM unnest($3::bigint[], $4::text[]) AS told (id, state) WHERE told.id = d.id AND told.state = d.state)"""
    window = memory.window
    query = _select(look.schema, kind, shape, where, f"d.write_date, d.id LIMIT {MAX_TOLD}")
    states = [one.state for one in window.values()]
    return await look.connection.fetch(query, naive(memory.floor_us), memory.floor_id, list(window), states)


def _select(schema: Schema, kind: Kind, shape: Shape, where: str, order: str) -> str:
    written = schema.time(kind.table, "write_date")
    return f"""
        SELECT d.id, {schema.text(kind.table, "name")} AS name, {schema.text(kind.table, "state")} AS state,
               floor(extract(epoch FROM {written}) * 1000000)::bigint AS written_us,
               {epoch_ms(shape.reached)} AS reached_ms, {epoch_ms(shape.deadline)} AS deadline_ms,
               {shape.order} AS order_id, nullif({shape.origin}, '') AS origin, {shape.total} AS total, {shape.rate} AS rate,
               {shape.currency} AS currency, {shape.company} AS company,
               {shape.warehouse} AS warehouse, {shape.carrier} AS carrier
        FROM {schema.table(kind.table)} d {shape.joins}
        WHERE ({where}) AND d.state IS NOT NULL AND d.write_date IS NOT NULL AND {shape.only}
        ORDER BY {order}
    """


async def _orders_by_name(look: Look, names: list[str | None]) -> dict[str, tuple[int, float | None, str | None]]:
    """Id, value and currency of the sale orders with these names, in one query for the whole look; of several of one name the
    first."""
    wanted = sorted({name for name in names if name})
    if not wanted or not look.schema.has("sale_order", "id", "name"):
        return {}
    schema = look.schema
    currency, joins = _currency(schema, "sale_order", "o")
    query = f"""
        SELECT DISTINCT ON (o.name) {schema.text("sale_order", "name", "o")} AS name, o.id,
               {schema.amount("sale_order", "amount_total", "o")} AS total,
               {schema.amount("sale_order", "currency_rate", "o")} AS rate,
               {currency} AS currency, {schema.whole("sale_order", "company_id", "o")} AS company
        FROM {schema.table("sale_order")} o {joins} WHERE o.name = ANY($1::text[]) ORDER BY o.name, o.id
    """
    rows = await look.connection.fetch(query, wanted)
    money = _money(look, rows)
    return {row["name"]: (row["id"], *money(row)) for row in rows}


def _backlog(look: Look, kind: Kind, shape: Shape, waiting: Mapping[str, Any]) -> None:
    """A state in which nothing waits is a 0."""
    for state in shape.waiting:
        row = waiting.get(state)
        attributes = {"erp.document.type": kind.model, "erp.document.state": state}
        look.gauge("erp.document.count", row["documents"] if row else 0, attributes)
        look.gauge("erp.document.age.max", look.age_s(row["since_ms"]) if row else 0.0, attributes)


def _count(look: Look, kind: Kind, news: list[Document]) -> None:
    """What was told at the first look had reached its state before we counted."""
    reached = Counter(dict.fromkeys(kind.counted, 0))
    reached.update(one.state for one in news)
    for state, documents in reached.items():
        attributes = {"erp.document.type": kind.model, "erp.document.state": state}
        look.count("erp.document.transitions", documents, attributes)
    if kind.model == "sale.order":
        tenant = look.target.cell.tenants_by_name[look.target.resource.tenant or ""]
        sums = {tenant.currency: 0.0}
        for currency, amount in (one.value for one in news if one.state == "sale" and one.value):
            sums[currency] = sums.get(currency, 0.0) + amount
        for currency, value in sums.items():
            look.count(ORDER_VALUE, value, {"erp.currency": currency})


def _batch(look: Look, kind: Kind, news: list[Document]) -> BusinessBatch:
    try:
        return _batch_of(look, kind, news)
    except ValidationError:
        fine = []
        for one in news:
            with look.row(one.entry):
                _batch_of(look, kind, [one])
                fine.append(one)
        return _batch_of(look, kind, fine)


def _batch_of(look: Look, kind: Kind, news: list[Document]) -> BusinessBatch:
    columns = {name: tuple(one.entry[name] for one in news) for name in _ENTRY}
    first = kind.model not in look.memory.documents
    # The backlog of a first look is told now; a clock of the server that runs ahead does not move ours.
    time_ms = look.now_ms if first else min(max(columns["times_ms"], default=look.now_ms), look.now_ms)
    return BusinessBatch(**look.target.identity(), time_ms=time_ms, **columns)


_ENTRY = frozenset(
    [
        "tenants",
        "times_ms",
        "document_types",
        "document_ids",
        "document_names",
        "states",
        "orders",
        "amounts",
        "currencies",
        "warehouses",
        "carriers",
        "deadlines_ms",
    ]
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
