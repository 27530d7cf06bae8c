"""Rows that several rooms of the database need alike: locks, generations, failures.

Lock order on PostgreSQL: the arrivals lock (transactions over several studies), then a study's
row, then its jobs. SQLite has one writer at a time.
"""

from datetime import datetime

from sqlalchemy import Connection, bindparam, select, update

from triage.database.statements import insert_row
from triage.database.tables import Instance, ResultRow, Series, Study
from triage.records import Analysis, Job, Mode, Subject

LOCK_STUDY = (
    select(Study.id).where(Study.id == bindparam("study_id")).with_for_update(key_share=True)
)
SUPERSEDE = (
    update(ResultRow)
    .where(
        ResultRow.current,
        ResultRow.subject == bindparam("of_subject"),
        ResultRow.subject_id == bindparam("of_subject_id"),
    )
    .values(current=False)
)
SUPERSEDE_BUNDLE = SUPERSEDE.where(ResultRow.bundle_digest == bindparam("of_bundle"))
GENERATIONS = {
    Subject.IMAGE: select(Instance.generation).where(Instance.id == bindparam("subject_id")),
    Subject.SERIES: select(Series.generation).where(Series.id == bindparam("subject_id")),
}


def lock_study(connection: Connection, study_id: int) -> None:
    """Wait until no other transaction changes this study."""
    connection.execute(LOCK_STUDY, {"study_id": study_id})


def subject_generation(connection: Connection, subject: Subject, subject_id: int) -> int:
    """Return the generation that a subject is at."""
    generation: int = connection.execute(
        GENERATIONS[subject], {"subject_id": subject_id}
    ).scalar_one()
    return generation


def supersede_results(
    connection: Connection,
    subject: Subject,
    subject_id: int,
    *,
    bundle_digest: str | None = None,
) -> None:
    """Take the current results of a subject out of count: all, or one bundle's."""
    of = {"of_subject": subject, "of_subject_id": subject_id}
    if bundle_digest is None:
        connection.execute(SUPERSEDE, of)
    else:
        connection.execute(SUPERSEDE_BUNDLE, of | {"of_bundle": bundle_digest})


def record_failure(connection: Connection, job: Job, reason: str, *, now: datetime) -> None:
    """Write that a subject could not be analysed; results of an earlier look stay beside it."""
    supersede_results(connection, job.subject, job.subject_id, bundle_digest="")
    insert_row(
        connection,
        ResultRow,
        subject=job.subject,
        subject_id=job.subject_id,
        study_id=job.study_id,
        generation=job.generation,
        bundle_name="",
        bundle_version="",
        bundle_digest="",
        mode=Mode.SERVE,
        analysis=Analysis.FAILED,
        reason=reason,
        findings=[],
        distance=None,
        not_for_clinical_use=False,
        embedding_keys=[],
        current=True,
        created_at=now,
        job_id=job.id,
    )
