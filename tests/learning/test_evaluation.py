"""An evaluation counts everything, drops nothing, and says how sure it is."""

import json
import math

import numpy as np
import pytest

from tests.assurance import Evidence, requirement
from tests.learning.scores import drawn, scored
from triage.learning.judging.evaluation import CLUSTERED, as_json, evaluate
from triage.learning.judging.prevalence import STATED, Prevalence
from triage.learning.judging.statistics import Draws, wilson
from triage.learning.judging.subgroups import OLDEST, UNKNOWN, age_band

FAST = Draws(rounds=100, seed=1)
POINT = {"effusion": 0.5}
NAN = math.nan


def test_counts_and_shares_of_a_worked_example() -> None:
    truth = [1, 1, 1, 0, 0, 0, 0, NAN]
    said = [0.9, 0.5, 0.4, 0.6, 0.2, 0.1, 0.3, 0.9]
    found = evaluate(scored(truth, said), POINT, draws=FAST).findings[0]
    counts, point = found.at_point.counts, found.at_point
    assert (counts.hits, counts.misses, counts.false_alarms, counts.passes) == (2, 1, 1, 3)
    assert (found.images, found.positives, found.masked) == (7, 3, 1)
    assert point.sensitivity.value == 2 / 3
    assert point.specificity.value == 3 / 4
    assert point.positive_predictive_value.value == 2 / 3
    assert point.negative_predictive_value.value == 3 / 4
    assert point.flag_rate.value == 3 / 7
    assert point.sensitivity.interval is not None
    assert (point.sensitivity.interval.low, point.sensitivity.interval.high) == wilson(2, 3)
    assert found.auroc.value == pytest.approx(10 / 12)  # 0.4 and 0.5 lie below 0.6
    assert found.prevalence == 3 / 7


def test_rows_without_a_score_are_counted_and_count_as_missed_where_it_matters() -> None:
    rows = scored([1, 1, 0, 1, 0], [0.9, 0.8, 0.1, 0.9, 0.9], gated=[3], failed=[4])
    judged = evaluate(rows, POINT, draws=FAST)
    found = judged.findings[0]
    assert (judged.subjects, judged.scored, judged.gated, judged.failed) == (5, 3, 1, 1)
    assert judged.reasons == {"unlike": 1, "damaged": 1}
    assert (found.images, found.gated, found.failed) == (3, 1, 1)
    assert found.at_point.sensitivity.value == 1.0
    assert found.at_point.sensitivity_of_all.value == 2 / 3
    assert any("got no score" in warning for warning in found.warnings)


def test_a_patient_is_found_by_any_of_his_images_with_the_finding() -> None:
    truth = [1, 1, 1, 1, 0, 1, 1]
    said = [0.9, 0.1, 0.2, 0.3, 0.8, 0.9, 0.9]
    patients = ["a", "a", "b", "b", "b", "c", "d"]
    point = (
        evaluate(scored(truth, said, groups=patients, gated=[5]), POINT, draws=FAST)
        .findings[0]
        .at_point
    )
    found = point.by_patient
    assert point.sensitivity.value == 2 / 5
    assert (found.found, found.missed) == (2, 1)  # b is flagged for an image without it; c unseen
    assert found.sensitivity.value == 2 / 3
    assert found.sensitivity_of_all.value == 2 / 4
    assert found.sensitivity.interval is not None
    assert (found.sensitivity.interval.low, found.sensitivity.interval.high) == wilson(2, 3)


def test_figures_at_the_site_stand_beside_those_of_the_labelled_images() -> None:
    site = {"effusion": Prevalence(share=0.02, source=STATED)}
    found = evaluate(drawn(300), POINT, prevalences=site, draws=FAST).findings[0]
    point, there = found.at_point, found.at_prevalence
    assert there is not None
    assert (there.prevalence, there.source) == (0.02, "as stated")
    assert there.positive_predictive_value.value < 0.3 * point.positive_predictive_value.value
    assert there.calibration.slope == found.calibration.slope
    assert there.calibration.intercept.value < found.calibration.intercept.value - 2
    assert found.calibration_of_site is there.calibration
    assert evaluate(drawn(30), POINT, draws=FAST).findings[0].at_prevalence is None


