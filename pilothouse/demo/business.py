"""What people and jobs do in the demo's Odoo, as transactions on Odoo's tables: from quotation to posted invoice.

A document's states, the rows that its transactions lock and their order are Odoo's; the statements are fewer than Odoo's.
Rows that several documents share (quants, the invoice sequence) are locked in the order of their ids, so that the
business does not deadlock with itself.
"""

from __future__ import annotations

import random
from typing import Any
from uuid import uuid4

from pilothouse.demo.erp import Cursor
from pilothouse.demo.seed import CUSTOMERS, PARTNERS, PRODUCTS, STOCK_LOCATION

NOW = "(now() AT TIME ZONE 'UTC')"  # as Odoo has it: when the transaction began
CLOCK = "(clock_timestamp() AT TIME ZONE 'UTC')"
TAX = 0.2
LINES_MAX, QUANTITY_MAX = 4, 10
CHANNEL = "root.carrier"
JOB = ("stock.picking", "send_to_shipper", "Send the delivery to the carrier")

_CREATED = f"3, 3, {NOW}, {NOW}"
_CREATION = "create_uid, write_uid, create_date, write_date"


async def create_quotation(cursor: Cursor) -> int:
    """A quotation of a few lines for some customer; its id."""
    partner = random.randint(1, PARTNERS)
    lines = [
        (random.randint(1, PRODUCTS), random.randint(1, QUANTITY_MAX)) for _ in range(random.randint(1, LINES_MAX))
    ]
    await cursor.rows("SELECT id, name, ref FROM res_partner WHERE id = $1", partner)
    await cursor.rows(
        "SELECT id, default_code FROM product_product WHERE id = ANY($1)", [product for product, _ in lines]
    )
    number = await cursor.value("SELECT nextval('ir_sequence_002')")
    untaxed = sum(price_of(product) * quantity for product, quantity in lines)
    order: int = await cursor.value(
        f"""INSERT INTO sale_order (name, state, company_id, partner_id, partner_invoice_id, partner_shipping_id,
          currency_id, user_id, team_id, warehouse_id, carrier_id, invoice_status, picking_policy, locked, date_order,
          amount_untaxed, amount_tax, amount_total, {_CREATION})
        VALUES ($1, 'draft', 1, $2, $2, $2, 1, 3, 1, 1, $3, 'no', 'direct', false, {NOW}, $4, $5, $6, {_CREATED})
        RETURNING id""",
        f"S{number:05d}",
        partner,
        random.randint(1, 3),
        untaxed,
        untaxed * TAX,
        untaxed * (1 + TAX),
    )
    await _insert_lines(cursor, order, lines)
    return order


def price_of(product: int) -> int:
    """Price of a product, EUR."""
    return 10 + product * 37 % 90


async def _insert_lines(cursor: Cursor, order: int, lines: list[tuple[int, int]]) -> None:
    unit = "product_uom_id" if cursor.version >= 19 else "product_uom"
    await cursor.rows(
        f"""INSERT INTO sale_order_line (order_id, sequence, company_id, currency_id, product_id, {unit}, state, name,
          product_uom_qty, price_unit, price_subtotal, price_total, qty_delivered, qty_invoiced, qty_to_invoice,
          invoice_status, customer_lead, {_CREATION})
        SELECT $1, 10, 1, 1, product, 1, 'draft', 'SKU' || product, quantity, price, price * quantity,
          price * quantity * {1 + TAX}, 0, 0, 0, 'no', 0, {_CREATED}
        FROM unnest($2::int[], $3::int[], $4::int[]) line (product, quantity, price)""",
        order,
        [product for product, _ in lines],
        [quantity for _, quantity in lines],
        [price_of(product) for product, _ in lines],
    )


