"""Slope, intercept, losses and bins: as labelled, and where the finding is rarer."""

import math

import numpy as np
import pytest

from triage.inference.calibration import sigmoid
from triage.learning.judging import calibration_figures as figures
from triage.learning.judging.calibration_figures import Calibrated, calibrated
from triage.learning.judging.statistics import Estimate, log_odds


def drawn(seed: int, count: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, log-odds and the probabilities that are true of them."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(-0.5, 1.5, count)
    said = sigmoid(logits)
    return generator.random(count) < said, logits, said


def alone(count: int) -> list[str]:
    return [f"p{row}" for row in range(count)]


def holds(estimate: Estimate, value: float) -> bool:
    assert estimate.interval is not None
    return estimate.interval.low <= value <= estimate.interval.high


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.5, -1.0), (2.0, 0.7)])
def test_slope_and_intercept_undo_what_was_done_to_the_log_odds(
    slope: float, intercept: float
) -> None:
    truth, logits, _ = drawn(3, 20_000)
    bent = sigmoid((logits - intercept) / slope)
    found = figures.calibration_slope_intercept(truth, bent)
    assert found == (pytest.approx(slope, rel=0.06), pytest.approx(intercept, abs=0.08))


def test_slope_and_intercept_are_those_of_an_unpenalised_logistic_regression() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    truth, logits, said = drawn(4)
    fitted = linear_model.LogisticRegression(C=np.inf, tol=1e-10).fit(logits[:, None], truth)
    slope, intercept = figures.calibration_slope_intercept(truth, said)
    assert slope == pytest.approx(fitted.coef_[0, 0], abs=1e-4)
    assert intercept == pytest.approx(fitted.intercept_[0], abs=1e-4)


@pytest.mark.parametrize(
    ("truth", "said"),
    [
        ([1, 1], [0.2, 0.9]),
        ([1, 0], [0.5, 0.5]),
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]),
        ([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9]),
    ],
    ids=["one class", "one probability", "separated", "separated, the wrong way round"],
)
def test_a_slope_without_a_finite_fit_is_nan(truth: list[int], said: list[float]) -> None:
    assert all(math.isnan(part) for part in figures.calibration_slope_intercept(truth, said))


def test_reliability_has_bins_of_equal_count_that_cover_every_row_once() -> None:
    truth, _, said = drawn(6, 203)
    bins = figures.reliability(truth, said)
    assert len(bins) == 10
    assert {each.count for each in bins} <= {20, 21}
    assert sum(each.count for each in bins) == 203
    assert sum(each.count * each.observed for each in bins) == pytest.approx(truth.sum())
    assert sum(each.count * each.predicted for each in bins) == pytest.approx(said.sum())
    assert [each.lowest for each in bins] == sorted(each.lowest for each in bins)


def test_equal_probabilities_are_never_torn_into_two_bins() -> None:
    bins = figures.reliability([0, 1] * 50, [0.2] * 30 + [0.4] * 70)
    assert [(each.count, each.predicted) for each in bins] == [
        (30, pytest.approx(0.2)),
        (70, pytest.approx(0.4)),
    ]


@pytest.mark.parametrize(("rows", "bins"), [(0, 0), (4, 0), (5, 1), (24, 4), (500, 10)])
def test_few_rows_make_few_bins(rows: int, bins: int) -> None:
    said = np.linspace(0.1, 0.9, rows)
    assert len(figures.reliability(np.arange(rows) % 2, said)) == bins


# --- intervals


def test_intervals_of_slope_and_intercept_hold_the_truth_as_often_as_they_say() -> None:
    covered = np.zeros(2)
    for seed in range(300):
        truth, _, said = drawn(seed, 250)
        slope, intercept = figures.slope_and_intercept(truth, said, alone(250))
        covered += holds(slope, 1.0), holds(intercept, 0.0)
    assert (covered / 300 >= 0.91).all()
    assert (covered / 300 <= 0.985).all()


def test_three_copies_of_each_image_of_a_patient_make_nothing_surer() -> None:
    truth, _, said = drawn(5)
    single = figures.slope_and_intercept(truth, said, alone(300))
    three = figures.slope_and_intercept(
        np.repeat(truth, 3), np.repeat(said, 3), np.repeat(alone(300), 3).tolist()
    )
    for one, other in zip(single, three, strict=True):
        assert one.interval is not None
        assert other.interval is not None
        assert other.value == pytest.approx(one.value)
        assert other.interval.low == pytest.approx(one.interval.low, rel=1e-6)


def test_there_is_no_interval_from_fewer_than_ten_patients_of_a_class() -> None:
    truth, _, said = drawn(7, 60)
    truth[np.flatnonzero(truth)[9:]] = False
    slope, _ = figures.slope_and_intercept(truth, said, alone(60))
    assert math.isfinite(slope.value)
    assert slope.interval is None


# --- at the site's prevalence


def test_an_enriched_sample_is_judged_at_the_site_as_the_site_would_be() -> None:
    """Probabilities true of a site with a prevalence of about 4 %; half of the labelled have it."""
    generator = np.random.default_rng(3)
    said = sigmoid(generator.normal(-4.5, 1.5, 200_000))
    truth = generator.random(said.size) < said
    prevalence, covered = float(truth.mean()), np.zeros(2)
    assert 0.02 < prevalence < 0.06
    for _ in range(200):
        rows = np.concatenate(
            [generator.choice(np.flatnonzero(truth == kind), 120) for kind in (True, False)]
        )
        found = calibrated(truth[rows], said[rows], alone(240), prevalence)
        covered += holds(found.slope, 1.0), holds(found.intercept, 0.0)
        as_labelled = calibrated(truth[rows], said[rows], alone(240))
        assert as_labelled.intercept.value - found.intercept.value == pytest.approx(
            -float(log_odds(prevalence)), abs=1e-9
        )
    assert (covered / 200 >= 0.90).all()


def test_losses_and_bins_are_those_of_a_sample_with_that_prevalence() -> None:
    """Every negative five times gives the prevalence for which the plain sample is weighted."""
    truth, _, said = drawn(8, 200)
    rows = np.repeat(np.arange(200), np.where(truth, 1, 5))
    rare = calibrated(truth[rows], said[rows], alone(rows.size))
    found = calibrated(truth, said, alone(200), float(truth[rows].mean()))
    assert found.brier == pytest.approx(rare.brier)
    assert found.log_loss == pytest.approx(rare.log_loss)
    assert found.brier_of_prevalence == pytest.approx(rare.brier_of_prevalence)
    for each in found.bins:
        inside = (said[rows] >= each.lowest) & (said[rows] <= each.highest)
        assert each.observed == pytest.approx(truth[rows][inside].mean())
        assert each.predicted == pytest.approx(said[rows][inside].mean())
        assert each.interval.low <= each.observed <= each.interval.high


def test_one_class_tells_nothing_of_another_prevalence() -> None:
    said = np.linspace(0.1, 0.9, 20)
    found: Calibrated = calibrated(np.ones(20, np.bool_), said, alone(20), 0.1)
    assert math.isnan(found.brier)
    assert math.isnan(found.intercept.value)
    assert found.bins == ()
