"""Success means committed; one bad row fails alone; a failed group fails whole and says so."""

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from tests.assurance import requirement
from tests.ingest.doors import eventually
from triage.database.connection import Database, open_database
from triage.database.house import raise_alarm
from triage.errors import DatabaseRejected, DatabaseUnavailable, StoreError
from triage.ingest.group_commit import GroupCommit
from triage.store import Staged, Store


@pytest.fixture
def writer(database: Database, store: Store) -> Iterator[GroupCommit]:
    running = GroupCommit(database, store)
    running.start()
    yield running
    running.stop()


def staged(store: Store, data: bytes) -> Staged:
    return store.stage([data], digest=hashlib.sha256(data).hexdigest())


def alarms(database: Database) -> set[str]:
    with database.read() as connection:
        return set(connection.execute(text("SELECT subject FROM alarms")).scalars())


class Row:
    """Writes one alarm as its row; can wait, fail, or fail the first time only."""

    def __init__(self, subject: str, *, error: Exception | None = None, once: bool = False) -> None:
        self.subject, self.error, self.once, self.calls = subject, error, once, 0

    def __call__(self, connection: Connection, now: datetime) -> str:
        self.calls += 1
        raise_alarm(
            connection, code="test", subject=self.subject, message="", next_step="", now=now
        )
        if self.error is not None and (self.calls == 1 or not self.once):
            raise self.error
        return self.subject


def held(writer: GroupCommit, pool: ThreadPoolExecutor) -> threading.Event:
    """Keep the writer in a group of its own until the event is set: what comes now must wait."""
    started, gate = threading.Event(), threading.Event()
    pool.submit(writer.submit, lambda *_: (started.set(), gate.wait(10)))
    assert started.wait(10)
    return gate


@requirement("N1")
def test_an_answer_comes_after_file_and_row(
    database: Database, store: Store, writer: GroupCommit
) -> None:
    item = staged(store, b"object")
    assert writer.submit(Row("one"), staged=item) == "one"
    assert store.resolve(item.path).read_bytes() == b"object"
    assert alarms(database) == {"one"}


def test_what_waits_together_is_committed_together(database: Database, writer: GroupCommit) -> None:
    moments = []

    def later(connection: Connection, now: datetime) -> None:
        moments.append(now)

    with ThreadPoolExecutor(11) as pool:
        gate = held(writer, pool)
        waiting = [pool.submit(writer.submit, later) for _ in range(10)]
        while writer._entries.qsize() < 10:
            threading.Event().wait(0.005)
        gate.set()
        for one in waiting:
            one.result()
    assert len(set(moments)) == 1


def test_a_bad_row_fails_alone_and_its_neighbours_are_held(
    database: Database, writer: GroupCommit
) -> None:
    rows = [
        Row("a"),
        Row("bad", error=ValueError("odd")),
        Row("hiccup", error=ValueError("odd"), once=True),
        Row("b"),
    ]
    with ThreadPoolExecutor(5) as pool:
        gate = held(writer, pool)
        answers = [pool.submit(writer.submit, row) for row in rows]
        while writer._entries.qsize() < len(rows):
            threading.Event().wait(0.005)
        gate.set()
    assert [answer.exception() for answer in answers][0::2] == [None, None]
    assert isinstance(answers[1].exception(), ValueError)
    assert alarms(database) == {"a", "hiccup", "b"}
    assert rows[1].calls == 3, "with its group, behind a savepoint, alone"
    assert writer.database_fault == "", "the database is not to blame"


def test_a_row_that_nothing_came_with_is_tried_twice(
    database: Database, writer: GroupCommit
) -> None:
    hiccup, bad = Row("hiccup", error=ValueError("odd"), once=True), Row("bad", error=ValueError())
    assert writer.submit(hiccup) == "hiccup"
    with pytest.raises(ValueError):  # noqa: PT011
        writer.submit(bad)
    assert (hiccup.calls, bad.calls) == (2, 2)
    assert alarms(database) == {"hiccup"}


def test_a_statement_that_the_database_rejects_fails_alone(
    database: Database, writer: GroupCommit
) -> None:
    def broken(connection: Connection, now: datetime) -> None:
        connection.execute(text("INSERT INTO alarms (code) VALUES ('incomplete')"))

    with pytest.raises(DatabaseRejected):
        writer.submit(broken)
    writer.submit(Row("after"))
    assert alarms(database) == {"after"}


@requirement("N2")
def test_without_a_database_the_sender_is_told_and_told_again_when_it_is_back(
    tmp_path: Path, sqlite_url: str, store: Store
) -> None:
    database = open_database(sqlite_url, lock_timeout_s=0.1)
    holder = open_database(sqlite_url)
    writer = GroupCommit(database, store)
    writer.start()
    with holder.write():
        with pytest.raises(DatabaseUnavailable):
            writer.submit(Row("one"))
        assert writer.database_fault
    assert writer.submit(Row("one")) == "one"
    assert writer.database_fault == ""
    writer.stop()


@requirement("D3")
def test_a_store_that_fails_fails_the_group_before_any_row(
    database: Database, store: Store, writer: GroupCommit
) -> None:
    item = staged(store, b"object")
    item.temporary.unlink()
    with pytest.raises(StoreError):
        writer.submit(Row("one"), staged=item)
    assert alarms(database) == set()


def test_stopping_finishes_what_was_submitted_and_refuses_the_rest(
    database: Database, store: Store
) -> None:
    writer = GroupCommit(database, store)
    writer.start()
    with ThreadPoolExecutor(3) as pool:
        gate = held(writer, pool)
        queued = pool.submit(writer.submit, Row("queued"))
        while writer._entries.empty():
            threading.Event().wait(0.005)
        stopping = pool.submit(writer.stop)
        gate.set()
        assert queued.result(10) == "queued"
        stopping.result(10)
    assert not writer.alive
    with pytest.raises(StoreError, match="stops"):
        writer.submit(Row("late"))


def test_a_database_that_is_back_is_noticed_before_anybody_sends(
    sqlite_url: str, store: Store
) -> None:
    """Who asks by C-ECHO first would else never send again."""
    holder = open_database(sqlite_url)
    writer = GroupCommit(open_database(sqlite_url, lock_timeout_s=0.05), store, probe_s=0.05)
    writer.start()
    with holder.write():
        with pytest.raises(DatabaseUnavailable):
            writer.submit(Row("one"))
        assert not eventually(lambda: not writer.database_fault, within_s=0.3)
    assert eventually(lambda: not writer.database_fault)
    writer.stop()