async def confirm(cursor: Cursor, order: int) -> None:
    """The customer has said yes: the order is a sale, and its delivery waits for goods."""
    (found,) = await cursor.rows("SELECT name, partner_id, carrier_id, state FROM sale_order WHERE id = $1", order)
    await cursor.rows(
        f"""UPDATE sale_order SET state = 'sale', date_order = {NOW}, delivery_status = 'pending',
          commitment_date = {NOW} + interval '4 hours', write_uid = 3, write_date = {NOW} WHERE id = $1""",
        order,
    )
    await cursor.rows(
        f"UPDATE sale_order_line SET state = 'sale', write_uid = 3, write_date = {NOW} WHERE order_id = $1", order
    )
    group = await _group(cursor, order, found["name"], found["partner_id"])
    number = await cursor.value("SELECT nextval('ir_sequence_003')")
    reference = f"WH/OUT/{number:05d}"
    picking = await _insert_picking(cursor, order, reference, found, group)
    await _insert_moves(cursor, order, reference, found["name"], picking, group)
    await cursor.rows(
        f"""INSERT INTO mail_mail (mail_message_id, state, email_to, auto_delete, is_notification, {_CREATION})
        VALUES ($1, 'outgoing', 'customer@example.com', true, true, {_CREATED})""",
        order,
    )


async def _group(cursor: Cursor, order: int, name: str, partner: int) -> int | None:
    """What ties an order's moves together: a procurement group, since 19 a reference."""
    if cursor.version >= 19:
        await cursor.rows(f"INSERT INTO stock_reference (name, {_CREATION}) VALUES ($1, {_CREATED})", name)
        return None
    group: int = await cursor.value(
        f"""INSERT INTO procurement_group (name, move_type, partner_id, sale_id, {_CREATION})
        VALUES ($1, 'direct', $2, $3, {_CREATED}) RETURNING id""",
        name,
        partner,
        order,
    )
    await cursor.rows("UPDATE sale_order SET procurement_group_id = $2 WHERE id = $1", order, group)
    return group


async def _insert_picking(cursor: Cursor, order: int, reference: str, found: Any, group: int | None) -> int:
    older = (", date, group_id", f", {NOW}, $6") if cursor.version < 19 else ("", "")
    values = [reference, found["name"], found["partner_id"], order, found["carrier_id"], *([group] if group else [])]
    picking: int = await cursor.value(
        f"""INSERT INTO stock_picking (name, state, origin, move_type, priority, location_id, location_dest_id,
          picking_type_id, partner_id, company_id, sale_id, carrier_id, scheduled_date, date_deadline,
          has_deadline_issue, {_CREATION}{older[0]})
        VALUES ($1, 'confirmed', $2, 'direct', '0', {STOCK_LOCATION}, {CUSTOMERS}, 1, $3, 1, $4, $5,
          {NOW} + interval '2 hours', {NOW} + interval '4 hours', false, {_CREATED}{older[1]}) RETURNING id""",
        *values,
    )
    return picking


async def _insert_moves(
    cursor: Cursor, order: int, reference: str, origin: str, picking: int, group: int | None
) -> None:
    older = (", name, group_id", ", line.name, $5") if cursor.version < 19 else ("", "")
    values = [order, origin, reference, picking, *([group] if group else [])]
    await cursor.rows(
        f"""INSERT INTO stock_move (state, origin, reference, priority, procure_method, company_id, product_id, product_uom,
          product_uom_qty, product_qty, quantity, picked, location_id, location_dest_id, picking_id, picking_type_id,
          sale_line_id, warehouse_id, date, date_deadline, {_CREATION}{older[0]})
        SELECT 'confirmed', $2, $3, '0', 'make_to_stock', 1, product_id, 1, product_uom_qty,
          product_uom_qty, 0, false, {STOCK_LOCATION}, {CUSTOMERS}, $4, 1, line.id, 1,
          {NOW} + interval '2 hours', {NOW} + interval '4 hours', {_CREATED}{older[1]}
        FROM sale_order_line line WHERE order_id = $1""",
        *values,
    )


async def pickings_to_reserve(cursor: Cursor, limit: int) -> list[int]:
    """Deliveries that wait for goods, the most urgent first."""
    return await _ids(
        cursor,
        "SELECT id FROM stock_picking WHERE state = 'confirmed' ORDER BY priority DESC, scheduled_date, id LIMIT $1",
        limit,
    )


