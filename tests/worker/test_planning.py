"""Every bundle looks at what it is meant for; each that does not look says why."""

import pytest
from pydicom.uid import MPEG4HP41

from tests.assurance import requirement
from tests.builders import make_ct_header, make_header
from tests.worker.toys import SPEC, Toy
from triage.records import Analysis, HeldInstance, Mode, Subject, SubjectContents, ViewSpec
from triage.rules.eligibility import EligibilityPolicy, HeaderMapping, IntendedUse
from triage.worker.planning import NO_HEAD, NO_MODEL, plan_look

POLICY = EligibilityPolicy()
CHEST = IntendedUse(modalities=("DX", "CR"), body_parts=("CHEST",))


def contents(*headers: object, too_old: bool = False, sender: str = "") -> SubjectContents:
    return SubjectContents(
        subject=Subject.IMAGE,
        subject_id=1,
        study_id=1,
        generation=1,
        instances=tuple(
            HeldInstance(id=number, path=f"{number}", header=header, sender_ae_title=sender)  # type: ignore[arg-type]
            for number, header in enumerate(headers, 1)
        ),
        too_old=too_old,
    )


def test_without_a_model_the_reason_is_that_none_is_there() -> None:
    plan = plan_look(contents(make_header()), (), POLICY)
    (answer,) = plan.answers
    assert (answer.analysis, answer.reason) == (Analysis.NOT_ELIGIBLE, NO_MODEL)
    assert answer.model is None
    assert plan.specs == ()


def test_what_rules_out_the_subject_itself_is_the_word_of_no_served_model() -> None:
    served, shadow = Toy().loaded(), Toy(name="next").loaded(mode=Mode.SHADOW)
    plan = plan_look(contents(make_header(), too_old=True), (served, shadow), POLICY)
    assert [each.model for each in plan.answers] == [None, shadow.identity]
    alone = plan_look(contents(make_header(), too_old=True), (shadow,), POLICY)
    assert [each.model for each in alone.answers] == [shadow.identity]


def test_a_bundle_without_a_head_says_so() -> None:
    plan = plan_look(contents(make_header()), (Toy().loaded(classify=None),), POLICY)
    assert [each.reason for each in plan.answers] == [NO_HEAD]
    assert plan.looking == ()


@requirement("I4")
def test_each_bundle_is_asked_by_its_own_intended_use() -> None:
    fits = Toy(name="chest").loaded(intended_use=CHEST)
    strange = Toy(name="ct").loaded(intended_use=IntendedUse(modalities=("CT",)))
    plan = plan_look(contents(make_header()), (fits, strange), POLICY)
    assert plan.looking == (fits,)
    (answer,) = plan.answers
    assert answer.model == strange.identity
    assert "modality DX" in answer.reason


def test_a_blank_body_part_is_left_to_the_image() -> None:
    model = Toy().loaded(intended_use=CHEST)
    plan = plan_look(contents(make_header(body_part_examined="")), (model,), POLICY)
    assert plan.looking == (model,)


def test_a_mapping_of_the_site_overrules_the_header() -> None:
    policy = EligibilityPolicy(
        mappings=(HeaderMapping(sender_ae_title="HANDROOM", body_part_examined="HAND"),)
    )
    model = Toy().loaded(intended_use=CHEST)
    plan = plan_look(contents(make_header(), sender="HANDROOM"), (model,), policy)
    assert plan.looking == ()
    assert "body part HAND" in plan.answers[0].reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"has_pixels": False}, "no pixels"),
        ({"presentation_intent_type": "FOR PROCESSING"}, "For Processing"),
        ({"rows": 1, "columns": 1}, "smaller"),
    ],
)
def test_what_no_bundle_could_use_is_never_decoded(change: dict[str, object], words: str) -> None:
    plan = plan_look(contents(make_header(**change)), (Toy().loaded(),), POLICY)
    assert plan.specs == ()
    assert words in plan.answers[0].reason


def test_a_study_too_old_on_arrival_is_not_looked_at() -> None:
    plan = plan_look(contents(make_header(), too_old=True), (Toy().loaded(),), POLICY)
    assert plan.looking == ()
    assert "on arrival" in plan.answers[0].reason


def test_localisers_are_left_out_of_their_series() -> None:
    scout = make_ct_header(image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    model = Toy().loaded(intended_use=IntendedUse(modalities=("CT",)))
    plan = plan_look(contents(scout, make_ct_header(), make_ct_header()), (model,), POLICY)
    assert [each.id for each in plan.instances] == [2, 3]


def test_one_rendering_serves_all_bundles_that_want_it() -> None:
    other = ViewSpec(rendering="dicom", size_px=32)
    models = (Toy().loaded(), Toy(name="b").loaded(), Toy(name="c").loaded(view_spec=other))
    assert plan_look(contents(make_header()), models, POLICY).specs == (SPEC, other)


def test_a_video_is_not_eligible_and_is_never_opened() -> None:
    video = make_header(transfer_syntax_uid=MPEG4HP41)
    plan = plan_look(contents(video), (Toy().loaded(),), POLICY)
    assert (plan.looking, plan.instances) == ((), ())
    (answer,) = plan.answers
    assert answer.analysis is Analysis.NOT_ELIGIBLE
    assert "no decoder" in answer.reason


def test_a_series_with_one_image_that_cannot_be_decoded_is_not_looked_at_in_part() -> None:
    odd = make_ct_header(transfer_syntax_uid=MPEG4HP41)
    model = Toy().loaded(intended_use=IntendedUse(modalities=("CT",)))
    plan = plan_look(contents(make_ct_header(), odd), (model,), POLICY)
    assert plan.looking == ()
    assert ["no decoder" in each.reason for each in plan.answers] == [True]
