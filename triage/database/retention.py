"""What may expire: pixels, embeddings and captions of a study go together, its rows stay.

Only studies that are off the reading list go, never a flagged one that nobody has read (DESIGN
section 4), and none while pixels of it wait to be compared. The files are the caller's to delete,
in a later transaction that asks `still_expired`: the same object may have come again meanwhile, to
the same path.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, delete, or_, select, update

from triage.database.connection import lock_arrivals
from triage.database.house import record_decision
from triage.database.jobs import OPEN_STATES
from triage.database.material import given_keys
from triage.database.rows import lock_study
from triage.database.tables import CaptionRow, Embedding, Instance, ResultRow, Study
from triage.database.tables_house import JobRow
from triage.database.worklist import PROGRAM
from triage.records import StudyState, Subject

KEYS_PER_DELETE = 500


def expirable_studies(connection: Connection, *, before: datetime, limit: int) -> list[int]:
    """Return studies whose last object came before `before` and that may expire, oldest first."""
    return list(
        connection.execute(
            select(Study.id)
            .where(
                Study.received_at < before,
                Study.last_instance_at < before,
                Study.images_expired_at.is_(None),
                _may_expire(),
            )
            .order_by(Study.received_at)
            .limit(limit)
        ).scalars()
    )


def expire_study(connection: Connection, study_id: int, *, now: datetime) -> list[str]:
    """Mark a study's images as expired; returns their paths, none where it may not expire (now).

    Embeddings are a cache: one that another study's result rests on as well is made again.
    """
    lock_arrivals(connection)  # an arrival that saw the study unexpired commits first
    lock_study(connection, study_id)
    allowed = select(Study.id).where(
        Study.id == study_id, Study.images_expired_at.is_(None), _may_expire()
    )
    if connection.execute(allowed).first() is None:
        return []
    i = Instance
    paths = connection.execute(
        update(i)
        .where(i.study_id == study_id, i.expired_at.is_(None))
        .values(expired_at=now)
        .returning(i.path)
    ).scalars()
    expired = sorted(paths)
    _delete_embeddings(connection, study_id)
    connection.execute(delete(CaptionRow).where(CaptionRow.study_id == study_id))
    connection.execute(
        update(Study)
        .where(Study.id == study_id)
        .values(images_expired_at=now, state=StudyState.EXPIRED, caption="")
    )
    record_decision(
        connection,
        study_id=study_id,
        what="images_expired",
        by=PROGRAM,
        detail={"instances": len(expired)},
        now=now,
    )
    return expired


def still_expired(connection: Connection, paths: Sequence[str]) -> list[str]:
    """Return those of `paths` that no held instance has; no arrival commits until this ends.

    The caller deletes the files within this write transaction.
    """
    lock_arrivals(connection)
    held = connection.execute(
        select(Instance.path).where(Instance.path.in_(paths), Instance.expired_at.is_(None))
    ).scalars()
    return sorted(set(paths) - set(held))


def expired_paths(connection: Connection, paths: Sequence[str]) -> list[str]:
    """Return those of `paths` that belong to expired images; a file there was left over."""
    left = select(Instance.path).where(Instance.path.in_(paths), Instance.expired_at.is_not(None))
    return sorted(connection.execute(left).scalars())


def _may_expire() -> ColumnElement[bool]:
    """Read by a person, or never on the list and without a flag; and nothing to be compared."""
    read = Study.state == StudyState.ACKNOWLEDGED
    i, j = Instance, JobRow
    contest = select(i.id).where(i.id == j.subject_id, i.contests_id.is_not(None)).exists()
    waits = (
        select(j.id)
        .where(j.study_id == Study.id, j.subject == Subject.IMAGE, j.state.in_(OPEN_STATES))
        .where(contest)
        .exists()
    )
    return and_(or_(read, and_(Study.too_old, Study.flagged_at.is_(None))), ~waits)


def _delete_embeddings(connection: Connection, study_id: int) -> None:
    lists = connection.execute(
        select(ResultRow.embedding_keys).where(ResultRow.study_id == study_id)
    ).scalars()
    named = {key for listed in lists for key in listed}
    keys = sorted(named | given_keys(connection, study_id))
    for start in range(0, len(keys), KEYS_PER_DELETE):
        some = keys[start : start + KEYS_PER_DELETE]
        connection.execute(delete(Embedding).where(Embedding.key.in_(some)))
