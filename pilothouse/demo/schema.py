"""The tables of Odoo that the demo's databases carry: Odoo's names and types, the columns that its business needs.

They differ by version as Odoo's do; a test compares them with the columns of running Odoo 17, 18 and 19. Columns that
all ordinary models have (create_uid, create_date, write_uid, write_date) are added to every table.
"""

from __future__ import annotations

from collections.abc import Iterator

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
