"""When to look: a projection image at once, anything else when its series has closed.

The due time lives in the row, so a restart inside the window loses nothing (DESIGN section 3.7).
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, func, select

from triage.database.connection import lock_arrivals
from triage.database.jobs import enqueue_look
from triage.database.rows import lock_study
from triage.database.statements import update_row
from triage.database.studies import grow_series
from triage.database.tables import Instance, Series, Study
from triage.database.worklist import refresh_study
from triage.records import Subject
from triage.rules.policies import Policies

CLOSED_PER_TURN = 500
HELD = select(func.count()).where(
    Instance.series_id == bindparam("series_id"),
    Instance.subject == Subject.SERIES,
    Instance.expired_at.is_(None),
)


def look_when_whole(
    connection: Connection,
    subject: Subject | None,
    *,
    instance_id: int,
    series: Any,
    new_images: int = 1,
    policies: Policies,
    now: datetime,
) -> list[int]:
    """Make the job of an image, or move the due time of a series; returns the jobs made.

    `series` is its row. A subject of None is an object without pixels: nothing to look at.
    """
    if subject is Subject.IMAGE:
        return enqueue_look(connection, subject, instance_id, series.study_id, now=now)
    if subject is Subject.SERIES:
        grow_series(connection, series, images=new_images, policies=policies, now=now)
    return []


def close_due_series(connection: Connection, *, policies: Policies, now: datetime) -> int:
    """Close series whose time has come and make their jobs; returns how many closed.

    At most CLOSED_PER_TURN a call, the longest due first.
    """
    lock_arrivals(connection)
    s = Series
    due = connection.execute(
        select(s.id, s.study_id, s.images)
        .where(s.closes_at <= now)
        .order_by(s.closes_at)
        .limit(CLOSED_PER_TURN)
    ).all()
    for row in due:
        lock_study(connection, row.study_id)
        # Of a series that had expired only what came again is looked at.
        held = connection.execute(HELD, {"series_id": row.id}).scalar_one()
        update_row(connection, Series, row.id, closes_at=None, images=held or row.images)
        if held:
            enqueue_look(connection, Subject.SERIES, row.id, row.study_id, now=now)
    for study_id in sorted({row.study_id for row in due}):
        refresh_study(connection, study_id, policies=policies, now=now)
    return len(due)


def close_due_studies(connection: Connection, *, policies: Policies, now: datetime) -> int:
    """Mark studies whose time has come as no longer arriving; returns how many closed.

    At most CLOSED_PER_TURN a call, the longest due first.
    """
    lock_arrivals(connection)
    due = connection.execute(
        select(Study.id)
        .where(Study.closes_at <= now)
        .order_by(Study.closes_at)
        .limit(CLOSED_PER_TURN)
    ).scalars()
    studies = list(due)
    for study_id in studies:
        lock_study(connection, study_id)
        update_row(connection, Study, study_id, closes_at=None)
        refresh_study(connection, study_id, policies=policies, now=now)
    return len(studies)
