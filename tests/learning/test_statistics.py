"""Figures against closed forms, hand-worked examples and scipy and scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from triage.inference.calibration import sigmoid
from triage.learning.judging import statistics as figures

sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="needs triage[learning]")
scipy_stats = pytest.importorskip("scipy.stats", reason="needs triage[learning]")


def drawn(
    seed: int, count: int = 300, *, ties: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, log-odds and the probabilities that are true of them."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(-0.5, 1.5, count)
    if ties:
        logits = np.round(logits)
    said = sigmoid(logits)
    return (generator.random(count) < said).astype(int), logits, said


# --- areas


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_areas_are_those_of_scikit_learn(seed: int, ties: bool) -> None:
    truth, _, said = drawn(seed, ties=ties)
    assert figures.auroc(truth, said) == pytest.approx(sklearn_metrics.roc_auc_score(truth, said))
    assert figures.auprc(truth, said) == pytest.approx(
        sklearn_metrics.average_precision_score(truth, said)
    )


def test_the_area_of_a_worked_example_counts_ties_half() -> None:
    # Pairs: (3,1) (3,2) (2,1) right, (2,2) tied: 3.5 of 4.
    assert figures.auroc([1, 0, 1, 0], [3, 1, 2, 2]) == 3.5 / 4


def test_average_precision_of_a_worked_example() -> None:
    # Found at ranks 1 and 3 of 4: (1/1 + 2/3) / 2.
    assert figures.auprc([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1]) == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("truth", [[], [1, 1], [0, 0]])
def test_an_area_without_both_classes_is_nan(truth: list[int]) -> None:
    assert math.isnan(figures.auroc(truth, [0.5] * len(truth)))


def test_precision_without_a_positive_is_nan() -> None:
    assert math.isnan(figures.auprc([0, 0], [0.1, 0.2]))


@given(
    some.lists(some.tuples(some.booleans(), some.integers(-20, 20)), min_size=2, max_size=40),
    some.floats(0.1, 3.0),
)
def test_areas_depend_on_order_alone(rows: list[tuple[bool, int]], stretch: float) -> None:
    truth, scores = zip(*rows, strict=True)
    bent = [math.atan(stretch * score) for score in scores]
    for area in (figures.auroc, figures.auprc):
        assert area(truth, scores) == pytest.approx(area(truth, bent), nan_ok=True)


def test_curves_are_those_of_scikit_learn() -> None:
    truth, _, said = drawn(5, ties=True)
    false, true = figures.roc_points(truth, said)
    expected = sklearn_metrics.roc_curve(truth, said, drop_intermediate=False)
    np.testing.assert_allclose((false, true), expected[:2])
    recall, precision = figures.precision_recall_points(truth, said)
    precisions, recalls, _ = sklearn_metrics.precision_recall_curve(truth, said)
    np.testing.assert_allclose(recall, recalls[::-1][1:])
    np.testing.assert_allclose(precision, precisions[::-1][1:])


@pytest.mark.parametrize(
    ("truth", "scores"),
    [([1, 0], [0.5]), ([1, 2], [0.5, 0.5]), ([1, math.nan], [0.5, 0.5]), ([1, 0], [math.nan, 0])],
)
def test_masked_or_unfitting_rows_are_refused(truth: list[float], scores: list[float]) -> None:
    with pytest.raises(ValueError, match=r"belong together|masked rows"):
        figures.auroc(truth, scores)


# --- intervals


@pytest.mark.parametrize(
    ("count", "low", "high"), [(50, 0.851, 0.984), (100, 0.888, 0.978), (200, 0.910, 0.973)]
)
def test_wilson_gives_the_intervals_of_an_observed_95_percent(
    count: int, low: float, high: float
) -> None:
    assert figures.wilson(0.95 * count, count) == (
        pytest.approx(low, abs=5.1e-4),
        pytest.approx(high, abs=5.1e-4),
    )


@pytest.mark.parametrize(("successes", "count"), [(0, 7), (7, 7), (3, 10), (1, 200), (199, 200)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_is_that_of_scipy(successes: int, count: int, confidence: float) -> None:
    test = scipy_stats.binomtest(successes, count)
    expected = test.proportion_ci(confidence, method="wilson")
    np.testing.assert_allclose(figures.wilson(successes, count, confidence), expected, atol=1e-12)


def test_a_share_of_nothing_is_nan_and_anything_is_possible() -> None:
    nothing = figures.proportion(0, 0)
    assert math.isnan(nothing.value)
    assert nothing.interval is None
    assert figures.wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "count"), [(-1, 5), (6, 5)])
def test_more_successes_than_trials_are_refused(successes: int, count: int) -> None:
    with pytest.raises(ValueError, match="no share"):
        figures.wilson(successes, count)


def test_the_bootstrap_of_a_mean_is_as_wide_as_the_normal_theory_says() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    interval = figures.bootstrap(
        range(400), lambda rows: float(values[rows].mean()), seed=1, rounds=2000
    )
    assert interval is not None
    error = values.std() / math.sqrt(400)
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_patients_with_equal_images_count_once_however_many_images_they_have() -> None:
    values = np.repeat(np.random.default_rng(0).normal(size=50), 20)
    patients = np.repeat(np.arange(50), 20)
    clustered = figures.bootstrap(patients, lambda rows: float(values[rows].mean()), seed=1)
    alone = figures.bootstrap(range(1000), lambda rows: float(values[rows].mean()), seed=1)
    assert clustered is not None
    assert alone is not None
    # The naive interval is too narrow by sqrt(20).
    ratio = (clustered.high - clustered.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(math.sqrt(20), rel=0.15)


def test_the_bootstrap_draws_whole_groups_in_any_order_of_rows() -> None:
    patients = ["b", "a", "b", "c", "a", "b"]
    seen: list[dict[str, int]] = []

    def look(rows: np.ndarray) -> float:
        counts = {name: sum(patients[row] == name for row in rows) for name in "abc"}
        seen.append(counts)
        assert len({tuple(np.bincount(rows, minlength=6)[[0, 2, 5]])}) == 1
        return 0.0

    figures.bootstrap(patients, look, seed=3, rounds=50)
    assert all(
        counts["a"] % 2 == 0
        and counts["b"] % 3 == 0
        and counts["a"] // 2 + counts["b"] // 3 + counts["c"] == 3
        for counts in seen
    )


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    truth, _, said = drawn(1)

    def interval(seed: int) -> figures.Interval | None:
        return figures.bootstrap(
            range(300), lambda rows: figures.auroc(truth[rows], said[rows]), seed=seed, rounds=100
        )

    assert interval(1) == interval(1) != interval(2)


def test_there_is_no_interval_from_one_patient_or_from_a_lucky_few_rounds() -> None:
    assert figures.bootstrap(["a"] * 9, lambda _: 1.0, seed=0, rounds=50) is None
    truth = np.array([1] + [0] * 9)  # one positive patient: 35 % of the draws lack it
    area = figures.bootstrap(
        range(10),
        lambda rows: figures.auroc(truth[rows], rows) if rows.tolist().count(0) == 4 else math.nan,
        seed=0,
        rounds=200,
    )
    assert area is None


def test_the_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    """Patients of three images with a shared part; the true area is known from a large sample."""

    def sample(generator: np.random.Generator, patients: int) -> tuple[np.ndarray, ...]:
        truth = generator.random(patients) < 0.4
        shared = generator.normal(size=patients) + truth
        scores = np.repeat(shared, 3) + 0.5 * generator.normal(size=3 * patients)
        return np.repeat(truth, 3), scores, np.repeat(np.arange(patients), 3)

    generator = np.random.default_rng(7)
    whole, scores, _ = sample(generator, 40_000)
    area, covered = figures.auroc(whole, scores), 0
    for turn in range(120):
        truth, scores, patients = sample(generator, 80)
        interval = figures.bootstrap(
            patients,
            lambda rows, truth=truth, scores=scores: figures.auroc(truth[rows], scores[rows]),
            seed=turn,
            rounds=200,
        )
        assert interval is not None
        covered += interval.low <= area <= interval.high
    assert 0.88 <= covered / 120 <= 0.995


# --- calibration


def test_losses_are_those_of_scikit_learn() -> None:
    truth, _, said = drawn(2)
    assert figures.brier(truth, said) == pytest.approx(
        sklearn_metrics.brier_score_loss(truth, said)
    )
    assert figures.log_loss(truth, said) == pytest.approx(sklearn_metrics.log_loss(truth, said))


def test_losses_of_nothing_are_nan_and_of_wrong_certainty_finite() -> None:
    assert math.isnan(figures.brier([], []))
    assert math.isnan(figures.log_loss([], []))
    assert figures.log_loss([1], [0.0]) == pytest.approx(-math.log(figures.SMALLEST))


# --- counting


NEEDED = {0.90: (29, 46, 61, 76), 0.95: (59, 93, 124, 153), 0.98: (149, 236, 313, 386)}


@pytest.mark.parametrize("target", NEEDED)
def test_the_counts_that_a_sensitivity_needs(target: float) -> None:
    assert tuple(figures.needed_positives(target, misses) for misses in range(4)) == NEEDED[target]


@pytest.mark.parametrize("target", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("misses", [0, 2, 9])
def test_the_needed_count_is_the_smallest_by_the_binomial_of_scipy(
    target: float, misses: int
) -> None:
    needed = figures.needed_positives(target, misses, 0.9)
    assert scipy_stats.binom.cdf(misses, needed, 1 - target) <= 0.1
    assert scipy_stats.binom.cdf(misses, needed - 1, 1 - target) > 0.1


@pytest.mark.parametrize(("count", "allowed"), [(58, None), (59, 0), (92, 0), (93, 1), (153, 3)])
def test_the_misses_that_a_count_allows(count: int, allowed: int | None) -> None:
    assert figures.allowed_misses(count, 0.95) == allowed


@given(some.integers(1, 3000), some.sampled_from([0.8, 0.9, 0.95, 0.98]))
def test_allowed_and_needed_are_each_others_inverse(count: int, target: float) -> None:
    allowed = figures.allowed_misses(count, target)
    if allowed is None:
        assert count < figures.needed_positives(target)
    else:
        assert figures.needed_positives(target, allowed) <= count
        assert figures.needed_positives(target, allowed + 1) > count


@pytest.mark.parametrize(("successes", "count"), [(0, 10), (10, 10), (57, 60), (1, 500)])
def test_the_lower_bound_is_the_exact_one(successes: int, count: int) -> None:
    expected = scipy_stats.binomtest(successes, count, alternative="greater").proportion_ci(
        0.95, method="exact"
    )
    assert figures.lower_bound(successes, count) == pytest.approx(expected.low, abs=1e-9)


@pytest.mark.parametrize("wrong", [(0.0, 0), (1.0, 0), (0.95, -1)])
def test_an_impossible_wish_is_refused(wrong: tuple[float, int]) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        figures.needed_positives(*wrong)
