"""Statements on one row, and those whose form differs between SQLite and PostgreSQL.

SQLAlchemy spends more time on building a statement than SQLite on running it, so the frequent
ones are built once per table and take their values as parameters.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Insert, Select, Update, bindparam, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from triage.database.base import Base


def insert_for(connection: Connection, table: type[Base]) -> "sqlite.Insert | postgresql.Insert":
    """Return an INSERT that knows ON CONFLICT in the connection's dialect (the same in both)."""
    return insert_in(connection.dialect.name, table)


def insert_in(dialect: str, table: type[Base]) -> "sqlite.Insert | postgresql.Insert":
    """Return the INSERT of `insert_for` by the dialect's name."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def insert_row(connection: Connection, table: type[Base], **values: Any) -> None:
    """Insert one row."""
    connection.execute(_insert(table), values)


def insert_rows(
    connection: Connection, table: type[Base], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Insert rows that name the same columns."""
    if rows:
        connection.execute(_insert(table), list(rows))


def insert_id(connection: Connection, table: type[Base], **values: Any) -> int:
    """Insert one row into a table with a numbered key and return the number."""
    key: int = connection.execute(_insert_id(table), values).scalar_one()
    return key


def update_row(connection: Connection, table: type[Base], row_id: int, **values: Any) -> None:
    """Change columns of the row with this number; values are plain, no SQL expressions."""
    connection.execute(_update(table), {"row_id": row_id, **values})


def insert_whole(connection: Connection, table: type[Base], **values: Any) -> Any:
    """Insert one row into a table with a numbered key and return the whole row."""
    return connection.execute(_insert_whole(table), values).one()


def update_changed(connection: Connection, table: type[Base], row: Any, **values: Any) -> None:
    """Change those of the columns that differ from `row`, the whole row as it stands."""
    changes = {name: value for name, value in values.items() if getattr(row, name) != value}
    if changes:
        update_row(connection, table, row.id, **changes)


def row_of(connection: Connection, table: type[Base], row_id: int) -> Any:
    """Return the whole row with this number, locked against changes by other transactions."""
    return connection.execute(_select(table), {"row_id": row_id}).one()


@cache
def _insert(table: type[Base]) -> Insert:
    return insert(table.__table__)  # type: ignore[arg-type]


@cache
def _insert_id(table: type[Base]) -> Any:
    return _insert(table).returning(table.__table__.c.id)


@cache
def _insert_whole(table: type[Base]) -> Any:
    return _insert(table).returning(table.__table__)


@cache
def _update(table: type[Base]) -> Update:
    columns = table.__table__
    return update(columns).where(columns.c.id == bindparam("row_id"))  # type: ignore[arg-type]


@cache
def _select(table: type[Base]) -> Select[Any]:
    columns = table.__table__
    return (
        select(columns).where(columns.c.id == bindparam("row_id")).with_for_update(key_share=True)
    )
