"""The transition tables are closed, and no state is forgotten or unreachable."""

from collections.abc import Mapping, Set
from enum import StrEnum
from typing import Any

import pytest

from triage.records import JobState, ObjectState
from triage.rules.jobs import (
    JOB_START,
    JOB_TRANSITIONS,
    OBJECT_START,
    OBJECT_TRANSITIONS,
    job_may_become,
    object_may_become,
)

TABLES = {
    "jobs": (JobState, JOB_START, JOB_TRANSITIONS),
    "objects": (ObjectState, OBJECT_START, OBJECT_TRANSITIONS),
}


def reachable(start: Set[StrEnum], table: Mapping[Any, Set[StrEnum]]) -> Set[StrEnum]:
    found = frozenset(start)
    while (more := found.union(*(table[state] for state in found))) != found:
        found = more
    return found


@pytest.mark.parametrize(("states", "start", "table"), TABLES.values(), ids=TABLES)
def test_each_state_has_a_row_and_is_reached(
    states: type[StrEnum], start: Set[StrEnum], table: Mapping[Any, Set[StrEnum]]
) -> None:
    assert set(table) == set(states)
    assert reachable(start, table) == set(states)


def test_a_job_ends_only_through_a_claim_or_a_newer_generation() -> None:
    assert JOB_TRANSITIONS[JobState.QUEUED] == {JobState.LEASED, JobState.SUPERSEDED}


def test_a_superseded_job_never_runs_again() -> None:
    assert reachable({JobState.SUPERSEDED}, JOB_TRANSITIONS) == {JobState.SUPERSEDED}


def test_a_dead_letter_can_be_requeued() -> None:
    assert job_may_become(JobState.DEAD, JobState.QUEUED)
    assert not job_may_become(JobState.DEAD, JobState.DONE)


def test_a_duplicate_and_a_revision_are_final() -> None:
    for state in (ObjectState.DUPLICATE, ObjectState.REVISION, ObjectState.REFUSED):
        assert not any(object_may_become(state, successor) for successor in ObjectState)


def test_a_held_image_is_never_discarded() -> None:
    assert not object_may_become(ObjectState.STORED, ObjectState.REFUSED)
    assert object_may_become(ObjectState.CONFLICT, ObjectState.REFUSED)


def test_the_tables_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        JOB_TRANSITIONS[JobState.DONE] = frozenset()  # type: ignore[index]
