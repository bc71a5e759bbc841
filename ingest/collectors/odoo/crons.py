"""Scheduled actions: `ir_cron`.

Traps: 16 and 17 have no failure columns and advance `lastcall` on failure too; 18 and 19 reset `failure_count` when they
switch a cron off after failures, so the edge of `active` is what tells. Several runs between two looks count as one.
18 and 19 also write down what each run has done: a run that ended with work left and none done, and one that was killed before it
ended (the next one counts it), moved `lastcall` on like any other.
"""

from __future__ import annotations

from typing import Any

from ingest.collector import ERROR, INFO, WARN
from ingest.collectors.odoo.look import Group, Look
from ingest.collectors.odoo.memory import Cron
from ingest.collectors.odoo.schema import Schema, epoch_ms

MAX_CRONS = 500


async def look(look: Look) -> None:
    """Delays, failures and runs of all scheduled actions."""
    schema = look.schema
    rows = await look.connection.fetch(
        f"""
        SELECT d.id, coalesce({schema.or_null("ir_cron", "cron_name")}, 'cron ' || d.id) AS name,
               coalesce(d.active, false) AS active, {epoch_ms("d.nextcall")} AS next_ms,
               {epoch_ms(schema.or_null("ir_cron", "lastcall", type_="timestamp"))} AS last_ms,
               coalesce({schema.or_null("ir_cron", "failure_count", type_="int")}, 0) AS failures,
               coalesce(p.id, 0) AS progress, p.done, p.remaining, p.killed
        FROM ir_cron d LEFT JOIN LATERAL ({_progress(schema)}) p ON true ORDER BY d.id LIMIT {MAX_CRONS}
        """
    )
    _delays(look, [row for row in rows if row["active"]])
    if schema.has("ir_cron", "failure_count"):
        look.gauge("odoo.cron.failing", sum(row["failures"] > 0 for row in rows))
    before = look.memory.crons
    for row in rows:
        _changes(look, row, (before or {}).get(row["id"]))
    look.memory.crons = {
        row["id"]: Cron(row["active"], row["last_ms"], row["failures"], row["progress"]) for row in rows
    }


def _progress(schema: Schema) -> str:
    """The last run of a cron that has ended or follows killed ones, as SQL."""
    if not schema.has("ir_cron_progress", "cron_id", "done", "remaining", "timed_out_counter"):
        return "SELECT 0 AS id, 0 AS done, 0 AS remaining, 0 AS killed"
    return """
        SELECT id, coalesce(done, 0) AS done, coalesce(remaining, 0) AS remaining,
               greatest(coalesce(timed_out_counter, 0) - 1, 0) AS killed
        FROM ir_cron_progress WHERE cron_id = d.id AND coalesce(timed_out_counter, 0) <> 1 ORDER BY id DESC LIMIT 1
    """


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
    if row["progress"] > before.progress:
        _did(look, row, attributes)
    if before.active and not row["active"]:
        _switched_off(look, row["name"], before.failures, attributes)


def _did(look: Look, row: Any, attributes: dict[str, Any]) -> None:
    """A run that was not worth its name."""
    name, killed, remaining = row["name"], row["killed"], row["remaining"]
    if killed:
        body = f"Scheduled action {name!r} was killed {killed} times in a row before it had ended"
        look.event("odoo.cron.killed", WARN, body, {**attributes, "odoo.cron.failures": killed})
    elif remaining and not row["done"]:
        body = f"Scheduled action {name!r} ran and did nothing, though {remaining} records wait for it"
        look.event("odoo.cron.idle", WARN, body, {**attributes, "odoo.cron.remaining": remaining})


def _switched_off(look: Look, name: str, failures: int, attributes: dict[str, Any]) -> None:
    if failures:
        body = f"Scheduled action {name!r} was switched off after {failures} failures; it runs no more"
        look.event("odoo.cron.deactivated", ERROR, body, {**attributes, "odoo.cron.failures": failures})
    else:
        look.event("odoo.cron.switched_off", INFO, f"Scheduled action {name!r} was switched off", attributes)


GROUP = Group("crons", {"ir_cron": ("id", "active", "nextcall")}, look)
