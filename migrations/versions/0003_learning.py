"""What made the embeddings, and drift of what is looked at, in blocks of studies."""

import sqlalchemy as sa
from alembic import op

from triage.database.columns import documents, index, key, texts, times

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
        "drift_blocks",
        *key("drift_blocks"),
        *texts(*GROUP),
        *times("started_at"),
        *times("ended_at", null=True),
        *documents("result_ids", "figures"),
        sa.Column("features", sa.LargeBinary(), nullable=False),
    )
    index("ix_drift_blocks_group", "drift_blocks", *GROUP)
    index("uq_drift_blocks_open", "drift_blocks", *GROUP, where="ended_at IS NULL", unique=True)


def downgrade() -> None:
    op.drop_table("drift_blocks")
    op.drop_table("model_scopes")
