"""Connections, transactions and the revision of the database.

Every change is one `write()`: on SQLite under the lock file and BEGIN IMMEDIATE with
`synchronous=FULL`, so a commit survives a power cut; on PostgreSQL an ordinary transaction.
Checkpoints run in a writer's commit or close, so they are under the lock as well. Readers are
read-only connections. Source: DESIGN sections 3.3 and 3.4; clinical.md 4.2 and 4.3.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, select, text
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool

from triage.database.driver_errors import translate
from triage.database.lock import WriterLock
from triage.database.revision import HEAD, UNFINISHED, UNFINISHED_HINT
from triage.database.url import PostgresTarget, SqliteTarget, parse_url
from triage.errors import ConfigError, DatabaseUnavailable, RevisionError

READERS = 4
SOCKET_TIMEOUT_S = 60.0
# A sender must hear "try again" before its own patience ends, often 30 s: its object may come just
# after another one began to wait.
LOCK_TIMEOUT_S = 10.0
# Advisory lock of PostgreSQL: transactions that touch several studies, one at a time.
ARRIVALS_LOCK = 0x7472696167650001
MIGRATION_LOCK = 0x7472696167650002

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the time of this host."""
    return datetime.now(UTC)


class Database:
    """One database, shared by the threads of a process."""

    def __init__(
        self,
        *,
        writer: Engine,
        reader: Engine,
        lock: WriterLock | None,
        clock: Clock | None,
        path: Path | None = None,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._lock = lock
        self._clock = clock
        self.dialect: str = writer.dialect.name  # sqlite | postgresql
        self.path = path  # of a SQLite file

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open one transaction for changes; it commits at the end, or rolls back on an error.

        Raises DatabaseUnavailable where the lock, the server or the disk gives no way in.
        """
        with self._exclusive(), _pool_errors(), self._writer.begin() as connection:
            self._begin(connection, "BEGIN IMMEDIATE")
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open one transaction that sees one moment and cannot change anything."""
        with _pool_errors(), self._reader.begin() as connection:
            self._begin(connection, "BEGIN")
            yield connection

    def now(self, connection: Connection) -> datetime:
        """Return the time that all hosts share: the server's, or this host's for SQLite."""
        if self._clock is not None:
            return self._clock()
        if self.dialect == "sqlite":
            return utc_now()
        moment: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        return moment.astimezone(UTC)

    def dispose(self) -> None:
        """Close all connections; the last one to close checkpoints, so it holds the lock."""
        self._reader.dispose()
        pool = self._writer.pool
        if isinstance(pool, QueuePool) and pool.checkedin():
            with self._exclusive():
                self._writer.dispose()

    def _begin(self, connection: Connection, statement: str) -> None:
        """Begin where the driver does not; as an event it would slow every statement down."""
        if self.dialect == "sqlite":
            connection.exec_driver_sql(statement)

    def _exclusive(self) -> AbstractContextManager[None]:
        return nullcontext() if self._lock is None else self._lock.held()


def open_database(
    url: str, *, lock_timeout_s: float = LOCK_TIMEOUT_S, clock: Clock | None = None
) -> Database:
    """Open what `[database] url` names; nothing is connected yet. Raises ConfigError.

    `clock` replaces the database's clock, for tests.
    """
    target = parse_url(url)
    if isinstance(target, SqliteTarget):
        return _open_sqlite(target, lock_timeout_s, clock)
    return _open_postgres(target, lock_timeout_s, clock)


def lock_arrivals(connection: Connection) -> None:
    """Wait for the turn of a transaction that touches several studies.

    SQLite has one writer at a time anyway. On PostgreSQL this keeps two such transactions from
    locking the same studies in opposite order, and two newcomers of one UID from missing each
    other. Transactions that touch one study lock its row, then its jobs.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(ARRIVALS_LOCK)))


def _open_sqlite(target: SqliteTarget, lock_timeout_s: float, clock: Clock | None) -> Database:
    def connect(mode: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            target.uri(mode),
            uri=True,
            timeout=lock_timeout_s,
            isolation_level=None,  # BEGIN is ours: see `Database._begin`
            check_same_thread=False,  # the pool hands a connection to one thread at a time
        )
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA mmap_size = 0")
        connection.execute("PRAGMA temp_store = MEMORY")  # a sort would leave rows in /var/tmp
        if mode == "ro":
            connection.execute("PRAGMA query_only = ON")
        else:
            connection.execute("PRAGMA synchronous = FULL")
            require_wal(connection)
        return connection

    writer = _engine("sqlite://", lambda: connect("rwc"), size=1)
    reader = _engine("sqlite://", lambda: connect("ro"), size=READERS)
    lock = WriterLock(target.lock_path, timeout_s=lock_timeout_s)
    return Database(writer=writer, reader=reader, lock=lock, clock=clock, path=target.path)


def require_wal(connection: sqlite3.Connection) -> None:
    """Set the journal mode; raises ConfigError where SQLite keeps another one.

    It does so without an error on file systems that cannot hold a WAL.
    """
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise ConfigError(
            f"[database] url: SQLite keeps the journal mode {mode} where the file lies",
            hint="Put the file on a local disk, or use PostgreSQL.",
        )


def _open_postgres(target: PostgresTarget, lock_timeout_s: float, clock: Clock | None) -> Database:
    from triage.database.postgres_driver import SETTINGS, PreparingConnection

    arguments = target.arguments(application_name="triage", timeout_s=SOCKET_TIMEOUT_S)
    settings = {
        "timezone": "UTC",
        "synchronous_commit": "on",
        "lock_timeout": f"{lock_timeout_s:g}s",
        **SETTINGS,
    }

    def connect(**more: str) -> Any:
        return PreparingConnection(**arguments, startup_params=settings | more)

    dialect = "postgresql+pg8000://"
    writer = _engine(dialect, connect, size=READERS)
    reader = _engine(dialect, lambda: connect(default_transaction_read_only="on"), size=READERS)
    return Database(writer=writer, reader=reader, lock=None, clock=clock)


def _engine(dialect: str, creator: Callable[[], Any], *, size: int) -> Engine:
    engine = create_engine(
        dialect,
        creator=creator,
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=2 * size,
        pool_timeout=SOCKET_TIMEOUT_S,
        pool_pre_ping=dialect.startswith("postgresql"),
        hide_parameters=True,  # errors may reach logs; parameters hold patient data
    )
    event.listen(engine, "handle_error", translate)
    return engine


@contextmanager
def _pool_errors() -> Iterator[None]:
    try:
        yield
    except PoolTimeout as error:
        raise DatabaseUnavailable(
            f"no free database connection within {SOCKET_TIMEOUT_S:g} s"
        ) from error


# --- revision


def current_revision(db: Database) -> str | None:
    """Return the revision that the database is at; None where it was never migrated."""
    if db.path is not None and not db.path.exists():
        return None
    with db.read() as connection:
        return revision_of(connection)


def revision_of(connection: Connection) -> str | None:
    """Return the revision seen by one transaction."""
    if not connection.dialect.has_table(connection, "alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return None if found is None else str(found)


def require_revision(db: Database) -> None:
    """Raise RevisionError unless the database is at the revision of this program."""
    found = current_revision(db)
    if found != HEAD:
        raise RevisionError(
            f"the database is at revision {found or 'none'}; this program needs {HEAD}",
            hint=UNFINISHED_HINT if (found or "").startswith(UNFINISHED) else None,
        )


def migrate(url: str) -> list[str]:
    """Bring the database to this program's revision; returns the revisions applied.

    A SQLite file is created where there is none. Each migration is one transaction.
    """
    from triage.database.migrating import upgrade

    return upgrade(url)
