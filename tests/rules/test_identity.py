"""Other bytes under a known UID are routine; other pixels are a conflict."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.assurance import requirement
from triage.records import Header, ObjectState
from triage.rules.identity import (
    Identity,
    IdentityFacts,
    Patient,
    decide,
    decide_pixels,
    patient_matches,
    patient_of,
)


def verdict(
    new: str, *held: str, new_has_pixels: bool = True, held_has_pixels: bool = True
) -> Identity:
    return decide(
        IdentityFacts(
            new_digest=new,
            new_has_pixels=new_has_pixels,
            held_digests=frozenset(held),
            held_has_pixels=held_has_pixels,
        )
    )


def test_the_first_object_of_a_uid_is_new() -> None:
    assert verdict("a") is Identity.NEW


def test_equal_bytes_are_a_duplicate_with_or_without_pixels() -> None:
    assert verdict("a", "a") is Identity.DUPLICATE
    assert verdict("a", "a", new_has_pixels=False, held_has_pixels=False) is Identity.DUPLICATE


def test_a_resent_earlier_version_is_a_duplicate_too() -> None:
    assert verdict("a", "b", "a") is Identity.DUPLICATE


def test_other_bytes_with_pixels_wait_for_the_comparison() -> None:
    assert verdict("b", "a") is Identity.COMPARE


def test_other_bytes_without_pixels_are_a_revision() -> None:
    assert verdict("b", "a", new_has_pixels=False, held_has_pixels=False) is Identity.REVISION


@pytest.mark.parametrize("new_has_pixels", [True, False])
def test_pixels_that_appear_or_vanish_are_a_conflict(new_has_pixels: bool) -> None:
    found = verdict("b", "a", new_has_pixels=new_has_pixels, held_has_pixels=not new_has_pixels)
    assert found is Identity.CONFLICT


@requirement("G2")
def test_equal_pixels_are_a_revision_and_others_a_conflict() -> None:
    assert decide_pixels("p", "p") is ObjectState.REVISION
    assert decide_pixels("p", "q") is ObjectState.CONFLICT


@pytest.mark.parametrize(("held", "new"), [(None, "p"), ("p", None), (None, None)])
def test_pixels_that_cannot_be_decoded_are_not_assumed_equal(
    held: str | None, new: str | None
) -> None:
    assert decide_pixels(held, new) is ObjectState.CONFLICT


def patient(patient_id: str, issuer: str = "") -> Patient:
    return Patient(patient_id=patient_id, issuer_of_patient_id=issuer)


MATCHES = {
    "same id": (patient("17"), patient("17"), True),
    "other id": (patient("17"), patient("18"), False),
    "blank is unknown": (patient(""), patient("17"), True),
    "spaces are blank": (patient("  "), patient("17"), True),
    "spaces around do not count": (patient(" 17 "), patient("17"), True),
    "leading zeros count": (patient("017"), patient("17"), False),
    "case counts": (patient("a17"), patient("A17"), False),
    "same issuer": (patient("17", "north"), patient("17", "north "), True),
    "other issuer": (patient("17", "north"), patient("17", "south"), False),
    "one issuer unknown": (patient("17", "north"), patient("17"), True),
    "issuer alone does not part": (patient("", "north"), patient("17", "south"), True),
}


@pytest.mark.parametrize(("held", "new", "same"), MATCHES.values(), ids=MATCHES)
def test_one_study_belongs_to_one_patient(held: Patient, new: Patient, same: bool) -> None:
    assert patient_matches(held, new) is same


patients = st.builds(patient, st.sampled_from(["", "1", " 1", "2"]), st.sampled_from(["", "n"]))


@given(held=patients, new=patients)
def test_matching_does_not_depend_on_who_came_first(held: Patient, new: Patient) -> None:
    assert patient_matches(held, new) is patient_matches(new, held)
    assert patient_matches(held, held)


def test_the_patient_is_read_from_the_header() -> None:
    header = Header(
        sop_class_uid="1.2",
        sop_instance_uid="1.3",
        study_instance_uid="1.4",
        series_instance_uid="1.5",
        transfer_syntax_uid="1.6",
        patient_id="17",
        issuer_of_patient_id="north",
    )
    assert patient_of(header) == patient("17", "north")
