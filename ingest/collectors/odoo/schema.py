"""Which of Odoo's tables and columns this database has, which this role may read, and which are safe to read.

Versions are never asked for: modules and forks move columns, so what is there is what counts. Whoever owns the database may
put anything in a table's place, and some of it runs code with the rights of whoever reads it: views and rules, policies of
row security, and functions in indexes, statistics and partition keys, which the planner calls when it reads the table. So
only plain and partitioned tables are read, by their whole name, never their heirs; only columns of PostgreSQL's own types;
and none to which functions, operators or types of somebody who is no superuser belong. It is looked at anew at every look.
Source: PostgreSQL, src/backend/optimizer/util/plancat.c and utils/cache/relcache.c (where expressions are folded); pg_dump's
defence, restrict_nonsystem_relation_kind (CVE-2024-7348).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import asyncpg

INTEGERS = frozenset({"int2", "int4", "int8"})
NUMBERS = frozenset({*INTEGERS, "numeric", "float4", "float8"})
TEXTS = frozenset({"varchar", "text", "bpchar"})
TRANSLATED = frozenset({*TEXTS, "jsonb"})
TIMES = frozenset({"timestamp"})
BOOLEANS = frozenset({"bool"})

# The columns that are read, and which of PostgreSQL's types each may have; any other type is as good as no column.
TABLES: dict[str, dict[str, frozenset[str]]] = {
    "account_move": {
        **dict.fromkeys(("id", "company_id"), INTEGERS),
        **dict.fromkeys(("name", "state", "move_type", "invoice_origin"), TEXTS),
        **dict.fromkeys(("create_date", "write_date"), TIMES),
        **dict.fromkeys(("amount_total", "amount_total_signed"), NUMBERS),
        "invoice_date_due": frozenset({"date", "timestamp"}),
    },
    "delivery_carrier": {"id": INTEGERS, "name": TRANSLATED},
    "ir_cron": {
        "id": INTEGERS,
        "cron_name": TRANSLATED,
        "active": BOOLEANS,
        **dict.fromkeys(("nextcall", "lastcall"), TIMES),
        "failure_count": INTEGERS,
    },
    "ir_cron_progress": dict.fromkeys(("id", "cron_id", "done", "remaining", "timed_out_counter"), INTEGERS),
    "ir_module_module": {"name": TEXTS, "state": TEXTS},
    "mail_mail": {"state": TEXTS, "create_date": TIMES, "scheduled_date": TIMES},
    "queue_job": {
        "id": INTEGERS,
        **dict.fromkeys(("state", "channel", "model_name", "method_name", "exc_name"), TEXTS),
        **dict.fromkeys(("date_created", "date_enqueued", "date_started", "date_done", "eta"), TIMES),
    },
    "queue_job_channel": {"id": INTEGERS, "complete_name": TEXTS},
    "queue_job_lock": {"queue_job_id": INTEGERS},
    "res_company": dict.fromkeys(("id", "currency_id"), INTEGERS),
    "res_currency": {"id": INTEGERS, "name": TEXTS},
    "sale_order": {
        **dict.fromkeys(("id", "company_id", "warehouse_id", "carrier_id"), INTEGERS),
        **dict.fromkeys(("name", "state", "delivery_status", "invoice_status"), TEXTS),
        **dict.fromkeys(("create_date", "write_date", "date_order", "commitment_date"), TIMES),
        **dict.fromkeys(("amount_total", "currency_rate"), NUMBERS),
    },
    "stock_picking": {
        **dict.fromkeys(("id", "company_id", "sale_id", "picking_type_id", "carrier_id"), INTEGERS),
        **dict.fromkeys(("name", "state", "origin"), TEXTS),
        **dict.fromkeys(("create_date", "write_date", "date_done", "date_deadline", "scheduled_date"), TIMES),
    },
    "stock_picking_type": dict.fromkeys(("id", "warehouse_id"), INTEGERS),
    "stock_warehouse": {"id": INTEGERS, "name": TRANSLATED},
}
LONGEST_TEXT = 255
LARGEST_TEXT_BYTES = 8_192
"""As stored, so perhaps compressed: a larger text is not unpacked at all."""
LARGEST_JSON_BYTES = 65_536
MAX_AMOUNT = "1e18"

_KINDS = {"v": "a view", "m": "a materialised view", "f": "a foreign table"}
# Not information_schema: it hides what the role may not read, and a missing grant would look like a missing module.
# A dependency on what PostgreSQL itself brought is not recorded; one on an extension's function has a superuser as owner.
_PROBE = """
    WITH RECURSIVE wanted AS (
        SELECT c.oid, c.relname, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $2::text AND c.relname = ANY($1::text[])
    ), tree (root, oid) AS (
        SELECT oid, oid FROM wanted
        UNION SELECT tree.root, i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid
    ), part (root, classid, objid) AS (
        SELECT root, 'pg_class'::regclass::oid, oid FROM tree
        UNION ALL SELECT tree.root, 'pg_class'::regclass, i.indexrelid FROM tree JOIN pg_index i ON i.indrelid = tree.oid
        UNION ALL SELECT tree.root, 'pg_statistic_ext'::regclass, s.oid
                  FROM tree JOIN pg_statistic_ext s ON s.stxrelid = tree.oid
    ), code AS (
        SELECT part.root, min(CASE d.refclassid
                   WHEN 'pg_proc'::regclass THEN 'the function ' || (SELECT proname FROM pg_proc WHERE oid = d.refobjid)
                   WHEN 'pg_operator'::regclass THEN 'the operator ' || (SELECT oprname FROM pg_operator WHERE oid = d.refobjid)
                   ELSE 'the type ' || (SELECT typname FROM pg_type WHERE oid = d.refobjid) END) AS what
        FROM part JOIN pg_depend d ON d.classid = part.classid AND d.objid = part.objid AND d.objsubid = 0
        CROSS JOIN LATERAL (SELECT CASE d.refclassid
            WHEN 'pg_proc'::regclass THEN (SELECT proowner FROM pg_proc WHERE oid = d.refobjid)
            WHEN 'pg_operator'::regclass THEN (SELECT oprowner FROM pg_operator WHERE oid = d.refobjid)
            WHEN 'pg_type'::regclass THEN (SELECT typowner FROM pg_type WHERE oid = d.refobjid) END AS id) AS owner
        WHERE owner.id IS NOT NULL AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = owner.id AND r.rolsuper)
        GROUP BY part.root
    )
    SELECT w.relname::text AS table, w.relkind::text AS kind, row_security_active(w.oid) AS has_policies,
           (SELECT count(*) FROM tree WHERE root = w.oid) > 1 AS has_heirs,
           (SELECT bool_or(c.relkind NOT IN ('r', 'p')) FROM tree JOIN pg_class c ON c.oid = tree.oid
            WHERE tree.root = w.oid AND tree.oid <> w.oid) AS has_odd_heirs,
           (SELECT what FROM code WHERE root = w.oid) AS code,
           a.attname::text AS column,
           CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace AND a.attgenerated <> 'v' THEN t.typname::text END AS type,
           has_column_privilege(w.oid, a.attnum, 'SELECT') AS readable
    FROM wanted w
    JOIN pg_attribute a ON a.attrelid = w.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attname = ANY($3::text[])
