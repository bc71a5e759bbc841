"""Which topic an offset belongs to: a topic that is deleted and made anew under its name has another id.

    SELECT topic, topic_id, sum(next_offset) FROM kafka_offsets GROUP BY 1, 2;

An offset that was stored before has no id; the first worker that reads its partition takes it for an offset of the topic
that is there then, unless it lies beyond that topic's end.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """The column of the id, empty where it is not known."""
    op.get_bind().exec_driver_sql(
        "ALTER TABLE kafka_offsets ADD COLUMN IF NOT EXISTS topic_id text NOT NULL DEFAULT ''"
    )
