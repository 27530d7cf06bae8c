"""A read-only connection by plain DBAPI: sqlite3 or pg8000, without the ORM layer.

Owns how a reader connects, sees one moment, names its errors and turns values into plain types;
what is asked stands in the other `reading_*` modules. The connection cannot write: SQLite is
opened with `mode=ro` and `query_only` (sqlite.org/uri.html), PostgreSQL with
`default_transaction_read_only`. A driver's message may quote a row, so only its code is kept.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from triage.database.url import PostgresTarget, SqliteTarget, parse_url
from triage.errors import DatabaseUnavailable, RevisionError, TriageError

TIMEOUT_S = 10.0
# Columns whose type SQLite does not know: it holds documents as text and truth as 0 or 1.
DOCUMENTS = frozenset(
    {
        "acknowledged_findings",
        "detail",
        "embedding_keys",
        "figures",
        "findings",
        "header",
        "models",
        "modalities_in_study",
        "person_priority_findings",
    }
)
FLAGS = frozenset({"current", "not_for_clinical_use", "too_old", "two_patients"})
# SQLSTATE of a table or column that is not there (PostgreSQL manual, Appendix A).
UNDEFINED = frozenset({"42P01", "42703"})

Row = dict[str, Any]


class Reader:
    """One connection for one thread. Ask only inside `snapshot()`; `close()` at the end."""

    def __init__(
        self, connection: Any, *, dialect: str, errors: tuple[type[Exception], ...]
    ) -> None:
        self._connection = connection
        self._errors = errors
        self.dialect = dialect  # sqlite | postgresql

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """See one moment of the database until the end of the block.

        Raises DatabaseUnavailable, or RevisionError where a table or column is missing.
        """
        with _translated(self._errors):
            if self.dialect == "sqlite":
                self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.rollback()

    def tuples(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows as the driver gives them; `?` marks a parameter in both dialects."""
        return [tuple(row) for row in self._execute(statement, parameters).fetchall()]

    def rows(self, statement: str, *parameters: Any) -> list[Row]:
        """Return the rows by column name, in plain types: times as ISO 8601 UTC text."""
        cursor = self._execute(statement, parameters)
        names = [column[0] for column in cursor.description]
        return [
            {name: _plain(name, value) for name, value in zip(names, row, strict=True)}
            for row in cursor.fetchall()
        ]

    def value(self, statement: str, *parameters: Any) -> Any:
        """Return the first value of the first row, None where there is no row."""
        row = self._execute(statement, parameters).fetchone()
        return None if row is None else row[0]

    def time(self, moment: datetime) -> Any:
        """Return `moment` (aware) as a parameter that compares with a column of times."""
        return time_text(moment) if self.dialect == "sqlite" else moment

    def close(self) -> None:
        with _translated(self._errors):
            self._connection.close()

    def _execute(self, statement: str, parameters: tuple[Any, ...]) -> Any:
        if self.dialect == "postgresql":
            statement = statement.replace("?", "%s")
        cursor = self._connection.cursor()
        cursor.execute(statement, parameters)
        return cursor


def open_reader(url: str) -> Reader:
    """Connect to what `[database] url` names. Raises ConfigError, DatabaseUnavailable.

    Raises RevisionError where there is no SQLite file yet.
    """
    target = parse_url(url)
    if isinstance(target, SqliteTarget):
        return _open_sqlite(target)
    return _open_postgres(target)


def revision(reader: Reader) -> str | None:
    """Return the revision that the database is at; None where it was never migrated."""
    with reader.snapshot():
        if reader.dialect == "sqlite":
            table = "SELECT name FROM sqlite_master WHERE name = 'alembic_version'"
        else:
            table = "SELECT to_regclass('alembic_version')"
        if reader.value(table) is None:
            return None
        found = reader.value("SELECT version_num FROM alembic_version")
        return None if found is None else str(found)


def time_text(moment: datetime) -> str:
    """Return an aware time as ISO 8601 UTC of fixed width, which sorts as it reads."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _open_sqlite(target: SqliteTarget) -> Reader:
    if not _is_file(target.path):
        raise RevisionError(
            f"there is no database at {target.path}", hint="Run `triage migrate` to create it."
        )
    errors = (sqlite3.Error,)
    with _translated(errors):
        connection = sqlite3.connect(
            target.uri("ro"), uri=True, timeout=TIMEOUT_S, isolation_level=None
        )
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA mmap_size = 0")
        connection.execute("PRAGMA temp_store = MEMORY")  # a sort would leave rows in /var/tmp
    return Reader(connection, dialect="sqlite", errors=errors)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError as error:
        raise DatabaseUnavailable(
            f"this user may not read {path}", hint="Run the command as the user of the daemon."
        ) from error


def _open_postgres(target: PostgresTarget) -> Reader:
    import pg8000.dbapi

    errors = (pg8000.dbapi.Error, OSError)
    arguments = target.arguments(application_name="triage reader", timeout_s=TIMEOUT_S)
    settings = {
        "timezone": "UTC",
        "default_transaction_read_only": "on",
        "default_transaction_isolation": "repeatable read",
    }
    with _translated(errors):
        connection = pg8000.dbapi.connect(**arguments, startup_params=settings)
    return Reader(connection, dialect="postgresql", errors=errors)


@contextmanager
def _translated(errors: tuple[type[Exception], ...]) -> Iterator[None]:
    try:
        yield
    except errors as error:
        # `from None`: a traceback would print the driver's message with the row that it quotes.
        raise _ours(error) from None


def _ours(error: Exception) -> TriageError:
    """Return what is raised in place of a driver's error."""
    fields = error.args[0] if error.args else None
    if isinstance(error, sqlite3.Error):
        code = f"SQLite: {getattr(error, 'sqlite_errorname', type(error).__name__)}"
        undefined = str(error).startswith(("no such table", "no such column"))
    elif isinstance(fields, dict):
        code = f"PostgreSQL: SQLSTATE {fields.get('C', 'unknown')}"
        undefined = fields.get("C") in UNDEFINED
    else:
        code, undefined = "PostgreSQL did not answer", False
    if undefined:
        return RevisionError(f"the database lacks tables or columns of this program ({code})")
    return DatabaseUnavailable(f"the database could not be read ({code})")


def _plain(name: str, value: Any) -> Any:
    """Return a driver's value in the type that JSON has for it."""
    if isinstance(value, datetime):
        return time_text(value)
    if name in DOCUMENTS and isinstance(value, str):
        return json.loads(value)
    if name in FLAGS and value is not None:
        return bool(value)
    return value
