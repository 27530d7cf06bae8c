"""The clinical tables: studies, series, instances, their events, results, captions, embeddings.

`migrations/` makes them and a test compares the two. Everything is written by Core statements on
a `Connection`: the classes only name columns. The states in CHECK constraints are those of
`triage.records`. DICOM attributes are named by their keyword (PS3.6) in snake_case.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from triage.database.base import Base, Key, one_of
from triage.records import Analysis, Mode, ObjectState, Rank, Source, StudyState, Subject


class Study(Base):
    """One Study Instance UID of one patient: a line of the worklist."""

    __tablename__ = "studies"
    __table_args__ = (
        UniqueConstraint("study_instance_uid", "patient_id", "issuer_of_patient_id"),
        one_of("state", StudyState),
        one_of("analysis", Analysis),
        one_of("priority", Rank),
        one_of("order_priority", Rank),
        one_of("person_priority", Rank),
        Index("ix_studies_accession_number", "accession_number"),
        Index("ix_studies_sort_key", "sort_key", "study_instance_uid", "id"),
        Index("ix_studies_next_change_at", "next_change_at"),
        Index("ix_studies_closes_at", "closes_at"),
        Index("ix_studies_received_at", "received_at"),
        Index("ix_studies_flagged_at", "flagged_at"),
        Index("ix_studies_counts", "state", "analysis", "too_old"),
        Index(
            "ix_studies_open",
            "priority",
            "analysis",
            "flagged_at",
            sqlite_where=text("sort_key IS NOT NULL"),
            postgresql_where=text("sort_key IS NOT NULL"),
        ),
    )
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    study_instance_uid: Mapped[str]
    patient_id: Mapped[str]
    issuer_of_patient_id: Mapped[str]
    # The header as shown: of the newest object that is no conflict.
    accession_number: Mapped[str] = mapped_column(server_default="")
    patient_name: Mapped[str] = mapped_column(server_default="")
    patient_sex: Mapped[str] = mapped_column(server_default="")
    patient_birth_date: Mapped[str] = mapped_column(server_default="")
    referring_physician_name: Mapped[str] = mapped_column(server_default="")
    institution_name: Mapped[str] = mapped_column(server_default="")
    station_name: Mapped[str] = mapped_column(server_default="")
    current_patient_location: Mapped[str] = mapped_column(server_default="")
    sender_ae_title: Mapped[str] = mapped_column(server_default="")
    study_description: Mapped[str] = mapped_column(server_default="")
    study_date: Mapped[str] = mapped_column(server_default="")
    study_time: Mapped[str] = mapped_column(server_default="")
    timezone_offset_from_utc: Mapped[str] = mapped_column(server_default="")
    study_datetime: Mapped[datetime | None]
    modalities_in_study: Mapped[list[Any]]
    body_part_examined: Mapped[str] = mapped_column(server_default="")
    number_of_study_related_instances: Mapped[int] = mapped_column(server_default="0")
    # Arrival.
    received_at: Mapped[datetime]  # first object
    waiting_since: Mapped[datetime]  # first object, or the return to the list
    last_instance_at: Mapped[datetime]  # last object that raised the generation
    window_at: Mapped[datetime]  # first object since the study last closed
    closes_at: Mapped[datetime | None]  # null: closed
    images_expired_at: Mapped[datetime | None]
    state: Mapped[str]
    generation: Mapped[int]
    too_old: Mapped[bool]
    two_patients: Mapped[bool]
    attention: Mapped[str] = mapped_column(server_default="")
    # What was seen.
    analysis: Mapped[str]
    analysis_reason: Mapped[str] = mapped_column(server_default="")
    images_eligible: Mapped[int] = mapped_column(server_default="0")
    images_analysed: Mapped[int] = mapped_column(server_default="0")
    analysed_at: Mapped[datetime | None]
    flagged_at: Mapped[datetime | None]  # flag of this generation
    first_flagged_at: Mapped[datetime | None]
    findings: Mapped[list[Any]]
    models: Mapped[list[Any]]
    caption: Mapped[str] = mapped_column(server_default="")
    not_for_clinical_use: Mapped[bool]
    # The order of reading; sort_key is null off the reading list.
    priority: Mapped[str]
    priority_source: Mapped[str]
    priority_reason: Mapped[str] = mapped_column(server_default="")
    order_priority: Mapped[str]
    order_priority_source: Mapped[str]
    sort_key: Mapped[str | None]
    next_change_at: Mapped[datetime | None]
    # Persons' decisions, each with the generation and flagged findings it was made on.
    person_priority: Mapped[str | None]
    person_priority_by: Mapped[str | None]
    person_priority_at: Mapped[datetime | None]
    person_priority_generation: Mapped[int | None]
    person_priority_findings: Mapped[list[Any] | None]
    acknowledged_at: Mapped[datetime | None]
    acknowledged_by: Mapped[str | None]
    acknowledged_generation: Mapped[int | None]
    acknowledged_findings: Mapped[list[Any] | None]


class Series(Base):
    """One series of one study; its window closes by silence or by age."""

    __tablename__ = "series"
    __table_args__ = (
        UniqueConstraint("study_id", "series_instance_uid"),
        Index("ix_series_closes_at", "closes_at"),
    )
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    study_id: Mapped[int] = mapped_column(Key, ForeignKey("studies.id"))
    series_instance_uid: Mapped[str]
    modality: Mapped[str] = mapped_column(server_default="")
    window_at: Mapped[datetime]  # first object since the series last closed
    first_instance_at: Mapped[datetime]
    last_instance_at: Mapped[datetime]
    closes_at: Mapped[datetime | None]  # null: closed, or nothing to look at as a series
    images: Mapped[int]  # those looked at with the series
    generation: Mapped[int]


class Instance(Base):
    """One object held on disk. A duplicate makes no second row; it is counted here."""

    __tablename__ = "instances"
    __table_args__ = (
        UniqueConstraint("digest"),
        one_of("state", ObjectState),
        one_of("source", Source),
        one_of("subject", Subject),
        Index("ix_instances_sop_instance_uid", "sop_instance_uid"),
        Index("ix_instances_study_id_subject", "study_id", "subject"),
        Index("ix_instances_series_id", "series_id"),
        Index(
            "ix_instances_conflicts",
            "study_id",
            sqlite_where=text("state = 'conflict'"),
            postgresql_where=text("state = 'conflict'"),
        ),
        Index("ix_instances_path", "path"),
        Index("ix_instances_received_at", "received_at"),
    )
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    study_id: Mapped[int] = mapped_column(Key, ForeignKey("studies.id"))
    series_id: Mapped[int] = mapped_column(Key, ForeignKey("series.id"))
    sop_instance_uid: Mapped[str]
    sop_class_uid: Mapped[str]
    transfer_syntax_uid: Mapped[str]
    digest: Mapped[str]
    path: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    source: Mapped[str]
    sender_ae_title: Mapped[str]
    received_at: Mapped[datetime]
    state: Mapped[str]
    # How it is looked at: alone, with its series, or (null) not at all: it has no pixels, waits
    # for the comparison with the object that it contests, or has lost it.
    subject: Mapped[str | None]
    contests_id: Mapped[int | None] = mapped_column(Key, ForeignKey("instances.id"))
    pixel_digest: Mapped[str | None]
    header: Mapped[dict[str, Any]]
    generation: Mapped[int]
    duplicates: Mapped[int] = mapped_column(server_default="0")
    last_duplicate_at: Mapped[datetime | None]
    expired_at: Mapped[datetime | None]


class ObjectEvent(Base):
    """One disposition of one received object, refused ones included."""

    __tablename__ = "object_events"
    __table_args__ = (
        one_of("state", ObjectState),
        Index("ix_object_events_sop_instance_uid", "sop_instance_uid"),
        Index("ix_object_events_at", "at", "state"),
    )
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    at: Mapped[datetime]
    sop_instance_uid: Mapped[str]
    instance_id: Mapped[int | None] = mapped_column(Key, ForeignKey("instances.id"))
    state: Mapped[str]
    source: Mapped[str]
    sender_ae_title: Mapped[str]
    reason: Mapped[str]


class ResultRow(Base):
    """What one bundle said of one subject; superseded ones stay, no longer current."""

    __tablename__ = "results"
    __table_args__ = (
        one_of("subject", Subject),
        one_of("mode", Mode),
        one_of("analysis", Analysis),
        Index(
            "uq_results_current",
            "subject",
            "subject_id",
            "bundle_digest",
            "mode",
            unique=True,
            sqlite_where=text("current = 1"),
            postgresql_where=text("current"),
        ),
        Index("ix_results_study_id", "study_id"),
        Index("ix_results_created_at", "created_at"),
    )
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    subject: Mapped[str]
    subject_id: Mapped[int] = mapped_column(Key)
    study_id: Mapped[int] = mapped_column(Key, ForeignKey("studies.id"))
    generation: Mapped[int]
    bundle_name: Mapped[str]
    bundle_version: Mapped[str]
    bundle_digest: Mapped[str]  # empty: no bundle spoke
    mode: Mapped[str]
    analysis: Mapped[str]
    reason: Mapped[str]
    findings: Mapped[list[Any]]
    distance: Mapped[float | None]
    not_for_clinical_use: Mapped[bool]
    embedding_keys: Mapped[list[Any]]
    current: Mapped[bool]
    created_at: Mapped[datetime]
    job_id: Mapped[int | None] = mapped_column(Key, ForeignKey("jobs.id"))


class CaptionRow(Base):
    """The words about one subject; never read by a decision."""

    __tablename__ = "captions"
    __table_args__ = (
        one_of("subject", Subject),
        Index(
            "uq_captions_current",
            "subject",
            "subject_id",
            unique=True,
            sqlite_where=text("current = 1"),
            postgresql_where=text("current"),
        ),
        Index("ix_captions_study_id", "study_id"),
    )
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    subject: Mapped[str]
    subject_id: Mapped[int] = mapped_column(Key)
    study_id: Mapped[int] = mapped_column(Key, ForeignKey("studies.id"))
    generation: Mapped[int]
    bundle_digest: Mapped[str]
    text: Mapped[str]
    prompt_digest: Mapped[str]
    current: Mapped[bool]
    created_at: Mapped[datetime]


class Embedding(Base):
    """One vector, kept under the digest of everything that made it (DESIGN section 3.8)."""

    __tablename__ = "embeddings"
    key: Mapped[str] = mapped_column(primary_key=True)
    dimension: Mapped[int]
    vector: Mapped[bytes]  # float32, little endian
    created_at: Mapped[datetime]
