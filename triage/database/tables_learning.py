"""The tables for learning from what was seen: what made the embeddings, and drift in blocks.

Closed blocks are sums over many studies and nothing of a single one, so they outlive the images
(DESIGN section 4, "Retention").
"""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index
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


class DriftGroup(Base):
    """Whose studies are counted together (`learning.watching.drift.Group`)."""

    __tablename__ = "drift_groups"
    __table_args__ = (
        Index(
            "uq_drift_groups_named",
            "bundle_digest",
            "modality",
            "body_part_examined",
            "device",
            unique=True,
        ),
    )
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    bundle_digest: Mapped[str]
    modality: Mapped[str]
    body_part_examined: Mapped[str]
    device: Mapped[str]  # empty: all devices together
    waiting: Mapped[int]  # its rows in `drift_looks`
    blocks: Mapped[int]  # its rows in `drift_blocks`


class DriftLook(Base):
    """A counted look at a study that no block has summed up yet."""

    __tablename__ = "drift_looks"
    group_id: Mapped[int] = mapped_column(Key, ForeignKey("drift_groups.id"), primary_key=True)
    result_id: Mapped[int] = mapped_column(Key, ForeignKey("results.id"), primary_key=True)


class DriftBlock(Base):
    """Studies of one group, in the order in which they were looked at, summed up."""

    __tablename__ = "drift_blocks"
    __table_args__ = (Index("ix_drift_blocks_group_id", "group_id"),)
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    group_id: Mapped[int] = mapped_column(Key, ForeignKey("drift_groups.id"))
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime]
    figures: Mapped[dict[str, Any]]
    features: Mapped[bytes]  # mean of the random features, float32 little endian; may be empty