def test_a_masked_row_is_neither_positive_nor_negative() -> None:
    found = evaluate(scored([NAN, NAN, 1, 0], [0.9, 0.1, 0.9, 0.1]), POINT, draws=FAST).findings[0]
    assert (found.images, found.positives, found.masked) == (2, 1, 2)


def test_one_class_only_gives_no_area_and_says_so() -> None:
    found = evaluate(scored([1, 1], [0.9, 0.4]), POINT, draws=FAST).findings[0]
    assert math.isnan(found.auroc.value)
    assert found.at_point.specificity.interval is None
    assert "One class is missing" in found.warnings[0]


def test_nothing_scored_is_an_evaluation_too() -> None:
    judged = evaluate(scored([1, 0], [0.5, 0.5], failed=[0, 1]), POINT, draws=FAST)
    assert judged.scored == 0
    assert judged.findings[0].calibration.bins == ()
    json.dumps(as_json(judged), allow_nan=False)


def test_a_refused_operating_point_is_told_with_its_reason() -> None:
    judged = evaluate(drawn(60), POINT, refusals={"effusion": "9 are too few"}, draws=FAST)
    assert judged.findings[0].at_point.refusal == "9 are too few"
    assert any("9 are too few" in warning for warning in judged.findings[0].warnings)


def test_a_threshold_that_flags_most_negatives_is_called_useless() -> None:
    judged = evaluate(drawn(200), {"effusion": 0.001}, draws=FAST)
    assert any("hardly better" in warning for warning in judged.findings[0].warnings)
    assert not any(
        "hardly" in w for w in evaluate(drawn(200), POINT, draws=FAST).findings[0].warnings
    )


@requirement("M6", bound="six images of each patient give the interval of one, within 30 %")
def test_intervals_of_areas_draw_patients_not_images(evidence: Evidence) -> None:
    alone = drawn(120)
    patients = [f"p{row // 6}" for row in range(720)]
    repeated = alone.take(np.repeat(np.arange(120), 6))
    clustered = evaluate(
        scored(
            repeated.truth[:, 0].tolist(), repeated.probabilities[:, 0].tolist(), groups=patients
        ),
        POINT,
        draws=Draws(rounds=400, seed=1),
    )
    single = evaluate(alone, POINT, draws=Draws(rounds=400, seed=1)).findings[0].auroc
    found = clustered.findings[0].auroc
    assert found.value == pytest.approx(single.value)
    assert found.interval is not None
    assert single.interval is not None
    width = found.interval.high - found.interval.low
    alone_width = single.interval.high - single.interval.low
    evidence.record(
        trials=1,
        losses=int(abs(width / alone_width - 1) > 0.3),
        worst=f"{width / alone_width:.2f} of its width",
    )
    assert width == pytest.approx(alone_width, rel=0.3)
    assert clustered.warnings[0] == CLUSTERED


def test_no_interval_is_made_up_from_a_few_patients_or_from_perfect_separation() -> None:
    few = evaluate(
        scored([1] * 9 + [0] * 50, np.linspace(0.9, 0.1, 59).tolist()), POINT, draws=FAST
    )
    assert few.findings[0].auroc.interval is None
    separated = scored([1] * 30 + [0] * 30, np.linspace(0.9, 0.1, 60).tolist())
    found = evaluate(separated, POINT, draws=FAST).findings[0].auroc
    assert (found.value, found.interval) == (1.0, None)


def test_the_document_is_plain_json_without_nan() -> None:
    judged = evaluate(drawn(80), POINT, draws=FAST)
    document = json.loads(json.dumps(as_json(judged), allow_nan=False))
    assert document["findings"][0]["name"] == "effusion"
    assert document["findings"][0]["auroc"]["interval"]["rounds"] == 100
    assert as_json(NAN) is None


# --- subgroups


