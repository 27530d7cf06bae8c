"""Rows that several rooms of the database need alike: locks, generations, failures.

Lock order on PostgreSQL: the arrivals lock (transactions over several studies), then a study's
row, then its jobs. SQLite has one writer at a time.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, or_, select, update

from triage.database.statements import insert_row
from triage.database.tables import Instance, ResultRow, Series, Study
from triage.records import Analysis, AnalysisResult, Job, Mode, Subject

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
SUPERSEDE_UNHEARD = SUPERSEDE.where(
    or_(
        ResultRow.mode != Mode.SERVE,
        ResultRow.analysis != Analysis.ANALYSED,
        ResultRow.bundle_digest.in_(bindparam("of_bundles", expanding=True)),
    )
)
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


def give_way(
    connection: Connection, subject: Subject, subject_id: int, *, to: Sequence[AnalysisResult]
) -> None:
    """Take the current results of a subject out of count as far as a new look replaces them.

    What a served model has told stays until it speaks again itself or another served model has
    looked: a look by nobody, or by shadows alone, takes no flag away.
    """
    served = [result for result in to if result.mode is Mode.SERVE]
    if any(result.analysis is Analysis.ANALYSED for result in served):
        supersede_results(connection, subject, subject_id)
        return
    again = [result.model.digest for result in served if result.model]
    of = {"of_subject": subject, "of_subject_id": subject_id, "of_bundles": again}
    connection.execute(SUPERSEDE_UNHEARD, of)


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
