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
from triage.rules.standing import stands

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
RETIRE_BUT = RETIRE.where(CaptionRow.bundle_digest.not_in(bindparam("of_kept", expanding=True)))
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
) -> frozenset[str]:
    """Take what was said about a subject out of count where a new look has come.

    Flags that still stand stay, with the words of their models. Returns the digests of the bundles
    that gave them.
    """
    of = {"of_subject": subject, "of_subject_id": subject_id}
    kept = [
        row
        for row in connection.execute(SERVED, of)
        if any(each["flagged"] for each in row.findings) and stands(row.bundle_digest, to)
    ]
    digests = frozenset(row.bundle_digest for row in kept)
    connection.execute(SUPERSEDE_BUT, of | {"of_kept": [row.id for row in kept]})
    connection.execute(RETIRE_BUT, of | {"of_kept": sorted(digests)})
    return digests


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
