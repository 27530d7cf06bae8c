"""The first tables and the view `worklist`.

States are written out, so that this migration stays what it was when the program moves on.
"""

import sqlalchemy as sa
from alembic import op

from triage.database.columns import (
    KEY,
    big_integers,
    blank_texts,
    counts,
    create_view,
    documents,
    drop_view,
    flags,
    holds,
    index,
    integers,
    key,
    one_of,
    refers,
    texts,
    times,
)

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

VIEW = "worklist_0001.sql"  # in migrations/views

OBJECT_STATES = ("stored", "duplicate", "revision", "conflict", "quarantined", "refused")
JOB_KINDS = ("analyse", "caption", "deliver")
JOB_STATES = ("queued", "leased", "done", "dead", "superseded")
RANKS = ("STAT", "HIGH", "MEDIUM", "ROUTINE", "LOW")
ANALYSES = ("pending", "analysed", "not_eligible", "failed")
STUDY_STATES = ("arriving", "ready", "acknowledged", "expired")
SOURCES = ("c-store", "folder", "reconcile")
SUBJECTS = ("image", "series")
MODES = ("serve", "shadow")
HELD_STATES = ("held", "released", "discarded")

HEADER = (
    "accession_number",
    "patient_name",
    "patient_sex",
    "patient_birth_date",
    "referring_physician_name",
    "institution_name",
    "station_name",
    "current_patient_location",
    "sender_ae_title",
    "study_description",
    "study_date",
    "study_time",
    "timezone_offset_from_utc",
)

TABLES = (
    "events",
    "roles",
    "senders",
    "alarms",
    "folder_entries",
    "quarantine",
    "embeddings",
    "captions",
    "results",
    "job_events",
    "jobs",
    "object_events",
    "instances",
    "series",
    "studies",
)


def upgrade() -> None:
    _studies()
    _series()
    _instances()
    _object_events()
    _jobs()
    _job_events()
    _results()
    _captions()
    _embeddings()
    _quarantine()
    _house()
    create_view(VIEW)


def downgrade() -> None:
    drop_view()
    for table in TABLES:
        op.drop_table(table)


# --- studies and what they hold


def _studies() -> None:
    op.create_table(
        "studies",
        *key("studies"),
        *texts("study_instance_uid", "patient_id", "issuer_of_patient_id"),
        *blank_texts(*HEADER, "body_part_examined", "attention"),
        *blank_texts("analysis_reason", "caption", "priority_reason"),
        *texts("state", "analysis", "priority", "priority_source"),
        *texts("order_priority", "order_priority_source"),
        *texts("sort_key", "person_priority", "person_priority_by", null=True),
        *texts("acknowledged_by", null=True),
        *times("received_at", "waiting_since", "last_instance_at", "window_at"),
        *times("study_datetime", "closes_at", "images_expired_at", null=True),
        *times("analysed_at", "flagged_at", "first_flagged_at", "next_change_at", null=True),
        *times("person_priority_at", "acknowledged_at", null=True),
        *integers("generation"),
        *integers("person_priority_generation", "acknowledged_generation", null=True),
        *counts("number_of_study_related_instances", "images_eligible", "images_analysed"),
        *flags("too_old", "two_patients", "not_for_clinical_use"),
        *documents("modalities_in_study", "findings", "models"),
        *documents("person_priority_findings", "acknowledged_findings", null=True),
        sa.UniqueConstraint(
            "study_instance_uid",
            "patient_id",
            "issuer_of_patient_id",
            name="uq_studies_study_instance_uid_patient_id_issuer_of_patient_id",
        ),
        one_of("studies", "state", STUDY_STATES),
        one_of("studies", "analysis", ANALYSES),
        one_of("studies", "priority", RANKS),
        one_of("studies", "order_priority", RANKS),
        one_of("studies", "person_priority", RANKS),
    )
    for column in ("accession_number", "next_change_at", "closes_at", "received_at", "flagged_at"):
        index(f"ix_studies_{column}", "studies", column)
    index("ix_studies_counts", "studies", "state", "analysis", "too_old")
    index("ix_studies_sort_key", "studies", "sort_key", "study_instance_uid", "id")


