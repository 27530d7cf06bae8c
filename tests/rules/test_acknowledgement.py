"""Only a person takes a study off the list, and only for what the person has seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.assurance import requirement
from triage.records import StudyState
from triage.rules.acknowledgement import (
    Acknowledgement,
    Standing,
    StudySeen,
    is_listed,
    standing,
    study_state,
)

SEEN = Acknowledgement(
    generation=2, flagged_findings=frozenset({"pneumothorax"}), failures=frozenset({7})
)


def study(
    *,
    generation: int = 2,
    flagged: tuple[str, ...] = ("pneumothorax",),
    failures: tuple[int, ...] = (),
) -> StudySeen:
    return StudySeen(
        generation=generation,
        flagged_findings=frozenset(flagged),
        failures=frozenset(failures),
    )


CASES = {
    "unchanged": (study(), ""),
    "a finding that went away": (study(flagged=()), ""),
    "a failure that the person saw": (study(failures=(7,)), ""),
    "a late image": (study(generation=3), "new images after acknowledgement"),
    "a new finding": (
        study(flagged=("pneumothorax", "effusion")),
        "new finding after acknowledgement",
    ),
    "a failed re-analysis": (study(failures=(8,)), "analysis failed after acknowledgement"),
    "all at once": (
        study(generation=3, flagged=("effusion",), failures=(7, 8)),
        "new images after acknowledgement; new finding after acknowledgement;"
        " analysis failed after acknowledgement",
    ),
}


@pytest.mark.parametrize(("now", "reason"), CASES.values(), ids=CASES)
def test_an_acknowledgement_covers_what_the_person_saw(now: StudySeen, reason: str) -> None:
    assert standing(SEEN, now) == Standing(holds=not reason, reason=reason)


findings = st.frozensets(st.sampled_from(["pneumothorax", "effusion", "nodule"]))
failures = st.frozensets(st.integers(1, 3))
studies = st.builds(
    StudySeen, generation=st.integers(1, 3), flagged_findings=findings, failures=failures
)
acknowledgements = st.builds(
    Acknowledgement, generation=st.integers(1, 3), flagged_findings=findings, failures=failures
)


@requirement("W1")
@given(now=studies, arriving=st.booleans(), expired=st.booleans())
def test_nobody_leaves_the_list_without_a_person(
    now: StudySeen, arriving: bool, expired: bool
) -> None:
    acknowledged = standing(None, now).holds
    state = study_state(arriving=arriving, acknowledged=acknowledged, images_expired=expired)
    assert state is not StudyState.ACKNOWLEDGED
    assert is_listed(acknowledged=acknowledged, too_old_on_arrival=False)


@requirement("W1")
@given(seen=acknowledgements, now=studies)
def test_what_was_not_seen_always_comes_back(seen: Acknowledgement, now: StudySeen) -> None:
    held = standing(seen, now)
    if held.holds:
        assert now.generation == seen.generation
        assert now.flagged_findings <= seen.flagged_findings
        assert now.failures <= seen.failures
    else:
        assert held.reason
        assert is_listed(acknowledged=held.holds, too_old_on_arrival=False)


def test_a_prior_is_never_listed() -> None:
    assert not is_listed(acknowledged=False, too_old_on_arrival=True)


def test_states_are_shown_in_the_order_of_a_studys_life() -> None:
    def state(*, arriving: bool = False, acknowledged: bool = False, expired: bool = False) -> str:
        return study_state(arriving=arriving, acknowledged=acknowledged, images_expired=expired)

    assert state(arriving=True) == "arriving"
    assert state() == "ready"
    assert state(arriving=True, acknowledged=True) == "acknowledged"
    assert state(acknowledged=True, expired=True) == "expired"
