"""The tables of what was received, folded small: totals, hours of each sender, its habit.

Made from `object_events` by `database.history`, so that neither a status nor a scrape counts a
million rows.
"""

from datetime import datetime

from sqlalchemy import BigInteger
from sqlalchemy.orm import Mapped, mapped_column

from triage.database.base import Base, one_of
from triage.records import ObjectState, Source


class HistoryMark(Base):
    """How far a table of events has been folded."""

    __tablename__ = "history_marks"
    name: Mapped[str] = mapped_column(primary_key=True)
    event_id: Mapped[int] = mapped_column(BigInteger)


class ReceivedTotal(Base):
    """Objects received so far by door and disposition; only ever grows."""

    __tablename__ = "received_totals"
    __table_args__ = (one_of("source", Source), one_of("state", ObjectState))
    source: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(primary_key=True)
    objects: Mapped[int] = mapped_column(BigInteger)
    size_bytes: Mapped[int] = mapped_column(BigInteger)


class SenderHour(Base):
    """One hour in which a sender sent; kept for the weeks that a habit is learnt from."""

    __tablename__ = "sender_hours"
    ae_title: Mapped[str] = mapped_column(primary_key=True)
    hour_at: Mapped[datetime] = mapped_column(primary_key=True)
    first_at: Mapped[datetime]
    last_at: Mapped[datetime]
    longest_gap_s: Mapped[float]


class SenderHabit(Base):
    """What a sender usually does, learnt from its hours (`rules.silence`)."""

    __tablename__ = "sender_habits"
    ae_title: Mapped[str] = mapped_column(primary_key=True)
    busy_hours: Mapped[str]  # 168 characters, Monday 00:00 first: 1 = busy
    usual_interval_s: Mapped[float | None]
    learnt_at: Mapped[datetime]
