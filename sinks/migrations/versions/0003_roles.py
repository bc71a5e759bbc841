"""Whom each incident concerns: what has each role been called to this week?

    SELECT role, count(DISTINCT id) FROM incidents, unnest(roles) AS role WHERE time >= now() - INTERVAL '7 days' GROUP BY role;

Incidents that were stored before concern nobody in particular.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE incidents ADD COLUMN roles text[] NOT NULL DEFAULT '{}'",
    # New columns come last, as they stand in the table.
    """CREATE OR REPLACE VIEW incidents_current WITH (security_invoker) AS
        SELECT DISTINCT ON (id) * FROM incidents ORDER BY id, version DESC""",
)


def upgrade() -> None:
    """The column of the roles, also in the view of the present incidents."""
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
