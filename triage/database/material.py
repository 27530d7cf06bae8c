"""Studies as material for learning: what is held of them, and embeddings given back.

Reads what a data scientist's verbs need to embed labelled studies, and writes what they computed
under the worker's keys (DESIGN section 3.8), so that neither computes it twice. An embedding must
go with its study's images: those that no result names are named by an event of the study, which
also says who used the study, and `retention` reads both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, select

from triage.database.connection import Database
from triage.database.house import record_decision
from triage.database.results import keep_embeddings, subject_contents
from triage.database.rows import lock_study
from triage.database.tables import Instance, Series, Study
from triage.database.tables_house import Event
from triage.records import Subject, SubjectContents

EMBEDDED: Final = "embedded"  # an event; its detail holds `embedding_keys`
KEYS: Final = "embedding_keys"
UIDS_PER_QUERY: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyMaterial:
    """One study: its images, then its series, each with the instances that are looked at."""

    study_id: int
    subjects: tuple[SubjectContents, ...]
    expired: bool  # its images were deleted
    arriving: bool  # a series of it is still open
    two_patients: bool


def study_material(connection: Connection, study_instance_uid: str) -> StudyMaterial | None:
    """Return what is held of a study; None where none has this UID.

    An image that waits for a comparison, or has lost one, is left out. Where two patients have the
    UID, nothing but that is told.
    """
    rows = connection.execute(
        select(Study.id, Study.images_expired_at, Study.two_patients)
        .where(Study.study_instance_uid == study_instance_uid)
        .order_by(Study.id)
    ).all()
    if not rows:
        return None
    row = rows[0]
    twice = len(rows) > 1 or row.two_patients
    return StudyMaterial(
        study_id=row.id,
        subjects=() if twice else _subjects(connection, row.id),
        arriving=_is_arriving(connection, row.id),
        expired=row.images_expired_at is not None,
        two_patients=twice,
    )


def known_studies(connection: Connection, study_instance_uids: Sequence[str]) -> set[str]:
    """Return those of the UIDs that any study has."""
    found: set[str] = set()
    for first in range(0, len(study_instance_uids), UIDS_PER_QUERY):
        some = study_instance_uids[first : first + UIDS_PER_QUERY]
        found |= set(
            connection.execute(
                select(Study.study_instance_uid).where(Study.study_instance_uid.in_(some))
            ).scalars()
        )
    return found


def give_embeddings(
    db: Database,
    embeddings: Mapping[int, Mapping[str, NDArray[np.float32]]],
    *,
    by: str,
) -> None:
    """Keep embeddings by study (`studies.id`) and cache key (1-D float32); `by` is who made them.

    Those of a study whose images have expired meanwhile are dropped.
    """
    for study_id, vectors in sorted(embeddings.items()):
        with db.write() as connection:
            now = db.now(connection)
            lock_study(connection, study_id)  # expiry, which deletes them, waits or has been
            held = select(Study.id).where(Study.id == study_id, Study.images_expired_at.is_(None))
            if connection.execute(held).first() is None:
                continue
            _keep(connection, study_id, vectors, by=by, now=now)


def given_keys(connection: Connection, study_id: int) -> set[str]:
    """Return the keys of embeddings that this study was given, beside those of its results."""
    details = connection.execute(
        select(Event.detail).where(Event.study_id == study_id, Event.what == EMBEDDED)
    ).scalars()
    return {key for detail in details for key in detail.get(KEYS, ())}


def _keep(
    connection: Connection,
    study_id: int,
    vectors: Mapping[str, NDArray[np.float32]],
    *,
    by: str,
    now: datetime,
) -> None:
    keep_embeddings(connection, vectors, now)
    record_decision(
        connection,
        study_id=study_id,
        what=EMBEDDED,
        by=by,
        detail={KEYS: sorted(vectors)},
        now=now,
    )


def _is_arriving(connection: Connection, study_id: int) -> bool:
    s = Series
    still = select(s.id).where(s.study_id == study_id, s.images > 0, s.closes_at.is_not(None))
    return connection.execute(still.limit(1)).first() is not None


def _subjects(connection: Connection, study_id: int) -> tuple[SubjectContents, ...]:
    i, s = Instance, Series
    images = connection.execute(
        select(i.id)
        .where(i.study_id == study_id, i.subject == Subject.IMAGE, i.expired_at.is_(None))
        .order_by(i.id)
    ).scalars()
    series = connection.execute(
        select(s.id)
        .where(s.study_id == study_id, s.images > 0)
        .where(
            select(i.id)
            .where(i.series_id == s.id, i.subject == Subject.SERIES, i.expired_at.is_(None))
            .exists()
        )
        .order_by(s.id)
    ).scalars()
    found: Sequence[tuple[Subject, int]] = [
        *((Subject.IMAGE, each) for each in images),
        *((Subject.SERIES, each) for each in series),
    ]
    return tuple(subject_contents(connection, kind, each) for kind, each in found)
