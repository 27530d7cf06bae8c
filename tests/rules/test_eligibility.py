"""What is looked at, by whom; and every refusal has a reason."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.assurance import requirement
from triage.errors import ConfigError
from triage.records import Header, ImageFacts
from triage.rules.eligibility import (
    EligibilityPolicy,
    Fit,
    HeaderMapping,
    IntendedUse,
    ObjectFacts,
    age_y,
    eligible_object,
    eligible_pixels,
    fits,
    is_too_old,
    mapped,
)

POLICY = EligibilityPolicy()
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
CHEST = IntendedUse(
    modalities=("CR", "DX"), body_parts=("CHEST",), view_positions=("PA", "AP"), minimum_age_y=18
)
RADIOGRAPH = Header(
    sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
    sop_instance_uid="1.3",
    study_instance_uid="1.4",
    series_instance_uid="1.5",
    transfer_syntax_uid="1.2.840.10008.1.2.1",
    modality="DX",
    body_part_examined="CHEST",
    view_position="PA",
    patient_age="045Y",
    image_type=("DERIVED", "PRIMARY"),
    presentation_intent_type="FOR PRESENTATION",
    rows=512,
    columns=512,
    has_pixels=True,
)


def radiograph(**values: Any) -> Header:
    return replace(RADIOGRAPH, **values)


def test_a_radiograph_for_presentation_is_eligible() -> None:
    assert eligible_object(RADIOGRAPH, ObjectFacts(), POLICY).fit is Fit.YES


REFUSED = {
    "without pixels": (radiograph(has_pixels=False), ObjectFacts(), "no pixels"),
    "raw detector data": (
        radiograph(presentation_intent_type="For Processing"),
        ObjectFacts(),
        "For Processing",
    ),
    "localiser": (
        radiograph(image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")),
        ObjectFacts(),
        "localiser",
    ),
    "made afterwards": (radiograph(image_type=("DERIVED", "SECONDARY")), ObjectFacts(), "derived"),
    "one row": (radiograph(rows=1), ObjectFacts(), "smaller than 64 px"),
    "video": (RADIOGRAPH, ObjectFacts(transfer_syntax_supported=False), "transfer syntax"),
    "prior": (RADIOGRAPH, ObjectFacts(too_old_on_arrival=True), "older than 168 h"),
}


@requirement("I4")
@pytest.mark.parametrize(("header", "facts", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_no_bundle_could_use_is_refused_with_a_reason(
    header: Header, facts: ObjectFacts, reason: str
) -> None:
    verdict = eligible_object(header, facts, POLICY)
    assert verdict.fit is Fit.NO
    assert not verdict.may_look
    assert reason in verdict.reason


def test_derived_images_can_be_accepted() -> None:
    secondary = radiograph(image_type=("DERIVED", "SECONDARY"))
    accepting = EligibilityPolicy(accept_derived=True)
    assert eligible_object(secondary, ObjectFacts(), accepting).may_look


def test_an_unstated_size_is_left_to_the_decoder() -> None:
    assert eligible_object(radiograph(rows=0), ObjectFacts(), POLICY).may_look


def pixels(*, side: int = 512, blank: bool = False) -> ImageFacts:
    return ImageFacts(
        rows=side,
        columns=512,
        number_of_frames=1,
        minimum=0.0,
        maximum=0.0 if blank else 4095.0,
        finite=True,
        blank=blank,
    )


@requirement("I4")
def test_pixels_decide_size_and_blankness() -> None:
    assert eligible_pixels(pixels(), POLICY).fit is Fit.YES
    assert "blank" in eligible_pixels(pixels(blank=True), POLICY).reason
    assert eligible_pixels(pixels(side=64), POLICY).fit is Fit.YES
    assert "smaller" in eligible_pixels(pixels(side=63), POLICY).reason


# --- age of the study on arrival


def old(*, study_date: str = "", made: datetime | None = None, limit_h: float = 168) -> bool:
    policy = EligibilityPolicy(maximum_study_age_h=limit_h)
    return is_too_old(study_date=study_date, study_datetime=made, received_at=NOON, policy=policy)


def test_a_study_is_old_after_the_limit_and_not_at_it() -> None:
    assert not old(made=NOON - timedelta(hours=168))
    assert old(made=NOON - timedelta(hours=168, seconds=1))


def test_a_study_from_the_future_is_not_old() -> None:
    assert not old(made=NOON + timedelta(days=9))


def test_a_date_alone_is_old_only_if_it_is_old_everywhere() -> None:
    assert not old(study_date="20260222", limit_h=168)
    assert old(study_date="20260220", limit_h=168)
    assert old(study_date="20110101")


def test_a_study_without_a_date_is_not_old() -> None:
    assert not old()
    assert not old(study_date="yesterday")


def test_zero_means_no_limit() -> None:
    assert not old(study_date="19990101", limit_h=0)


# --- intended use


@requirement("I4")
@pytest.mark.parametrize(
    "header",
    [
        radiograph(modality="MG"),
        radiograph(body_part_examined="HAND"),
        radiograph(view_position="LL"),
        radiograph(patient_age="017Y"),
        radiograph(patient_age="200M"),
    ],
)
def test_what_is_stated_and_outside_the_intended_use_does_not_fit(header: Header) -> None:
    verdict = fits(CHEST, header)
    assert verdict.fit is Fit.NO
    assert "outside the intended use" in verdict.reason


def test_what_is_stated_and_inside_fits_in_any_case() -> None:
    assert fits(CHEST, RADIOGRAPH).fit is Fit.YES
    assert fits(CHEST, radiograph(body_part_examined=" chest ")).fit is Fit.YES


@pytest.mark.parametrize(
    ("header", "missing"),
    [
        (radiograph(body_part_examined=""), "body part"),
        (radiograph(view_position=" "), "view"),
        (radiograph(body_part_examined="", view_position=""), "body part, view"),
        (radiograph(patient_age=""), "age"),
    ],
)
def test_what_is_not_stated_is_decided_by_content(header: Header, missing: str) -> None:
    verdict = fits(CHEST, header)
    assert verdict.fit is Fit.BY_CONTENT
    assert verdict.may_look
    assert verdict.reason.startswith(f"{missing} not stated")


def test_a_mismatch_beats_a_missing_value() -> None:
    assert fits(CHEST, radiograph(body_part_examined="", view_position="LL")).fit is Fit.NO


def test_a_blank_modality_is_read_from_the_sop_class() -> None:
    assert fits(CHEST, radiograph(modality="")).fit is Fit.YES


def test_empty_means_any() -> None:
    assert fits(IntendedUse(), radiograph(body_part_examined="", patient_age="")).fit is Fit.YES


def test_text_that_is_no_code_string_is_not_repeated() -> None:
    verdict = fits(CHEST, radiograph(body_part_examined="Doe^John, born 1970"))
    assert verdict.reason == "body part is outside the intended use"


codes = st.sampled_from(["", "CHEST", "HAND", "PA", "LL", "DX", "MG"])


@given(header=st.builds(radiograph, body_part_examined=codes, view_position=codes, modality=codes))
def test_silence_never_decides(header: Header) -> None:
    verdict = fits(CHEST, header)
    if not header.body_part_examined or not header.view_position:
        assert verdict.fit is not Fit.YES
    assert bool(verdict.reason) is (verdict.fit is not Fit.YES)


@pytest.mark.parametrize(
    ("header", "age"),
    [
        (radiograph(patient_age="045Y"), 45),
        (radiograph(patient_age="45y"), 45),
        (radiograph(patient_age="006M"), 0.5),
        (radiograph(patient_age="old"), None),
        (
            radiograph(patient_age="", patient_birth_date="19800302", study_date="20260301"),
            45,
        ),
        (
            radiograph(patient_age="", patient_birth_date="19800301", study_date="20260301"),
            46,
        ),
        (
            radiograph(patient_age="", patient_birth_date="20300101", study_date="20260301"),
            None,
        ),
    ],
)
def test_age_is_as_stated_or_from_the_birth_date(header: Header, age: float | None) -> None:
    assert age_y(header) == age


# --- mappings


def mapping_of(header: Header, *mappings: HeaderMapping, sender: str = "XR1") -> Header:
    return mapped(header, sender_ae_title=sender, policy=EligibilityPolicy(mappings=mappings))


def test_a_mapping_fills_in_what_the_scanner_left_blank() -> None:
    blank = radiograph(body_part_examined="", view_position="", series_description="Thorax a.p.")
    thorax = HeaderMapping(series_description="thorax", body_part_examined="CHEST")
    frontal = HeaderMapping(series_description=r"a\.p\.", view_position="AP")
    assert fits(CHEST, mapping_of(blank, thorax, frontal)).fit is Fit.YES


def test_a_mapping_corrects_what_the_scanner_got_wrong() -> None:
    wrong = radiograph(study_description="Left hand")
    hand = HeaderMapping(study_description="hand", body_part_examined="HAND")
    assert fits(CHEST, mapping_of(wrong, hand)).fit is Fit.NO


def test_for_each_value_the_first_matching_mapping_counts() -> None:
    first = HeaderMapping(sender_ae_title="XR", view_position="AP")
    second = HeaderMapping(sender_ae_title="XR", view_position="PA", laterality="U")
    found = mapping_of(RADIOGRAPH, first, second)
    assert (found.view_position, found.laterality) == ("AP", "U")


def test_a_mapping_that_does_not_match_changes_nothing() -> None:
    ward = HeaderMapping(sender_ae_title="^WARD$", procedure_code="^7$", modality="CR")
    assert mapping_of(RADIOGRAPH, ward, sender="WARD") == RADIOGRAPH


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modality": "CR"}, "at least one condition"),
        ({"sender_ae_title": "X"}, "at least one value"),
        ({"sender_ae_title": "[", "modality": "CR"}, "sender_ae_title is no regular expression"),
    ],
)
def test_an_unusable_mapping_is_refused(values: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"\[eligibility.mappings\].*{message}"):
        HeaderMapping(**values)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"maximum_study_age_h": -1}, "maximum_study_age_h"),
        ({"minimum_size_px": 0}, "minimum_size"),
    ],
)
def test_an_unusable_policy_is_refused_by_section_and_key(values: dict[str, int], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"\[eligibility\] {key}"):
        EligibilityPolicy(**values)  # type: ignore[arg-type]
