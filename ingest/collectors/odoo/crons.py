"""Scheduled actions: `ir_cron`.

Traps: 16 and 17 have no failure columns and advance `lastcall` on failure too; 18 and 19 reset `failure_count` when they
switch a cron off after failures, so the edge of `active` is what tells. Several runs between two looks count as one.
"""

from __future__ import annotations

from typing import Any

from ingest.collectors.odoo.look import Group, Look
from ingest.collectors.odoo.memory import Cron
from ingest.collectors.odoo.schema import epoch_ms

MAX_CRONS = 500
INFO, WARN, ERROR = 9, 13, 17


async def look(look: Look) -> None:
    """Delays, failures and runs of all scheduled actions."""
    schema = look.schema
    rows = await look.connection.fetch(
        f"""
        SELECT d.id, coalesce({schema.or_null("ir_cron", "cron_name")}, 'cron ' || d.id) AS name,
               coalesce(d.active, false) AS active, {epoch_ms("d.nextcall")} AS next_ms,
               {epoch_ms(schema.or_null("ir_cron", "lastcall", type_="timestamp"))} AS last_ms,
               coalesce({schema.or_null("ir_cron", "failure_count", type_="int")}, 0) AS failures
        FROM ir_cron d ORDER BY d.id LIMIT {MAX_CRONS}
        """
    )
    _delays(look, [row for row in rows if row["active"]])
    if schema.has("ir_cron", "failure_count"):
        look.gauge("odoo.cron.failing", sum(row["failures"] > 0 for row in rows))
    before = look.memory.crons
    for row in rows:
        _changes(look, row, (before or {}).get(row["id"]))
    look.memory.crons = {row["id"]: Cron(row["active"], row["last_ms"], row["failures"]) for row in rows}


def _delays(look: Look, active: list[Any]) -> None:
    delays_s = [look.age_s(row["next_ms"]) for row in active]
    look.gauge("odoo.cron.active", len(active))
    look.gauge("odoo.cron.overdue", sum(delay_s > look.options.cron_grace_s for delay_s in delays_s))
    look.gauge("odoo.cron.delay.max", max(delays_s, default=0.0))


def _changes(look: Look, row: Any, before: Cron | None) -> None:
    """Runs and events since the last look; of a cron not seen before nothing but that it is there."""
    ran = before is not None and row["last_ms"] is not None and row["last_ms"] != before.last_ms
    if row["active"] or ran:
        look.count("odoo.cron.runs", float(ran), {"odoo.cron.name": row["name"]})
    if before is None:
        return
    attributes = {"odoo.cron.name": row["name"], "odoo.cron.id": row["id"]}
    if row["failures"] > before.failures:
        body = f"Scheduled action {row['name']!r} has failed {row['failures']} times in a row"
        look.event("odoo.cron.failing", WARN, body, {**attributes, "odoo.cron.failures": row["failures"]})
    if before.active and not row["active"]:
        _switched_off(look, row["name"], before.failures, attributes)


def _switched_off(look: Look, name: str, failures: int, attributes: dict[str, Any]) -> None:
    if failures:
        body = f"Scheduled action {name!r} was switched off after {failures} failures; it runs no more"
        look.event("odoo.cron.deactivated", ERROR, body, {**attributes, "odoo.cron.failures": failures})
    else:
        look.event("odoo.cron.switched_off", INFO, f"Scheduled action {name!r} was switched off", attributes)


GROUP = Group("crons", {"ir_cron": ("id", "active", "nextcall")}, look)
