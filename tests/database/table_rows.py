"""Rows written straight into the tables, so that reading is tested without the rules."""

from datetime import UTC, datetime, timedelta
from typing import Any

from triage.database.connection import Database
from triage.database.statements import insert_id
from triage.database.tables import CaptionRow, Instance, ObjectEvent, ResultRow, Series, Study
from triage.database.tables_house import JobEvent, JobRow

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """Return a time after (or, negative, before) noon."""
    return NOON + timedelta(seconds=seconds)


def add_study(db: Database, study_instance_uid: str = "1.2.3", **changes: Any) -> int:
    """Insert an open, analysed study without a flag."""
    values: dict[str, Any] = {
        "study_instance_uid": study_instance_uid,
        "patient_id": "P1",
        "issuer_of_patient_id": "",
        "modalities_in_study": ["DX"],
        "received_at": NOON,
        "waiting_since": NOON,
        "last_instance_at": NOON,
        "window_at": NOON,
        "state": "ready",
        "generation": 1,
        "too_old": False,
        "two_patients": False,
        "analysis": "analysed",
        "findings": [],
        "models": [],
        "not_for_clinical_use": False,
        "priority": "ROUTINE",
        "priority_source": "default",
        "order_priority": "ROUTINE",
        "order_priority_source": "default",
        "sort_key": "5",
    }
    with db.write() as connection:
        return insert_id(connection, Study, **values | changes)


def add_series(db: Database, study_id: int, series_instance_uid: str = "1.2.3.4") -> int:
    """Insert a closed series."""
    with db.write() as connection:
        return insert_id(
            connection,
            Series,
            study_id=study_id,
            series_instance_uid=series_instance_uid,
            modality="DX",
            window_at=NOON,
            first_instance_at=NOON,
            last_instance_at=NOON,
            images=0,
            generation=1,
        )


def add_instance(
    db: Database, study_id: int, series_id: int, sop_instance_uid: str = "1.2.3.4.5", **changes: Any
) -> int:
    """Insert a stored image of 1000 bytes; its digest is unlike all others."""
    with db.write() as connection:
        count = connection.exec_driver_sql("SELECT count(*) FROM instances").scalar_one()
        values: dict[str, Any] = {
            "study_id": study_id,
            "series_id": series_id,
            "sop_instance_uid": sop_instance_uid,
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "digest": f"{count:064x}",
            "path": f"objects/{count}.dcm",
            "size_bytes": 1000,
            "source": "c-store",
            "sender_ae_title": "CR1",
            "received_at": NOON,
            "state": "stored",
            "header": {"modality": "DX"},
            "generation": 1,
        }
        return insert_id(connection, Instance, **values | changes)


def add_object_event(
    db: Database,
    sop_instance_uid: str,
    state: str,
    *,
    instance_id: int | None = None,
    when: datetime = NOON,
) -> None:
    """Insert one disposition."""
    with db.write() as connection:
        insert_id(
            connection,
            ObjectEvent,
            at=when,
            sop_instance_uid=sop_instance_uid,
            instance_id=instance_id,
            state=state,
            source="c-store",
            sender_ae_title="CR1",
            reason="",
        )


def add_result(db: Database, study_id: int, subject_id: int, **changes: Any) -> None:
    """Insert what a bundle said of one image."""
    values: dict[str, Any] = {
        "subject": "image",
        "subject_id": subject_id,
        "study_id": study_id,
        "generation": 1,
        "bundle_name": "chest",
        "bundle_version": "1",
        "bundle_digest": "d1",
        "mode": "serve",
        "analysis": "analysed",
        "reason": "",
        "findings": [],
        "distance": 0.5,
        "not_for_clinical_use": True,
        "embedding_keys": ["k1"],
        "current": True,
        "created_at": NOON,
    }
    with db.write() as connection:
        insert_id(connection, ResultRow, **values | changes)


def add_caption(db: Database, study_id: int, subject_id: int, text: str) -> None:
    """Insert the words about one image."""
    with db.write() as connection:
        insert_id(
            connection,
            CaptionRow,
            subject="image",
            subject_id=subject_id,
            study_id=study_id,
            generation=1,
            bundle_digest="d1",
            text=text,
            prompt_digest="p1",
            current=True,
            created_at=NOON,
        )


def add_job(db: Database, study_id: int, subject_id: int = 1, **changes: Any) -> int:
    """Insert a queued analysis of one image, due at noon."""
    values: dict[str, Any] = {
        "kind": "analyse",
        "subject": "image",
        "subject_id": subject_id,
        "study_id": study_id,
        "generation": 1,
        "state": "queued",
        "rank": 3,
        "due_at": NOON,
        "attempts": 0,
        "fence": 0,
        "created_at": NOON,
    }
    with db.write() as connection:
        return insert_id(connection, JobRow, **values | changes)


def add_job_event(db: Database, job_id: int, to_state: str, *, reason: str) -> None:
    """Insert the first step of a job."""
    with db.write() as connection:
        insert_id(connection, JobEvent, job_id=job_id, at=NOON, to_state=to_state, reason=reason)
