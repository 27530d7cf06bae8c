"""The tables for learning from what was seen: what made the embeddings, and drift in blocks.

Sums over many studies and nothing of a single one, so they outlive the images (DESIGN section 4,
"Retention").
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Index, text
from sqlalchemy.orm import Mapped, mapped_column

from triage.database.base import Base, Key


class ModelScope(Base):
    """A bundle that has served or shadowed, and what its embeddings depend on beside the image."""

    __tablename__ = "model_scopes"
    bundle_digest: Mapped[str] = mapped_column(primary_key=True)
    cache_scope: Mapped[str] = mapped_column(primary_key=True)  # DESIGN section 3.8
    view: Mapped[str]  # JSON of the `ViewSpec`
    bundle_name: Mapped[str]
    bundle_version: Mapped[str]
    first_at: Mapped[datetime]


class DriftBlock(Base):
    """Studies of one group in the order in which they were looked at; open until it is full."""

    __tablename__ = "drift_blocks"
    __table_args__ = (
        Index("ix_drift_blocks_group", "bundle_digest", "modality", "body_part_examined", "device"),
        Index(
            "uq_drift_blocks_open",
            "bundle_digest",
            "modality",
            "body_part_examined",
            "device",
            unique=True,
            sqlite_where=text("ended_at IS NULL"),
            postgresql_where=text("ended_at IS NULL"),
        ),
    )
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    bundle_digest: Mapped[str]
    modality: Mapped[str]
    body_part_examined: Mapped[str]
    device: Mapped[str]  # empty: all devices together
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]  # null: still filling
    result_ids: Mapped[list[Any]]  # while it is open
    figures: Mapped[dict[str, Any]]  # of a closed one
    features: Mapped[bytes]  # mean of the random features, float32 little endian; may be empty
