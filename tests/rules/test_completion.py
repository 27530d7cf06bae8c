"""A projection image is looked at on arrival; a series when silence or age closes it."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triage.errors import ConfigError
from triage.records import Header, Subject
from triage.rules.completion import (
    CompletionPolicy,
    closes_at,
    is_projection,
    stated_modality,
    subject_of,
)

POLICY = CompletionPolicy(quiet_s=60, max_wait_s=900, quiet_s_by_modality={"MR": 120, "NM": 0})
NINE = datetime(2026, 1, 1, 9, 0, tzinfo=UTC)  # every series' first instance arrives at nine
STORAGE = "1.2.840.10008.5.1.4.1.1."
MAMMOGRAPHY, TOMOSYNTHESIS, SECONDARY_CAPTURE = (
    STORAGE + "1.2",
    STORAGE + "13.1.3",
    STORAGE + "7",
)


def at(seconds: float) -> datetime:
    return NINE + timedelta(seconds=seconds)


def closing(*, last_s: float, modality: str = "CT") -> datetime:
    return closes_at(
        first_instance_at=NINE, last_instance_at=at(last_s), modality=modality, policy=POLICY
    )


def header(**values: object) -> Header:
    uids = {
        "sop_class_uid": STORAGE + "2",
        "sop_instance_uid": "1.2.3",
        "study_instance_uid": "1.2",
        "series_instance_uid": "1.2.1",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
    }
    return Header(**{**uids, **values})  # type: ignore[arg-type]


def test_each_instance_restarts_the_silence() -> None:
    assert closing(last_s=0) == at(60)
    assert closing(last_s=30) == at(90)


def test_the_silence_depends_on_the_modality() -> None:
    assert closing(last_s=0, modality="MR") == at(120)
    assert closing(last_s=0, modality=" mr ") == at(120)


def test_no_silence_closes_at_the_last_instance() -> None:
    assert closing(last_s=7, modality="NM") == at(7)


def test_an_endless_trickle_is_cut_at_the_longest_wait() -> None:
    assert closing(last_s=899) == at(900)
    assert closing(last_s=5000) == at(900)


@given(last_s=st.floats(0, 1e6), later_s=st.floats(0, 1e6))
def test_another_instance_never_closes_a_series_earlier(last_s: float, later_s: float) -> None:
    assert closing(last_s=last_s) <= closing(last_s=last_s + later_s) <= at(900)


@pytest.mark.parametrize("modality", ["CR", "DX", "MG", "RF", "XA", "dx "])
def test_single_projection_images_are_whole_by_themselves(modality: str) -> None:
    assert is_projection(modality=modality, number_of_frames=1)


@pytest.mark.parametrize(("modality", "frames"), [("XA", 30), ("MG", 60), ("CT", 1), ("US", 1)])
def test_runs_and_volumes_are_not(modality: str, frames: int) -> None:
    assert not is_projection(modality=modality, number_of_frames=frames)


def test_a_blank_modality_is_read_from_the_sop_class() -> None:
    assert is_projection(modality="", number_of_frames=1, sop_class_uid=MAMMOGRAPHY)
    assert not is_projection(modality="", number_of_frames=1, sop_class_uid=TOMOSYNTHESIS)
    assert not is_projection(modality="", number_of_frames=1, sop_class_uid=SECONDARY_CAPTURE)
    assert stated_modality("CR", MAMMOGRAPHY) == "CR"


def test_the_subject_of_an_instance_is_its_image_or_its_series() -> None:
    assert subject_of(header(modality="DX", has_pixels=True)) is Subject.IMAGE
    assert subject_of(header(modality="CT", has_pixels=True)) is Subject.SERIES
    assert subject_of(header(modality="XA", has_pixels=True, number_of_frames=9)) is Subject.SERIES


def test_an_object_without_pixels_is_no_subject() -> None:
    assert subject_of(header(modality="SR")) is None


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"quiet_s": -1}, "quiet_s"),
        ({"quiet_s": 901, "max_wait_s": 900}, "quiet_s"),
        ({"max_wait_s": float("inf")}, "max_wait_s"),
        ({"quiet_s_by_modality": {"CT": -1}}, r"quiet_s_by_modality\.CT"),
        ({"quiet_s_by_modality": {"CT": "60"}}, r"quiet_s_by_modality\.CT"),
    ],
)
def test_an_unusable_policy_is_refused_by_section_and_key(
    values: dict[str, object], key: str
) -> None:
    with pytest.raises(ConfigError, match=rf"\[completion\] {key}"):
        CompletionPolicy(**values)  # type: ignore[arg-type]


def test_no_waiting_at_all_is_allowed() -> None:
    CompletionPolicy(quiet_s=0, max_wait_s=0, quiet_s_by_modality={})


def test_modality_keys_are_read_in_any_case() -> None:
    policy = CompletionPolicy(quiet_s_by_modality={"ct": 5})
    assert policy.quiet_s_for("CT") == 5
