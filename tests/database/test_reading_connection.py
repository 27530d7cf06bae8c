"""A reader cannot write, sees one moment, names its errors without a value, and stays light."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.database.table_rows import add_study
from triage.database import reading
from triage.database.connection import Database
from triage.database.revision import HEAD
from triage.errors import DatabaseUnavailable, RevisionError


@pytest.fixture
def reader(database_url: str) -> Iterator[reading.Reader]:
    """Read the test's database as another process would."""
    opened = reading.open_reader(database_url)
    yield opened
    opened.close()


def test_a_missing_file_is_said_with_the_next_step_and_not_created(tmp_path: Path) -> None:
    path = tmp_path / "none.sqlite"
    with pytest.raises(RevisionError) as caught:
        reading.open_reader(f"sqlite:///{path}")
    assert "triage migrate" in caught.value.hint
    assert not path.exists()


def test_a_server_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="did not answer"):
        reading.open_reader(f"postgresql://u:secret@/db?host={tmp_path}")


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "odd.sqlite"
    path.write_bytes(b"no database at all" * 100)
    reader = reading.open_reader(f"sqlite:///{path}")
    with pytest.raises(DatabaseUnavailable, match="SQLITE_NOTADB"):
        reading.worklist(reader)
    reader.close()


def test_what_a_reader_sorts_is_not_spilled_to_files(sqlite_url: str) -> None:
    reader, memory = reading.open_reader(sqlite_url), 2
    with reader.snapshot():
        assert reader.value("PRAGMA temp_store") == memory
    reader.close()


def test_a_database_without_tables_has_no_revision_and_names_the_migration(
    tmp_path: Path, postgres_uri: str
) -> None:
    empty = tmp_path / "empty.sqlite"
    empty.touch()
    for url in (f"sqlite:///{empty}", postgres_uri.format("postgres")):
        reader = reading.open_reader(url)
        assert reading.revision(reader) is None
        with pytest.raises(RevisionError) as caught:
            reading.worklist(reader)
        assert "triage migrate" in caught.value.hint
        reader.close()


def test_a_migrated_database_tells_its_revision(reader: reading.Reader) -> None:
    assert reading.revision(reader) == HEAD


def test_a_reader_cannot_write(database: Database, reader: reading.Reader) -> None:
    add_study(database)
    with pytest.raises(DatabaseUnavailable), reader.snapshot():
        reader.rows("UPDATE studies SET caption = 'x' RETURNING id")
    assert reading.worklist(reader)[0]["caption"] == ""


def test_an_error_does_not_repeat_a_value(reader: reading.Reader) -> None:
    # The name is no document to SQLite and no number to PostgreSQL.
    cast = "json(?)" if reader.dialect == "sqlite" else "CAST(CAST(? AS text) AS integer)"
    with pytest.raises(DatabaseUnavailable) as caught, reader.snapshot():
        reader.rows(f"SELECT {cast}", "DOE^JANE")
    assert "DOE" not in str(caught.value)
    assert caught.value.__suppress_context__
    assert caught.value.__cause__ is None


def test_a_snapshot_sees_one_moment_and_the_next_one_what_came(
    database: Database, reader: reading.Reader
) -> None:
    with reader.snapshot():
        before = reader.value("SELECT count(*) FROM studies")
        add_study(database)
        assert reader.value("SELECT count(*) FROM studies") == before == 0
    assert len(reading.worklist(reader)) == 1


def test_reading_loads_neither_the_orm_layer_nor_a_model(database_url: str) -> None:
    program = """
import sys
from datetime import UTC, datetime
from triage.database import reading
reader = reading.open_reader(sys.argv[1])
reading.worklist(reader)
reading.status_facts(reader, now=datetime.now(UTC))
reader.close()
heavy = {"alembic", "numpy", "pydicom", "pynetdicom", "sqlalchemy", "torch", "transformers"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, database_url], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