async def reserve(cursor: Cursor, picking: int) -> str | None:
    """Goods are set aside for a delivery and a job to fetch its label is made; the job's uuid, None if it was done."""
    if not await _still(cursor, picking, "confirmed"):
        return None
    await _lock_quants(cursor, picking)
    await cursor.rows(
        f"""UPDATE stock_quant SET reserved_quantity = reserved_quantity + need.quantity, write_uid = 4, write_date = {NOW}
        FROM (SELECT product_id, sum(product_uom_qty) AS quantity FROM stock_move WHERE picking_id = $1 GROUP BY 1) need
        WHERE stock_quant.product_id = need.product_id AND location_id = {STOCK_LOCATION}""",
        picking,
    )
    await cursor.rows(
        f"""UPDATE stock_move SET state = 'assigned', quantity = product_uom_qty, reservation_date = {NOW}, write_uid = 4,
          write_date = {NOW} WHERE picking_id = $1""",
        picking,
    )
    await _set_picking(cursor, picking, "state = 'assigned'")
    return await _insert_job(cursor, picking)


async def _insert_job(cursor: Cursor, picking: int) -> str:
    uuid = str(uuid4())
    model, method, name = JOB
    await cursor.rows(
        f"""INSERT INTO queue_job (uuid, user_id, company_id, name, model_name, method_name, func_string, state, priority,
          channel_method_name, channel, date_created, retry, max_retries, exec_time, dependencies, {_CREATION})
        VALUES ($1, 4, 1, $2, $3, $4, $5, 'pending', 10, $6, '{CHANNEL}', {NOW}, 0, 5, 0,
          '{{"depends_on": [], "reverse_depends_on": []}}', {_CREATED})""",
        uuid,
        name,
        model,
        method,
        f"{model}({picking},).{method}()",
        f"<{model}>.{method}",
    )
    return uuid


async def enqueue(cursor: Cursor, uuid: str) -> None:
    """A job was handed over to the workers."""
    await cursor.rows(
        f"UPDATE queue_job SET state = 'enqueued', date_enqueued = {NOW} WHERE uuid = $1 AND state = 'pending'", uuid
    )


async def pickings_to_ship(cursor: Cursor, limit: int) -> list[int]:
    """Deliveries whose goods and label are there, the most urgent first."""
    return await _ids(
        cursor,
        """SELECT id FROM stock_picking WHERE state = 'assigned' AND carrier_tracking_ref IS NOT NULL
        ORDER BY priority DESC, scheduled_date, id LIMIT $1""",
        limit,
    )


async def ship(cursor: Cursor, picking: int) -> None:
    """A delivery leaves the house: stock falls, the order can be invoiced."""
    if not await _still(cursor, picking, "assigned"):
        return
    await _lock_quants(cursor, picking)
    await cursor.rows(
        f"""UPDATE stock_quant SET quantity = stock_quant.quantity - need.quantity,
          reserved_quantity = greatest(0, reserved_quantity - need.quantity), write_uid = 4, write_date = {NOW}
        FROM (SELECT product_id, sum(product_uom_qty) AS quantity FROM stock_move WHERE picking_id = $1 GROUP BY 1) need
        WHERE stock_quant.product_id = need.product_id AND location_id = {STOCK_LOCATION}""",
        picking,
    )
    await cursor.rows(
        f"""UPDATE stock_move SET state = 'done', picked = true, date = {NOW}, write_uid = 4, write_date = {NOW}
        WHERE picking_id = $1""",
        picking,
    )
    await _set_picking(cursor, picking, f"state = 'done', date_done = {NOW}")
    await cursor.rows(
        f"""UPDATE sale_order_line SET qty_delivered = product_uom_qty, qty_to_invoice = product_uom_qty,
          invoice_status = 'to invoice', write_uid = 4, write_date = {NOW}
        WHERE order_id = (SELECT sale_id FROM stock_picking WHERE id = $1)""",
        picking,
    )
    await cursor.rows(
        f"""UPDATE sale_order SET delivery_status = 'full', effective_date = {NOW}, invoice_status = 'to invoice',
          write_uid = 4, write_date = {NOW} WHERE id = (SELECT sale_id FROM stock_picking WHERE id = $1)""",
        picking,
    )


