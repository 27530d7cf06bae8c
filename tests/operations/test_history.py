"""What was received is folded once into totals and habits, whatever comes between."""

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, select

from tests.assurance import requirement
from tests.builders import make_arrival, make_header
from tests.database.conftest import Clock, Room
from triage.database import arrivals, history, reading
from triage.database.connection import Database, open_database
from triage.database.history import SETTLED_AFTER
from triage.database.house import record_sender
from triage.database.intake_log import record_event, record_refused
from triage.database.tables_history import ReceivedTotal, SenderHabit, SenderHour
from triage.operations.history import (
    EVENTS_A_TRANSACTION,
    fold_received,
    history_sweep,
    learn_habits,
)
from triage.records import ObjectState, Source
from triage.rules.silence import HISTORY

LATER_S = SETTLED_AFTER.total_seconds() + 1
HOUR_S = 3600.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def room(database_url: str, clock: Clock) -> Iterator[Room]:
    db = open_database(database_url, clock=clock)
    yield Room(db=db, clock=clock)
    db.dispose()


def totals(room: Room) -> dict[tuple[str, str], tuple[int, int]]:
    return {
        (row.source, row.state): (row.objects, row.size_bytes) for row in room.rows(ReceivedTotal)
    }


def heard(room: Room, when: datetime, ae_title: str = "CT1") -> None:
    """Leave the trace of one stored object of a sender."""
    with room.db.write() as connection:
        record_sender(connection, ae_title, now=when)
        record_event(
            connection,
            state=ObjectState.STORED,
            sop_instance_uid="1.2",
            instance_id=None,
            source=Source.C_STORE,
            sender_ae_title=ae_title,
            reason="",
            now=when,
        )


def test_each_object_is_counted_once_with_its_size(room: Room) -> None:
    first, second = make_arrival(), make_arrival()
    for arrival in (first, second, first):
        room.arrive(arrival)
    with room.db.write() as connection:
        record_refused(
            connection,
            source=Source.FOLDER,
            sender_ae_title="",
            sop_instance_uid="",
            reason="",
            now=room.clock(),
        )
    room.clock.advance(LATER_S - 2)
    assert fold_received(room.db) == 0  # too young: a lower number might still be committed
    room.clock.advance(2)
    assert fold_received(room.db) == 4
    assert fold_received(room.db) == 0
    sizes = first.size_bytes + second.size_bytes
    assert totals(room) == {
        ("c-store", "stored"): (2, sizes),
        ("c-store", "duplicate"): (1, first.size_bytes),
        ("folder", "refused"): (1, 0),
    }


def test_an_object_whose_pixels_are_compared_counts_when_they_were(room: Room) -> None:
    """Status and counters agree: it came once and is one object."""
    header = make_header()
    room.arrive(make_arrival(header, content="first"))
    newcomer = room.arrive(make_arrival(header, content="second"))
    room.clock.advance(LATER_S)
    fold_received(room.db)
    assert totals(room) == {("c-store", "stored"): (1, make_arrival().size_bytes)}
    with room.db.write() as connection:
        arrivals.resolve_contest(
            connection,
            newcomer.instance_id,
            verdict=ObjectState.REVISION,
            policies=room.policies,
            now=room.clock(),
        )
    room.clock.advance(LATER_S)
    fold_received(room.db)
    assert {key: objects for key, (objects, _) in totals(room).items()} == {
        ("c-store", "stored"): 1,
        ("c-store", "revision"): 1,
    }


def test_a_clock_that_was_ahead_for_a_moment_stops_neither_counters_nor_habits(room: Room) -> None:
    heard(room, room.clock())
    room.clock.advance(400 * 24 * HOUR_S)
    heard(room, room.clock(), "AHEAD")
    learn_habits(room.db, UTC)
    room.clock.advance(-399 * 24 * HOUR_S)
    heard(room, room.clock())
    room.clock.advance(LATER_S)
    assert fold_received(room.db) == 3
    assert totals(room) == {("c-store", "stored"): (3, 0)}
    assert {row.ae_title for row in room.rows(SenderHour)} == {"CT1"}
    assert learn_habits(room.db, UTC) == 2  # again: they were learnt at a time that has not come


@requirement("Q4")
def test_two_sweeps_at_once_fold_nothing_twice(room: Room) -> None:
    room.arrive(make_arrival())
    room.clock.advance(LATER_S)
    with room.db.read() as connection:
        some = history.unfolded(connection, now=room.clock(), limit=100)
    assert fold_received(room.db) == 1
    with room.db.write() as connection:
        assert not history.fold(connection, some, now=room.clock())
    assert totals(room)["c-store", "stored"][0] == 1


