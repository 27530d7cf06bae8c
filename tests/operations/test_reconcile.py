"""After a crash, store and database agree again, and what was lost is told."""

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import text

from tests.assurance import requirement
from tests.dicom_files import make_dx, to_bytes
from triage.database.connection import Database, open_database
from triage.database.intake_log import settle_quarantined
from triage.database.retention import expire_study
from triage.database.worklist import acknowledge
from triage.errors import StoreError
from triage.ingest.intake import Intake
from triage.ingest.part10 import digest_of, split
from triage.operations.reconcile import NOTE, Reconciliation, reconcile
from triage.records import Source
from triage.rules.policies import Policies
from triage.store import Store, open_store


def rows(database: Database, statement: str) -> list[tuple[Any, ...]]:
    with database.read() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def orphan(store: Store, data: bytes) -> str:
    """Leave a file as a crash between rename and commit does."""
    staged = store.stage([data], digest=digest_of(split(data)))
    store.commit([staged])
    return staged.path


def run(
    database: Database, store: Store, intake: Intake, stop: threading.Event | None = None
) -> Reconciliation:
    return reconcile(
        database, store, intake, stop=stop or threading.Event(), pause_s=0, recheck_s=0
    )


@requirement("D4")
def test_a_file_without_a_row_is_taken_in_where_it_lies(
    database: Database, store: Store, intake: Intake
) -> None:
    path = orphan(store, to_bytes(make_dx()))
    intake.accept(to_bytes(make_dx()), source=Source.FOLDER)
    assert run(database, store, intake) == Reconciliation(
        taken_in=1, missing=0, leftovers=0, complete=True
    )
    assert rows(database, "SELECT path FROM instances WHERE source = 'reconcile'") == [(path,)]
    assert run(database, store, intake).taken_in == 0


@requirement("D4")
def test_a_row_without_its_file_is_an_alarm_until_the_file_is_back(
    database: Database, store: Store, intake: Intake
) -> None:
    data = to_bytes(make_dx())
    intake.accept(data, source=Source.FOLDER)
    [(path,)] = rows(database, "SELECT path FROM instances")
    store.resolve(path).unlink()
    assert run(database, store, intake).missing == 1
    [(message,)] = rows(database, "SELECT message FROM alarms WHERE cleared_at IS NULL")
    assert path in message
    intake.accept(data, source=Source.FOLDER)
    assert run(database, store, intake).missing == 0
    assert rows(database, "SELECT id FROM alarms WHERE cleared_at IS NULL") == []


@requirement("D4")
def test_a_file_that_is_none_of_ours_is_an_alarm_and_stays(
    database: Database, store: Store, intake: Intake
) -> None:
    digest = hashlib.sha256(b"garbage").hexdigest()
    store.commit([store.stage([b"garbage"], digest=digest)])
    assert run(database, store, intake).taken_in == 0
    assert rows(database, "SELECT code FROM alarms") == [("objects_unreadable",)]
    assert store.resolve(f"objects/{digest[:2]}/{digest}.dcm").exists()


def test_leftovers_are_swept(database: Database, store: Store, intake: Intake) -> None:
    dead = store.root / "incoming" / "dead"
    dead.mkdir()
    (dead / "x.part").write_bytes(b"half")
    assert run(database, store, intake).leftovers == 1
    assert not dead.exists()


def test_a_round_that_was_stopped_goes_on_and_comes_back_to_the_beginning(
    database: Database, store: Store, intake: Intake
) -> None:
    paths = sorted(orphan(store, to_bytes(make_dx())) for _ in range(6))
    stopped = threading.Event()
    stopped.set()
    assert not run(database, store, intake, stopped).complete
    (store.root / NOTE).write_text(paths[3])
    assert run(database, store, intake).taken_in == 6
    assert not (store.root / NOTE).exists()
    order = [path for (path,) in rows(database, "SELECT path FROM instances ORDER BY id")]
    assert order == [*paths[4:], *paths[:4]]


def quarantine_rows(database: Database) -> list[tuple[Any, ...]]:
    return rows(database, "SELECT path, state, source FROM quarantine ORDER BY id")


def aside(store: Store, data: bytes) -> str:
    """Leave a file as a crash between the quarantine and its row does."""
    staged = store.stage_aside([data], digest=hashlib.sha256(data).hexdigest())
    store.commit([staged])
    return staged.path


@requirement("D4")
def test_a_quarantined_file_without_a_row_is_listed_once(
    database: Database, store: Store, intake: Intake
) -> None:
    path = aside(store, b"no DICOM")
    for _ in range(2):
        run(database, store, intake)
        assert quarantine_rows(database) == [(path, "held", "reconcile")]
    assert store.resolve(path).read_bytes() == b"no DICOM"


