"""A threshold shows the wished sensitivity, or there is none."""

import numpy as np
import pytest

from triage.learning.judging.operating_points import OperatingPoint, Refusal, threshold_for


def chosen(positives: np.ndarray, negatives: np.ndarray, **wish: float) -> OperatingPoint | Refusal:
    truth = np.r_[np.ones(positives.size), np.zeros(negatives.size)]
    return threshold_for(truth, np.r_[positives, negatives], **wish)


def point(positives: np.ndarray, negatives: np.ndarray, **wish: float) -> OperatingPoint:
    found = chosen(positives, negatives, **wish)
    assert isinstance(found, OperatingPoint)
    return found


LOW = np.linspace(0.0, 0.2, 41)


@pytest.mark.parametrize(
    ("target", "too_few", "needed"), [(0.90, 28, 29), (0.95, 58, 59), (0.98, 148, 149)]
)
def test_too_few_positives_are_refused_with_the_number_needed(
    target: float, too_few: int, needed: int
) -> None:
    refusal = chosen(np.linspace(0.3, 0.9, too_few), LOW, sensitivity=target)
    assert isinstance(refusal, Refusal)
    assert (refusal.positives, refusal.needed) == (too_few, needed)
    assert f"{too_few} patients" in refusal.reason
    assert f"{needed} are needed" in refusal.reason


@pytest.mark.parametrize(("count", "misses"), [(59, 0), (92, 0), (93, 1), (124, 2), (153, 3)])
def test_the_threshold_stands_at_the_score_that_the_allowed_misses_leave(
    count: int, misses: int
) -> None:
    scores = np.linspace(0.3, 0.9, count)
    found = point(scores[::-1], LOW)
    assert (found.allowed, found.misses, found.positives) == (misses, misses, count)
    assert (scores < found.threshold).sum() == misses
    assert found.sensitivity_bound >= 0.95
    assert found.specificity == 1.0


def test_the_threshold_leaves_room_for_rounding_but_flags_no_further_image() -> None:
    positives = np.linspace(0.3, 0.9, 59)
    assert point(positives, LOW).threshold == pytest.approx(0.3 - 1e-4)
    close = point(positives, np.r_[LOW, 0.3 - 1e-5])
    assert 0.3 - 1e-5 < close.threshold < 0.3


def test_no_positive_at_all_is_a_refusal_too() -> None:
    refusal = chosen(np.empty(0), LOW)
    assert isinstance(refusal, Refusal)
    assert refusal.positives == 0


def test_images_of_one_patient_are_one_patient_judged_by_the_lowest() -> None:
    truth, scores = np.ones(118), np.linspace(0.3, 0.9, 118)
    patients = np.arange(118) // 2
    found = threshold_for(truth, scores, patients)
    assert isinstance(found, OperatingPoint)
    assert found.positives == 59
    assert (found.allowed, (scores < found.threshold).sum()) == (0, 0)
    refusal = threshold_for(truth, scores, np.arange(118) // 3)
    assert isinstance(refusal, Refusal)
    assert refusal.positives == 40


def test_positives_that_the_gate_turned_away_count_as_missed() -> None:
    scores = np.r_[np.full(1, -np.inf), np.linspace(0.3, 0.9, 92)]
    found = point(scores, LOW)
    assert (found.positives, found.allowed, found.misses) == (93, 1, 1)
    assert 0 < found.threshold < 0.3
    refusal = chosen(np.r_[scores, -np.inf], LOW)
    assert isinstance(refusal, Refusal)
    assert (refusal.positives, refusal.turned_away, refusal.needed) == (94, 2, 124)
    assert "turned away images of 2 of 94 patients" in refusal.reason
    assert "124 are needed" in refusal.reason


def test_tied_scores_never_cost_more_misses_than_allowed() -> None:
    found = point(np.r_[np.full(10, 0.4), np.full(90, 0.8)], np.r_[LOW, 0.4])
    assert found.misses == 0
    assert found.threshold < 0.4


def test_the_threshold_is_never_below_zero() -> None:
    assert point(np.r_[0.0, np.linspace(0.3, 0.9, 58)], LOW).threshold == 0.0


def test_the_promise_holds_on_new_patients_as_often_as_it_says() -> None:
    """The true sensitivity at a chosen threshold is known here: 1 - Φ(threshold - 1)."""
    from statistics import NormalDist

    generator = np.random.default_rng(3)
    kept = 0
    for _ in range(400):
        logits = generator.normal(1.0, 1.0, 124)
        found = point(1 / (1 + np.exp(-logits)), LOW)
        cut = np.log(found.threshold / (1 - found.threshold))
        kept += 1 - NormalDist(1.0, 1.0).cdf(cut) >= 0.95
    assert 0.925 <= kept / 400 <= 0.985