def _series() -> None:
    op.create_table(
        "series",
        *key("series"),
        *refers("series", "study_id", "studies"),
        *texts("series_instance_uid"),
        *blank_texts("modality"),
        *times("window_at", "first_instance_at", "last_instance_at"),
        *times("closes_at", null=True),
        *integers("images", "generation"),
        sa.UniqueConstraint(
            "study_id", "series_instance_uid", name="uq_series_study_id_series_instance_uid"
        ),
    )
    index("ix_series_closes_at", "series", "closes_at")


def _instances() -> None:
    op.create_table(
        "instances",
        *key("instances"),
        *refers("instances", "study_id", "studies"),
        *refers("instances", "series_id", "series"),
        *refers("instances", "contests_id", "instances", null=True),
        *texts("sop_instance_uid", "sop_class_uid", "transfer_syntax_uid", "digest", "path"),
        *texts("source", "sender_ae_title", "state"),
        *texts("subject", "pixel_digest", null=True),
        *big_integers("size_bytes"),
        *times("received_at"),
        *times("last_duplicate_at", "expired_at", null=True),
        *documents("header"),
        *integers("generation"),
        *counts("duplicates"),
        sa.UniqueConstraint("digest", name="uq_instances_digest"),
        one_of("instances", "state", OBJECT_STATES),
        one_of("instances", "source", SOURCES),
        one_of("instances", "subject", SUBJECTS),
    )
    for column in ("sop_instance_uid", "series_id", "path", "received_at"):
        index(f"ix_instances_{column}", "instances", column)
    index("ix_instances_study_id_subject", "instances", "study_id", "subject")
    index("ix_instances_conflicts", "instances", "study_id", where="state = 'conflict'")


def _object_events() -> None:
    op.create_table(
        "object_events",
        *key("object_events"),
        *times("at"),
        *texts("sop_instance_uid", "state", "source", "sender_ae_title", "reason"),
        *refers("object_events", "instance_id", "instances", null=True),
        one_of("object_events", "state", OBJECT_STATES),
    )
    index("ix_object_events_sop_instance_uid", "object_events", "sop_instance_uid")
    index("ix_object_events_at", "object_events", "at", "state")


# --- the queue


def _jobs() -> None:
    op.create_table(
        "jobs",
        *key("jobs"),
        *texts("kind", "subject", "state"),
        sa.Column("subject_id", KEY, nullable=False),
        *refers("jobs", "study_id", "studies"),
        *integers("generation", "rank", "attempts", "fence"),
        *times("due_at", "created_at"),
        *times("lease_expires_at", "heartbeat_at", "finished_at", null=True),
        *texts("owner", null=True),
        *blank_texts("error_kind", "reason"),
        one_of("jobs", "kind", JOB_KINDS),
        one_of("jobs", "subject", SUBJECTS),
        one_of("jobs", "state", JOB_STATES),
        sa.CheckConstraint(
            "(state = 'leased') = (owner IS NOT NULL AND lease_expires_at IS NOT NULL)",
            name=op.f("ck_jobs_lease"),
        ),
    )
    index(
        "uq_jobs_open",
        "jobs",
        "kind",
        "subject",
        "subject_id",
        unique=True,
        where="state IN ('queued', 'leased')",
    )
    index("ix_jobs_claim", "jobs", "kind", "rank", "due_at", "id", where="state = 'queued'")
    index("ix_jobs_lease", "jobs", "lease_expires_at", where="state = 'leased'")
    index("ix_jobs_dead", "jobs", "finished_at", where="state = 'dead'")
    index("ix_jobs_study_id", "jobs", "study_id")


def _job_events() -> None:
    op.create_table(
        "job_events",
        *key("job_events"),
        *refers("job_events", "job_id", "jobs"),
        *times("at"),
        *texts("from_state", null=True),
        *texts("to_state", "reason"),
        one_of("job_events", "from_state", JOB_STATES),
        one_of("job_events", "to_state", JOB_STATES),
    )
    index("ix_job_events_job_id", "job_events", "job_id")


