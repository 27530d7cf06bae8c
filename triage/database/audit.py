"""What the audit trail is made from: dispositions of objects, decisions, and notes for it alone.

Nothing is written twice for it: `object_events` and `events` are read in the order of their
numbers from where the trail last stopped, so the receive path pays nothing and what was committed
cannot be lost. What has no row of its own (a rejected association, a look at the worklist) is a
note in `events` and goes once it has been told and another row has followed it.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from triage.database.history import SETTLED_AFTER
from triage.database.house import record_decision
from triage.database.statements import insert_for
from triage.database.tables import Instance, ObjectEvent, Study
from triage.database.tables_history import HistoryMark
from triage.database.tables_house import Event
from triage.records import ObjectState, Source
from triage.rules.identity import COMPARED

OBJECTS = "audit_objects"  # names of the marks
DECISIONS = "audit_decisions"
TABLES: dict[str, type[ObjectEvent] | type[Event]] = {OBJECTS: ObjectEvent, DECISIONS: Event}

# Notes: rows of `events` that are there for the audit trail and for nothing else.
APPLICATION_STARTED = "audit_application_started"
APPLICATION_STOPPED = "audit_application_stopped"
ASSOCIATION_REJECTED = "audit_association_rejected"
WORKLIST_READ = "audit_worklist_read"
STUDY_READ = "audit_study_read"
NOTES = (
    APPLICATION_STARTED,
    APPLICATION_STOPPED,
    ASSOCIATION_REJECTED,
    WORKLIST_READ,
    STUDY_READ,
)

# PS3.15 table A.5.3.7-1: create where no copy was held, update an altered one, else read.
ACTIONS = {
    ObjectState.STORED: "C",
    ObjectState.CONFLICT: "C",
    ObjectState.REVISION: "U",
    ObjectState.DUPLICATE: "R",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedStudy:
    """What a message says of a study; patient data, for the audit trail only."""

    study_instance_uid: str
    accession_number: str
    patient_id: str
    patient_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Objects of one study that one sender handed over, or that were refused for one reason."""

    source: Source
    sender_ae_title: str
    action: str  # C, U or R; empty: not taken in
    reason: str  # why not taken in
    study_id: int | None
    first_id: int
    last_id: int
    first_at: datetime
    last_at: datetime
    classes: dict[str, int] = field(default_factory=dict)  # SOP Class UID -> objects

    @property
    def objects(self) -> int:
        return sum(self.classes.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """One decision or note."""

    id: int
    at: datetime
    study_id: int | None
    what: str
    by: str
    detail: dict[str, Any]


def begin(connection: Connection, *, now: datetime) -> None:
    """Set the marks where there are none: the trail begins with what comes after `now`."""
    for name, table in TABLES.items():
        if _mark(connection, name) is None:
            before = select(func.max(table.id)).where(table.at < now)
            last = connection.execute(before).scalar_one() or 0
            statement = insert_for(connection, HistoryMark).values(name=name, event_id=last)
            connection.execute(statement.on_conflict_do_nothing(index_elements=["name"]))


def mark(connection: Connection, name: str) -> int:
    """Return the number up to which everything has been told."""
    found = _mark(connection, name)
    if found is None:
        raise LookupError(f"the mark {name} was never set")
    return found


def move(connection: Connection, name: str, *, after: int, to: int) -> bool:
    """Move a mark; False where it was moved meanwhile. Notes that were told are deleted.

    All but the newest row of the table: SQLite would give its number again, and what is at or below
    the mark is never read. The next move deletes it.
    """
    moved = connection.execute(
        update(HistoryMark)
        .where(HistoryMark.name == name, HistoryMark.event_id == after)
        .values(event_id=to)
    )
    if moved.rowcount and name == DECISIONS:
        told = Event.id.between(after, to)  # `after`: the newest of the move before
        newest = select(func.max(Event.id)).scalar_subquery()
        notes = delete(Event).where(told, Event.what.in_(NOTES), Event.id < newest)
        connection.execute(notes)
    return bool(moved.rowcount)


def upto(connection: Connection, name: str, *, after: int, now: datetime, limit: int) -> int:
    """Return the last number to read: all below it are settled, about `limit` at most.

    The newest are left out: on PostgreSQL a lower number may still be committed. One from well
    after `now` is no new one: the clock was ahead when it was written and has stepped back since.
    """
    table = TABLES[name]
    some = select(table.id, table.at).where(table.id > after).order_by(table.id).limit(limit)
    last = after
    for row in connection.execute(some):
        if abs(now - row.at) <= SETTLED_AFTER:
            break
        last = row.id
    return last


def transfers(connection: Connection, *, after: int, to: int) -> list[Transfer]:
    """Return what was handed over, folded by sender, study and disposition, oldest first."""
    e, i = ObjectEvent, Instance
    folded = connection.execute(
        select(
            e.source,
            e.sender_ae_title,
            e.state,
            e.reason,
            i.study_id,
            i.sop_class_uid,
            func.min(e.id).label("first_id"),
            func.max(e.id).label("last_id"),
            func.min(e.at).label("first_at"),
            func.max(e.at).label("last_at"),
            func.count().label("objects"),
        )
        .outerjoin(i, i.id == e.instance_id)
        # A verdict on pixels is no transfer.
        .where(e.id > after, e.id <= to, e.reason != COMPARED)
        .group_by(e.source, e.sender_ae_title, e.state, e.reason, i.study_id, i.sop_class_uid)
    )
    groups: dict[tuple[Any, ...], list[Any]] = defaultdict(list)
    for row in folded:
        action = ACTIONS.get(ObjectState(row.state), "")
        reason = "" if action else row.reason
        groups[row.source, row.sender_ae_title, action, reason, row.study_id].append(row)
    made = [_transfer(key, rows) for key, rows in groups.items()]
    return sorted(made, key=lambda each: each.last_id)


def _transfer(key: tuple[Any, ...], rows: Sequence[Any]) -> Transfer:
    source, sender_ae_title, action, reason, study_id = key
    classes: dict[str, int] = defaultdict(int)
    for row in rows:
        classes[row.sop_class_uid or ""] += row.objects
    return Transfer(
        source=Source(source),
        sender_ae_title=sender_ae_title,
        action=action,
        reason=reason,
        study_id=study_id,
        first_id=min(row.first_id for row in rows),
        last_id=max(row.last_id for row in rows),
        first_at=min(row.first_at for row in rows),
        last_at=max(row.last_at for row in rows),
        classes=dict(sorted(classes.items())),
    )


def whole(
    some: Iterable[Transfer], *, to: int, now: datetime, quiet: timedelta, longest: timedelta
) -> int:
    """Return the number up to which no transfer is cut in two, `to` at most.

    A transfer goes on as long as its last object is younger than `quiet`; one from well after `now`
    is not, as in `upto`. Nothing waits longer than `longest`: then everything up to `to` counts as
    whole.
    """
    listed = list(some)
    if any(each.first_at <= now - longest for each in listed):
        return to
    goes_on = [each.first_id for each in listed if abs(now - each.last_at) < quiet]
    cut = min(goes_on, default=to + 1)
    while across := [each.first_id for each in listed if each.first_id < cut <= each.last_id]:
        cut = min(across)
    return cut - 1


def noted(connection: Connection, *, after: int, to: int) -> list[Noted]:
    """Return decisions and notes, in order."""
    e = Event
    rows = connection.execute(
        select(e.id, e.at, e.study_id, e.what, e.by, e.detail)
        .where(e.id > after, e.id <= to)
        .order_by(e.id)
    )
    return [Noted(**row._mapping) for row in rows]


def studies(connection: Connection, ids: Collection[int]) -> dict[int, AuditedStudy]:
    """Return what messages say of these studies."""
    s = Study
    rows = connection.execute(
        select(s.id, s.study_instance_uid, s.accession_number, s.patient_id, s.patient_name).where(
            s.id.in_(sorted(ids))
        )
    )
    return {
        row.id: AuditedStudy(
            study_instance_uid=row.study_instance_uid,
            accession_number=row.accession_number,
            patient_id=row.patient_id,
            patient_name=row.patient_name,
        )
        for row in rows
    }


def note(
    connection: Connection,
    *,
    what: str,
    by: str,
    detail: dict[str, Any],
    now: datetime,
    study_id: int | None = None,
) -> None:
    """Leave one of NOTES for the audit trail."""
    record_decision(connection, study_id=study_id, what=what, by=by, detail=detail, now=now)


def _mark(connection: Connection, name: str) -> int | None:
    marked = select(HistoryMark.event_id).where(HistoryMark.name == name)
    return connection.execute(marked).scalar_one_or_none()
