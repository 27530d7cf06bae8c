"""Transactions, the lock of SQLite's writers, and errors that name no patient."""

import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert, text

from tests.assurance import requirement
from tests.conftest import run_on_server
from tests.database.conftest import Clock
from triage.database import url as urls
from triage.database.connection import Database, open_database
from triage.database.tables_house import Sender
from triage.database.types import UtcDateTime
from triage.database.url import PostgresTarget, SqliteTarget, parse_url
from triage.errors import ConfigError, DatabaseRejected, DatabaseUnavailable

NINE = datetime(2026, 1, 2, 9, 0, 0, 123456, tzinfo=UTC)

WRITER = """
import sys, time
from sqlalchemy import text
from triage.database.connection import open_database

db = open_database(sys.argv[1])
for _ in range(25):
    with db.write() as connection:
        seen = connection.execute(text("SELECT images FROM senders")).scalar_one()
        time.sleep(0.001)
        connection.execute(text("UPDATE senders SET images = :n"), {"n": seen + 1})
db.dispose()
"""


def sender(db: Database, ae_title: str, images: int = 0) -> None:
    with db.write() as connection:
        values = {"ae_title": ae_title, "last_image_at": NINE, "images": images}
        connection.execute(insert(Sender).values(**values))


def images(db: Database) -> list[int]:
    with db.read() as connection:
        return list(connection.execute(text("SELECT images FROM senders")).scalars())


def test_a_transaction_is_whole_or_nothing(database: Database) -> None:
    def half() -> None:
        with database.write() as connection:
            connection.execute(insert(Sender).values(ae_title="A", last_image_at=NINE, images=1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert images(database) == []
    sender(database, "A", 1)
    assert images(database) == [1]


def test_a_reader_cannot_change_anything(database: Database) -> None:
    def change() -> None:
        with database.read() as connection:
            connection.execute(text("DELETE FROM senders"))

    with pytest.raises((DatabaseRejected, DatabaseUnavailable)):
        change()


def test_times_come_back_aware_in_utc_to_the_microsecond(database: Database) -> None:
    sender(database, "A")
    with database.read() as connection:
        found = connection.execute(
            text("SELECT last_image_at FROM senders").columns(last_image_at=UtcDateTime())
        ).scalar_one()
    assert (found, found.utcoffset()) == (NINE, timedelta(0))


def test_a_naive_time_is_refused(database: Database) -> None:
    with pytest.raises(Exception, match="naive"), database.write() as connection:
        connection.execute(
            insert(Sender).values(ae_title="A", last_image_at=NINE.replace(tzinfo=None), images=1)
        )


def test_the_clock_is_the_databases_unless_a_test_gives_one(
    database: Database, database_url: str
) -> None:
    with database.read() as connection:
        assert abs(database.now(connection) - datetime.now(UTC)) < timedelta(seconds=5)
    timed = open_database(database_url, clock=Clock(NINE))
    with timed.read() as connection:
        assert timed.now(connection) == NINE
    timed.dispose()


# --- SQLite's writers


@requirement("D5")
def test_writers_of_two_processes_serialise_on_the_lock_file(sqlite_url: str) -> None:
    db = open_database(sqlite_url)
    sender(db, "A")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, sqlite_url]) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert images(db) == [50]
    db.dispose()


def test_a_writer_that_finds_the_lock_taken_gives_up_as_transient(sqlite_url: str) -> None:
    holder = open_database(sqlite_url)
    other = open_database(sqlite_url, lock_timeout_s=0.05)
    with holder.write(), pytest.raises(DatabaseUnavailable, match="another writer"):
        sender(other, "A")
    sender(other, "A")
    holder.dispose()
    other.dispose()


def test_a_writer_excludes_programs_that_do_not_know_the_lock_file(sqlite_url: str) -> None:
    db = open_database(sqlite_url)
    assert db.path is not None
    foreign = sqlite3.connect(db.path, timeout=0, isolation_level=None)
    with db.write(), pytest.raises(sqlite3.OperationalError, match="locked"):
        foreign.execute("BEGIN IMMEDIATE")
    foreign.close()
    db.dispose()


def test_a_reader_does_not_wait_for_a_writer(sqlite_url: str) -> None:
    db = open_database(sqlite_url)
    sender(db, "A", 7)
    with db.write() as connection:
        connection.execute(text("UPDATE senders SET images = 8"))
        assert images(db) == [7]
    assert images(db) == [8]
    db.dispose()


