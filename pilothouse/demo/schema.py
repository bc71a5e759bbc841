"""The tables of Odoo that the demo's databases carry: Odoo's names and types, the columns that its business needs.

They differ by version as Odoo's do; a test compares them with the columns of running Odoo 17, 18 and 19. Columns that
all ordinary models have (create_uid, create_date, write_uid, write_date) are added to every table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

VERSIONS = (17, 18, 19)

# One line a column: name, type, `!` for NOT NULL, then the versions that have it if not all do.
TABLES = {
    "res_users": """
        login varchar !
        company_id int4 !
        partner_id int4 !
        active bool
        share bool
        notification_type varchar !
        """,
    "res_partner": """
        name varchar
        company_id int4
        active bool
        ref varchar
        """,
    "res_company": """
        name varchar !
        partner_id int4 !
        currency_id int4 !
        """,
    "res_currency": """
        name varchar !
        symbol varchar !
        active bool
        """,
    "product_product": """
        default_code varchar
        active bool
        product_tmpl_id int4 !
        """,
    "ir_module_module": """
        name varchar !
        state varchar
        latest_version varchar
        application bool
        """,
    "ir_cron": """
        ir_actions_server_id int4 !
        user_id int4 !
        interval_number int4
        numbercall int4 17
        priority int4
        failure_count int4 18,19
        cron_name varchar
        interval_type varchar
        active bool
        doall bool 17
        nextcall timestamp !
        lastcall timestamp
        first_failure_date timestamp 18,19
        """,
    "ir_cron_trigger": """
        cron_id int4
        call_at timestamp
        """,
    "ir_cron_progress": """
        cron_id int4 ! 18,19
        remaining int4 18,19
        done int4 18,19
        timed_out_counter int4 18,19
        deactivate bool 18,19
        """,
    "ir_sequence": """
        name varchar !
        code varchar
        implementation varchar !
        prefix varchar
        padding int4 !
        number_next int4 !
        number_increment int4 !
        active bool
        company_id int4
        """,
    "account_journal": """
        name jsonb !
        code varchar !
        type varchar !
        company_id int4 !
        """,
    "stock_warehouse": """
        name varchar !
        code varchar !
        company_id int4 !
        lot_stock_id int4 !
        active bool
        """,
    "stock_picking_type": """
        name jsonb !
        code varchar !
        sequence_code varchar !
        warehouse_id int4
        company_id int4 !
        active bool
        """,
    "delivery_carrier": """
        name jsonb !
        delivery_type varchar !
        integration_level varchar
        active bool
        product_id int4 !
        """,
    "sale_order": """
        name varchar !
        state varchar
        company_id int4 !
        partner_id int4 !
        partner_invoice_id int4 !
        partner_shipping_id int4 !
        currency_id int4
        user_id int4
        team_id int4
        warehouse_id int4
        carrier_id int4
        procurement_group_id int4 17,18
        client_order_ref varchar
        origin varchar
        invoice_status varchar
        delivery_status varchar
        picking_policy varchar !
        amount_untaxed numeric
        amount_tax numeric
        amount_total numeric
        amount_to_invoice numeric 17
        locked bool
        date_order timestamp !
        commitment_date timestamp
        effective_date timestamp
        """,
    "sale_order_line": """
        order_id int4 !
        sequence int4
        company_id int4
        currency_id int4
        order_partner_id int4
        product_id int4
        product_uom int4 17,18
        product_uom_id int4 19
        state varchar
        name text !
        product_uom_qty numeric !
        price_unit numeric !
        price_subtotal numeric
        price_total numeric
        qty_delivered numeric
        qty_invoiced numeric
        qty_to_invoice numeric
        invoice_status varchar
        customer_lead float8 !
        """,
    "procurement_group": """
        name varchar ! 17,18
        move_type varchar 17,18
        partner_id int4 17,18
        sale_id int4 17,18
        """,
    "stock_reference": """
        name varchar ! 19
        """,
    "stock_picking": """
        name varchar
        state varchar
        origin varchar
        move_type varchar !
        priority varchar
        location_id int4 !
        location_dest_id int4 !
        picking_type_id int4 !
        partner_id int4
        company_id int4
        user_id int4
        sale_id int4
        backorder_id int4
        group_id int4 17,18
        carrier_id int4
        carrier_tracking_ref varchar
        carrier_price numeric
        has_deadline_issue bool
        scheduled_date timestamp
        date_deadline timestamp
        date timestamp 17,18
        date_done timestamp
        """,
    "stock_move": """
        name varchar ! 17,18
        state varchar
        origin varchar
        reference varchar
        priority varchar
        procure_method varchar !
        company_id int4 !
        product_id int4 !
        product_uom int4 !
        product_uom_qty numeric !
        product_qty numeric
        quantity numeric
        picked bool
        location_id int4 !
        location_dest_id int4 !
        picking_id int4
        picking_type_id int4
        group_id int4 17,18
        sale_line_id int4
        warehouse_id int4
        reservation_date date
        date timestamp !
        date_deadline timestamp
        """,
    "stock_quant": """
        product_id int4 !
        company_id int4
        location_id int4 !
        quantity numeric
        reserved_quantity numeric !
        inventory_date date
        in_date timestamp !
        """,
    "account_move": """
        name varchar
        ref varchar
        state varchar !
        move_type varchar !
        auto_post varchar !
        journal_id int4 !
        company_id int4
        partner_id int4
        currency_id int4 !
        sequence_prefix varchar
        sequence_number int4
        date date !
        invoice_date date
        invoice_date_due date
        invoice_origin varchar
        payment_state varchar
        payment_reference varchar
        amount_untaxed numeric
        amount_tax numeric
        amount_total numeric
        amount_residual numeric
        amount_total_signed numeric
        is_move_sent bool
        posted_before bool
        payment_id int4 17
        origin_payment_id int4 18,19
        made_sequence_gap bool 18,19
        checked bool 18,19
        """,
    "mail_mail": """
        mail_message_id int4 !
        state varchar
        failure_type varchar
        failure_reason text
        email_to text
        auto_delete bool
        is_notification bool
        scheduled_date timestamp
        """,
    "queue_job": """
        uuid varchar !
        graph_uuid varchar
        user_id int4
        company_id int4
        name varchar
        model_name varchar
        method_name varchar
        func_string varchar
        state varchar !
        priority int4
        exc_name varchar
        exc_message varchar
        exc_info text
        channel_method_name varchar
        channel varchar
        identity_key varchar
        dependencies text
        result text
        date_created timestamp
        date_started timestamp
        date_enqueued timestamp
        date_done timestamp
        date_cancelled timestamp
        eta timestamp
        exec_time float8
        retry int4
        max_retries int4
        worker_pid int4
        """,
    "queue_job_lock": """
        queue_job_id int4 !
        """,
    "queue_job_channel": """
        name varchar
        complete_name varchar
        parent_id int4
        removal_interval int4 !
        capacity int4 18
        sequential bool 18
        throttle int4 18
        paused bool 18
        """,
    # Of a customer's own module, through which partners' orders come in.
    "edi_import_line": """
        partner_ref varchar
        product_ref varchar
        payload text
        quantity numeric
        """,
}

INDEXES = (
    "sale_order_line (order_id)",
    "sale_order (state)",
    "sale_order (invoice_status)",
    "sale_order (create_date)",
    "stock_picking (state)",
    "stock_picking (sale_id)",
    "stock_picking (name)",
    "stock_move (picking_id)",
    "stock_move (state)",
    "stock_quant (product_id, location_id)",
    "account_move (state)",
    "account_move (journal_id, name)",
    "mail_mail (state)",
    "queue_job (state)",
    "queue_job (uuid)",
    "queue_job_lock (queue_job_id)",
    "ir_cron_progress (cron_id)",
)
MAGIC = "create_uid int4\nwrite_uid int4\ncreate_date timestamp\nwrite_date timestamp\n"

PRODUCTS, PARTNERS, ORDERS = 60, 200, 3_000
STOCK_LOCATION, CUSTOMERS = 8, 5

# The company before the demo: what it sells, whom to, how it ships, and orders that are long done.
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


def columns(table: str, version: int) -> dict[str, tuple[str, bool]]:
    """Columns that the table has in a version, each with its type and whether it is NOT NULL; none: no such table."""
    return {name: (kind, required) for name, kind, required, versions in _parsed(table) if version in versions}


def _parsed(table: str) -> Iterator[tuple[str, str, bool, tuple[int, ...]]]:
    for line in TABLES[table].strip().splitlines():
        name, kind, *more = line.split()
        versions = tuple(int(one) for one in more[-1].split(",")) if more and more[-1] != "!" else VERSIONS
        yield name, kind, "!" in more, versions


def ddl(version: int) -> str:
    """Statements that make the tables and indexes of a version."""
    tables = [table for table in TABLES if columns(table, version)]
    indexes = [index for index in INDEXES if index.split()[0] in tables]
    return "".join(
        [*(_create(table, version) for table in tables), *(f"CREATE INDEX ON {index};\n" for index in indexes)]
    )


def _create(table: str, version: int) -> str:
    own = [f"{name} {kind}{' NOT NULL' * required}" for name, (kind, required) in columns(table, version).items()]
    return f"CREATE TABLE {table} ({', '.join(['id serial PRIMARY KEY', *own, *MAGIC.splitlines()])});\n"


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
