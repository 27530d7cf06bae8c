"""What the models have said and what it rests on, study by study, for replay and comparison.

Read in pages of studies, each in a transaction of its own: a reader of hundreds of thousands of
studies keeps no writer waiting and holds one page. Only results that count today are read. Also
keeps what each bundle's embeddings depend on (DESIGN section 3.8), which their keys do not tell.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, func, or_, select, true

from triage.database.connection import Database
from triage.database.documents import read_header
from triage.database.said import CURRENT_RESULTS, SubjectKey, by_subject, is_stale
from triage.database.statements import insert_for
from triage.database.study_facts import decision_of, order_of
from triage.database.tables import Instance, ResultRow, Series, Study
from triage.database.tables_house import JobRow
from triage.database.tables_learning import ModelScope
from triage.records import (
    AnalysisResult,
    Header,
    JobKind,
    JobState,
    Mode,
    ModelIdentity,
    ObjectState,
    Subject,
    ViewSpec,
)
from triage.rules.orders import OrderPriority
from triage.rules.priority import Decision

STUDIES_A_PAGE = 200
NEVER_SCOPED = "not loaded"  # how the scope of a bundle begins that could not be read
STORED_RESULTS = CURRENT_RESULTS.add_columns(ResultRow.distance, ResultRow.embedding_keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """One image or series, and every current result about it, shadow ones included."""

    subject: Subject
    subject_id: int
    images: int
    pending: bool
    expired: bool
    header: Header | None  # of its first image; None where no row is left
    sender_ae_title: str
    results: tuple[AnalysisResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStudy:
    """A study in what its place on the worklist depends on."""

    study_id: int
    study_instance_uid: str
    received_at: datetime
    waiting_since: datetime
    generation: int
    too_old: bool
    order: OrderPriority
    decision: Decision | None
    conflicts: int
    parts: tuple[StoredPart, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What the embeddings of a bundle depend on. `cache_scope` as `bundle.embedding_scope`."""

    bundle_digest: str
    bundle_name: str
    bundle_version: str
    cache_scope: str
    view: ViewSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenModel:
    """A model that has spoken of live studies; one of the same name and other digest is another."""

    identity: ModelIdentity
    results: int
    last_at: datetime


# --- what made the embeddings


def record_scope(
    connection: Connection,
    *,
    model: ModelIdentity,
    cache_scope: str,
    view: ViewSpec,
    now: datetime,
) -> None:
    """Note under what scope a bundle runs; once for each kind of hardware."""
    connection.execute(
        insert_for(connection, ModelScope)
        .values(
            bundle_digest=model.digest,
            cache_scope=cache_scope,
            view=json.dumps(asdict(view), sort_keys=True),
            bundle_name=model.name,
            bundle_version=model.version,
            first_at=now,
        )
        .on_conflict_do_nothing()
    )


def scopes(connection: Connection) -> list[Scope]:
    """Return every scope that was noted; one whose view this program does not know is left out."""
    s = ModelScope
    rows = connection.execute(
        select(s.bundle_digest, s.cache_scope, s.view, s.bundle_name, s.bundle_version)
    )
    known = {field.name for field in fields(ViewSpec)}
    found = []
    for row in rows:
        view = json.loads(row.view)
        if set(view) <= known:
            found.append(
                Scope(
                    bundle_digest=row.bundle_digest,
                    bundle_name=row.bundle_name,
                    bundle_version=row.bundle_version,
                    cache_scope=row.cache_scope,
                    view=ViewSpec(**view),
                )
            )
    return found


# --- studies


def count_studies(db: Database, *, since: datetime | None) -> int:
    """Return how many studies `stored_studies` gives."""
    with db.read() as connection:
        counted = select(func.count()).select_from(Study).where(_since(since))
        return connection.execute(counted).scalar_one()


def stored_studies(
    db: Database, *, since: datetime | None, page: int = STUDIES_A_PAGE
) -> Iterator[list[StoredStudy]]:
    """Give the studies received since then, page by page in the order of their arrival."""
    last = 0
    while True:
        with db.read() as connection:
            rows = connection.execute(
                select(Study.__table__)
                .where(Study.id > last, _since(since))
                .order_by(Study.id)
                .limit(page)
            ).all()
            if not rows:
                return
            studies = _studies(connection, rows)
        last = rows[-1].id
        yield studies


