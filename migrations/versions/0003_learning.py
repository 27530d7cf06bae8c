"""What made the embeddings, and drift of what is looked at, in blocks of studies."""

import sqlalchemy as sa
from alembic import op

from triage.database.columns import documents, index, integers, key, refers, texts, times

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

GROUP = ("bundle_digest", "modality", "body_part_examined", "device")


def upgrade() -> None:
    op.create_table(
        "model_scopes",
        *texts("bundle_digest", "cache_scope", "view", "bundle_name", "bundle_version"),
        *times("first_at"),
        sa.PrimaryKeyConstraint("bundle_digest", "cache_scope", name="pk_model_scopes"),
    )
    op.create_table(
        "drift_groups",
        *key("drift_groups"),
        *texts(*GROUP),
        *integers("waiting", "blocks"),
    )
    index("uq_drift_groups_named", "drift_groups", *GROUP, unique=True)
    op.create_table(
        "drift_looks",
        *refers("drift_looks", "group_id", "drift_groups"),
        *refers("drift_looks", "result_id", "results"),
        sa.PrimaryKeyConstraint("group_id", "result_id", name="pk_drift_looks"),
    )
    op.create_table(
        "drift_blocks",
        *key("drift_blocks"),
        *refers("drift_blocks", "group_id", "drift_groups"),
        *times("started_at", "ended_at"),
        *documents("figures"),
        sa.Column("features", sa.LargeBinary(), nullable=False),
    )
    index("ix_drift_blocks_group_id", "drift_blocks", "group_id")


def downgrade() -> None:
    for table in ("drift_blocks", "drift_looks", "drift_groups", "model_scopes"):
        op.drop_table(table)
    # An older program watches for no drift, so its alarms would never end.
    op.execute("DELETE FROM alarms WHERE code = 'drift'")
    # What was counted is gone: the next upgrade counts from the beginning.
    op.execute("DELETE FROM history_marks WHERE name = 'drift'")
