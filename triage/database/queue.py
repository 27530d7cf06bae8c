"""The queue: a job is a row, a claim is a lease, the fencing number is what correctness rests on.

One statement claims. Attempts count at the claim, so what kills its worker runs out as well. Who
finishes or fails a job shows owner and fence again; a job that was claimed anew meanwhile, or
whose subject has a newer generation, takes no result. Every step leaves a row in `job_events`.
States and transitions: `rules.jobs`. Source: DESIGN section 3.6; clinical.md 4.3.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    SelectBase,
    bindparam,
    case,
    literal_column,
    select,
    update,
)

from triage.database.connection import Database, lock_arrivals
from triage.database.jobs import (
    COLUMNS,
    LEASE_LOST,
    NO_LEASE,
    Transition,
    change,
    end,
    enqueue,
    lease_of,
    read_job,
    record_transitions,
    require_lease,
)
from triage.database.requeue import requeue_dead, requeue_study
from triage.database.rows import lock_study, record_failure, subject_generation
from triage.database.tables_house import JobRow
from triage.database.types import UtcDateTime
from triage.database.worklist import refresh_study
from triage.errors import TransientError, TriageError
from triage.records import Job, JobKind, JobState
from triage.rules.policies import Policies
from triage.rules.retry import Retry, RetryPolicy, after_failure

DEFAULT_ATTEMPTS = RetryPolicy().attempts
LAPSED = "lease expired"
__all__ = [
    "claim",
    "enqueue",
    "fail",
    "finish",
    "heartbeat",
    "is_due",
    "release",
    "requeue_dead",
    "requeue_study",
    "retire_captions",
    "sweep_expired",
]


def claim(
    db: Database,
    *,
    kinds: Sequence[JobKind],
    owner: str,
    lease_s: float,
    limit: int,
    maximum_attempts: int = DEFAULT_ATTEMPTS,
    without_suspects: bool = False,
) -> list[Job]:
    """Lease up to `limit` due jobs to `owner`, most urgent first, longest due first.

    Jobs whose lease has expired are claimed like queued ones; those that have used up
    `maximum_attempts` are left for `sweep_expired`. Of suspects, whose worker died or hung with
    them, one is claimed at most: what kills its worker time and again takes no attempt from what
    has lost one with it, and only its own run out.
    """
    with db.write() as connection:
        now = db.now(connection)
        claimed = connection.execute(
            _claim(tuple(kinds), limit, maximum_attempts, without_suspects),
            {"at": now, "for": owner, "until": now + timedelta(seconds=lease_s)},
        ).all()
        record_transitions(
            connection,
            [
                Transition(
                    job_id=row.id,
                    before=JobState.LEASED if row.reason else JobState.QUEUED,
                    after=JobState.LEASED,
                    reason=f"{LAPSED}; claimed by {owner}" if row.reason else f"by {owner}",
                )
                for row in claimed
            ],
            now=now,
        )
    return [
        read_job(row) for row in sorted(claimed, key=lambda row: (row.rank, row.due_at, row.id))
    ]


def heartbeat(db: Database, jobs: Sequence[Job], *, lease_s: float) -> set[int]:
    """Extend the leases of `jobs`; returns the ids of those still held by their owner."""
    held: set[int] = set()
    with db.write() as connection:
        now = db.now(connection)
        for job in sorted(jobs, key=lambda job: job.id):
            done = connection.execute(
                update(JobRow)
                .where(lease_of(job))
                .values(heartbeat_at=now, lease_expires_at=now + timedelta(seconds=lease_s))
            )
            if done.rowcount:
                held.add(job.id)
    return held


def finish(connection: Connection, job: Job, *, now: datetime, reason: str = "") -> bool:
    """End a job whose result is written in the same transaction.

    False where the subject has a newer generation: the job is superseded and its result must not
    be written. Raises StaleLease where the job was claimed by another worker meanwhile.
    """
    lock_study(connection, job.study_id)
    require_lease(connection, job)
    newest = subject_generation(connection, job.subject, job.subject_id)
    if newest != job.generation:
        end(connection, job, JobState.SUPERSEDED, f"generation {newest} has come", now=now)
        return False
    end(connection, job, JobState.DONE, reason, now=now)
    return True


def fail(
    connection: Connection,
    job: Job,
    error: TriageError,
    *,
    policies: Policies,
    jitter: float,
    now: datetime,
) -> JobState:
    """End one run of a job by its error: queued again for later, dead, or superseded.

    A dead analysis is written as a failed result and shown on the worklist. `jitter` is drawn
    from [0, 1) by the caller. Raises StaleLease.
    """
    lock_study(connection, job.study_id)
    require_lease(connection, job)
    if subject_generation(connection, job.subject, job.subject_id) != job.generation:
        end(connection, job, JobState.SUPERSEDED, "a newer generation has come", now=now)
        return JobState.SUPERSEDED
    verdict = after_failure(
        transient=isinstance(error, TransientError),
        attempts=job.attempts,
        policy=policies.retry,
        jitter=jitter,
    )
    kind = type(error).__name__
    if isinstance(verdict, Retry):
        due_at = now + timedelta(seconds=verdict.delay_s)
        changes = {"state": JobState.QUEUED, "due_at": due_at, "error_kind": kind} | NO_LEASE
        change(connection, job.id, JobState.LEASED, changes, reason=str(error), now=now)
        return JobState.QUEUED
    _bury(connection, job, kind, f"{error} ({verdict.reason})", policies=policies, now=now)
    return JobState.DEAD


def release(db: Database, jobs: Sequence[Job], *, reason: str, delay_s: float = 0.0) -> int:
    """Give jobs back unharmed, the attempt not counted; due at once, or after `delay_s`.

    Returns how many were still held.
    """
    released = 0
    with db.write() as connection:
        now = db.now(connection)
        again = {"state": JobState.QUEUED, "due_at": now + timedelta(seconds=delay_s)} | NO_LEASE
        for job in sorted(jobs, key=lambda job: job.id):
            done = connection.execute(
                update(JobRow).where(lease_of(job)).values(attempts=JobRow.attempts - 1, **again)
            )
            if done.rowcount:
                step = Transition(
                    job_id=job.id, before=JobState.LEASED, after=JobState.QUEUED, reason=reason
                )
                record_transitions(connection, [step], now=now)
                released += 1
    return released


def retire_captions(db: Database, *, reason: str) -> int:
    """End the caption jobs that wait, where nobody is to write words any more."""
    with db.write() as connection:
        now = db.now(connection)
        waiting = connection.execute(
            select(JobRow.id)
            .where(JobRow.kind == JobKind.CAPTION, JobRow.state == JobState.QUEUED)
            .with_for_update()
        ).scalars()
        ended = list(waiting)
        for job_id in ended:
            changes = {"state": JobState.SUPERSEDED, "finished_at": now}
            change(connection, job_id, JobState.QUEUED, changes, reason=reason, now=now)
    return len(ended)


def sweep_expired(connection: Connection, *, policies: Policies, now: datetime) -> int:
    """Settle leases that ran out without a claim: queued again, or dead when out of attempts.

    Returns how many leases were settled.
    """
    lock_arrivals(connection)
    j = JobRow
    lapsed = (j.state == JobState.LEASED) & (j.lease_expires_at <= now)
    settled = 0
    for row in connection.execute(
        select(*COLUMNS).where(lapsed).order_by(j.lease_expires_at)
    ).all():
        job = read_job(row)
        lock_study(connection, job.study_id)
        still = connection.execute(
            select(j.id).where(lease_of(job), j.lease_expires_at <= now).with_for_update()
        ).first()
        if still is None:
            continue
        verdict = after_failure(
            transient=True, attempts=job.attempts, policy=policies.retry, jitter=0.0
        )
        if isinstance(verdict, Retry):
            # Due as before: it keeps its place before what came after it.
            changes = {"state": JobState.QUEUED, "error_kind": LEASE_LOST} | NO_LEASE
            change(connection, job.id, JobState.LEASED, changes, reason=LAPSED, now=now)
        else:
            reason = f"its worker died or hung each time ({verdict.reason})"
            _bury(connection, job, LEASE_LOST, reason, policies=policies, now=now)
        settled += 1
    return settled


def is_due(
    connection: Connection,
    *,
    kinds: Sequence[JobKind],
    now: datetime,
    without_suspects: bool = False,
) -> bool:
    """Whether a claim would find a queued job now; far cheaper than a claim that finds none."""
    statement = _first_due(tuple(kinds), without_suspects)
    found = connection.execute(statement, {"at": now}).first()
    return found is not None


# --- the claim, built once for its constants


@cache
def _claim(
    kinds: tuple[JobKind, ...], limit: int, maximum_attempts: int, without_suspects: bool
) -> Any:
    j, at = JobRow, bindparam("at", type_=UtcDateTime())
    queued = _is(JobState.QUEUED) & (j.due_at <= at)
    sound = _due(kinds, queued & ~_SUSPECT, limit).cte("sound")
    claimed: SelectBase = select(sound)
    if not without_suspects:
        # Only of those that would be next: no index finds the suspects of a whole backlog.
        front = _due(kinds, queued, limit).cte("front")
        lapsed = _due(
            kinds,
            _is(JobState.LEASED) & (j.lease_expires_at <= at) & (j.attempts < maximum_attempts),
            limit,
        ).cte("lapsed")
        suspects = select(front).where(front.c.error_kind == LEASE_LOST).union_all(select(lapsed))
        claimed = select(sound).union_all(select(_first(suspects, 1).subquery()))
    first = _first(claimed, limit).subquery()
    return (
        update(j)
        .where(j.id.in_(select(first.c.id)))
        .values(
            state=JobState.LEASED,
            # Say in the same statement from which state the job was taken.
            reason=case((j.state == JobState.LEASED, LAPSED), else_=""),
            error_kind=case((j.state == JobState.LEASED, LEASE_LOST), else_=j.error_kind),
            owner=bindparam("for"),
            lease_expires_at=bindparam("until"),
            heartbeat_at=at,
            attempts=j.attempts + 1,
            fence=j.fence + 1,
        )
        .returning(*COLUMNS, j.reason)
    )


@cache
def _first_due(kinds: tuple[JobKind, ...], without_suspects: bool) -> Any:
    j, at = JobRow, bindparam("at", type_=UtcDateTime())
    due = select(j.id).where(_one_of(kinds), _is(JobState.QUEUED), j.due_at <= at).limit(1)
    return due.where(~_SUSPECT) if without_suspects else due


def _is(state: JobState) -> ColumnElement[bool]:
    # Part of the text: a partial index does not serve a parameter.
    return JobRow.state == literal_column(f"'{state.value}'")


def _one_of(kinds: tuple[JobKind, ...]) -> ColumnElement[bool]:
    # Equality, where it is enough, keeps the order of the index: a backlog is not sorted.
    return JobRow.kind == kinds[0] if len(kinds) == 1 else JobRow.kind.in_(kinds)


_SUSPECT = JobRow.error_kind == LEASE_LOST


def _first(rows: SelectBase, limit: int) -> Select[Any]:
    every = rows.subquery()
    return select(every).order_by(every.c.rank, every.c.due_at, every.c.id).limit(limit)


def _due(
    kinds: tuple[JobKind, ...], condition: ColumnElement[bool], limit: int
) -> Select[int, int, datetime, str]:
    j = JobRow
    return (
        select(j.id, j.rank, j.due_at, j.error_kind)
        .where(_one_of(kinds), condition)
        .order_by(j.rank, j.due_at, j.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )


# --- one row


def _bury(
    connection: Connection, job: Job, kind: str, reason: str, *, policies: Policies, now: datetime
) -> None:
    changes = {"state": JobState.DEAD, "finished_at": now, "error_kind": kind} | NO_LEASE
    change(connection, job.id, JobState.LEASED, changes, reason=reason, now=now)
    if job.kind is JobKind.ANALYSE:
        record_failure(connection, job, reason, now=now)
        refresh_study(connection, job.study_id, policies=policies, now=now)
