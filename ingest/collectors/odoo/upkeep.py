"""Mails that do not leave, and modules that stop everything while they change.

A refused SMTP connection leaves no line in the log, only `mail_mail.state = exception`. While one module is in a state
`to ...`, every cron of the database is skipped.
"""

from __future__ import annotations

from ingest.collector import INFO, WARN
from ingest.collectors.odoo.look import Group, Look
from ingest.collectors.odoo.schema import epoch_ms

MAX_NAMES = 50
MAX_MODULES = 2_000


async def mails(look: Look) -> None:
    """The oldest mail that waits, and how many were refused."""
    schema = look.schema
    # Up to 16 scheduled_date is text; a mail for later does not wait.
    timed = schema.has("mail_mail", "scheduled_date")
    due = "(d.scheduled_date IS NULL OR d.scheduled_date <= $1)" if timed else "$1::timestamp IS NOT NULL"
    since = f"min({schema.time('mail_mail', 'create_date')}) FILTER (WHERE d.state = 'outgoing' AND {due})"
    row = await look.connection.fetchrow(
        f"""
        SELECT {epoch_ms(since)} AS since_ms, count(*) FILTER (WHERE d.state = 'exception') AS failed
        FROM {schema.table("mail_mail")} d WHERE d.state IN ('outgoing', 'exception')
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
    name, table = look.schema.text("ir_module_module", "name"), look.schema.table("ir_module_module")
    rows = await look.connection.fetch(
        f"SELECT {name} AS name FROM {table} d WHERE d.state LIKE 'to %' ORDER BY 1 LIMIT {MAX_MODULES}"
    )
    changing = [row["name"] or "?" for row in rows]
    look.gauge("odoo.module.changing", len(changing))
    before = look.memory.modules_changing or []
    if bool(changing) != bool(before):
        names = ",".join(changing[:MAX_NAMES] or before[:MAX_NAMES])
        body = f"Modules change, crons are skipped: {names}" if changing else f"Modules have changed: {names}"
        attributes: dict[str, object] = {"odoo.module.count": len(changing), "odoo.module.names": names}
        look.event("odoo.module.changing", WARN if changing else INFO, body, attributes)
    look.memory.modules_changing = changing[:MAX_NAMES]


MAILS = Group("mails", {"mail_mail": ("state", "create_date")}, mails)
MODULES = Group("modules", {"ir_module_module": ("name", "state")}, modules)