@requirement("M6", bound="every value is a group, what is not recorded and what is small too")
def test_every_value_of_a_column_is_a_group_with_its_own_figures() -> None:
    strata = [{"sex": "F"}] * 4 + [{"sex": "M"}] * 3 + [{"sex": ""}]
    rows = scored([1, 1, 0, 0, 1, 0, 0, 0], [0.9, 0.2, 0.1, 0.8, 0.9, 0.1, 0.2, 0.9], strata=strata)
    groups = {
        group.value: group for group in evaluate(rows, POINT, draws=FAST).findings[0].subgroups
    }
    assert list(groups) == ["F", "M", UNKNOWN]
    assert (groups["F"].images, groups["F"].positives) == (4, 2)
    assert groups["F"].sensitivity.value == 0.5
    assert groups["M"].specificity.value == 1.0
    assert groups["F"].warning.startswith("small")
    assert groups[UNKNOWN].warning == "one class only"


def test_groups_count_what_has_no_score() -> None:
    strata = [{"view": "PA"}, {"view": "AP"}, {"view": "AP"}]
    rows = scored([1, 0, 1], [0.9, 0.1, 0.9], gated=[2], strata=strata)
    groups = {
        group.value: group for group in evaluate(rows, POINT, draws=FAST).findings[0].subgroups
    }
    assert (groups["AP"].images, groups["AP"].without_score) == (1, 1)


@requirement("M6", bound="what the labels cannot tell of is named")
def test_a_column_that_is_missing_or_has_one_value_is_named_as_not_judged() -> None:
    strata = [{"sex": "F", "view": view} for view in ("PA", "AP")]
    judged = evaluate(scored([1, 0], [0.9, 0.1], strata=strata), POINT, draws=FAST)
    assert {group.column for group in judged.findings[0].subgroups} == {"view"}
    assert any("Not judged by sex, age, manufacturer:" in each for each in judged.warnings)


@requirement("M6", bound="a large group that is not shown above chance says so")
def test_a_large_group_at_chance_is_named() -> None:
    half = drawn(200, gap=0.0)
    strata = [{"source": "a" if row % 2 else "b"} for row in range(200)]
    rows = scored(half.truth[:, 0].tolist(), half.probabilities[:, 0].tolist(), strata=strata)
    found = evaluate(rows, POINT, draws=FAST).findings[0]
    assert "not shown above chance" in {group.warning for group in found.subgroups}
    assert "The AUROC is not shown to be above chance." in found.warnings
    assert any(words.startswith("Not shown above chance in source ") for words in found.warnings)


def test_free_text_does_not_make_a_thousand_groups() -> None:
    strata = [{"manufacturer": f"maker {row}"} for row in range(300)]
    base = drawn(300)
    rows = scored(base.truth[:, 0].tolist(), base.probabilities[:, 0].tolist(), strata=strata)
    found = evaluate(rows, POINT, draws=FAST).findings[0]
    groups = found.subgroups
    assert len(groups) == 13
    assert "manufacturer maker 102 and 6 more." in found.warnings[-1]
    assert groups[-1].value == "other"
    assert sum(group.images for group in groups) == 300


@pytest.mark.parametrize(
    ("age", "band"),
    [
        ("0", "under 1"),
        ("11M", "under 1"),
        ("013M", "1-17"),
        ("6W", "under 1"),
        ("17", "1-17"),
        ("018Y", "18-39"),
        ("64.9", "40-64"),
        ("79y", "65-79"),
        ("80", OLDEST),
        ("child 1-5 y", "child 1-5 y"),
        ("", ""),
    ],
)
def test_ages_become_bands_and_words_stay_words(age: str, band: str) -> None:
    assert age_band(age) == band


def test_age_bands_stand_from_young_to_old() -> None:
    ages = ["85", "3", "30", "", "70", "50", "0"]
    rows = scored([1, 0, 1, 0, 1, 0, 1], [0.5] * 7, strata=[{"age": age} for age in ages])
    values = [group.value for group in evaluate(rows, POINT, draws=FAST).findings[0].subgroups]
    assert values == ["under 1", "1-17", "18-39", "40-64", "65-79", OLDEST, UNKNOWN]
