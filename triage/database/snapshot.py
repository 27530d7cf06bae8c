"""One moment of the whole database as one SQLite file, from SQLite and PostgreSQL alike.

Owns how the file is made and read, and which files of the store its rows name. From SQLite it is
`VACUUM INTO` on a read-only connection: one read transaction, which waits for no writer and keeps
none waiting, and what was deleted before is not in the copy (sqlite.org/lang_vacuum.html). From
PostgreSQL it is every table, row by row, in one REPEATABLE READ transaction: no tool of the server
is needed, and the file restores into either database.

A snapshot is written by one process and then only read, so it needs neither WAL nor locks and may
lie on a network file system. Restoring it is `database.restoring`.
"""

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    Table,
    create_engine,
    delete,
    event,
    func,
    insert,
    inspect,
    select,
    text,
    tuple_,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import StaticPool

from triage.database import tables, tables_history, tables_house, tables_learning
from triage.database.base import Base
from triage.database.connection import Database, revision_of
from triage.database.driver_errors import translate
from triage.database.migrating import upgrade_open
from triage.database.retention import expired_paths
from triage.database.revision import HEAD
from triage.database.tables import Instance
from triage.database.tables_house import Quarantined
from triage.database.types import time_text
from triage.errors import DatabaseRejected, DatabaseUnavailable, RevisionError

ROWS_AT_ONCE = 2000
SCRATCH = (
    "PRAGMA journal_mode = MEMORY",
    "PRAGMA synchronous = OFF",
    "PRAGMA mmap_size = 0",
    "PRAGMA temp_store = MEMORY",  # a sort would leave rows in /var/tmp
)
LISTS = ("instances", "quarantine")  # the tables that name files
ROOMS = (tables, tables_house, tables_history, tables_learning)  # so that METADATA has them
METADATA = Base.metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldFile:
    """One file of the store that a row promises. `transfer_syntax_uid` is "" in the quarantine."""

    path: str  # relative to the store
    size_bytes: int  # of the quarantine: as received, not of the file
    transfer_syntax_uid: str = ""


# --- making


def make_snapshot(db: Database, path: Path) -> None:
    """Write the snapshot to `path`, which must not exist; synced, readable by its owner alone.

    Raises DatabaseUnavailable, or RevisionError unless it is at the program's revision.
    """
    with _new_file(path):
        if db.path is not None:
            _vacuum(db.path, path)
            with open_snapshot(path) as copy, copy.read() as connection:
                _require_revision(connection)
        else:
            with open_snapshot(path, writable=True) as copy:
                upgrade_open(copy)
                with _one_moment(db) as source, copy.write() as target:
                    copy_all(source, target)


def make_list(db: Database, path: Path) -> None:
    """Write a snapshot of no more than the rows that name files; otherwise as `make_snapshot`."""
    chosen = [METADATA.tables[name] for name in LISTS]
    with (
        _new_file(path),
        open_snapshot(path, writable=True) as copy,
        _one_moment(db) as source,
        copy.write() as target,
    ):
        METADATA.create_all(target, chosen)
        _copy(source, target, chosen)


