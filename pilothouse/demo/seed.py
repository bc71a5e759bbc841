"""The company before the demo: what it sells, whom to, how it ships, and orders that are long done."""

from __future__ import annotations

from typing import NamedTuple

PRODUCTS, PARTNERS, ORDERS = 60, 200, 3_000
STOCK_LOCATION, CUSTOMERS = 8, 5

SEED = """
INSERT INTO res_currency (id, name, symbol, active) VALUES (1, 'EUR', '€', true);
INSERT INTO res_partner (name, active, ref)
  SELECT 'Customer ' || n, true, 'C' || lpad(n::text, 4, '0') FROM generate_series(1, {partners}) n;
INSERT INTO res_company (name, partner_id, currency_id) VALUES ({company}, 1, 1);
INSERT INTO res_users (login, company_id, partner_id, active, share, notification_type)
  SELECT login, 1, 1, true, false, 'email' FROM unnest(ARRAY['__system__', 'admin', 'sales', 'warehouse', 'finance']) login;
INSERT INTO product_product (default_code, active, product_tmpl_id)
  SELECT 'SKU' || lpad(n::text, 4, '0'), true, n FROM generate_series(1, {products}) n;
INSERT INTO ir_module_module (name, state, latest_version, application)
  SELECT name, 'installed', '{version}.0.1.0', true
  FROM unnest(ARRAY['base', 'sale_management', 'stock', 'stock_delivery', 'account', 'queue_job']) name;
INSERT INTO ir_sequence (name, code, implementation, prefix, padding, number_next, number_increment, active, company_id)
  VALUES ('Customer Invoices', 'account.move', 'no_gap', 'INV/{year}/', 5, {next}, 1, true, 1),
         ('Sales Order', 'sale.order', 'standard', 'S', 5, 1, 1, true, 1);
CREATE SEQUENCE ir_sequence_002 START {next};
CREATE SEQUENCE ir_sequence_003 START {next};
INSERT INTO account_journal (name, code, type, company_id) VALUES ('{{"en_US": "Customer Invoices"}}', 'INV', 'sale', 1);
INSERT INTO stock_warehouse (name, code, company_id, lot_stock_id, active) VALUES ('Main', 'WH', 1, {stock}, true);
INSERT INTO stock_picking_type (name, code, sequence_code, warehouse_id, company_id, active)
  VALUES ('{{"en_US": "Delivery Orders"}}', 'outgoing', 'OUT', 1, 1, true),
         ('{{"en_US": "Receipts"}}', 'incoming', 'IN', 1, 1, true);
INSERT INTO delivery_carrier (name, delivery_type, integration_level, active, product_id)
  SELECT jsonb_build_object('en_US', name), 'parcel', 'rate_and_ship', true, 1 FROM unnest(ARRAY[{carriers}]) name;
INSERT INTO stock_quant (product_id, company_id, location_id, quantity, reserved_quantity, in_date)
  SELECT n, 1, {stock}, 100000, 0, now() FROM generate_series(1, {products}) n;
INSERT INTO queue_job_channel (name, complete_name, removal_interval) VALUES ('root', 'root', 30), ('carrier', 'root.carrier', 30);
INSERT INTO ir_cron (ir_actions_server_id, user_id, interval_number, interval_type, priority, active, cron_name, nextcall, lastcall)
  SELECT n + 100, 1, 1, 'minutes', 5, true, name, {now} + n * interval '{stagger} s', {now} - interval '1 minute'
  FROM unnest(ARRAY[{crons}]) WITH ORDINALITY cron (name, n);
INSERT INTO sale_order (name, state, company_id, partner_id, partner_invoice_id, partner_shipping_id, currency_id, user_id,
    warehouse_id, carrier_id, invoice_status, delivery_status, picking_policy, amount_untaxed, amount_tax, amount_total,
    locked, date_order, effective_date, create_uid, write_uid, create_date, write_date)
  SELECT 'S' || lpad(n::text, 5, '0'), 'sale', 1, partner, partner, partner, 1, 3, 1, n % 3 + 1, 'invoiced', 'full', 'direct',
    100, 20, 120, false, ordered, left_house, 3, 5, ordered, left_house
  FROM generate_series(1, {orders}) n, LATERAL (SELECT n % {partners} + 1 AS partner,
    {now} - (770 - n / 4.0) * interval '1 hour' AS ordered, {now} - (768 - n / 4.0) * interval '1 hour' AS left_house) d;
INSERT INTO sale_order_line (order_id, sequence, product_id, state, name, product_uom_qty, price_unit, price_subtotal,
    price_total, qty_delivered, qty_invoiced, qty_to_invoice, invoice_status, customer_lead, create_date, write_date)
  SELECT id, 10, id % {products} + 1, 'sale', 'SKU', 1, 100, 100, 120, 1, 1, 0, 'invoiced', 0, create_date, write_date
  FROM sale_order;
INSERT INTO stock_picking (name, state, origin, move_type, priority, location_id, location_dest_id, picking_type_id,
    partner_id, company_id, sale_id, carrier_id, carrier_tracking_ref, scheduled_date, date_deadline, date_done,
    create_uid, write_uid, create_date, write_date)
  SELECT 'WH/OUT/' || lpad(id::text, 5, '0'), 'done', name, 'direct', '0', {stock}, {customers}, 1, partner_id, 1, id,
    carrier_id, 'T' || id, date_order, date_order, effective_date, 3, 4, date_order, effective_date FROM sale_order;
INSERT INTO account_move (name, state, move_type, auto_post, journal_id, company_id, partner_id, currency_id, date,
    invoice_date, invoice_origin, payment_state, amount_untaxed, amount_tax, amount_total, amount_residual,
    create_uid, write_uid, create_date, write_date)
  SELECT 'INV/{year}/' || lpad(id::text, 5, '0'), 'posted', 'out_invoice', 'no', 1, 1, partner_id, 1, date_order, date_order,
    name, 'paid', 100, 20, 120, 0, 5, 5, effective_date, effective_date FROM sale_order;
ANALYZE;
"""


class Crons(NamedTuple):
    """Scheduled actions, one after the other within an interval."""

    names: tuple[str, ...]
    interval_s: int


def seed(version: int, year: int, company: str, crons: Crons, carriers: tuple[str, ...]) -> str:
    """Statements that fill the tables with a company that has been in business for a while."""
    return SEED.format(
        version=version,
        company=_quoted(company),
        crons=", ".join(map(_quoted, crons.names)),
        stagger=crons.interval_s / len(crons.names),
        carriers=", ".join(map(_quoted, carriers)),
        products=PRODUCTS,
        partners=PARTNERS,
        orders=ORDERS,
        next=ORDERS + 1,
        stock=STOCK_LOCATION,
        customers=CUSTOMERS,
        now="(now() AT TIME ZONE 'UTC')",
        year=year,
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
