"""Statements are prepared once per connection, and what becomes of one that is lost."""

from collections.abc import Iterator

import pytest
from sqlalchemy import bindparam, text

from tests.conftest import run_on_server
from triage.database.connection import Database, open_database
from triage.database.postgres_driver import LARGEST_NUMBER
from triage.errors import DatabaseUnavailable

PREPARED = text("SELECT statement FROM pg_prepared_statements")
ECHO = text("SELECT CAST(:value AS integer)")


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Database]:
    opened = open_database(postgres_url)
    yield opened
    opened.dispose()


def echo(db: Database, value: int) -> int:
    with db.write() as connection:
        return int(connection.execute(ECHO, {"value": value}).scalar_one())


def prepared(db: Database) -> list[str]:
    with db.write() as connection:
        return list(connection.execute(PREPARED).scalars())


def test_a_statement_with_parameters_is_prepared_once(postgres: Database) -> None:
    assert [echo(postgres, value) for value in (1, 2, 3)] == [1, 2, 3]
    assert sum("integer" in statement for statement in prepared(postgres)) == 1


def test_no_more_than_a_bounded_number_stays_prepared(postgres: Database) -> None:
    with postgres.write() as connection:
        for number in range(LARGEST_NUMBER + 20):
            statement = text(f"SELECT CAST(:value AS integer) + {number}")
            assert connection.execute(statement, {"value": 1}).scalar_one() == 1 + number
    assert len(prepared(postgres)) <= LARGEST_NUMBER
    assert echo(postgres, 7) == 7


def test_rows_of_every_number_come_back(postgres: Database) -> None:
    statement = text("SELECT generate_series(1, CAST(:value AS integer))")
    with postgres.read() as connection:
        for count in (0, 3, 1):
            rows = list(connection.execute(statement, {"value": count}).scalars())
            assert rows == list(range(1, count + 1))


def test_an_error_leaves_the_connection_usable(postgres: Database) -> None:
    with pytest.raises(Exception, match="22012"), postgres.write() as connection:
        connection.execute(text("SELECT 1 / CAST(:value AS integer)"), {"value": 0})
    assert echo(postgres, 5) == 5


def test_a_prepared_statement_that_the_server_lost_is_transient_and_made_anew(
    postgres: Database,
) -> None:
    assert echo(postgres, 1) == 1
    with postgres.write() as connection:
        connection.exec_driver_sql("DEALLOCATE ALL")  # as a pooling proxy may do
    with pytest.raises(DatabaseUnavailable, match="26000"):
        echo(postgres, 2)
    assert echo(postgres, 3) == 3


def test_a_statement_whose_columns_a_migration_changed_is_transient_and_made_anew(
    postgres: Database, postgres_url: str
) -> None:
    every = text("SELECT * FROM grown WHERE a > :least")

    def rows() -> list[tuple[int, ...]]:
        with postgres.write() as connection:
            return [tuple(row) for row in connection.execute(every, {"least": 0})]

    run_on_server(postgres_url, "CREATE TABLE grown (a integer)", "INSERT INTO grown VALUES (1)")
    assert rows() == [(1,)]
    run_on_server(postgres_url, "ALTER TABLE grown ADD COLUMN b integer DEFAULT 2")
    with pytest.raises(DatabaseUnavailable, match="0A000"):
        rows()
    assert rows() == [(1, 2)]


def test_times_of_every_precision_are_read(postgres: Database) -> None:
    times = ["2026-01-02 03:04:05+00", "2026-01-02 03:04:05.5+00", "2026-01-02 03:04:05.123456+00"]
    statement = text("SELECT CAST(unnest(CAST(:times AS text[])) AS timestamptz)")
    with postgres.read() as connection:
        found = list(connection.execute(statement, {"times": times}).scalars())
    assert [moment.microsecond for moment in found] == [0, 500_000, 123_456]
    assert all(moment.utcoffset().total_seconds() == 0 for moment in found)


def test_values_that_differ_take_plans_of_their_own(postgres: Database) -> None:
    with postgres.read() as connection:
        mode = connection.execute(text("SHOW plan_cache_mode")).scalar_one()
    assert mode == "force_custom_plan"


def test_lists_of_any_length_may_be_asked_for(postgres: Database) -> None:
    within = text("SELECT count(*) FROM generate_series(1, 9) AS n WHERE n IN :wanted")
    within = within.bindparams(bindparam("wanted", expanding=True))
    with postgres.read() as connection:
        for length in (1, 2, 5):
            wanted = {"wanted": list(range(1, length + 1))}
            assert connection.execute(within, wanted).scalar_one() == length
