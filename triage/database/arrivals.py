"""One durable object becomes rows: what it is, where it belongs, and what must be looked at.

Everything of one object happens in one transaction: identity, study, series, instance, job or due
time, and the worklist. The caller may wrap each call in a savepoint, so that one bad object does
not fail its group. Source: DESIGN sections 3.7 and 4; `rules.identity`, `rules.completion`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, select

from triage.database.closing import close_due_series, close_due_studies, look_when_whole
from triage.database.connection import lock_arrivals
from triage.database.contests import resolve_contest, show_revision
from triage.database.documents import header_document, read_header
from triage.database.house import record_sender
from triage.database.intake_log import record_event
from triage.database.jobs import enqueue_look
from triage.database.requeue import look_when_listed
from triage.database.statements import insert_id, row_of, update_changed, update_row
from triage.database.studies import counted, joined, series_of, study_of
from triage.database.study_alarms import raise_conflict
from triage.database.tables import Instance, Series, Study
from triage.database.worklist import refresh_study
from triage.records import Analysis, Arrival, ObjectState, Subject
from triage.rules.completion import subject_of
from triage.rules.identity import COMPARED_LATER, Identity, IdentityFacts, decide
from triage.rules.policies import Policies

__all__ = [
    "ArrivalOutcome",
    "close_due_series",
    "close_due_studies",
    "held_digest",
    "instance_paths",
    "record_arrival",
    "resolve_contest",
]

HELD = (
    select(Instance.__table__)
    .where(Instance.__table__.c.sop_instance_uid == bindparam("uid"))
    .order_by(Instance.__table__.c.id)
)
PATHS_PER_QUERY = 1000
HELD_AGAIN = "held again after its images had expired"
STATE_OF = {
    Identity.REVISION: ObjectState.REVISION,
    Identity.COMPARE: ObjectState.STORED,
    Identity.CONFLICT: ObjectState.CONFLICT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalOutcome:
    """What became of one object.

    `state` is STORED, DUPLICATE, REVISION or CONFLICT. A newcomer whose pixels must be compared
    with those held is STORED until the worker has compared them.
    """

    state: ObjectState
    instance_id: int
    study_id: int
    job_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placed:
    """An object with the rows of its study and series as they were before it came."""

    arrival: Arrival
    study: Any
    series: Any
    study_is_new: bool = False

    @property
    def waits_for_its_series(self) -> bool:
        """Whether the worklist hardly changes by it: one more image of a series that is open."""
        return (
            subject_of(self.arrival.header) is Subject.SERIES
            and self.series.closes_at is not None
            and self.study.analysis == Analysis.PENDING
            and self.study.acknowledged_at is None
        )


def record_arrival(
    connection: Connection, arrival: Arrival, *, policies: Policies, now: datetime
) -> ArrivalOutcome:
    """Write the rows of one object that is durable in the store."""
    lock_arrivals(connection)
    held = connection.execute(HELD, {"uid": arrival.header.sop_instance_uid}).all()
    counting = next((row for row in held if row.contests_id is None), None)
    identity = decide(
        IdentityFacts(
            new_digest=arrival.digest,
            new_has_pixels=arrival.header.has_pixels,
            held_digests=frozenset(row.digest for row in held),
            held_has_pixels=counting is not None and read_header(counting.header).has_pixels,
        )
    )
    if arrival.sender_ae_title:
        record_sender(connection, arrival.sender_ae_title, now=now)
    if identity is Identity.DUPLICATE:
        same = next(row for row in held if row.digest == arrival.digest)
        return _again(connection, arrival, same, policies=policies, now=now)
    placed = _place(connection, arrival, policies=policies, now=now)
    if identity is Identity.NEW or counting is None:
        return _new(connection, placed, policies=policies, now=now)
    return _contested(connection, placed, counting, identity, policies=policies, now=now)


def held_digest(connection: Connection, digest: str) -> int | None:
    """Return the instance that holds these bytes, None where none does."""
    return connection.execute(
        select(Instance.id).where(Instance.digest == digest)
    ).scalar_one_or_none()


def uids_of_digest(connection: Connection, digest: str) -> tuple[str, str] | None:
    """Return Study and SOP Instance UID of the image with these bytes; None where none has them."""
    found = connection.execute(
        select(Study.study_instance_uid, Instance.sop_instance_uid)
        .join(Study, Study.id == Instance.study_id)
        .where(Instance.digest == digest, Instance.expired_at.is_(None))
    ).one_or_none()
    return None if found is None else (found[0], found[1])


def instance_paths(connection: Connection) -> Iterator[tuple[int, str]]:
    """Yield (instance id, path) of everything that should be in the store, by ascending id."""
    after = 0
    while True:
        rows = connection.execute(
            select(Instance.id, Instance.path)
            .where(Instance.id > after, Instance.expired_at.is_(None))
            .order_by(Instance.id)
            .limit(PATHS_PER_QUERY)
        ).all()
        for row in rows:
            yield row.id, row.path
        if len(rows) < PATHS_PER_QUERY:
            return
        after = rows[-1].id


# --- the outcomes


def _new(
    connection: Connection, placed: _Placed, *, policies: Policies, now: datetime
) -> ArrivalOutcome:
    subject = subject_of(placed.arrival.header)
    header = {} if placed.study_is_new else joined(placed.study, placed.arrival, policies=policies)
    later = placed.waits_for_its_series and all(
        header[name] == getattr(placed.study, name) for name in ("order_priority", "too_old")
    )
    changes = header | _counted(placed, policies=policies, now=now)
    if later:
        # Two thousand slices need not refresh the worklist two thousand times: the sweep does.
        changes["next_change_at"] = now
    update_changed(connection, Study, placed.study, **changes)
    instance_id = _insert(connection, placed, ObjectState.STORED, subject, now=now)
    jobs = look_when_whole(
        connection,
        subject,
        instance_id=instance_id,
        series=placed.series,
        policies=policies,
        now=now,
    )
    if placed.study.too_old and not changes.get("too_old", True):
        look_when_listed(connection, placed.study.id, now=now)
    _trace(connection, placed, instance_id, ObjectState.STORED, "", now=now)
    if not later:
        refresh_study(connection, placed.study.id, policies=policies, now=now)
    return _outcome(placed, ObjectState.STORED, instance_id, jobs)


def _contested(
    connection: Connection,
    placed: _Placed,
    held: Any,
    identity: Identity,
    *,
    policies: Policies,
    now: datetime,
) -> ArrivalOutcome:
    """Hold a newcomer beside the object whose SOP Instance UID it shares."""
    study_id = placed.study.id
    elsewhere = held.study_id != study_id
    if identity is Identity.COMPARE and held.expired_at is not None and held.pixel_digest is None:
        identity = Identity.CONFLICT  # what cannot be compared is not assumed equal
    if elsewhere or identity is Identity.CONFLICT:
        changes = _counted(placed, new_object=elsewhere, policies=policies, now=now)
        update_row(connection, Study, study_id, **changes)
    state = STATE_OF[identity]
    instance_id = _insert(connection, placed, state, None, contests_id=held.id, now=now)
    jobs: list[int] = []
    if identity is Identity.COMPARE:
        jobs = enqueue_look(connection, Subject.IMAGE, instance_id, study_id, now=now)
    elif identity is Identity.CONFLICT:
        raise_conflict(connection, placed.arrival.header.sop_instance_uid, now=now)
    elif not elsewhere:
        show_revision(
            connection,
            placed.study,
            placed.arrival.header,
            sender_ae_title=placed.arrival.sender_ae_title,
            policies=policies,
            now=now,
        )
    reason = COMPARED_LATER if identity is Identity.COMPARE else ""
    _trace(connection, placed, instance_id, state, reason, now=now)
    refresh_study(connection, study_id, policies=policies, now=now)
    return _outcome(placed, state, instance_id, jobs)


def _again(
    connection: Connection, arrival: Arrival, same: Any, *, policies: Policies, now: datetime
) -> ArrivalOutcome:
    """Count bytes that are held already; images that had expired are held, and looked at, anew."""
    update_row(
        connection,
        Instance,
        same.id,
        duplicates=same.duplicates + 1,
        last_duplicate_at=now,
        path=arrival.path,
        expired_at=None,
    )
    placed = _Placed(
        arrival=arrival,
        study=row_of(connection, Study, same.study_id),
        series=row_of(connection, Series, same.series_id),
    )
    if same.expired_at is None:
        _trace(connection, placed, same.id, ObjectState.DUPLICATE, "", now=now)
        return _outcome(placed, ObjectState.DUPLICATE, same.id, [])
    changes = _counted(placed, new_object=False, policies=policies, now=now)
    update_row(connection, Study, same.study_id, **changes)
    jobs = look_when_whole(
        connection,
        Subject(same.subject) if same.subject else None,
        instance_id=same.id,
        series=placed.series,
        new_images=0,
        policies=policies,
        now=now,
    )
    _trace(connection, placed, same.id, ObjectState.STORED, HELD_AGAIN, now=now)
    refresh_study(connection, same.study_id, policies=policies, now=now)
    return _outcome(placed, ObjectState.STORED, same.id, jobs)


# --- rows


def _place(
    connection: Connection, arrival: Arrival, *, policies: Policies, now: datetime
) -> _Placed:
    study, is_new = study_of(connection, arrival, policies=policies, now=now)
    series = series_of(connection, study.id, arrival.header, now=now)
    return _Placed(arrival=arrival, study=study, series=series, study_is_new=is_new)


def _counted(
    placed: _Placed, *, new_object: bool = True, policies: Policies, now: datetime
) -> dict[str, Any]:
    return counted(
        placed.study,
        modality=placed.arrival.header.modality,
        new_object=new_object,
        policies=policies,
        now=now,
    )


def _insert(
    connection: Connection,
    placed: _Placed,
    state: ObjectState,
    subject: Subject | None,
    *,
    contests_id: int | None = None,
    now: datetime,
) -> int:
    arrival = placed.arrival
    return insert_id(
        connection,
        Instance,
        study_id=placed.study.id,
        series_id=placed.series.id,
        sop_instance_uid=arrival.header.sop_instance_uid,
        sop_class_uid=arrival.header.sop_class_uid,
        transfer_syntax_uid=arrival.header.transfer_syntax_uid,
        digest=arrival.digest,
        path=arrival.path,
        size_bytes=arrival.size_bytes,
        source=arrival.source,
        sender_ae_title=arrival.sender_ae_title,
        received_at=now,
        state=state,
        subject=subject,
        contests_id=contests_id,
        header=header_document(arrival.header),
        generation=1,  # the bytes of an instance never change
    )


def _trace(
    connection: Connection,
    placed: _Placed,
    instance_id: int,
    state: ObjectState,
    reason: str,
    *,
    now: datetime,
) -> None:
    record_event(
        connection,
        state=state,
        sop_instance_uid=placed.arrival.header.sop_instance_uid,
        instance_id=instance_id,
        source=placed.arrival.source,
        sender_ae_title=placed.arrival.sender_ae_title,
        reason=reason,
        now=now,
    )


def _outcome(
    placed: _Placed, state: ObjectState, instance_id: int, jobs: Sequence[int]
) -> ArrivalOutcome:
    return ArrivalOutcome(
        state=state, instance_id=instance_id, study_id=placed.study.id, job_ids=tuple(jobs)
    )
