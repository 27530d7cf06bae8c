"""Fold what was received into small tables: totals for counters, hours and habits of senders.

The receive path pays nothing for it: a sweep reads the trail of events in the order of their
numbers, from where it last stopped. The mark moves in the transaction that writes, and only from
where the reader found it, so that two sweeps at once fold nothing twice. What is folded here is
statistics; no decision about a study rests on it.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from sqlalchemy import Connection, delete, or_, select, update

from triage.database.statements import insert_for
from triage.database.tables import Instance, ObjectEvent
from triage.database.tables_history import HistoryMark, ReceivedTotal, SenderHabit, SenderHour
from triage.database.tables_house import Sender
from triage.records import ObjectState, Source
from triage.rules.identity import COMPARED, COMPARED_LATER
from triage.rules.silence import HISTORY, WEEK_HOURS, ActiveHour, Habit, hour_begin

MARK = "object_events"
SETTLED_AFTER = timedelta(seconds=15)  # far longer than a transaction of the intake takes
# An image that was not taken in does not show that the sender is well.
TAKEN_IN = frozenset(
    {ObjectState.STORED, ObjectState.DUPLICATE, ObjectState.REVISION, ObjectState.CONFLICT}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Some events, read and not folded yet."""

    after: int  # the mark as it was found
    events: Sequence[Any]  # id, at, state, source, sender_ae_title, reason, size_bytes


def unfolded(connection: Connection, *, now: datetime, limit: int) -> Fold:
    """Return the next events that are settled, at most `limit`.

    The newest are left out: on PostgreSQL a lower number may still be committed. One from well
    after `now` is no new one: the clock was ahead when it was written and has stepped back since.
    """
    marked = select(HistoryMark.event_id).where(HistoryMark.name == MARK)
    after: int = connection.execute(marked).scalar_one()
    e = ObjectEvent
    found = connection.execute(
        select(e.id, e.at, e.state, e.source, e.sender_ae_title, e.reason, Instance.size_bytes)
        .outerjoin(Instance, Instance.id == e.instance_id)
        .where(e.id > after)
        .order_by(e.id)
        .limit(limit)
    ).all()
    young = (n for n, event in enumerate(found) if abs(now - event.at) <= SETTLED_AFTER)
    return Fold(after=after, events=found[: next(young, len(found))])


def fold(connection: Connection, some: Fold, *, now: datetime) -> bool:
    """Add the events to the totals and to their senders' hours, as far as a habit needs them.

    False where another sweep has been quicker; nothing is written then.
    """
    moved = connection.execute(
        update(HistoryMark)
        .where(HistoryMark.name == MARK, HistoryMark.event_id == some.after)
        .values(event_id=some.events[-1].id)
    )
    if not moved.rowcount:
        return False
    _add_totals(connection, some.events)
    _add_hours(connection, (event for event in some.events if now - HISTORY <= event.at <= now))
    return True


def habits_due(connection: Connection, *, now: datetime, every: timedelta, limit: int) -> list[str]:
    """Return senders that have sent since their habit was learnt, longer ago than `every`.

    And those whose habit was learnt while the clock was ahead.
    """
    s, h = Sender, SenderHabit
    old = (h.learnt_at < now - every) & (s.last_image_at > h.learnt_at)
    due = (
        select(s.ae_title)
        .outerjoin(h, h.ae_title == s.ae_title)
        .where(or_(h.learnt_at.is_(None), h.learnt_at > now, old))
        .order_by(s.last_image_at.desc())
        .limit(limit)
    )
    return list(connection.execute(due).scalars())


def active_hours(connection: Connection, ae_title: str, *, now: datetime) -> list[ActiveHour]:
    """Return a sender's history up to `now`, oldest first."""
    h = SenderHour
    rows = connection.execute(
        select(h.hour_at, h.first_at, h.last_at, h.longest_gap_s)
        .where(h.ae_title == ae_title, h.hour_at <= now)
        .order_by(h.hour_at)
    )
    return [ActiveHour(**row._mapping) for row in rows]


def write_habit(
    connection: Connection, ae_title: str, habit: Habit | None, *, now: datetime
) -> None:
    """Keep what was learnt of a sender; None where nothing is known of its hours."""
    busy = habit.busy_hours if habit else frozenset()
    values = {
        "busy_hours": "".join("01"[hour in busy] for hour in range(WEEK_HOURS)),
        "usual_interval_s": habit.usual_interval_s if habit else None,
        "learnt_at": now,
    }
    statement = insert_for(connection, SenderHabit).values(ae_title=ae_title, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["ae_title"], set_=values))


def forget_hours(connection: Connection, ae_title: str, *, now: datetime) -> None:
    """Delete the hours of a sender that its habit is learnt from no more, or that never were."""
    h = SenderHour
    outside = or_(h.hour_at < now - HISTORY, h.hour_at > now)
    connection.execute(delete(h).where(h.ae_title == ae_title, outside))


def _add_totals(connection: Connection, events: Iterable[Any]) -> None:
    """Count each object once: one whose pixels are compared, when that has been done."""
    totals: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for event in events:
        if event.reason != COMPARED_LATER:
            total = totals[event.source, event.state]
            total[0] += 1
            total[1] += event.size_bytes or 0
    t = ReceivedTotal
    for (source, state), (objects, size_bytes) in sorted(totals.items()):
        statement = insert_for(connection, t).values(
            source=source, state=state, objects=objects, size_bytes=size_bytes
        )
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["source", "state"],
                set_={
                    "objects": t.objects + statement.excluded.objects,
                    "size_bytes": t.size_bytes + statement.excluded.size_bytes,
                },
            )
        )


def _add_hours(connection: Connection, events: Iterable[Any]) -> None:
    times: dict[tuple[str, datetime], list[datetime]] = defaultdict(list)
    for event in events:
        # A verdict on pixels comes later than the image.
        heard = event.source == Source.C_STORE and event.reason != COMPARED
        if heard and event.sender_ae_title and event.state in TAKEN_IN:
            times[event.sender_ae_title, hour_begin(event.at)].append(event.at)
    for (ae_title, hour_at), moments in sorted(times.items()):
        _add_hour(connection, ae_title, hour_at, sorted(moments))


def _add_hour(
    connection: Connection, ae_title: str, hour_at: datetime, moments: list[datetime]
) -> None:
    h = SenderHour
    held = connection.execute(
        select(h.first_at, h.last_at, h.longest_gap_s).where(
            h.ae_title == ae_title, h.hour_at == hour_at
        )
    ).first()
    first_at, longest_gap_s = moments[0], 0.0
    if held is not None:
        first_at, longest_gap_s = held.first_at, held.longest_gap_s
        moments = [held.last_at, *(moment for moment in moments if moment > held.last_at)]
    gaps = ((later - sooner).total_seconds() for sooner, later in pairwise(moments))
    values = {
        "first_at": first_at,
        "last_at": moments[-1],
        "longest_gap_s": max([longest_gap_s, *gaps]),
    }
    statement = insert_for(connection, h).values(ae_title=ae_title, hour_at=hour_at, **values)
    connection.execute(
        statement.on_conflict_do_update(index_elements=["ae_title", "hour_at"], set_=values)
    )
