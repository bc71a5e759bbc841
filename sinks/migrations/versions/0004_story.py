"""How a story hangs together with others, and why nobody hears of it: which incidents of this week were none by themselves?

    SELECT id, merged_into, title FROM incidents_current WHERE merged_into IS NOT NULL AND time >= now() - INTERVAL '7 days';

Of incidents that were stored before none of it is known.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS = (
    """ALTER TABLE incidents
        ADD COLUMN merged_into text,
        ADD COLUMN split_from text,
        ADD COLUMN flapping boolean NOT NULL DEFAULT false,
        ADD COLUMN silenced jsonb,
        ADD COLUMN recovery jsonb,
        ADD COLUMN inhibited jsonb NOT NULL DEFAULT '[]',
        ADD COLUMN parts jsonb NOT NULL DEFAULT '[]'""",
    # New columns come last, as they stand in the table.
    """CREATE OR REPLACE VIEW incidents_current WITH (security_invoker) AS
        SELECT DISTINCT ON (id) * FROM incidents ORDER BY id, version DESC""",
)


def upgrade() -> None:
    """The columns of a story, also in the view of the present incidents."""
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