def test_a_long_trail_is_folded_in_small_steps_within_its_time(room: Room) -> None:
    with room.db.write() as connection:
        for _ in range(EVENTS_A_TRANSACTION + 5):
            record_refused(
                connection,
                source=Source.C_STORE,
                sender_ae_title="",
                sop_instance_uid="",
                reason="",
                now=room.clock(),
            )
    room.clock.advance(LATER_S)
    seconds = iter([0.0, 100.0, 200.0])
    assert fold_received(room.db, monotonic=lambda: next(seconds)) == EVENTS_A_TRANSACTION
    assert fold_received(room.db) == 5
    assert totals(room) == {("c-store", "refused"): (EVENTS_A_TRANSACTION + 5, 0)}


def test_the_hours_of_a_sender_are_joined_over_several_turns(room: Room) -> None:
    nine = datetime(2026, 1, 2, 9, 0, tzinfo=UTC)
    for minutes in ((0, 5), (25,), (26,), (61,)):
        for minute in minutes:
            heard(room, nine + timedelta(minutes=minute))
        room.clock.now = nine + timedelta(minutes=minutes[-1], seconds=LATER_S)
        fold_received(room.db)
    first, second = room.rows(SenderHour)
    assert (first.hour_at, first.first_at) == (nine, nine)
    assert first.last_at == nine + timedelta(minutes=26)
    assert first.longest_gap_s == 20 * 60
    assert (second.hour_at, second.longest_gap_s) == (nine + timedelta(hours=1), 0.0)


def test_an_event_that_is_told_late_takes_no_hour_back(room: Room) -> None:
    nine = datetime(2026, 1, 2, 9, 0, tzinfo=UTC)
    for minute in (0, 40, 20):
        heard(room, nine + timedelta(minutes=minute))
        room.clock.now = nine + timedelta(minutes=40, seconds=LATER_S)
        fold_received(room.db)
    (hour,) = room.rows(SenderHour)
    assert (hour.first_at, hour.last_at) == (nine, nine + timedelta(minutes=40))


def test_only_images_that_were_taken_in_show_that_a_sender_is_well(room: Room) -> None:
    with room.db.write() as connection:
        record_refused(
            connection,
            source=Source.C_STORE,
            sender_ae_title="CT1",
            sop_instance_uid="",
            reason="",
            now=room.clock(),
        )
    room.clock.advance(LATER_S)
    fold_received(room.db)
    assert room.rows(SenderHour) == []


def test_a_habit_is_learnt_from_weeks_and_old_hours_are_forgotten(room: Room) -> None:
    begin = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
    for day in range(70):
        for hour in range(0, 8, 2):
            heard(room, begin + timedelta(days=day, hours=hour))
    room.clock.now = begin + timedelta(days=69, hours=7)
    history_sweep(room.db, UTC).run()
    (habit,) = room.rows(SenderHabit)
    assert habit.usual_interval_s > 0
    assert [n % 24 for n, flag in enumerate(habit.busy_hours) if flag == "1"] == [8, 10, 12, 14] * 7
    assert min(row.hour_at for row in room.rows(SenderHour)) >= room.clock() - HISTORY


def test_a_habit_is_learnt_anew_hourly_and_only_where_images_came(room: Room) -> None:
    heard(room, room.clock())
    assert learn_habits(room.db, UTC) == 1
    room.clock.advance(2 * HOUR_S)
    assert learn_habits(room.db, UTC) == 0
    heard(room, room.clock())
    assert learn_habits(room.db, UTC) == 1
    heard(room, room.clock())
    assert learn_habits(room.db, UTC) == 0


def test_status_reads_the_totals_and_habits_that_the_sweep_wrote(
    room: Room, database_url: str
) -> None:
    room.arrive(make_arrival(sender_ae_title="CT1"))
    room.clock.advance(LATER_S)
    history_sweep(room.db, UTC).run()
    reader = reading.open_reader(database_url)
    facts = reading.status_facts(reader, now=room.clock())
    reader.close()
    assert [(row["state"], row["objects"]) for row in facts["receive"]["totals"]] == [("stored", 1)]
    (sender,) = facts["senders"]
    assert (sender["ae_title"], sender["images"]) == ("CT1", 1)
    assert (len(sender["busy_hours"]), sender["usual_interval_s"]) == (168, None)


def test_the_sweep_reads_no_long_table_from_end_to_end(sqlite_url: str) -> None:
    db: Database = open_database(sqlite_url)
    statements: list[str] = []
    with db.read() as connection:
        event.listen(
            connection.engine,
            "before_cursor_execute",
            lambda _connection, _cursor, statement, *_: statements.append(statement),
        )
        history.unfolded(connection, now=datetime.now(UTC), limit=10)
        assert connection.execute(select(ReceivedTotal)).all() == []
    db.dispose()
    raw = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))
    plans = [
        row[3]
        for statement in statements
        for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}", (0,) * statement.count("?"))
    ]
    raw.close()
    assert [plan for plan in plans if "object_events" in plan]
    assert not [plan for plan in plans if plan in ("SCAN object_events", "SCAN instances")]
