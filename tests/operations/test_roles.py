"""A role's heartbeat is written by its own turns, and by nothing else."""

from sqlalchemy import select

from triage.database.connection import Database, open_database
from triage.database.tables_house import RoleRow
from triage.operations.roles import STUCK_AFTER_S, WRITE_EVERY_S, RoleBeat


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def rows(db: Database) -> list[tuple[str, str, dict[str, object]]]:
    with db.read() as connection:
        found = connection.execute(select(RoleRow.role, RoleRow.state, RoleRow.detail))
        return [(row.role, row.state, row.detail) for row in found]


def test_the_first_turn_shows_at_once_and_says_how_long_turns_may_take(
    database: Database,
) -> None:
    RoleBeat(database, "receive", detail=lambda: {"port": 104}).turned()
    assert rows(database) == [("receive", "running", {"port": 104, "stuck_after_s": 60.0})]


def test_turns_are_written_now_and_then_and_a_change_of_state_at_once(database: Database) -> None:
    clock, details = Clock(), iter(range(10))
    beat = RoleBeat(database, "analyse", detail=lambda: {"n": next(details)}, monotonic=clock)
    beat.turned(state="starting")
    beat.turned(state="starting")
    assert next(details) == 1
    beat.turned()
    assert rows(database)[0][1] == "running"
    clock.now_s += WRITE_EVERY_S
    beat.turned()
    assert rows(database)[0][2]["n"] == 3


def test_a_role_that_makes_no_turn_is_stuck(sqlite_url: str) -> None:
    clock = Clock()
    db = open_database(sqlite_url)
    beat = RoleBeat(db, "watch", monotonic=clock)
    beat.turned()
    clock.now_s += STUCK_AFTER_S
    assert not beat.stuck
    clock.now_s += 1
    assert beat.stuck
    beat.turned()
    assert not beat.stuck
    db.dispose()


def test_an_orderly_stop_takes_the_role_off_the_list(database: Database) -> None:
    beat = RoleBeat(database, "receive")
    beat.turned()
    beat.stopped()
    assert rows(database) == []