def test_a_file_that_was_discarded_from_quarantine_is_deleted_at_last(
    database: Database, store: Store, intake: Intake
) -> None:
    path = aside(store, b"no DICOM")
    run(database, store, intake)
    with database.write() as connection:
        [(number,)] = connection.execute(text("SELECT id FROM quarantine"))
        settle_quarantined(
            connection, number, state="discarded", by="op", now=database.now(connection)
        )
    assert run(database, store, intake).leftovers == 1
    assert not store.resolve(path).exists()
    assert quarantine_rows(database) == [(path, "discarded", "reconcile")]


def test_files_of_expired_images_are_deleted_neither_taken_in_nor_missed(
    database: Database, store: Store, intake: Intake
) -> None:
    outcome = intake.accept(to_bytes(make_dx()), source=Source.FOLDER)
    kept = intake.accept(to_bytes(make_dx()), source=Source.FOLDER)
    for each in (outcome, kept):
        with database.write() as connection:
            now = database.now(connection)
            acknowledge(connection, each.study_id, by="reader", policies=Policies(), now=now)
    with database.write() as connection:  # and here the daemon dies, before the files go
        [left] = expire_study(connection, outcome.study_id, now=database.now(connection))
    found = run(database, store, intake)
    assert (found.taken_in, found.missing, found.leftovers) == (0, 0, 1)
    assert not store.resolve(left).exists()
    assert len(list(store.object_paths())) == 1
    assert rows(database, "SELECT code FROM alarms") == []


class ExpiringStore:
    """A store out of which retention takes an image just before it is looked for."""

    def __init__(self, store: Store, expire: Callable[[], None]) -> None:
        self._store = store
        self._expire = expire

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def resolve(self, relative: str) -> Path:
        self._expire()
        return self._store.resolve(relative)


def test_what_expires_while_the_rows_are_gone_through_is_not_missed(
    database: Database, store: Store, intake: Intake
) -> None:
    outcome = intake.accept(to_bytes(make_dx()), source=Source.FOLDER)
    with database.write() as connection:
        now = database.now(connection)
        acknowledge(connection, outcome.study_id, by="reader", policies=Policies(), now=now)

    def expire() -> None:
        with database.write() as connection:
            for path in expire_study(connection, outcome.study_id, now=database.now(connection)):
                store.delete(path)

    found = run(database, cast("Store", ExpiringStore(store, expire)), intake)
    assert (found.missing, found.complete) == (0, True)
    assert rows(database, "SELECT code FROM alarms") == []


def test_a_file_that_the_database_refuses_is_an_alarm_and_ends_nothing(
    sqlite_url: str, store: Store
) -> None:
    database = open_database(sqlite_url)
    door = Intake(database, store, policies=Policies())
    door.start()
    path = orphan(store, to_bytes(make_dx()))
    with database.write() as connection:
        connection.execute(
            text(
                "CREATE TRIGGER refuse BEFORE INSERT ON instances"
                " BEGIN SELECT RAISE(ABORT, 'a rule is broken'); END"
            )
        )
    assert run(database, store, door).taken_in == 0
    assert rows(database, "SELECT code FROM alarms") == [("objects_unreadable",)]
    assert store.resolve(path).exists()
    door.stop()
    database.dispose()


def test_two_processes_with_one_store_take_turns_and_take_a_file_in_once(
    database: Database, store: Store, intake: Intake
) -> None:
    orphan(store, to_bytes(make_dx()))
    second = open_store(store.root, minimum_free_mib=0)
    with ThreadPoolExecutor(2) as threads:
        rounds = [
            threads.submit(
                reconcile,
                database,
                each,
                intake,
                stop=threading.Event(),
                pause_s=0.05,
                recheck_s=0.2,  # long enough for both to have seen the file without its row
            )
            for each in (store, second)
        ]
        reports = [each.result() for each in rounds]
    second.close()
    assert sorted(report.taken_in for report in reports) == [0, 1]
    assert all(report.complete for report in reports)
    assert rows(database, "SELECT duplicates FROM instances") == [(0,)]


def test_a_store_that_cannot_be_written_postpones_it_and_does_not_end_the_daemon(
    database: Database, store: Store, intake: Intake
) -> None:
    orphan(store, to_bytes(make_dx()))
    (store.root / NOTE).mkdir()  # neither read nor written: an OSError as of a full disk
    with pytest.raises(StoreError):
        run(database, store, intake)
