"""Which of Odoo's tables and columns this database has and this role may read. Versions are never asked for: modules and
forks move columns, so what is there is what counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import asyncpg

TABLES = (
    "account_move",
    "delivery_carrier",
    "ir_cron",
    "ir_cron_progress",
    "ir_module_module",
    "mail_mail",
    "queue_job",
    "queue_job_channel",
    "queue_job_lock",
    "sale_order",
    "stock_picking",
    "stock_picking_type",
    "stock_warehouse",
)
# Not information_schema: it hides what the role may not read, and a missing grant would look like a missing module.
_PROBE = """
    SELECT c.relname AS table, a.attname AS column, t.typname AS type,
           has_column_privilege(c.oid, a.attnum, 'SELECT') AS readable
    FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type t ON t.oid = a.atttypid
    WHERE c.oid IN (SELECT to_regclass(name) FROM unnest($1::text[]) AS name)
"""


@dataclass(frozen=True, slots=True)
class Schema:
    """Types of readable columns by table, the columns that are there but closed to us, and who we are in SQL."""

    open: Mapping[str, Mapping[str, str]]
    closed: Mapping[str, frozenset[str]]
    role: str

    def has(self, table: str, *columns: str) -> bool:
        """Whether all of these can be read."""
        return table in self.open and all(column in self.open[table] for column in columns)

    def hides(self, table: str, *columns: str) -> bool:
        """Whether one of these is there and we may not read it."""
        return any(column in self.closed.get(table, ()) for column in columns)

    def or_null(self, table: str, column: str, alias: str = "d", type_: str = "text") -> str:
        """The column as SQL, NULL where there is none."""
        return f"{alias}.{column}" if self.has(table, column) else f"NULL::{type_}"

    def text(self, table: str, column: str, alias: str) -> str:
        """A text column as SQL; of a translated one (jsonb since 16) the English text or the first there is."""
        if self.open[table][column] != "jsonb":
            return f"{alias}.{column}"
        first = f"(SELECT value FROM jsonb_each_text({alias}.{column}) LIMIT 1)"
        return f"coalesce({alias}.{column} ->> 'en_US', {first})"


async def probe(connection: asyncpg.Connection) -> Schema:
    """What this database has now; one query on the catalogue, a few ms."""
    open_: dict[str, dict[str, str]] = {}
    closed: dict[str, set[str]] = {}
    for row in await connection.fetch(_PROBE, list(TABLES)):
        if row["readable"]:
            open_.setdefault(row["table"], {})[row["column"]] = row["type"]
        else:
            closed.setdefault(row["table"], set()).add(row["column"])
    role = await connection.fetchval("SELECT quote_ident(current_user)")
    return Schema(open_, {table: frozenset(columns) for table, columns in closed.items()}, role)


def epoch_ms(expression: str) -> str:
    """SQL of Unix ms. Odoo's timestamps are UTC without a zone, which is what `epoch` takes them for."""
    return f"floor(extract(epoch FROM {expression}) * 1000)::bigint"
