"""What was decided of each change: which ones regressed last month, who made them, and did it help to take them back?

A change that was judged is told several times under one id: regressed, then recovered, say. `change_verdicts` has one row a
change and cell, with the last verdict, and whether it had ever been called a regression.

    SELECT cause, author, verdict, judged, summary FROM change_verdicts
    WHERE regressed AND started >= date_trunc('month', now()) - INTERVAL '1 month' AND started < date_trunc('month', now());

Signals that were stored before have no verdict here; reading the topic into a new store gives it to them.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE signals ADD COLUMN verdict text, ADD COLUMN expected timestamptz",
    "CREATE INDEX signals_verdict ON signals (started) WHERE verdict IS NOT NULL",
    # New columns come last, as they stand in the table.
    """CREATE OR REPLACE VIEW signals_current WITH (security_invoker) AS
        SELECT DISTINCT ON (id) * FROM signals ORDER BY id, time DESC, sequence DESC""",
    # Like every finding, seen by a tenant's reader where it concerns that tenant alone.
    """CREATE VIEW change_verdicts WITH (security_invoker) AS
        WITH judged AS (
            SELECT DISTINCT ON (id) id, cell, cause, started, time AS judged, verdict, severity, score, summary, advice,
                tenant, tenants, bool_or(verdict IN ('regressed', 'not_recovered')) OVER (PARTITION BY id) AS regressed
            FROM signals WHERE verdict IS NOT NULL ORDER BY id, time DESC, sequence DESC)
        SELECT judged.*, made.change_id, made.kind, made.service, made.revision, made.previous_revision,
            made.tenants AS changed_tenants, made.author, made.approver, made.url
        FROM judged LEFT JOIN LATERAL (
            SELECT * FROM changes
            WHERE changes.cell = judged.cell AND changes.kind || ':' || changes.service || '@' || changes.revision = judged.cause
                AND changes.time <= judged.judged
            ORDER BY abs(extract(epoch FROM changes.time - judged.started)) LIMIT 1) made ON true""",
    "GRANT SELECT ON change_verdicts TO pilothouse_reader, pilothouse_operator",
)


def upgrade() -> None:
    """Columns of what a signal says of a change and of a forecast, and the view of the verdicts."""
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