# --- what was seen


def _results() -> None:
    op.create_table(
        "results",
        *key("results"),
        *texts("subject", "bundle_name", "bundle_version", "bundle_digest"),
        *texts("mode", "analysis", "reason"),
        sa.Column("subject_id", KEY, nullable=False),
        *refers("results", "study_id", "studies"),
        *refers("results", "job_id", "jobs", null=True),
        *integers("generation"),
        *documents("findings", "embedding_keys"),
        sa.Column("distance", sa.Float(53), nullable=True),
        *flags("not_for_clinical_use", "current"),
        *times("created_at"),
        one_of("results", "subject", SUBJECTS),
        one_of("results", "mode", MODES),
        one_of("results", "analysis", ANALYSES),
    )
    index(
        "uq_results_current",
        "results",
        "subject",
        "subject_id",
        "bundle_digest",
        "mode",
        unique=True,
        where=holds("current"),
    )
    index("ix_results_study_id", "results", "study_id")
    index("ix_results_created_at", "results", "created_at")


def _captions() -> None:
    op.create_table(
        "captions",
        *key("captions"),
        *texts("subject", "bundle_digest", "text", "prompt_digest"),
        sa.Column("subject_id", KEY, nullable=False),
        *refers("captions", "study_id", "studies"),
        *integers("generation"),
        *flags("current"),
        *times("created_at"),
        one_of("captions", "subject", SUBJECTS),
    )
    index(
        "uq_captions_current",
        "captions",
        "subject",
        "subject_id",
        unique=True,
        where=holds("current"),
    )
    index("ix_captions_study_id", "captions", "study_id")


def _embeddings() -> None:
    op.create_table(
        "embeddings",
        *texts("key"),
        *integers("dimension"),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        *times("created_at"),
        sa.PrimaryKeyConstraint("key", name="pk_embeddings"),
    )


# --- the house


def _quarantine() -> None:
    op.create_table(
        "quarantine",
        *key("quarantine"),
        *times("received_at", "state_at"),
        *texts("source", "sender_ae_title", "sop_instance_uid", "sop_class_uid"),
        *texts("path", "original_path", null=True),
        *big_integers("size_bytes"),
        *texts("reason_code", "reason", "state", "state_by"),
        one_of("quarantine", "source", SOURCES),
        one_of("quarantine", "state", HELD_STATES),
    )
    index("ix_quarantine_state", "quarantine", "state", "received_at")
    index("ix_quarantine_path", "quarantine", "path")


def _house() -> None:
    op.create_table(
        "folder_entries",
        *texts("path", "outcome"),
        *big_integers("size_bytes", "mtime_ns"),
        *times("seen_at"),
        sa.PrimaryKeyConstraint("path", name="pk_folder_entries"),
    )
    op.create_table(
        "alarms",
        *key("alarms"),
        *texts("code", "subject", "message", "next_step"),
        *times("raised_at"),
        *times("cleared_at", null=True),
    )
    index("uq_alarms_open", "alarms", "code", "subject", unique=True, where="cleared_at IS NULL")
    op.create_table(
        "senders",
        *texts("ae_title"),
        *times("last_image_at"),
        *big_integers("images"),
        sa.PrimaryKeyConstraint("ae_title", name="pk_senders"),
    )
    op.create_table(
        "roles",
        *texts("role", "host"),
        sa.Column("pid", sa.Integer(), autoincrement=False, nullable=False),
        *times("started_at", "last_turn_at"),
        *texts("state"),
        *documents("detail"),
        sa.PrimaryKeyConstraint("role", "host", "pid", name="pk_roles"),
    )
    op.create_table(
        "events",
        *key("events"),
        *times("at"),
        *refers("events", "study_id", "studies", null=True),
        *texts("what", "by"),
        *documents("detail"),
    )
    index("ix_events_study_id", "events", "study_id")
