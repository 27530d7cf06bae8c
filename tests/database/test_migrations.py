"""Migrations: up, down and up again with rows, one at a time, and the view made anew each time."""

import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from tests.assurance import requirement
from tests.builders import make_arrival
from tests.conftest import run_on_server
from tests.database.conftest import Room
from triage.database import history, migrating
from triage.database.connection import (
    Database,
    current_revision,
    migrate,
    open_database,
    require_revision,
)
from triage.database.house import raise_alarm
from triage.database.revision import HEAD
from triage.database.tables_history import ReceivedTotal, SenderHour
from triage.errors import DatabaseRejected, RevisionError
from triage.records import AlarmCode

REVISIONS = ["0001", "0002", HEAD]


def test_the_newest_migration_is_the_revision_that_the_program_needs() -> None:
    assert migrating.script_directory().get_current_head() == HEAD


def test_a_migrated_database_needs_nothing_more(database_url: str, database: Database) -> None:
    require_revision(database)
    assert migrate(database_url) == []


@requirement("D7")
def test_migrations_go_down_and_up_again_with_rows(room: Room, database_url: str) -> None:
    room.arrive(make_arrival())
    with room.db.write() as connection:
        for code in (AlarmCode.DRIFT, AlarmCode.AUDIT_WAITS):
            raise_alarm(
                connection, code=code, subject="", message="", next_step="", now=room.clock()
            )
    room.db.dispose()
    migrating.downgrade(database_url, to="0002")
    with room.db.read() as connection:  # an older program knows no drift and could not close it
        left = connection.execute(text("SELECT code FROM alarms")).scalars().all()
    assert left == [AlarmCode.AUDIT_WAITS]
    room.db.dispose()
    migrating.downgrade(database_url, to="base")
    empty = open_database(database_url)
    assert current_revision(empty) is None
    with pytest.raises(RevisionError, match="this program needs"):
        require_revision(empty)
    empty.dispose()
    assert migrate(database_url) == REVISIONS
    room.arrive(make_arrival())
    assert len(room.reading_order()) == 1


def test_what_arrived_before_the_history_had_tables_is_folded_after_the_upgrade(
    room: Room, database_url: str
) -> None:
    room.arrive(make_arrival())
    room.db.dispose()
    migrating.downgrade(database_url, to="0001")
    assert migrate(database_url) == REVISIONS[1:]
    room.clock.advance(3600)
    with room.db.read() as connection:
        some = history.unfolded(connection, now=room.clock(), limit=10)
    with room.db.write() as connection:
        assert history.fold(connection, some, now=room.clock())
    (total,) = room.rows(ReceivedTotal)
    assert (total.state, total.objects) == ("stored", 1)
    assert len(room.rows(SenderHour)) == 1


def test_a_sqlite_file_that_does_not_exist_yet_asks_for_its_migration(tmp_path: Path) -> None:
    db = open_database(f"sqlite:///{tmp_path / 'triage.sqlite'}")
    with pytest.raises(RevisionError) as caught:
        require_revision(db)
    assert "triage migrate" in caught.value.hint
    assert list(tmp_path.iterdir()) == []
    db.dispose()


def test_a_new_sqlite_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "triage.sqlite"
    assert migrate(f"sqlite:///{path}") == REVISIONS
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_programs_that_migrate_at_once_do_it_one_after_the_other(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'triage.sqlite'}"
    with ThreadPoolExecutor(4) as threads:
        applied = [each for some in threads.map(migrate, [url] * 4) for each in some]
    assert sorted(applied) == REVISIONS  # each applied by one of them


@requirement("D7")
def test_a_revision_of_a_newer_program_is_refused(database_url: str, database: Database) -> None:
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(RevisionError, match="9999"):
        require_revision(database)
    with pytest.raises(RevisionError, match="does not know"):
        migrate(database_url)


SECOND = """
from alembic import op
from triage.database.columns import blank_texts, create_view

revision = "{revision}"
down_revision = "{former}"


def upgrade():
    op.add_column("studies", *blank_texts("extra"))
    create_view("worklist_0001.sql")
    {more}
"""


@pytest.fixture
def more_migrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the program find a copy of its migrations, to which the test adds its own."""
    copy = tmp_path / "migrations"
    shutil.copytree(migrating.migrations_path(), copy)
    original = migrating.ScriptDirectory.from_config

    def from_copy(config: object) -> object:
        config.set_main_option("script_location", str(copy))  # type: ignore[attr-defined]
        return original(config)  # type: ignore[arg-type]

    monkeypatch.setattr(migrating.ScriptDirectory, "from_config", from_copy)
    return copy / "versions"


@requirement("D7")
def test_a_migration_that_breaks_leaves_nothing_behind_but_its_predecessors(
    room: Room, database_url: str, more_migrations: Path
) -> None:
    room.arrive(make_arrival())
    good = SECOND.format(revision="t2", former=HEAD, more="")
    (more_migrations / "t2.py").write_text(good)
    (more_migrations / "t3.py").write_text(
        SECOND.format(
            revision="t3", former="t2", more="op.execute('SELECT * FROM nowhere')"
        ).replace('"extra"', '"another"')
    )
    with pytest.raises(DatabaseRejected):
        migrate(database_url)
    assert current_revision(room.db) == "t2"
    with room.db.read() as connection:
        columns = {column["name"] for column in inspect(connection).get_columns("studies")}
    assert "extra" in columns
    assert "another" not in columns
    assert len(room.reading_order()) == 1


def as_reader(db: Database, statement: str) -> object:
    with db.write() as connection:
        connection.execute(text("SET LOCAL ROLE triage_reader"))
        return connection.execute(text(statement)).scalar_one()


def test_the_reader_role_may_read_the_view_and_nothing_else(postgres_url: str) -> None:
    db = open_database(postgres_url)
    try:
        assert as_reader(db, "SELECT count(*) FROM worklist") == 0
        for statement in ("SELECT count(*) FROM studies", "DELETE FROM worklist"):
            with pytest.raises(DatabaseRejected):
                as_reader(db, statement)
    finally:
        db.dispose()


def test_a_user_who_may_not_make_roles_can_migrate(postgres_uri: str) -> None:
    server = postgres_uri.format("postgres")
    run_on_server(server, "CREATE ROLE plain LOGIN", "CREATE DATABASE plain OWNER plain")
    url = postgres_uri.format("plain").replace("postgres@", "plain@")
    assert migrate(url) == REVISIONS
    run_on_server(server, "DROP DATABASE plain WITH (FORCE)", "DROP ROLE plain")