def test_the_lock_dies_with_its_holder(sqlite_url: str) -> None:
    script = (
        "import sys, time\n"
        "from triage.database.connection import open_database\n"
        "with open_database(sys.argv[1]).write():\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, sqlite_url], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    db = open_database(sqlite_url, lock_timeout_s=20)
    threading.Timer(0.1, holder.kill).start()
    began = time.monotonic()
    sender(db, "A")
    assert time.monotonic() - began < 10
    holder.communicate()
    db.dispose()


@requirement("D5")
def test_a_commit_survives_power_cuts(sqlite_url: str) -> None:
    db = open_database(sqlite_url)
    with db.write() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2  # FULL
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1
    db.dispose()


def test_what_is_sorted_is_not_spilled_to_files_beside_the_database(sqlite_url: str) -> None:
    db, memory = open_database(sqlite_url), 2
    for transaction in (db.write, db.read):
        with transaction() as connection:
            assert connection.exec_driver_sql("PRAGMA temp_store").scalar_one() == memory
    db.dispose()


# --- errors


def test_an_error_of_the_driver_names_no_value(database: Database) -> None:
    secret = "SECRET^PATIENT"
    sender(database, secret)
    with pytest.raises(DatabaseRejected) as caught:
        sender(database, secret)
    assert secret not in "".join(traceback.format_exception(caught.value))


def test_a_value_of_the_wrong_kind_is_not_repeated(database: Database) -> None:
    secret = "SECRET^PATIENT"
    with pytest.raises((DatabaseRejected, DatabaseUnavailable)) as caught:
        ask(database, "SELECT CAST(:value AS integer) / 0 + nothing FROM senders", secret)
    assert secret not in "".join(traceback.format_exception(caught.value))


def ask(db: Database, statement: str, value: str) -> None:
    with db.read() as connection:
        connection.execute(text(statement), {"value": value})


@pytest.fixture
def away(tmp_path: Path) -> Iterator[Database]:
    db = open_database(f"postgresql://user:secret-password@/db?host={tmp_path}")
    yield db
    db.dispose()


def test_a_server_that_is_away_is_transient_and_its_password_is_not_shown(away: Database) -> None:
    with pytest.raises(DatabaseUnavailable) as caught:
        sender(away, "A")
    assert "secret-password" not in "".join(traceback.format_exception(caught.value))


def test_a_sqlite_file_that_cannot_be_opened_is_transient(tmp_path: Path) -> None:
    db = open_database(f"sqlite:///{tmp_path / 'nowhere' / 'triage.sqlite'}")
    with pytest.raises(DatabaseUnavailable):
        images(db)
    db.dispose()


def test_connections_that_the_server_closed_are_replaced(
    postgres_url: str, postgres_uri: str
) -> None:
    db = open_database(postgres_url)
    sender(db, "A")
    name = postgres_url.partition("@/")[2].partition("?")[0]
    run_on_server(
        postgres_uri.format("postgres"),
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
    )
    sender(db, "B")
    assert len(images(db)) == 2
    db.dispose()


def test_a_database_that_is_closed_to_connections_for_a_while_is_transient(
    postgres_url: str, postgres_uri: str
) -> None:
    db = open_database(postgres_url)
    name = postgres_url.partition("@/")[2].partition("?")[0]
    run_on_server(postgres_uri.format("postgres"), f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    with pytest.raises(DatabaseUnavailable):
        sender(db, "A")
    run_on_server(postgres_uri.format("postgres"), f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    sender(db, "A")
    db.dispose()


# --- URLs


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mysql://host/db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite://host/path",
        "postgresql:///db",
        "postgresql://user@host/",
        "postgresql://user@host:port/db",
        "postgresql://user@host/db?sslmode=perhaps",
        "postgresql://user@host/db?unknown=1",
    ],
)
def test_an_unusable_url_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match=r"\[database\] url") as caught:
        parse_url(url)
    assert "user@host" not in str(caught.value)


def test_a_url_names_a_file_or_a_server() -> None:
    assert parse_url("sqlite:////var/lib/t.db") == SqliteTarget(path=Path("/var/lib/t.db"))
    assert parse_url("sqlite:///t%20x.db") == SqliteTarget(path=Path("t x.db"))
    target = parse_url("postgresql+pg8000://u:p%40w@db.example:5433/triage")
    assert isinstance(target, PostgresTarget)
    assert (target.user, target.password, target.host) == ("u", "p@w", "db.example")
    assert (target.port, target.database) == (5433, "triage")


def test_a_socket_directory_is_a_host(tmp_path: Path) -> None:
    target = parse_url(f"postgresql://u@/triage?host={tmp_path}")
    assert isinstance(target, PostgresTarget)
    arguments = target.arguments(application_name="x", timeout_s=1)
    assert arguments["unix_sock"] == f"{tmp_path}/.s.PGSQL.5432"


@requirement("D5")
def test_sqlite_on_a_network_file_system_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n")
    monkeypatch.setattr(urls, "MOUNTS", mounts)
    with pytest.raises(ConfigError, match="network file system"):
        parse_url(f"sqlite:///{tmp_path}/t.db")
