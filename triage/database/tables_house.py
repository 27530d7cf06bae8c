"""The tables of the house: jobs, quarantine, folders, alarms, senders, roles, decisions.

Transitions of jobs are those of `triage.rules.jobs`; a test compares the CHECK constraints.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from triage.database.base import Base, Key, one_of
from triage.records import JobKind, JobState, Source, Subject


class JobRow(Base):
    """One unit of work; the lease is (owner, fence)."""

    __tablename__ = "jobs"
    __table_args__ = (
        one_of("kind", JobKind),
        one_of("subject", Subject),
        one_of("state", JobState),
        CheckConstraint(
            "(state = 'leased') = (owner IS NOT NULL AND lease_expires_at IS NOT NULL)",
            name="lease",
        ),
        Index(
            "uq_jobs_open",
            "kind",
            "subject",
            "subject_id",
            unique=True,
            sqlite_where=text("state IN ('queued', 'leased')"),
            postgresql_where=text("state IN ('queued', 'leased')"),
        ),
        Index(
            "ix_jobs_claim",
            "kind",
            "rank",
            "due_at",
            "id",
            sqlite_where=text("state = 'queued'"),
            postgresql_where=text("state = 'queued'"),
        ),
        Index(
            "ix_jobs_lease",
            "lease_expires_at",
            sqlite_where=text("state = 'leased'"),
            postgresql_where=text("state = 'leased'"),
        ),
        Index(
            "ix_jobs_dead",
            "finished_at",
            sqlite_where=text("state = 'dead'"),
            postgresql_where=text("state = 'dead'"),
        ),
        Index("ix_jobs_study_id", "study_id"),
    )
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    kind: Mapped[str]
    subject: Mapped[str]
    subject_id: Mapped[int] = mapped_column(Key)
    study_id: Mapped[int] = mapped_column(Key, ForeignKey("studies.id"))
    generation: Mapped[int]
    state: Mapped[str]
    rank: Mapped[int]  # 0 most urgent
    due_at: Mapped[datetime]
    attempts: Mapped[int]
    owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    fence: Mapped[int]
    error_kind: Mapped[str] = mapped_column(server_default="")
    reason: Mapped[str] = mapped_column(server_default="")
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class JobEvent(Base):
    """One transition of one job."""

    __tablename__ = "job_events"
    __table_args__ = (
        one_of("from_state", JobState),
        one_of("to_state", JobState),
        Index("ix_job_events_job_id", "job_id"),
    )
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    job_id: Mapped[int] = mapped_column(Key, ForeignKey("jobs.id"))
    at: Mapped[datetime]
    from_state: Mapped[str | None]  # null: the job was made
    to_state: Mapped[str]
    reason: Mapped[str]


class Quarantined(Base):
    """One object that was not taken in, kept aside where its bytes exist."""

    __tablename__ = "quarantine"
    __table_args__ = (
        one_of("source", Source),
        CheckConstraint("state IN ('held', 'released', 'discarded')", name="state"),
        Index("ix_quarantine_state", "state", "received_at"),
        Index("ix_quarantine_path", "path"),
    )
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    received_at: Mapped[datetime]
    source: Mapped[str]
    sender_ae_title: Mapped[str]
    sop_instance_uid: Mapped[str]
    sop_class_uid: Mapped[str]
    path: Mapped[str | None]  # relative to the store
    original_path: Mapped[str | None]  # in the watched folder
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    reason_code: Mapped[str]
    reason: Mapped[str]
    state: Mapped[str]
    state_at: Mapped[datetime]
    state_by: Mapped[str]


class FolderEntry(Base):
    """One file of a watched folder that was read: not read again while size and mtime stand."""

    __tablename__ = "folder_entries"
    path: Mapped[str] = mapped_column(primary_key=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    mtime_ns: Mapped[int] = mapped_column(BigInteger)
    outcome: Mapped[str]
    seen_at: Mapped[datetime]


class Alarm(Base):
    """Something a person should know, open until it is cleared."""

    __tablename__ = "alarms"
    __table_args__ = (
        Index(
            "uq_alarms_open",
            "code",
            "subject",
            unique=True,
            sqlite_where=text("cleared_at IS NULL"),
            postgresql_where=text("cleared_at IS NULL"),
        ),
    )
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    code: Mapped[str]
    subject: Mapped[str]  # what it is about: a UID, a path below the store, a role
    message: Mapped[str]
    next_step: Mapped[str]
    raised_at: Mapped[datetime]
    cleared_at: Mapped[datetime | None]


class Sender(Base):
    """When an AE last sent an image, so that silence can be seen."""

    __tablename__ = "senders"
    ae_title: Mapped[str] = mapped_column(primary_key=True)
    last_image_at: Mapped[datetime]
    images: Mapped[int] = mapped_column(BigInteger)


class RoleRow(Base):
    """The heartbeat of one role of one process."""

    __tablename__ = "roles"
    role: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str] = mapped_column(primary_key=True)
    pid: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    started_at: Mapped[datetime]
    last_turn_at: Mapped[datetime]
    state: Mapped[str]
    detail: Mapped[dict[str, Any]]


class Event(Base):
    """One decision of a person, or what the program did to a study without one."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_study_id", "study_id"),)
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    at: Mapped[datetime]
    study_id: Mapped[int | None] = mapped_column(Key, ForeignKey("studies.id"))
    what: Mapped[str]
    by: Mapped[str]
    detail: Mapped[dict[str, Any]]
