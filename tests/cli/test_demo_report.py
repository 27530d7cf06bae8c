"""The demonstration fails as soon as one object is not what it must be."""

from pathlib import Path
from typing import Any

import pytest

from tests.cli.entries import entry
from triage.cli.demo_report import wrong_objects, wrong_studies
from triage.cli.demo_studies import Exhibit, StudyPlan
from triage.records import Analysis, ObjectState, Source

UID = "1.2.3"
PLAN = StudyPlan(study_instance_uid=UID, what="a study", analysis=Analysis.ANALYSED)


def exhibit(state: ObjectState, name: str = "1.dcm") -> Exhibit:
    held = state is not ObjectState.QUARANTINED
    return Exhibit(
        what=f"a {state} object",
        path=Path(name),
        source=Source.FOLDER,
        state=state,
        study_instance_uid=UID if held else "",
    )


def held(*states: str, duplicates: int = 0) -> dict[str, Any]:
    """Return a study as `show` gives it."""
    instances = [{"state": state, "duplicates": duplicates} for state in states]
    return {UID: {"instances": instances}}


def aside(*names: str) -> list[dict[str, Any]]:
    return [{"original_path": f"/in/{name}"} for name in names]


STORED, DUPLICATE = exhibit(ObjectState.STORED), exhibit(ObjectState.DUPLICATE)
REVISION, ASIDE = exhibit(ObjectState.REVISION), exhibit(ObjectState.QUARANTINED, "2.dcm")


def test_objects_in_their_right_states_are_no_complaint() -> None:
    exhibits = [STORED, DUPLICATE, REVISION, ASIDE]
    found = held("stored", "revision")
    found[UID]["instances"][0]["duplicates"] = 1
    assert wrong_objects(exhibits, found, aside("2.dcm")) == []


@pytest.mark.parametrize(
    ("found", "quarantine"),
    [
        ({}, aside("2.dcm")),
        (held("stored"), aside("2.dcm")),
        (held("stored", "conflict"), aside("2.dcm")),
        (held("stored", "revision", duplicates=1), aside("2.dcm")),
        (held("stored", "revision"), aside()),
        (held("stored", "revision"), aside("3.dcm")),
        (held("stored", "revision"), aside("2.dcm", "3.dcm")),
    ],
    ids=[
        "study missing", "revision missing", "conflict instead", "counted twice",
        "not in quarantine", "another in quarantine", "one more in quarantine",
    ],
)  # fmt: skip
def test_any_object_out_of_place_is_a_complaint(
    found: dict[str, Any], quarantine: list[dict[str, Any]]
) -> None:
    assert wrong_objects([STORED, REVISION, ASIDE], found, quarantine)


def test_a_study_as_planned_is_no_complaint() -> None:
    assert wrong_studies([PLAN], [entry(study_instance_uid=UID)]) == []


@pytest.mark.parametrize(
    "studies",
    [
        [],
        [entry(study_instance_uid=UID, analysis="failed")],
        [entry(study_instance_uid=UID, analysis="pending")],
        [entry(study_instance_uid=UID), entry(study_instance_uid="9.9")],
    ],
    ids=["missing", "failed", "pending", "one too many"],
)
def test_a_study_not_as_planned_is_a_complaint(studies: list[dict[str, Any]]) -> None:
    assert wrong_studies([PLAN], studies)
