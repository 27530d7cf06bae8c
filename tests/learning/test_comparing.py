"""Two bundles are compared on the same subjects, pair by pair."""

from dataclasses import replace

import numpy as np
import pytest

from tests.learning.scores import drawn, scored
from triage.errors import PermanentError
from triage.inference.calibration import sigmoid
from triage.learning.judging.comparing import Difference, compare
from triage.learning.judging.scoring import Scored
from triage.learning.judging.statistics import Draws, Interval, log_odds

DRAWS = Draws(rounds=300, seed=2)
POINT = {"effusion": 0.5}


def noisier(base: Scored, amount: float) -> Scored:
    noise = np.random.default_rng(9).normal(0, amount, base.probabilities.shape)
    return replace(base, probabilities=sigmoid(log_odds(base.probabilities) + noise))


def by_measure(first: Scored, second: Scored) -> dict[str, Difference]:
    found = compare(first, second, POINT, POINT, draws=DRAWS)[0]
    return {each.measure: each for each in found.differences}


def test_a_bundle_does_not_differ_from_itself() -> None:
    base = drawn(150)
    found = compare(base, base, POINT, POINT, draws=DRAWS)[0]
    assert all(each.difference == 0.0 for each in found.differences)
    assert {each.verdict for each in found.differences} == {"no difference shown"}
    assert found.changes == ()


def test_noise_makes_the_second_bundle_worse_and_the_interval_says_so() -> None:
    base = drawn(400, gap=2.5)
    found = by_measure(base, noisier(base, 3.0))
    assert found["AUROC"].verdict == "better"
    assert found["log-loss"].verdict == "better"
    assert found["log-loss"].difference < 0
    assert by_measure(noisier(base, 3.0), base)["AUROC"].verdict == "worse"


def test_the_paired_interval_is_narrower_than_the_difference_of_two_alone() -> None:
    base = drawn(300)
    paired = by_measure(base, noisier(base, 0.2))["AUROC"].interval
    apart = by_measure(base, replace(drawn(300, seed=5), subjects=base.subjects, truth=base.truth))
    assert paired is not None
    assert apart["AUROC"].interval is not None
    assert paired.high - paired.low < 0.3 * (
        apart["AUROC"].interval.high - apart["AUROC"].interval.low
    )


def test_thresholds_are_each_bundles_own() -> None:
    base = drawn(100)
    found = compare(base, base, {"effusion": 0.2}, {"effusion": 0.8}, draws=DRAWS)[0]
    rates = {each.measure: each for each in found.differences}["flag rate"]
    assert rates.first == pytest.approx((base.probabilities >= 0.2).mean())
    assert rates.second == pytest.approx((base.probabilities >= 0.8).mean())
    assert rates.verdict == "flags more"
    assert all(change.flagged_by_first for change in found.changes)


def test_changed_subjects_are_named_with_the_truth_the_farthest_first() -> None:
    first = scored([1, 0, float("nan"), 1], [0.9, 0.6, 0.7, 0.1])
    second = scored([1, 0, float("nan"), 1], [0.8, 0.4, 0.1, 0.2])
    found = compare(first, second, POINT, POINT, draws=DRAWS)[0]
    assert [(c.subject, c.truth) for c in found.changes] == [("2.png", None), ("1.png", False)]


def test_a_subject_without_a_score_from_either_takes_no_part_and_is_counted() -> None:
    first = scored([1, 0, 1, 0], [0.9, 0.1, 0.9, 0.1], gated=[0])
    second = scored([1, 0, 1, 0], [0.9, 0.1, 0.9, 0.1], gated=[1], failed=[3])
    found = compare(first, second, POINT, POINT, draws=DRAWS)[0]
    assert (found.images, found.only_first, found.only_second) == (1, 2, 1)


def test_a_gate_that_turns_hard_images_away_does_not_make_its_bundle_look_better() -> None:
    base = drawn(200)
    hard = np.flatnonzero((base.truth[:, 0] == 1) & (base.probabilities[:, 0] < 0.5)).tolist()
    said = base.probabilities[:, 0].tolist()
    strict = scored(base.truth[:, 0].tolist(), said, gated=[*hard, 0])
    assert base.truth[0, 0] == 0
    found = compare(strict, base, POINT, POINT, draws=DRAWS)[0]
    sensitivity = {each.measure: each for each in found.differences}["sensitivity"]
    assert sensitivity.first == sensitivity.second < 1.0
    assert sensitivity.verdict == "no difference shown"
    told, other = found.first_without_score, found.second_without_score
    assert (told.gated_with_finding, told.gated_without) == (len(hard), 1)
    assert (other.gated_with_finding, other.gated_without) == (0, 0)
    assert f"{len(hard) + 1} images are turned away by one bundle" in found.warnings[0]
    assert compare(base, base, POINT, POINT, draws=DRAWS)[0].warnings == ()


def test_a_flagged_image_that_the_other_bundle_turns_away_is_a_change() -> None:
    first = scored([1, 0], [0.9, 0.1], gated=[0])
    second = scored([1, 0], [0.9, 0.1])
    (change,) = compare(first, second, POINT, POINT, draws=DRAWS)[0].changes
    assert (change.subject, change.truth, change.flagged_by_first) == ("0.png", True, False)
    assert np.isnan(change.first)


def test_nothing_is_told_from_fewer_than_ten_patients_of_a_class_and_it_is_said_why() -> None:
    """Nine patients with the finding, of four images each."""
    generator = np.random.default_rng(3)
    truth = [1.0] * 36 + [0.0] * 60
    patients = [f"p{row // 4}" for row in range(36)] + [f"n{row}" for row in range(60)]
    first, second = (
        scored(
            truth, (generator.random(96) * 0.5 + 0.4 * np.array(truth)).tolist(), groups=patients
        )
        for _ in range(2)
    )
    found = compare(first, second, POINT, POINT, draws=DRAWS)[0]
    told = {each.measure: each for each in found.differences}
    assert told.pop("specificity").interval is not None
    assert {each.interval for each in told.values()} == {None}
    assert {each.verdict for each in told.values()} == {"cannot be told"}
    assert told["AUROC"].why_not == "9 patients with the finding, and 10 are needed"
    (warning,) = found.warnings
    assert warning.startswith("No interval, hence no verdict, for AUROC, AUPRC, sensitivity,")


def test_findings_are_matched_without_regard_to_case() -> None:
    base = drawn(40)
    other = replace(base, findings=("Effusion",))
    assert compare(base, other, POINT, {"Effusion": 0.5}, draws=DRAWS)[0].name == "effusion"


def test_other_subjects_or_no_shared_finding_are_refused() -> None:
    base = drawn(10)
    with pytest.raises(PermanentError, match="same subjects"):
        compare(base, drawn(9), POINT, POINT)
    with pytest.raises(PermanentError, match="share no finding"):
        compare(base, replace(base, findings=("mass",)), POINT, {"mass": 0.5})


def test_an_interval_that_touches_zero_shows_nothing() -> None:
    touching = Interval(low=0.0, high=0.2, confidence=0.95)
    difference = Difference(
        measure="AUROC", first=0.9, second=0.8, difference=0.1, interval=touching
    )
    assert difference.verdict == "no difference shown"
    assert replace(difference, interval=None).verdict == "cannot be told"
