"""Building blocks of the migrations: columns, constraints, indices and the view `worklist`.

A migration that was released must not change its meaning, so what stands here is only added to.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.schema import SchemaItem

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
JSON = sa.JSON().with_variant(JSONB(), "postgresql")

READER_ROLE = "triage_reader"
# Seconds waited, by dialect: from the time a study waits since to now or to its acknowledgement.
WAITING_S = {
    "sqlite": "CAST((julianday(coalesce(acknowledged_at, 'now')) - julianday(waiting_since))"
    " * 86400 AS INTEGER)",
    "postgresql": "CAST(floor(extract(epoch FROM coalesce(acknowledged_at, now())"
    " - waiting_since)) AS bigint)",
}
# A site may not let the program make roles: then the view is there and nobody is granted it.
GRANT = f"""
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{READER_ROLE}') THEN
        CREATE ROLE {READER_ROLE} NOLOGIN;
    END IF;
EXCEPTION WHEN insufficient_privilege OR duplicate_object OR unique_violation THEN
    NULL;
END $$;
DO $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO {READER_ROLE}', current_schema());
    GRANT SELECT ON worklist TO {READER_ROLE};
EXCEPTION WHEN insufficient_privilege OR undefined_object THEN
    NULL;
END $$;
"""


def key(table: str) -> list[SchemaItem]:
    """Return a numbered primary key `id`."""
    return [
        sa.Column("id", KEY, nullable=False),
        sa.PrimaryKeyConstraint("id", name=f"pk_{table}"),
    ]


def texts(*names: str, null: bool = False) -> list[SchemaItem]:
    """Return text columns without a default."""
    return [sa.Column(name, sa.Text(), nullable=null) for name in names]


def blank_texts(*names: str) -> list[SchemaItem]:
    """Return text columns that are empty where nothing is known."""
    return [sa.Column(name, sa.Text(), nullable=False, server_default="") for name in names]


def times(*names: str, null: bool = False) -> list[SchemaItem]:
    """Return columns of UTC times."""
    return [sa.Column(name, TIME, nullable=null) for name in names]


def integers(*names: str, null: bool = False) -> list[SchemaItem]:
    """Return integer columns."""
    return [sa.Column(name, sa.Integer(), nullable=null) for name in names]


def counts(*names: str) -> list[SchemaItem]:
    """Return integer columns that begin at 0."""
    return [sa.Column(name, sa.Integer(), nullable=False, server_default="0") for name in names]


def big_integers(*names: str) -> list[SchemaItem]:
    """Return 64-bit columns."""
    return [sa.Column(name, sa.BigInteger(), nullable=False) for name in names]


def flags(*names: str) -> list[SchemaItem]:
    """Return boolean columns."""
    return [sa.Column(name, sa.Boolean(), nullable=False) for name in names]


def documents(*names: str, null: bool = False) -> list[SchemaItem]:
    """Return JSON columns."""
    return [sa.Column(name, JSON, nullable=null) for name in names]


def refers(table: str, column: str, to: str, *, null: bool = False) -> list[SchemaItem]:
    """Return a column that holds the `id` of a row of table `to`."""
    return [
        sa.Column(column, KEY, nullable=null),
        sa.ForeignKeyConstraint([column], [f"{to}.id"], name=f"fk_{table}_{column}"),
    ]


def one_of(table: str, column: str, values: Sequence[str]) -> sa.CheckConstraint:
    """Return the CHECK that `column` holds one of `values`."""
    listed = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=op.f(f"ck_{table}_{column}"))


def holds(column: str) -> str:
    """Return the condition that a boolean column is true, as SQLAlchemy writes it in queries.

    SQLite uses a partial index only for the very expression that the index names.
    """
    return f"{column} = 1" if op.get_bind().dialect.name == "sqlite" else column


def index(
    name: str, table: str, *columns: str, where: str | None = None, unique: bool = False
) -> None:
    """Create an index, partial where `where` is given."""
    condition = None if where is None else sa.text(where)
    op.create_index(
        name,
        table,
        list(columns),
        unique=unique,
        sqlite_where=condition,
        postgresql_where=condition,
    )


def create_view(file_name: str) -> None:
    """Create the view `worklist` as migrations/views/`file_name` says; a former one is dropped.

    On PostgreSQL the role `triage_reader` is made where that is allowed, and may read it.
    """
    from triage.database.migrating import migrations_path

    dialect = op.get_bind().dialect.name
    drop_view()
    body = (migrations_path() / "views" / file_name).read_text(encoding="utf-8")
    _run(body.replace(":waiting_s", WAITING_S[dialect]))
    if dialect == "postgresql":
        _run(GRANT)


def drop_view() -> None:
    """Drop the view `worklist`: SQLite refuses to alter a table that a view reads."""
    _run("DROP VIEW IF EXISTS worklist")


def _run(statement: str) -> None:
    # exec_driver_sql: colons and percent signs of the text are its own.
    op.get_bind().exec_driver_sql(statement)
