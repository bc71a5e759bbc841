"""Mails that do not leave, and modules that stop everything while they change.

A refused SMTP connection leaves no line in the log, only `mail_mail.state = exception`. While one module is in a state
`to ...`, every cron of the database is skipped.
"""

from __future__ import annotations

from ingest.collector import INFO, WARN
from ingest.collectors.odoo.look import Group, Look
from ingest.collectors.odoo.schema import epoch_ms
from schemas.records import Scalar

MAX_NAMES = 50


async def mails(look: Look) -> None:
    """The oldest mail that waits, and how many were refused."""
    # Up to 16 scheduled_date is text; a mail for later does not wait.
    timed = look.schema.open["mail_mail"].get("scheduled_date") == "timestamp"
    due = "(scheduled_date IS NULL OR scheduled_date <= $1)" if timed else "$1::timestamp IS NOT NULL"
    row = await look.connection.fetchrow(
        f"""
        SELECT {epoch_ms(f"min(create_date) FILTER (WHERE state = 'outgoing' AND {due})")} AS since_ms,
               count(*) FILTER (WHERE state = 'exception') AS failed
        FROM mail_mail WHERE state IN ('outgoing', 'exception')
        """,
        look.server_time,
    )
    assert row is not None  # an aggregate without GROUP BY gives one row
    look.gauge("odoo.mail.outgoing.age.max", look.age_s(row["since_ms"]))
    look.gauge("odoo.mail.exception", row["failed"])
    before = look.memory.mails_failed
    if before is not None and row["failed"] > before:
        more = row["failed"] - before
        look.event("odoo.mail.exception", WARN, f"{more} more mails were refused", {"odoo.mail.count": more})
    look.memory.mails_failed = row["failed"]


async def modules(look: Look) -> None:
    """Modules in a state `to install`, `to upgrade` or `to remove`."""
    rows = await look.connection.fetch(
        "SELECT name FROM ir_module_module WHERE state LIKE 'to %' ORDER BY name LIMIT 2000"
    )
    changing = [row["name"] for row in rows]
    look.gauge("odoo.module.changing", len(changing))
    before = look.memory.modules_changing or []
    if bool(changing) != bool(before):
        names = ",".join(changing[:MAX_NAMES] or before[:MAX_NAMES])
        body = f"Modules change, crons are skipped: {names}" if changing else f"Modules have changed: {names}"
        attributes: dict[str, Scalar] = {"odoo.module.count": len(changing), "odoo.module.names": names}
        look.event("odoo.module.changing", WARN if changing else INFO, body, attributes)
    look.memory.modules_changing = changing[:MAX_NAMES]


MAILS = Group("mails", {"mail_mail": ("state", "create_date")}, mails)
MODULES = Group("modules", {"ir_module_module": ("name", "state")}, modules)
