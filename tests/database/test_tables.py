"""States are told the same way in enumeration, transition table, CHECK constraint and migration."""

import re
from enum import StrEnum

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, Inspector, insert, inspect

import triage.database.tables
import triage.database.tables_history
import triage.database.tables_house
import triage.database.tables_learning
from tests.builders import make_arrival
from tests.database.conftest import Room
from triage.database.base import Base
from triage.database.connection import Database
from triage.database.jobs import Transition, record_transitions
from triage.database.tables_house import JobEvent, JobRow
from triage.errors import DatabaseRejected
from triage.records import (
    Analysis,
    JobKind,
    JobState,
    Mode,
    ObjectState,
    Rank,
    Source,
    StudyState,
    Subject,
)
from triage.rules.jobs import JOB_TRANSITIONS, OBJECT_TRANSITIONS

CHECKED: dict[tuple[str, str], type[StrEnum]] = {
    ("studies", "state"): StudyState,
    ("studies", "analysis"): Analysis,
    ("studies", "priority"): Rank,
    ("studies", "order_priority"): Rank,
    ("studies", "person_priority"): Rank,
    ("instances", "state"): ObjectState,
    ("instances", "source"): Source,
    ("instances", "subject"): Subject,
    ("object_events", "state"): ObjectState,
    ("jobs", "kind"): JobKind,
    ("jobs", "subject"): Subject,
    ("jobs", "state"): JobState,
    ("job_events", "from_state"): JobState,
    ("job_events", "to_state"): JobState,
    ("results", "subject"): Subject,
    ("results", "mode"): Mode,
    ("results", "analysis"): Analysis,
    ("captions", "subject"): Subject,
    ("quarantine", "source"): Source,
    ("received_totals", "source"): Source,
    ("received_totals", "state"): ObjectState,
}


def test_the_database_knows_exactly_the_values_of_each_enumeration(database: Database) -> None:
    checks = {
        check["name"]: set(re.findall(r"'([^']*)'", check["sqltext"]))
        for table in Base.metadata.tables
        for check in inspector_of(database).get_check_constraints(table)
    }
    for (table, column), values in CHECKED.items():
        assert checks[f"ck_{table}_{column}"] == {value.value for value in values}


def inspector_of(database: Database) -> Inspector:
    with database.read() as connection:
        return inspect(connection.engine)


def test_every_state_of_jobs_and_objects_is_in_its_transition_table() -> None:
    assert set(JOB_TRANSITIONS) == set(JobState)
    assert set(OBJECT_TRANSITIONS) == set(ObjectState)


def test_migrations_and_tables_describe_the_same_database(database: Database) -> None:
    assert triage.database.tables
    assert triage.database.tables_history
    assert triage.database.tables_house
    assert triage.database.tables_learning
    with database.read() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                # SQLite's reflection does not tell '' from no default.
                "compare_server_default": database.dialect == "postgresql",
            },
        )
        assert compare_metadata(context, Base.metadata) == []
        # CHECK constraints are not compared by Alembic.
        for table in Base.metadata.sorted_tables:
            declared = {c.name for c in table.constraints if isinstance(c, CheckConstraint)}
            found = inspect(connection).get_check_constraints(table.name)
            assert {check["name"] for check in found} == declared, table.name


def test_a_step_that_the_rules_forbid_is_refused(room: Room) -> None:
    room.arrive(make_arrival())
    with room.db.write() as connection:
        for before, after in ((JobState.DEAD, JobState.DONE), (None, JobState.LEASED)):
            step = Transition(job_id=1, before=before, after=after, reason="")
            with pytest.raises(ValueError, match="cannot go"):
                record_transitions(connection, [step], now=room.clock())
    assert len(room.rows(JobEvent)) == 1


def test_a_lease_without_an_owner_is_refused_by_the_database(room: Room) -> None:
    room.arrive(make_arrival())
    values = {
        "kind": "caption",
        "subject": "image",
        "subject_id": 1,
        "study_id": 1,
        "generation": 1,
        "state": "leased",
        "rank": 0,
        "due_at": room.clock(),
        "attempts": 1,
        "fence": 1,
        "created_at": room.clock(),
    }
    with pytest.raises(DatabaseRejected), room.db.write() as connection:
        connection.execute(insert(JobRow).values(**values))
