"""A study is what its parts are; a part that was not looked at is never passed over."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.assurance import requirement
from triage.records import Analysis, AnalysisResult, Finding, Mode, ModelIdentity, Rank
from triage.rules.aggregate import Aggregate, Part, aggregate

POCKET = ModelIdentity(name="pocket", version="1", digest="aa")
OTHER = ModelIdentity(name="other", version="1", digest="bb")


def finding(
    probability: float,
    *,
    name: str = "effusion",
    operating_point: float = 0.5,
    rank: Rank = Rank.HIGH,
) -> Finding:
    return Finding(
        name=name,
        code=None,
        probability=probability,
        operating_point=operating_point,
        flagged=probability >= operating_point,
        raises_to=rank,
    )


def analysed(
    *findings: Finding, model: ModelIdentity = POCKET, mode: Mode = Mode.SERVE
) -> AnalysisResult:
    return AnalysisResult(model=model, mode=mode, analysis=Analysis.ANALYSED, findings=findings)


def unanswered(analysis: Analysis, reason: str, *, mode: Mode = Mode.SERVE) -> AnalysisResult:
    return AnalysisResult(model=POCKET, mode=mode, analysis=analysis, reason=reason)


FAILED = unanswered(Analysis.FAILED, "image cannot be decoded")
LOCALISER = unanswered(Analysis.NOT_ELIGIBLE, "localiser")


def part(*results: AnalysisResult, pending: bool = False, images: int = 1) -> Part:
    return Part(results=results, pending=pending, images=images)


def counts(found: Aggregate) -> tuple[Analysis, int, int]:
    return found.analysis, found.images_eligible, found.images_analysed


STATES = {
    "no image at all": ([], (Analysis.NOT_ELIGIBLE, 0, 0)),
    "all analysed": ([part(analysed()), part(analysed())], (Analysis.ANALYSED, 2, 2)),
    "nothing eligible": ([part(LOCALISER)], (Analysis.NOT_ELIGIBLE, 0, 0)),
    "one not eligible": ([part(analysed()), part(LOCALISER)], (Analysis.ANALYSED, 1, 1)),
    "one pending": ([part(analysed()), part(pending=True)], (Analysis.PENDING, 2, 1)),
    "no answer yet": ([part()], (Analysis.PENDING, 1, 0)),
    "one failed": ([part(analysed()), part(FAILED)], (Analysis.FAILED, 2, 1)),
    "failed beats pending": ([part(pending=True), part(FAILED)], (Analysis.FAILED, 2, 0)),
    "a failure tried again": ([part(FAILED, pending=True)], (Analysis.PENDING, 1, 0)),
    "one bundle failed": ([part(analysed(), FAILED)], (Analysis.FAILED, 1, 0)),
    "one bundle declined": ([part(analysed(), LOCALISER)], (Analysis.ANALYSED, 1, 1)),
    "a series counts its images": (
        [part(analysed(), images=40), part(LOCALISER, images=2)],
        (Analysis.ANALYSED, 40, 40),
    ),
}


@pytest.mark.parametrize(("parts", "expected"), STATES.values(), ids=STATES)
def test_state_and_counts(parts: list[Part], expected: tuple[Analysis, int, int]) -> None:
    assert counts(aggregate(parts)) == expected


def test_the_reason_says_what_was_not_looked_at_and_why() -> None:
    found = aggregate(
        [part(FAILED), part(pending=True), part(LOCALISER, images=2), part(analysed())]
    )
    assert found.analysis_reason == (
        "failed: 1 image (image cannot be decoded); waiting for analysis: 1 image;"
        " not eligible: 2 images (localiser)"
    )


def test_one_reason_for_the_whole_study_stands_alone() -> None:
    declined = unanswered(Analysis.NOT_ELIGIBLE, "no model configured")
    found = aggregate([part(declined), part(declined, images=3)])
    assert found.analysis_reason == "no model configured"
    mixed = aggregate([part(declined), part(LOCALISER)])
    assert mixed.analysis_reason == (
        "not eligible: 1 image (localiser), 1 image (no model configured)"
    )


def test_a_study_that_only_shadow_models_saw_is_not_eligible_rather_than_pending_for_ever() -> None:
    found = aggregate([part(analysed(finding(0.9), mode=Mode.SHADOW))])
    assert counts(found) == (Analysis.NOT_ELIGIBLE, 0, 0)
    assert found.analysis_reason == "no model serves"
    assert found.findings == ()


def test_a_wholly_analysed_study_needs_no_reason() -> None:
    assert aggregate([part(analysed())]).analysis_reason == ""
    assert aggregate([]).analysis_reason == "no image in this study"


def test_a_conflict_makes_the_study_not_fully_analysed() -> None:
    found = aggregate([part(analysed(finding(0.9)))], conflicts=1)
    assert counts(found) == (Analysis.FAILED, 2, 1)
    assert "same SOP Instance UID" in found.analysis_reason
    assert found.flagged_findings == {"effusion"}


def test_images_that_had_expired_before_the_last_look_are_told_and_do_not_count() -> None:
    found = aggregate([part(analysed())], expired=100)
    assert counts(found) == (Analysis.ANALYSED, 1, 1)
    assert found.analysis_reason == "expired before the last look: 100 images"


def test_a_finding_is_the_highest_of_its_parts() -> None:
    found = aggregate([part(analysed(finding(0.2))), part(analysed(finding(0.8)))])
    assert [(each.probability, each.flagged) for each in found.findings] == [(0.8, True)]


def test_a_flag_is_kept_whatever_another_bundle_says() -> None:
    sensitive = analysed(finding(0.4, operating_point=0.3))
    strict = analysed(finding(0.6, operating_point=0.9), model=OTHER)
    (kept,) = aggregate([part(sensitive, strict)]).findings
    assert (kept.probability, kept.operating_point, kept.flagged) == (0.4, 0.3, True)


def test_the_highest_rank_that_a_flag_asks_for_counts() -> None:
    parts = [part(analysed(finding(0.9))), part(analysed(finding(0.6, rank=Rank.STAT)))]
    assert [each.raises_to for each in aggregate(parts).findings] == [Rank.STAT]
    unflagged = [part(analysed(finding(0.9))), part(analysed(finding(0.1, rank=Rank.STAT)))]
    assert [each.raises_to for each in aggregate(unflagged).findings] == [Rank.HIGH]


def test_flagged_findings_come_first() -> None:
    found = aggregate(
        [
            part(
                analysed(
                    finding(0.4, name="nodule"),
                    finding(0.3, name="edema", operating_point=0.2),
                    finding(0.1, name="effusion"),
                )
            )
        ]
    )
    assert [each.name for each in found.findings] == ["edema", "nodule", "effusion"]


def test_shadow_results_show_nowhere() -> None:
    shadow = analysed(finding(0.99), mode=Mode.SHADOW, model=OTHER)
    failed = unanswered(Analysis.FAILED, "x", mode=Mode.SHADOW)
    assert aggregate([part(analysed(), shadow, failed)]) == aggregate([part(analysed())])


def test_findings_stay_while_a_newer_generation_is_looked_at() -> None:
    found = aggregate([part(analysed(finding(0.9)), pending=True)])
    assert found.analysis is Analysis.PENDING
    assert found.flagged_findings == {"effusion"}


def test_each_model_that_spoke_is_named_once() -> None:
    parts = [part(analysed(), analysed(model=OTHER)), part(analysed()), part(LOCALISER)]
    assert [model.name for model in aggregate(parts).models] == ["other", "pocket"]


results = st.one_of(
    st.builds(
        lambda value, name, point, mode: analysed(
            finding(value, name=name, operating_point=point), mode=mode
        ),
        st.floats(0, 1),
        st.sampled_from(["effusion", "nodule"]),
        st.floats(0, 1),
        st.sampled_from(Mode),
    ),
    st.sampled_from([FAILED, LOCALISER]),
)
parts = st.builds(
    Part,
    results=st.lists(results, max_size=3).map(tuple),
    pending=st.booleans(),
    images=st.integers(1, 5),
)


@given(study=st.lists(parts, max_size=5), conflicts=st.integers(0, 2))
def test_analysed_without_a_reason_means_that_every_image_was(
    study: list[Part], conflicts: int
) -> None:
    found = aggregate(study, conflicts=conflicts)
    images = sum(each.images for each in study) + conflicts
    assert 0 <= found.images_analysed <= found.images_eligible <= images
    if found.analysis is Analysis.ANALYSED:
        assert found.images_analysed == found.images_eligible > 0
    assert (found.analysis_reason == "") is (found.images_analysed == images > 0)


@given(study=st.lists(parts, max_size=5))
def test_every_served_flag_reaches_the_study(study: list[Part]) -> None:
    flags = {
        each.name
        for one in study
        for result in one.results
        if result.mode is Mode.SERVE
        for each in result.findings
        if each.flagged
    }
    assert aggregate(study).flagged_findings == flags


@requirement("W1")
@given(study=st.lists(parts, max_size=5), one_more=parts)
def test_a_further_image_never_takes_a_flag_or_a_failure_away(
    study: list[Part], one_more: Part
) -> None:
    before, after = aggregate(study), aggregate([*study, one_more])
    assert before.flagged_findings <= after.flagged_findings
    if before.analysis is Analysis.FAILED:
        assert after.analysis is Analysis.FAILED


@given(study=st.lists(parts, max_size=5), seed=st.randoms())
def test_the_order_of_the_parts_does_not_matter(study: list[Part], seed: object) -> None:
    shuffled = sorted(study, key=lambda _: seed.random())  # type: ignore[attr-defined]
    one, other = aggregate(study), aggregate(shuffled)
    assert counts(one) == counts(other)
    assert one.analysis_reason == other.analysis_reason
    names = [Counter((each.name, each.probability, each.flagged) for each in found.findings)
             for found in (one, other)]  # fmt: skip
    assert names[0] == names[1]