"""
_ROLE = """
    SELECT quote_ident(current_user) AS role, CASE WHEN rolsuper THEN 'is a superuser'
        ELSE (SELECT 'is a member of ' || string_agg(m.rolname, ', ') FROM pg_roles m WHERE m.rolname = ANY($1::text[])
              AND pg_has_role(current_user, m.oid, 'MEMBER')) END AS excess
    FROM pg_roles WHERE rolname = current_user
"""
_EXCESSIVE = (
    "pg_monitor",
    "pg_read_all_settings",
    "pg_read_all_stats",
    "pg_read_all_data",
    "pg_write_all_data",
    "pg_read_server_files",
    "pg_write_server_files",
    "pg_execute_server_program",
    "pg_signal_backend",
    "pg_create_subscription",
    "pg_maintain",
    "pg_checkpoint",
)


@dataclass(frozen=True, slots=True)
class Schema:
    """Types of readable columns by table, the columns that are there but closed to us, the tables that are not read and why,
    and who we are in SQL. `name` is the schema's, `excess` what the role may besides reading its tables."""

    open: Mapping[str, Mapping[str, str]]
    closed: Mapping[str, frozenset[str]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    mistyped: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    with_heirs: frozenset[str] = frozenset()
    partitioned: frozenset[str] = frozenset()
    role: str = "the role"
    name: str = "public"
    excess: str | None = None

    def has(self, table: str, *columns: str) -> bool:
        """Whether all of these can be read."""
        return table in self.open and all(column in self.open[table] for column in columns)

    def hides(self, table: str, *columns: str) -> bool:
        """Whether one of these is there and we may not read it."""
        return any(column in self.closed.get(table, ()) for column in columns)

    def table(self, name: str) -> str:
        """The table as SQL: by its whole name, and without heirs, which anybody may add."""
        whole = f"{_quoted(self.name)}.{_quoted(name)}"
        return whole if name in self.partitioned else f"ONLY {whole}"

    def text(self, table: str, column: str, alias: str = "d") -> str:
        """A text as SQL, cut; of a translated one (jsonb since 16) the English text or the first there is; NULL of none."""
        if not self.has(table, column):
            return "NULL::text"
        place = f"{alias}.{column}"
        if self.open[table][column] != "jsonb":
            return f"CASE WHEN pg_column_size({place}) <= {LARGEST_TEXT_BYTES} THEN left({place}::text, {LONGEST_TEXT}) END"
        first = f"(SELECT value FROM jsonb_each_text({place}) LIMIT 1)"
        english = f"coalesce({place} ->> 'en_US', {first})"
        return f"""CASE WHEN pg_column_size({place}) > {LARGEST_JSON_BYTES} THEN NULL
            WHEN jsonb_typeof({place}) = 'object' THEN left({english}, {LONGEST_TEXT})
            WHEN jsonb_typeof({place}) = 'string' THEN left({place} #>> '{{}}', {LONGEST_TEXT}) END"""

    def time(self, table: str, column: str, alias: str = "d") -> str:
        """A time as SQL; NULL where there is none, also in place of an infinite one."""
        if not self.has(table, column):
            return "NULL::timestamp"
        place = f"{alias}.{column}"
        return f"CASE WHEN isfinite({place}) THEN {place}::timestamp END"

    def amount(self, table: str, column: str, alias: str = "d") -> str:
        """A number as SQL that fits into a float; NULL where there is none, and in place of what is none or beyond all measure."""
        if not self.has(table, column):
            return "NULL::float8"
        place = f"{alias}.{column}"
        return f"CASE WHEN abs({place}) < {MAX_AMOUNT} THEN round({place}::numeric, 9)::float8 END"

    def whole(self, table: str, column: str, alias: str = "d") -> str:
        """A whole number as SQL, NULL where there is none."""
        return f"{alias}.{column}::bigint" if self.has(table, column) else "NULL::bigint"


async def probe(connection: asyncpg.Connection, schema: str) -> Schema:
    """What this database has now; two queries on the catalogue, a few ms."""
    wanted = sorted({column for columns in TABLES.values() for column in columns})
    rows = await connection.fetch(_PROBE, list(TABLES), schema, wanted)
    role = await connection.fetchrow(_ROLE, list(_EXCESSIVE))
    return of_rows(rows, schema, role["role"] if role else "the role", role["excess"] if role else None)


def of_rows(rows: list[asyncpg.Record], schema: str, role: str, excess: str | None) -> Schema:
    """The same from the rows of the catalogue, one a column."""
    open_: dict[str, dict[str, str]] = {}
    closed: dict[str, set[str]] = {}
    mistyped: dict[str, dict[str, str]] = {}
    refused = {row["table"]: why for row in rows if (why := _why_not(row))}
    for row in rows:
        table, column, type_ = row["table"], row["column"], row["type"]
        if table in refused or column not in TABLES[table]:
            continue
        if type_ not in TABLES[table][column]:
            mistyped.setdefault(table, {})[column] = type_ or "a type of its own"
        elif row["readable"]:
            open_.setdefault(table, {})[column] = type_
        else:
            closed.setdefault(table, set()).add(column)
    return Schema(
        open_,
        {table: frozenset(columns) for table, columns in closed.items()},
        refused,
        mistyped,
        frozenset(row["table"] for row in rows if row["has_heirs"] and row["kind"] == "r"),
        frozenset(row["table"] for row in rows if row["kind"] == "p"),
        role,
        schema,
        excess,
    )


def epoch_ms(expression: str) -> str:
    """SQL of Unix ms. Odoo's timestamps are UTC without a zone, which is what `epoch` takes them for."""
    return f"floor(extract(epoch FROM {expression}) * 1000)::bigint"


def _why_not(row: asyncpg.Record) -> str | None:
    """Why a table is not read; None when it is."""
    if row["kind"] not in ("r", "p"):
        return f"it is {_KINDS.get(row['kind'], 'no table')}, and reading one runs its owner's code with our rights"
    if row["has_policies"]:
        return "row security is on, and its policies would run their owner's code with our rights"
    if row["code"]:
        return f"{row['code']} belongs to it, which its owner can change, and reading would run it with our rights"
    if row["kind"] == "p" and row["has_odd_heirs"]:
        return "a partition of it is no table"
    return None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