@contextmanager
def _new_file(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _vacuum(source: Path, path: Path) -> None:
    uri = f"{source.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            connection.execute("PRAGMA mmap_size = 0")
            connection.execute("VACUUM INTO ?", (str(path),))
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorname", type(error).__name__)
        raise DatabaseUnavailable(f"the database could not be copied (SQLite: {code})") from None


@contextmanager
def _one_moment(db: Database) -> Iterator[Connection]:
    with db.read() as connection:
        if db.dialect == "postgresql":
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        _require_revision(connection)
        yield connection


def _require_revision(connection: Connection) -> None:
    if revision_of(connection) != HEAD:
        raise RevisionError("the database was migrated while it was copied", hint="Run it again.")


def copy_all(source: Connection, target: Connection) -> None:
    """Replace every row of `target` by those of `source`; both are at the program's revision."""
    there = set(inspect(target).get_table_names()) - {"alembic_version"}
    if there != METADATA.tables.keys():
        raise DatabaseRejected("migrations and tables of this program differ: nothing was copied")
    _copy(source, target, METADATA.sorted_tables)


def _copy(source: Connection, target: Connection, chosen: Sequence[Table]) -> None:
    """Copy tables in this order: one that is referred to comes first."""
    for table in reversed(chosen):
        target.execute(delete(table))
    for table in chosen:
        for rows in _pages(source, table):
            if target.dialect.name == "postgresql":
                _insert_page(target, table, rows)
            else:
                target.execute(insert(table), rows)


def _insert_page(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert a page as one document: a statement a row is a round trip a row."""
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    connection.execute(
        text(
            f'INSERT INTO "{table.name}" ({names}) SELECT {names}'  # noqa: S608
            f' FROM json_populate_recordset(NULL::"{table.name}", CAST(:page AS json))'
        ),
        {"page": json.dumps(rows, default=_as_text, allow_nan=False)},
    )


def _as_text(value: object) -> str:
    """Return what JSON has no type for as PostgreSQL reads it."""
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    if isinstance(value, datetime):
        return time_text(value)
    raise TypeError(f"no column holds {type(value).__name__}")


def _pages(connection: Connection, table: Table) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows in the order of their key; one that refers to another of its table follows it.

    By key and not by OFFSET: a driver that fetches whole results holds one page of them.
    """
    keys = list(table.primary_key)
    statement = select(table).order_by(*keys).limit(ROWS_AT_ONCE)
    page = statement
    while rows := [dict(row) for row in connection.execute(page).mappings()]:
        yield rows
        last = tuple(rows[-1][key.name] for key in keys)
        after = tuple_(*keys) > last if len(keys) > 1 else keys[0] > last[0]
        page = statement.where(after)


# --- reading


@contextmanager
def open_snapshot(path: Path, *, writable: bool = False) -> Iterator[Database]:
    """Open a snapshot that no other process writes; closed at the end of the block."""
    mode = "rw" if writable else "ro"
    uri = f"{path.absolute().as_uri()}?mode={mode}&nolock=1"

    def connect() -> DBAPIConnection:
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        for pragma in SCRATCH:
            connection.execute(pragma)
        return connection  # type: ignore[return-value]

    # One connection for all: two without locks would not know of each other.
    engine = create_engine("sqlite://", creator=connect, poolclass=StaticPool, hide_parameters=True)
    event.listen(engine, "handle_error", translate)
    try:
        yield Database(writer=engine, reader=engine, lock=None, clock=None, path=path)
    finally:
        engine.dispose()


def fault_of(connection: Connection) -> str:
    """Return what is wrong with a snapshot's own structure; empty where nothing is."""
    found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    if found != "ok":
        return "its pages do not fit together"
    if connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
        return "its rows refer to rows that are not there"
    return "" if revision_of(connection) else "it names no revision"


def row_counts(connection: Connection) -> dict[str, int]:
    """Return how many rows each table has."""
    return {
        table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
        for table in METADATA.sorted_tables
    }


def size_bytes(db: Database) -> int:
    """Return what the database takes on its disk, which its snapshot does not exceed by much."""
    if db.path is not None:
        files = (db.path, db.path.with_name(f"{db.path.name}-wal"))
        return sum(file.stat().st_size for file in files if file.exists())
    with db.read() as connection:
        statement = select(func.pg_database_size(func.current_database()))
        return int(connection.execute(statement).scalar_one())


def held_files(connection: Connection, shard: str) -> list[HeldFile]:
    """Return the files that rows promise below `shard` (objects/00 … quarantine/ff), by path.

    Only columns that every revision has are read, so an older snapshot can be asked as well.
    """
    i, q, end = Instance, Quarantined, f"{shard}/~"
    if shard.startswith("objects/"):
        statement = select(i.path, i.size_bytes, i.transfer_syntax_uid).where(
            i.path > shard, i.path < end, i.expired_at.is_(None)
        )
        found = {row.path: HeldFile(**row._mapping) for row in connection.execute(statement)}
    else:
        aside = select(q.path, q.size_bytes).where(q.path > shard, q.path < end, q.state == "held")
        found = {
            row.path: HeldFile(path=row.path, size_bytes=row.size_bytes)
            for row in connection.execute(aside)
        }
    return [found[path] for path in sorted(found)]


def no_longer_held(connection: Connection, paths: Sequence[str]) -> set[str]:
    """Return those of `paths` whose images have expired or whose quarantine was settled."""
    q = Quarantined
    aside = select(q.path).where(q.path.in_(paths), q.state == "held")
    still = set(connection.execute(aside).scalars())
    settled = {path for path in paths if path.startswith("quarantine/")} - still
    return settled | set(expired_paths(connection, paths))
