"""What was received, folded small: totals, the hours of each sender and its habit.

And the count of open studies by priority becomes one of an index.
"""

import sqlalchemy as sa
from alembic import op

from triage.database.columns import big_integers, index, one_of, texts, times

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

OBJECT_STATES = ("stored", "duplicate", "revision", "conflict", "quarantined", "refused")
SOURCES = ("c-store", "folder", "reconcile")
TABLES = ("sender_habits", "sender_hours", "received_totals", "history_marks")


def upgrade() -> None:
    marks = op.create_table(
        "history_marks",
        *texts("name"),
        *big_integers("event_id"),
        sa.PrimaryKeyConstraint("name", name="pk_history_marks"),
    )
    op.bulk_insert(marks, [{"name": "object_events", "event_id": 0}])
    op.create_table(
        "received_totals",
        *texts("source", "state"),
        *big_integers("objects", "size_bytes"),
        sa.PrimaryKeyConstraint("source", "state", name="pk_received_totals"),
        one_of("received_totals", "source", SOURCES),
        one_of("received_totals", "state", OBJECT_STATES),
    )
    op.create_table(
        "sender_hours",
        *texts("ae_title"),
        *times("hour_at", "first_at", "last_at"),
        sa.Column("longest_gap_s", sa.Float(53), nullable=False),
        sa.PrimaryKeyConstraint("ae_title", "hour_at", name="pk_sender_hours"),
    )
    op.create_table(
        "sender_habits",
        *texts("ae_title", "busy_hours"),
        sa.Column("usual_interval_s", sa.Float(53), nullable=True),
        *times("learnt_at"),
        sa.PrimaryKeyConstraint("ae_title", name="pk_sender_habits"),
    )
    index(
        "ix_studies_open",
        "studies",
        "priority",
        "analysis",
        "flagged_at",
        where="sort_key IS NOT NULL",
    )


def downgrade() -> None:
    op.drop_index("ix_studies_open", "studies")
    for table in TABLES:
        op.drop_table(table)
