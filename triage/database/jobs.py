"""One row of the queue: its record, its lease, its making and its steps.

A step that `rules.jobs` forbids is refused, and every step leaves a row in `job_events`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, select

from triage.database.rows import subject_generation
from triage.database.statements import insert_id, insert_rows, update_row
from triage.database.tables import Study
from triage.database.tables_house import JobEvent, JobRow
from triage.errors import StaleLease
from triage.records import Job, JobKind, JobState, Rank, Subject
from triage.rules.jobs import JOB_START, job_may_become
from triage.rules.ranks import urgency

OPEN_STATES = (JobState.QUEUED, JobState.LEASED)
NO_LEASE: dict[str, Any] = {"owner": None, "lease_expires_at": None, "heartbeat_at": None}
COLUMNS = (
    JobRow.id,
    JobRow.kind,
    JobRow.subject,
    JobRow.subject_id,
    JobRow.study_id,
    JobRow.generation,
    JobRow.attempts,
    JobRow.fence,
    JobRow.owner,
    JobRow.due_at,
    JobRow.lease_expires_at,
    JobRow.rank,
    JobRow.error_kind,
)
LEASE_LOST = "LeaseLost"  # the error of a job whose worker died or hung with it


# Built once: SQLAlchemy spends more time on building a statement than the database on running it.
LEASED = (
    select(JobRow.id)
    .where(
        JobRow.id == bindparam("id"),
        JobRow.state == JobState.LEASED,
        JobRow.owner == bindparam("owner"),
        JobRow.fence == bindparam("fence"),
    )
    .with_for_update()
)
EARLIER = (
    select(JobRow.id, JobRow.state, JobRow.generation)
    .where(
        JobRow.kind == bindparam("kind"),
        JobRow.subject == bindparam("subject"),
        JobRow.subject_id == bindparam("subject_id"),
        JobRow.state.in_((*OPEN_STATES, JobState.DEAD)),
        JobRow.study_id == bindparam("study_id"),
    )
    .with_for_update()
)
URGENCY = select(Study.priority, Study.too_old).where(Study.id == bindparam("study_id"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One step of one job; `before` is None where the job was made."""

    job_id: int
    before: JobState | None
    after: JobState
    reason: str


def record_transitions(
    connection: Connection, transitions: Sequence[Transition], *, now: datetime
) -> None:
    """Leave the trace of each step. Raises ValueError for one that `rules.jobs` forbids."""
    for step in transitions:
        allowed = (
            step.after in JOB_START
            if step.before is None
            else job_may_become(step.before, step.after)
        )
        if not allowed:
            raise ValueError(f"a job cannot go from {step.before} to {step.after}")
    insert_rows(
        connection,
        JobEvent,
        [
            {
                "job_id": step.job_id,
                "at": now,
                "from_state": step.before,
                "to_state": step.after,
                "reason": step.reason,
            }
            for step in transitions
        ],
    )


def read_job(row: Any) -> Job:
    """Return the record of a row that has COLUMNS."""
    return Job(
        id=row.id,
        kind=JobKind(row.kind),
        subject=Subject(row.subject),
        subject_id=row.subject_id,
        study_id=row.study_id,
        generation=row.generation,
        attempts=row.attempts,
        fence=row.fence,
        owner=row.owner,
        due_at=row.due_at,
        lease_expires_at=row.lease_expires_at,
        rank=row.rank,
        lease_lost=row.error_kind == LEASE_LOST,
    )


def lease_of(job: Job) -> ColumnElement[bool]:
    """Return the condition that `job` is leased under its owner and fence."""
    j = JobRow
    return (
        (j.id == job.id)
        & (j.state == JobState.LEASED)
        & (j.owner == job.owner)
        & (j.fence == job.fence)
    )


def require_lease(connection: Connection, job: Job) -> None:
    """Lock the job's row; raises StaleLease where another worker has claimed it."""
    shown = {"id": job.id, "owner": job.owner, "fence": job.fence}
    held = connection.execute(LEASED, shown).first()
    if held is None:
        raise StaleLease(f"job {job.id} is no longer leased to this worker")


def change(
    connection: Connection,
    job_id: int,
    before: JobState,
    changes: dict[str, Any],
    *,
    reason: str,
    now: datetime,
) -> None:
    """Write `changes`, which name the state after, and leave the trace."""
    update_row(connection, JobRow, job_id, reason=reason, **changes)
    step = Transition(job_id=job_id, before=before, after=changes["state"], reason=reason)
    record_transitions(connection, [step], now=now)


def end(connection: Connection, job: Job, state: JobState, reason: str, *, now: datetime) -> None:
    """Finish a leased job."""
    changes = {"state": state, "finished_at": now} | NO_LEASE
    change(connection, job.id, JobState.LEASED, changes, reason=reason, now=now)


def enqueue(
    connection: Connection,
    *,
    kind: JobKind,
    subject: Subject,
    subject_id: int,
    study_id: int,
    generation: int,
    rank: int,
    due_at: datetime,
    now: datetime,
) -> int | None:
    """Make a job; returns its number, or None where one of this generation is open already.

    What is open or dead for an older generation of the subject is superseded.
    """
    same = {"kind": kind, "subject": subject, "subject_id": subject_id, "study_id": study_id}
    for row in connection.execute(EARLIER, same).all():
        if row.generation == generation and row.state in OPEN_STATES:
            return None
        changes = {"state": JobState.SUPERSEDED, "finished_at": now} | NO_LEASE
        reason = f"generation {generation} has come"
        change(connection, row.id, JobState(row.state), changes, reason=reason, now=now)
    job_id = insert_id(
        connection,
        JobRow,
        kind=kind,
        subject=subject,
        subject_id=subject_id,
        study_id=study_id,
        generation=generation,
        state=JobState.QUEUED,
        rank=rank,
        due_at=due_at,
        attempts=0,
        fence=0,
        created_at=now,
    )
    made = Transition(job_id=job_id, before=None, after=JobState.QUEUED, reason="")
    record_transitions(connection, [made], now=now)
    return job_id


def enqueue_look(
    connection: Connection, subject: Subject, subject_id: int, study_id: int, *, now: datetime
) -> list[int]:
    """Make the job that looks at a subject as it is now, due at once, by its study's priority."""
    job_id = enqueue(
        connection,
        kind=JobKind.ANALYSE,
        subject=subject,
        subject_id=subject_id,
        study_id=study_id,
        generation=subject_generation(connection, subject, subject_id),
        rank=rank_of(connection, study_id),
        due_at=now,
        now=now,
    )
    return [] if job_id is None else [job_id]


def rank_of(connection: Connection, study_id: int) -> int:
    """Return the rank of a study's jobs as it stands."""
    study = connection.execute(URGENCY, {"study_id": study_id}).one()
    return job_rank(Rank(study.priority), too_old=study.too_old)


def job_rank(priority: Rank, *, too_old: bool) -> int:
    """Return a job's rank, 0 first: its study's urgency; old studies after all others."""
    return len(Rank) if too_old else urgency(priority)
