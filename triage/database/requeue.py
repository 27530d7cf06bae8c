"""Another look: a person asks for it, a model was found to drift, a date was corrected."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, func, or_, select, update

from triage.database.connection import lock_arrivals
from triage.database.house import record_decision
from triage.database.jobs import NO_LEASE, OPEN_STATES, change, enqueue, rank_of
from triage.database.rows import lock_study, subject_generation
from triage.database.tables import Embedding, Instance, ResultRow, Series, Study
from triage.database.tables_house import JobRow
from triage.database.worklist import refresh_study
from triage.records import JobKind, JobState, Mode, ObjectState, Rank, Subject
from triage.rules.policies import Policies
from triage.rules.ranks import urgency

REASON = "requeued by a person"
DRIFTED = "the model gave another known answer after this look"
LISTED = "a corrected date has put the study on the reading list"


def requeue_study(
    connection: Connection, study_id: int, *, by: str, policies: Policies, now: datetime
) -> int:
    """Look at every image and closed series of a study again; dead captions are tried again.

    Returns the number of jobs that now wait because of it; an open job is left as it is. At images
    that have expired there is nothing to look.
    """
    lock_study(connection, study_id)
    priority = connection.execute(select(Study.priority).where(Study.id == study_id)).scalar_one()
    rank = urgency(Rank(priority))
    due = _look_again(connection, study_id, rank=rank, now=now)
    j = JobRow
    captions = connection.execute(
        select(j.subject, j.subject_id).where(
            j.study_id == study_id, j.kind == JobKind.CAPTION, j.state == JobState.DEAD
        )
    ).all()
    for row in captions:
        due += _requeue(
            connection,
            kind=JobKind.CAPTION,
            subject=Subject(row.subject),
            subject_id=row.subject_id,
            study_id=study_id,
            rank=rank,
            now=now,
        )
    record_decision(
        connection, study_id=study_id, what="requeue", by=by, detail={"jobs": due}, now=now
    )
    refresh_study(connection, study_id, policies=policies, now=now)
    return due


def conflicts(connection: Connection, study_id: int) -> int:
    """Return how many objects of a study have the UID of another and other pixels.

    No further look settles them: they keep the study from being fully analysed.
    """
    i = Instance
    held = select(func.count()).where(i.study_id == study_id, i.state == ObjectState.CONFLICT)
    return connection.execute(held).scalar_one()


def requeue_dead(connection: Connection, *, by: str, policies: Policies, now: datetime) -> int:
    """Try every dead letter again; returns how many jobs wait because of it.

    Images that have expired are left alone: another failure would only bring their study back to
    the list without a picture.
    """
    lock_arrivals(connection)
    j = JobRow
    dead = connection.execute(
        select(j.id, j.kind, j.subject, j.subject_id, j.study_id, j.rank).where(
            j.state == JobState.DEAD, _is_held(j)
        )
    ).all()
    due = 0
    for row in sorted(dead, key=lambda row: (row.study_id, row.id)):
        lock_study(connection, row.study_id)
        due += _requeue(
            connection,
            kind=JobKind(row.kind),
            subject=Subject(row.subject),
            subject_id=row.subject_id,
            study_id=row.study_id,
            rank=row.rank,
            now=now,
        )
    for study_id in sorted({row.study_id for row in dead}):
        record_decision(
            connection, study_id=study_id, what="requeue_dead", by=by, detail={}, now=now
        )
        refresh_study(connection, study_id, policies=policies, now=now)
    return due


def requeue_said_by(
    connection: Connection,
    bundle_digest: str,
    *,
    since: datetime,
    policies: Policies,
    now: datetime,
) -> int:
    """Look again at what a model has judged since then: it has been found to drift.

    What it said stays until a sound model has spoken, as attention that is given; the study is
    pending meanwhile. What it said as a shadow was shown to nobody, so no study is looked at again
    for it. Embeddings made since then are forgotten. Returns the number of jobs.
    """
    lock_arrivals(connection)
    r = ResultRow
    said = connection.execute(
        select(r.subject, r.subject_id, r.study_id, r.mode, r.embedding_keys)
        .where(r.created_at >= since, r.bundle_digest == bundle_digest, r.current, _is_held(r))
        .order_by(r.study_id, r.id)
    ).all()
    due = 0
    for row in said:
        lock_study(connection, row.study_id)
        connection.execute(
            delete(Embedding).where(
                Embedding.key.in_(row.embedding_keys), Embedding.created_at >= since
            )
        )
        if row.mode != Mode.SERVE:
            continue
        due += _requeue(
            connection,
            kind=JobKind.ANALYSE,
            subject=Subject(row.subject),
            subject_id=row.subject_id,
            study_id=row.study_id,
            rank=rank_of(connection, row.study_id),
            now=now,
            reason=DRIFTED,
        )
    for study_id in sorted({row.study_id for row in said if row.mode == Mode.SERVE}):
        refresh_study(connection, study_id, policies=policies, now=now)
    return due


def look_when_listed(connection: Connection, study_id: int, *, now: datetime) -> None:
    """Look at a study that was too old to be looked at, by a date that has been corrected.

    What waits had its place behind all other studies, and what is under way goes by the old date.
    """
    rank = rank_of(connection, study_id)
    left = (JobState.QUEUED,)
    _look_again(connection, study_id, rank=rank, now=now, reason=LISTED, left=left)
    j = JobRow
    connection.execute(
        update(j).where(j.study_id == study_id, j.state == JobState.QUEUED).values(rank=rank)
    )


def _look_again(
    connection: Connection,
    study_id: int,
    *,
    rank: int,
    now: datetime,
    reason: str = REASON,
    left: Sequence[JobState] = OPEN_STATES,
) -> int:
    """Make a job of each subject of a study due now; returns how many wait because of it."""
    return sum(
        _requeue(
            connection,
            kind=JobKind.ANALYSE,
            subject=subject,
            subject_id=subject_id,
            study_id=study_id,
            rank=rank,
            now=now,
            reason=reason,
            left=left,
        )
        for subject, subject_id in _subjects(connection, study_id)
    )


def _subjects(connection: Connection, study_id: int) -> list[tuple[Subject, int]]:
    """Return what is looked at in a study: images, comparisons that wait, closed series."""
    i, s = Instance, Series
    images = connection.execute(
        select(i.id)
        .where(
            i.study_id == study_id,
            (i.subject == Subject.IMAGE)
            | (i.contests_id.is_not(None) & (i.state == ObjectState.STORED)),
            i.expired_at.is_(None),
        )
        .order_by(i.id)
    ).scalars()
    series = connection.execute(
        select(s.id)
        .where(s.study_id == study_id, s.closes_at.is_(None), _holds_images(s.id))
        .order_by(s.id)
    ).scalars()
    return [(Subject.IMAGE, each) for each in images] + [(Subject.SERIES, each) for each in series]


def _is_held(row: type[JobRow] | type[ResultRow]) -> ColumnElement[bool]:
    """Return the condition that the subject of a row has not expired."""
    i = Instance
    image = select(i.id).where(i.id == row.subject_id, i.expired_at.is_(None)).exists()
    return or_(
        and_(row.subject == Subject.IMAGE, image),
        and_(row.subject == Subject.SERIES, _holds_images(row.subject_id)),
    )


def _holds_images(series_id: Any) -> ColumnElement[bool]:
    """Return the condition that images of a series are held that are looked at with it."""
    i = Instance
    of_series = (i.series_id == series_id) & (i.subject == Subject.SERIES)
    return select(i.id).where(of_series, i.expired_at.is_(None)).exists()


def _requeue(
    connection: Connection,
    *,
    kind: JobKind,
    subject: Subject,
    subject_id: int,
    study_id: int,
    rank: int,
    now: datetime,
    reason: str = REASON,
    left: Sequence[JobState] = OPEN_STATES,
) -> int:
    """Make one job due now: its last row again where it is of this generation, else a new one.

    One in a state of `left` stays as it is; a lease that is not left is lost to its worker.
    """
    j = JobRow
    generation = subject_generation(connection, subject, subject_id)
    last = connection.execute(
        select(j.id, j.state)
        .where(
            j.study_id == study_id,
            j.kind == kind,
            j.subject == subject,
            j.subject_id == subject_id,
            j.generation == generation,
            j.state != JobState.SUPERSEDED,
        )
        .order_by(j.id.desc())
        .limit(1)
        .with_for_update()
    ).first()
    if last is None:
        made = enqueue(
            connection,
            kind=kind,
            subject=subject,
            subject_id=subject_id,
            study_id=study_id,
            generation=generation,
            rank=rank,
            due_at=now,
            now=now,
        )
        return int(made is not None)
    if last.state in left:
        return 0
    again = {"state": JobState.QUEUED, "due_at": now, "attempts": 0, "rank": rank}
    changes = again | {"finished_at": None, "error_kind": ""} | NO_LEASE
    change(connection, last.id, JobState(last.state), changes, reason=reason, now=now)
    return 1
