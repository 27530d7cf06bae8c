"""Rows that several rooms of the database need alike: locks, generations, failures.

Lock order on PostgreSQL: the arrivals lock (transactions over several studies), then a study's
row, then its jobs. SQLite has one writer at a time.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, select, update

from triage.database.statements import insert_row
from triage.database.tables import CaptionRow, Instance, ResultRow, Series, Study
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
SUPERSEDE_BUT = SUPERSEDE.where(ResultRow.id.not_in(bindparam("of_kept", expanding=True)))
SERVED = select(ResultRow.id, ResultRow.bundle_digest, ResultRow.findings).where(
    ResultRow.current,
    ResultRow.subject == bindparam("of_subject"),
    ResultRow.subject_id == bindparam("of_subject_id"),
    ResultRow.mode == Mode.SERVE,
)
RETIRE = (
    update(CaptionRow)
    .where(
        CaptionRow.current,
        CaptionRow.subject == bindparam("of_subject"),
        CaptionRow.subject_id == bindparam("of_subject_id"),
    )
    .values(current=False)
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


def supersede_results(connection: Connection, subject: Subject, subject_id: int) -> None:
    """Take the current results of a subject out of count."""
    connection.execute(SUPERSEDE, {"of_subject": subject, "of_subject_id": subject_id})


def retire_caption(connection: Connection, subject: Subject, subject_id: int) -> None:
    """Take the words about a subject out of count."""
    connection.execute(RETIRE, {"of_subject": subject, "of_subject_id": subject_id})


def give_way(
    connection: Connection, subject: Subject, subject_id: int, *, to: Sequence[AnalysisResult]
) -> None:
    """Take the results and words about a subject out of count as far as a new look replaces them.

    A flag that was served stays, with its words, until its model speaks again or another served
    model has looked: a look by nobody, by shadows alone, or one that failed takes none away.
    """
    of = {"of_subject": subject, "of_subject_id": subject_id}
    served = [result for result in to if result.mode is Mode.SERVE]
    kept = []
    if not any(result.analysis is Analysis.ANALYSED for result in served):
        again = {result.model.digest for result in served if result.model}
        kept = [
            row.id
            for row in connection.execute(SERVED, of)
            if row.bundle_digest not in again and any(each["flagged"] for each in row.findings)
        ]
    connection.execute(SUPERSEDE_BUT, of | {"of_kept": kept})
    if not kept:
        retire_caption(connection, subject, subject_id)


def record_failure(connection: Connection, job: Job, reason: str, *, now: datetime) -> None:
    """Write that a subject could not be analysed; a flag of an earlier look stays beside it."""
    give_way(connection, job.subject, job.subject_id, to=())
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
