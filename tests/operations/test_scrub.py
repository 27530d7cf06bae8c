"""What is held is read again: a file that does not hold what was received is an alarm."""

import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tests.assurance import requirement
from tests.dicom_files import make_dx, to_bytes
from triage.database.connection import Database
from triage.ingest.intake import Intake
from triage.ingest.part10 import META_BYTES
from triage.operations.scrub import MOST_ALARMS, NOTE, REST, Scrubbed, recheck, scrub_once
from triage.records import Source
from triage.store import Store

FAST = 1e6  # MiB in a second


def run(database: Database, store: Store, stop: threading.Event | None = None) -> Scrubbed:
    return scrub_once(database, store, stop=stop or threading.Event(), mib_per_s=FAST)


def alarms(database: Database) -> list[tuple[Any, ...]]:
    statement = "SELECT code, subject, message FROM alarms WHERE cleared_at IS NULL ORDER BY id"
    with database.read() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def held(store: Store) -> list[str]:
    return list(store.object_paths())


def flip(path: Path, place: int) -> None:
    """Change one bit, as a disk does."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def flip_all(store: Store, paths: list[str]) -> None:
    for path in paths:
        flip(store.resolve(path), -1)


@requirement("D4")
@pytest.mark.parametrize("place", [META_BYTES, META_BYTES + 1000, -1])
def test_one_changed_bit_is_an_alarm_until_the_object_came_again(
    place: int, database: Database, store: Store, intake: Intake
) -> None:
    ds = make_dx()
    intake.accept(to_bytes(make_dx()), source=Source.C_STORE)
    [other] = held(store)
    intake.accept(to_bytes(ds), source=Source.C_STORE)
    [path] = set(held(store)) - {other}
    assert run(database, store) == Scrubbed(read=2, damaged=0, complete=True)
    flip(store.resolve(path), place)
    for _ in range(2):
        assert run(database, store) == Scrubbed(read=2, damaged=1, complete=True)
        [(code, subject, message)] = alarms(database)
        assert (code, subject) == ("objects_damaged", path)
        assert ds.SOPInstanceUID in message
        assert ds.StudyInstanceUID in message
    intake.accept(to_bytes(ds), source=Source.C_STORE)
    recheck(database, store, stop=threading.Event(), mib_per_s=FAST)
    assert alarms(database) == []
    assert run(database, store).damaged == 0


@requirement("D4")
@pytest.mark.parametrize("kept_bytes", [0, 100, META_BYTES, META_BYTES + 10])
def test_a_file_that_was_cut_is_an_alarm(
    kept_bytes: int, database: Database, store: Store, intake: Intake
) -> None:
    intake.accept(to_bytes(make_dx()), source=Source.C_STORE)
    [path] = held(store)
    store.resolve(path).write_bytes(store.resolve(path).read_bytes()[:kept_bytes])
    assert run(database, store).damaged == 1
    assert [subject for _, subject, _ in alarms(database)] == [path]


def test_what_expired_or_has_no_row_is_told_by_others(
    database: Database, store: Store, intake: Intake
) -> None:
    intake.accept(to_bytes(make_dx()), source=Source.C_STORE)
    [path] = held(store)
    flip(store.resolve(path), -1)
    with database.write() as connection:
        now = database.now(connection)
        connection.execute(text("UPDATE instances SET expired_at = :now"), {"now": str(now)})
    assert run(database, store) == Scrubbed(read=1, damaged=0, complete=True)
    assert alarms(database) == []


def test_an_alarm_ends_with_its_file(database: Database, store: Store, intake: Intake) -> None:
    intake.accept(to_bytes(make_dx()), source=Source.C_STORE)
    [path] = held(store)
    flip(store.resolve(path), -1)
    run(database, store)
    store.delete(path)
    assert run(database, store).damaged == 0
    recheck(database, store, stop=threading.Event(), mib_per_s=FAST)
    assert alarms(database) == []


@pytest.fixture
def dying(store: Store, intake: Intake) -> list[str]:
    """Two files more than may have an alarm each, all of them damaged."""
    for _ in range(MOST_ALARMS + 2):
        intake.accept(to_bytes(make_dx()), source=Source.C_STORE)
    flip_all(store, held(store))
    return held(store)


def test_a_dying_disk_opens_a_bounded_number_of_alarms_and_one_that_counts_the_rest(
    database: Database, store: Store, dying: list[str]
) -> None:
    for _ in range(2):
        assert run(database, store).damaged == MOST_ALARMS + 2
        *named, (code, subject, message) = alarms(database)
        assert [subject for _, subject, _ in named] == dying[:MOST_ALARMS]
        assert (code, subject) == ("objects_damaged", REST)
        assert message.startswith("at least 2 more ")
    flip_all(store, dying)  # as they were
    recheck(database, store, stop=threading.Event(), mib_per_s=FAST)
    assert [subject for _, subject, _ in alarms(database)] == [REST]
    flip_all(store, dying[2:])
    run(database, store)
    assert [subject for _, subject, _ in alarms(database)] == dying[2:]


def test_the_rest_is_counted_during_a_round_and_the_number_of_a_round_stands_during_the_next(
    database: Database, store: Store, dying: list[str]
) -> None:
    class UntilCounted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if len(alarms(database)) > MOST_ALARMS:
                self.set()
            return self.is_set()

    for stop, complete in ((UntilCounted(), False), (threading.Event(), True)):
        found = scrub_once(database, store, stop=stop, mib_per_s=FAST, recheck_s=0)
        assert found.complete is complete
    scrub_once(database, store, stop=threading.Event(), mib_per_s=FAST, recheck_s=0)
    with database.read() as connection:
        said = text("SELECT message FROM alarms WHERE subject = :rest ORDER BY id")
        messages = connection.execute(said, {"rest": REST}).scalars().all()
    assert [message.split(" more ")[0] for message in messages] == [
        "at least 1",
        "at least 2",
        "at least 2",
    ]


def test_a_round_goes_on_where_it_was_stopped_and_comes_back_to_the_beginning(
    database: Database, store: Store, intake: Intake
) -> None:
    for _ in range(4):
        intake.accept(to_bytes(make_dx()), source=Source.C_STORE)
    first, *_, last = held(store)
    (store.root / NOTE).write_text(first)
    stop = threading.Event()
    stop.set()
    assert run(database, store, stop) == Scrubbed(read=0, damaged=0, complete=False)
    flip(store.resolve(first), -1)  # the last one of this round
    assert run(database, store) == Scrubbed(read=4, damaged=1, complete=True)
    assert not (store.root / NOTE).exists()
    assert [subject for _, subject, _ in alarms(database)] == [first]
    assert first < last


def test_reading_keeps_to_its_rate(store: Store, database: Database, intake: Intake) -> None:
    intake.accept(to_bytes(make_dx()), source=Source.C_STORE)
    waited: list[float] = []

    class Patient(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(timeout or 0)
            return False

    scrub_once(database, store, stop=Patient(), mib_per_s=2.0)
    [path] = held(store)
    least_s = store.resolve(path).stat().st_size / (1 << 20) / 2.0
    assert sum(waited) >= least_s > 0
