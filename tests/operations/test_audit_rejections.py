"""Rejected associations: counted at once, noted soon, none forgotten while the database is away."""

from collections.abc import Iterator

import pytest
from sqlalchemy import select

from tests.assurance import requirement
from tests.database.conftest import Clock, Room
from triage.database.connection import open_database
from triage.database.tables_house import Event
from triage.operations.audit_rejections import MOST_CALLERS, REPEATED_AFTER_S, Rejections


@pytest.fixture
def house(database_url: str) -> Iterator[Room]:
    clock = Clock()
    db = open_database(database_url, clock=clock)
    yield Room(db=db, clock=clock)
    db.dispose()


def caller(number: int = 1) -> tuple[str, str, str]:
    return f"EVIL{number}", "192.0.2.9", "unknown"


def noted(house: Room) -> list[tuple[str, int]]:
    with house.db.read() as connection:
        details = connection.execute(select(Event.detail).order_by(Event.id)).scalars()
        return [(each["calling_ae_title"], each["times"]) for each in details]


@requirement("N6")
def test_the_first_rejection_is_noted_at_once_and_its_repetitions_together(house: Room) -> None:
    seconds = [0.0]
    rejections = Rejections(house.db, monotonic=lambda: seconds[0])
    rejections.count(*caller())
    rejections.turn()
    assert noted(house) == [("EVIL1", 1)]
    for _ in range(1000):
        rejections.count(*caller())
        rejections.turn()
    assert len(noted(house)) == 1
    seconds[0] = 61
    rejections.turn()
    assert noted(house) == [("EVIL1", 1), ("EVIL1", 1000)]


def test_what_was_counted_is_noted_before_the_end(house: Room) -> None:
    rejections = Rejections(house.db)
    for _ in range(3):
        rejections.count(*caller())
        rejections.turn()
    rejections.turn(last=True)
    assert sum(times for _, times in noted(house)) == 3


def test_a_flood_of_different_callers_is_bounded_and_counted(house: Room) -> None:
    rejections = Rejections(house.db)
    for number in range(10 * MOST_CALLERS):
        rejections.count(*caller(number))
    rejections.turn()
    assert len(noted(house)) == MOST_CALLERS + 1
    assert sum(times for _, times in noted(house)) == 10 * MOST_CALLERS


def test_what_a_database_that_is_away_misses_is_noted_when_it_is_back(sqlite_url: str) -> None:
    clock = Clock()
    holder = open_database(sqlite_url, clock=clock)
    db = open_database(sqlite_url, clock=clock, lock_timeout_s=0.05)
    rejections = Rejections(db, monotonic=lambda: 7.0)
    try:
        for _ in range(2):
            rejections.count(*caller())
            with holder.write():
                rejections.turn()
        rejections.turn()
        assert noted(Room(db=db, clock=clock)) == [("EVIL1", 2)]
    finally:
        holder.dispose()
        db.dispose()


def test_callers_that_have_gone_make_room_for_others(house: Room) -> None:
    seconds = [0.0]
    rejections = Rejections(house.db, monotonic=lambda: seconds[0])
    for hour in range(2):
        for number in range(MOST_CALLERS):
            rejections.count(*caller(100 * hour + number))
        rejections.turn()
        seconds[0] += REPEATED_AFTER_S + 1
        rejections.turn()
    named = [name for name, _ in noted(house)]
    assert len(named) == 2 * MOST_CALLERS
    assert "" not in named
