"""A person asks for another look: at one study, or at all dead letters."""

from datetime import datetime

from sqlalchemy import Connection, delete, func, select

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


def requeue_study(
    connection: Connection, study_id: int, *, by: str, policies: Policies, now: datetime
) -> int:
    """Look at every image and closed series of a study again; dead captions are tried again.

    Returns the number of jobs that now wait because of it; an open job is left as it is. A study
    whose images have expired has nothing to look at.
    """
    lock_study(connection, study_id)
    study = connection.execute(
        select(Study.priority, Study.images_expired_at).where(Study.id == study_id)
    ).one()
    rank = urgency(Rank(study.priority))
    subjects = [] if study.images_expired_at else _subjects(connection, study_id)
    due = sum(
        _requeue(
            connection,
            kind=JobKind.ANALYSE,
            subject=subject,
            subject_id=subject_id,
            study_id=study_id,
            rank=rank,
            now=now,
        )
        for subject, subject_id in subjects
    )
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

    A study whose images have expired has nothing to look at: another failure would only bring it
    back to the list without a picture.
    """
    lock_arrivals(connection)
    j = JobRow
    dead = connection.execute(
        select(j.id, j.kind, j.subject, j.subject_id, j.study_id, j.rank)
        .join(Study, Study.id == j.study_id)
        .where(j.state == JobState.DEAD, Study.images_expired_at.is_(None))
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
        .join(Study, Study.id == r.study_id)
        .where(
            r.created_at >= since,
            r.bundle_digest == bundle_digest,
            r.current,
            Study.images_expired_at.is_(None),
        )
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
        .where(s.study_id == study_id, s.images > 0, s.closes_at.is_(None))
        .order_by(s.id)
    ).scalars()
    return [(Subject.IMAGE, each) for each in images] + [(Subject.SERIES, each) for each in series]


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
) -> int:
    """Make one job due now: its last row again where it is of this generation, else a new one."""
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
    if last.state in OPEN_STATES:
        return 0
    again = {"state": JobState.QUEUED, "due_at": now, "attempts": 0, "rank": rank}
    changes = again | {"finished_at": None, "error_kind": ""} | NO_LEASE
    change(connection, last.id, JobState(last.state), changes, reason=reason, now=now)
    return 1
