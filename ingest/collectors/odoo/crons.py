"""Scheduled actions: `ir_cron`.

Counted are runs that a look can see: `lastcall` that moved on since the look before, also that of a cron which came and ran
between the two. Several runs between two looks are one.

Traps: 16 and 17 have no failure columns and advance `lastcall` on failure too; 18 and 19 reset `failure_count` when they
switch a cron off after failures, so the edge of `active` is what tells. 18 and 19 also write down what each run has done: a run that ended with work left and none done, and one that was killed before it
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
        SELECT d.id, coalesce({schema.text("ir_cron", "cron_name")}, 'cron ' || d.id) AS name,
               coalesce(d.active, false) AS active, {epoch_ms(schema.time("ir_cron", "nextcall"))} AS next_ms,
               {epoch_ms(schema.time("ir_cron", "lastcall"))} AS last_ms,
               coalesce({schema.whole("ir_cron", "failure_count")}, 0) AS failures,
               coalesce(p.id, 0) AS progress, p.done, p.remaining, p.killed
        FROM {schema.table("ir_cron")} d LEFT JOIN LATERAL ({_progress(schema)}) p ON true
        ORDER BY d.id LIMIT {MAX_CRONS + 1}
        """
    )
    look.left_out += max(0, len(rows) - MAX_CRONS)
    rows = rows[:MAX_CRONS]
    _delays(look, [row for row in rows if row["active"]])
    if schema.has("ir_cron", "failure_count"):
        look.gauge("odoo.cron.failing", sum(row["failures"] > 0 for row in rows))
    before = look.memory.crons
    newest = max(before, default=0) if before is not None else None
    for row in rows:
        with look.row(row):
            _changes(look, row, (before or {}).get(row["id"]), newest)
    look.memory.crons = {
        row["id"]: Cron(row["active"], row["last_ms"], row["failures"], row["progress"]) for row in rows
    }


def _progress(schema: Schema) -> str:
    """The last run of a cron that has ended or follows killed ones, as SQL."""
    if not schema.has("ir_cron_progress", "id", "cron_id", "done", "remaining", "timed_out_counter"):
        return "SELECT 0::bigint AS id, 0 AS done, 0 AS remaining, 0 AS killed"
    return f"""
        SELECT id, coalesce(done, 0) AS done, coalesce(remaining, 0) AS remaining,
               greatest(coalesce(timed_out_counter, 0) - 1, 0) AS killed
        FROM {schema.table("ir_cron_progress")}
        WHERE cron_id = d.id AND coalesce(timed_out_counter, 0) <> 1 ORDER BY id DESC LIMIT 1
    """


def _delays(look: Look, active: list[Any]) -> None:
    delays_s = [look.age_s(row["next_ms"]) for row in active]  # one without a nextcall, or an infinite one, is not late
    look.gauge("odoo.cron.active", len(active))
    look.gauge("odoo.cron.overdue", sum(delay_s > look.options.cron_grace_s for delay_s in delays_s))
    look.gauge("odoo.cron.delay.max", max(delays_s, default=0.0))


def _changes(look: Look, row: Any, before: Cron | None, newest: int | None) -> None:
    """Runs and events since the last look. `newest` is the highest id that was known then, None at the first look: a cron
    beyond it has come since, and what it ran it ran since."""
    has_come = newest is not None and row["id"] > newest
    known_ms = before.last_ms if before is not None else None
    ran = (before is not None or has_come) and row["last_ms"] is not None and row["last_ms"] != known_ms
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