def spoken_models(db: Database, mode: Mode) -> list[SpokenModel]:
    """Return the models with current results of this mode, by name, the latest first."""
    r = ResultRow
    model = (r.bundle_name, r.bundle_version, r.bundle_digest)
    with db.read() as connection:
        rows = connection.execute(
            select(*model, func.count(), func.max(r.created_at))
            .where(r.current, r.mode == mode, r.bundle_digest != "")
            .group_by(*model)
        ).all()
    found = [
        SpokenModel(
            identity=ModelIdentity(name=row[0], version=row[1], digest=row[2]),
            results=row[3],
            last_at=row[4],
        )
        for row in rows
    ]
    found.sort(key=lambda each: each.last_at, reverse=True)
    return sorted(found, key=lambda each: each.identity.name)


def _since(since: datetime | None) -> ColumnElement[bool]:
    return true() if since is None else Study.received_at >= since


def _studies(connection: Connection, rows: Sequence[Any]) -> list[StoredStudy]:
    ids = [row.id for row in rows]
    parts = _parts(connection, ids)
    i = Instance
    conflicts = _counts(
        connection,
        select(i.study_id, func.count())
        .where(i.study_id.in_(ids), i.state == ObjectState.CONFLICT)
        .group_by(i.study_id),
    )
    return [
        StoredStudy(
            study_id=row.id,
            study_instance_uid=row.study_instance_uid,
            received_at=row.received_at,
            waiting_since=row.waiting_since,
            generation=row.generation,
            too_old=row.too_old,
            order=order_of(row),
            decision=decision_of(row),
            conflicts=conflicts.get(row.id, 0),
            parts=tuple(parts.get(row.id, ())),
        )
        for row in rows
    ]


def _parts(connection: Connection, ids: Sequence[int]) -> dict[int, list[StoredPart]]:
    """Return the parts of some studies as `study_facts.study_contents` sees them."""
    results = by_subject(connection.execute(STORED_RESULTS.where(ResultRow.study_id.in_(ids))))
    waiting = _waiting(connection, ids)
    heads = _heads(connection, ids)
    series = _series(connection, ids)
    keys = {(study_id, key) for study_id, key in heads} | set(results) | waiting | set(series)
    parts: dict[int, list[StoredPart]] = defaultdict(list)
    for study_id, key in sorted(keys):
        head = heads.get((study_id, key))
        said = results.get((study_id, key), [])
        images, arriving, generation = series.get((study_id, key), (1, False, 0))
        parts[study_id].append(
            StoredPart(
                subject=Subject(key[0]),
                subject_id=key[1],
                images=images,
                pending=arriving or is_stale(said, generation) or (study_id, key) in waiting,
                expired=head is None or head.expired_at is not None,
                header=read_header(head.header) if head else None,
                sender_ae_title=head.sender_ae_title if head else "",
                results=tuple(each.result for each in said),
            )
        )
    return parts


def _heads(connection: Connection, ids: Sequence[int]) -> dict[tuple[int, SubjectKey], Any]:
    """Return the first row of each image and series that is looked at."""
    i = Instance
    first = (
        select(func.min(i.id))
        .where(i.study_id.in_(ids), i.subject == Subject.SERIES)
        .group_by(i.series_id)
    )
    rows = connection.execute(
        select(
            i.id, i.study_id, i.series_id, i.subject, i.header, i.sender_ae_title, i.expired_at
        ).where(or_(and_(i.study_id.in_(ids), i.subject == Subject.IMAGE), i.id.in_(first)))
    )
    return {
        (
            row.study_id,
            (row.subject, row.id if row.subject == Subject.IMAGE else row.series_id),
        ): row
        for row in rows
    }


def _series(
    connection: Connection, ids: Sequence[int]
) -> dict[tuple[int, SubjectKey], tuple[int, bool, int]]:
    """Return images, whether more may come, and generation of each series with images."""
    s = Series
    rows = connection.execute(
        select(s.study_id, s.id, s.images, s.closes_at, s.generation).where(
            s.study_id.in_(ids), s.images > 0
        )
    )
    return {
        (row.study_id, (Subject.SERIES.value, row.id)): (
            row.images,
            row.closes_at is not None,
            row.generation,
        )
        for row in rows
    }


def _waiting(connection: Connection, ids: Sequence[int]) -> set[tuple[int, SubjectKey]]:
    j = JobRow
    rows = connection.execute(
        select(j.study_id, j.subject, j.subject_id).where(
            j.study_id.in_(ids),
            j.kind == JobKind.ANALYSE,
            j.state.in_((JobState.QUEUED, JobState.LEASED)),
        )
    )
    return {(row.study_id, (row.subject, row.subject_id)) for row in rows}


def _counts(connection: Connection, statement: Select[int, int]) -> dict[int, int]:
    return {row[0]: row[1] for row in connection.execute(statement)}