async def orders_to_invoice(cursor: Cursor, limit: int) -> list[int]:
    """Orders that have left and are not invoiced, the oldest first."""
    return await _ids(
        cursor, "SELECT id FROM sale_order WHERE invoice_status = 'to invoice' ORDER BY id LIMIT $1", limit
    )


async def create_invoice(cursor: Cursor, order: int) -> int:
    """A draft invoice of an order; its id."""
    await cursor.rows("SELECT id, price_subtotal, qty_to_invoice FROM sale_order_line WHERE order_id = $1", order)
    invoice: int = await cursor.value(
        f"""INSERT INTO account_move (name, ref, state, move_type, auto_post, journal_id, company_id, partner_id, currency_id,
          date, invoice_date, invoice_origin, payment_state, is_move_sent, posted_before, amount_untaxed, amount_tax,
          amount_total, amount_residual, amount_total_signed, {_CREATION})
        SELECT '/', client_order_ref, 'draft', 'out_invoice', 'no', 1, 1, partner_id, 1, {NOW}, {NOW}, name, 'not_paid',
          false, false, amount_untaxed, amount_tax, amount_total, amount_total, amount_total, {_CREATED}
        FROM sale_order WHERE id = $1 RETURNING id""",
        order,
    )
    await cursor.rows(
        f"""UPDATE sale_order_line SET qty_invoiced = qty_delivered, qty_to_invoice = 0, invoice_status = 'invoiced',
          write_uid = 5, write_date = {NOW} WHERE order_id = $1""",
        order,
    )
    await cursor.rows(
        f"UPDATE sale_order SET invoice_status = 'invoiced', write_uid = 5, write_date = {NOW} WHERE id = $1", order
    )
    return invoice


async def invoices_to_post(cursor: Cursor, limit: int) -> list[int]:
    """Draft invoices, the oldest first."""
    return await _ids(cursor, "SELECT id FROM account_move WHERE state = 'draft' ORDER BY id LIMIT $1", limit)


async def post(cursor: Cursor, invoice: int) -> None:
    """An invoice gets its number and is final. Numbers have no gaps, so whoever posts waits for who posts before."""
    number = await cursor.value(LOCK_SEQUENCE)
    await cursor.rows("UPDATE ir_sequence SET number_next = number_next + number_increment WHERE code = 'account.move'")
    await cursor.rows(
        f"""UPDATE account_move SET state = 'posted', name = to_char({NOW}, '"INV/"YYYY/') || lpad($2::int::text, 5, '0'),
          sequence_prefix = to_char({NOW}, '"INV/"YYYY/'), sequence_number = $2::int, posted_before = true,
          payment_reference = $2::int::text, invoice_date_due = {NOW} + interval '30 days', write_uid = 5, write_date = {NOW}
        WHERE id = $1 AND state = 'draft'""",
        invoice,
        number,
    )


LOCK_SEQUENCE = "SELECT number_next FROM ir_sequence WHERE code = 'account.move' FOR UPDATE"


async def browse(cursor: Cursor, model: str) -> None:
    """Somebody looks at a list."""
    table = model.replace(".", "_")
    await cursor.rows(f"SELECT count(*) FROM {table} WHERE create_date > {NOW} - interval '1 hour'")
    await cursor.rows(f"SELECT id, name, state, write_date FROM {table} ORDER BY id DESC LIMIT 40")


async def _ids(cursor: Cursor, statement: str, limit: int) -> list[int]:
    return [row["id"] for row in await cursor.rows(statement, limit)]


async def _still(cursor: Cursor, picking: int, state: str) -> bool:
    return bool(await cursor.rows("SELECT id FROM stock_picking WHERE id = $1 AND state = $2", picking, state))


async def _lock_quants(cursor: Cursor, picking: int) -> None:
    await cursor.rows(
        f"""SELECT id FROM stock_quant WHERE location_id = {STOCK_LOCATION}
          AND product_id IN (SELECT product_id FROM stock_move WHERE picking_id = $1) ORDER BY id FOR UPDATE""",
        picking,
    )


async def _set_picking(cursor: Cursor, picking: int, changes: str) -> None:
    await cursor.rows(f"UPDATE stock_picking SET {changes}, write_uid = 4, write_date = {NOW} WHERE id = $1", picking)
