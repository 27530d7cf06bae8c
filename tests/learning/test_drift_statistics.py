"""Every statistic of drift against scipy, a permutation test or the formula itself."""

import math
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from tests.learning.drift_site import WIDTH, embeddings, features
from triage.learning.watching.drift_statistics import (
    PSI_FLOOR,
    SCORE_BINS,
    Cloud,
    Moments,
    chi_squared_tail,
    cloud_of,
    compare_clouds,
    compare_means,
    compare_rates,
    compare_scores,
    joined,
    kolmogorov_tail,
    moments_of,
    score_bin,
    stability_index,
)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("shift", "seed"), [(0.0, 1), (0.05, 2), (0.3, 3)])
def test_means_are_compared_as_welch_does(shift: float, seed: int) -> None:
    a, b = random(seed).normal(shift, 1.0, 220), random(seed + 50).normal(0.0, 2.0, 400)
    said = compare_means(moments_of(a.tolist()), moments_of(b.tolist()))
    expected = stats.ttest_ind(a, b, equal_var=False)
    assert said.p == pytest.approx(expected.pvalue, rel=0.05)
    assert said.size == pytest.approx(abs(a.mean() - b.mean()) / b.std(ddof=1))


def test_moments_add_up_as_if_the_numbers_had_been_together() -> None:
    a, b = random().normal(size=30), random(1).normal(size=50)
    both = moments_of(a.tolist()) + moments_of(b.tolist())
    assert both.mean == pytest.approx(np.concatenate([a, b]).mean())
    assert both.variance == pytest.approx(np.concatenate([a, b]).var(ddof=1))


def test_constant_numbers_are_the_same_or_not_at_all() -> None:
    same, other = moments_of([0.5] * 40), moments_of([0.25] * 40)
    assert compare_means(same, same).p == 1.0
    assert compare_means(same, other).p == 0.0
    assert compare_means(Moments(), same).p == 1.0


@pytest.mark.parametrize(
    ("hits", "of", "reference_hits", "reference_of"),
    [
        (0, 200, 0, 400),
        (6, 200, 12, 400),
        (19, 198, 12, 397),
        (0, 200, 30, 400),
        (200, 200, 9, 400),
    ],
)
def test_rates_are_compared_as_fisher_does(
    hits: int, of: int, reference_hits: int, reference_of: int
) -> None:
    table = [[hits, of - hits], [reference_hits, reference_of - reference_hits]]
    said = compare_rates(hits, of, reference_hits, reference_of)
    assert said.p == pytest.approx(stats.fisher_exact(table).pvalue, rel=1e-6)
    assert said.size == pytest.approx(abs(hits / of - reference_hits / reference_of))


def test_rates_of_nothing_are_the_same() -> None:
    assert compare_rates(0, 0, 3, 10).p == 1.0


@pytest.mark.parametrize("x", [0.3, 0.7, 1.0, 1.36, 1.9, 2.5])
def test_kolmogorovs_tail_is_that_of_scipy(x: float) -> None:
    assert kolmogorov_tail(x) == pytest.approx(stats.kstwobign.sf(x), rel=1e-6, abs=1e-12)


def test_scores_are_compared_as_kolmogorov_and_smirnov_do() -> None:
    centres = (np.arange(SCORE_BINS) + 0.5) * 0.25 - 10.0
    a = random(3).choice(SCORE_BINS, 200, p=weights(0.0))
    b = random(4).choice(SCORE_BINS, 400, p=weights(0.6))
    said = compare_scores(histogram(a), histogram(b))
    expected = stats.ks_2samp(centres[a], centres[b], method="asymp")
    assert said.p == pytest.approx(
        stats.kstwobign.sf(expected.statistic * math.sqrt(200 * 400 / 600)), rel=1e-6
    )
    assert said.p < 0.01


def weights(shift: float) -> NDArray[np.float64]:
    centres = (np.arange(SCORE_BINS) + 0.5) * 0.25 - 10.0
    density = np.exp(-0.5 * ((centres + 3.0 - shift) / 1.5) ** 2)
    return np.asarray(density / density.sum(), np.float64)


def histogram(places: NDArray[np.int64]) -> list[int]:
    return [int(each) for each in np.bincount(places, minlength=SCORE_BINS)]


def test_a_probability_falls_into_the_bin_of_its_logit() -> None:
    bins = [score_bin(1.0 / (1.0 + math.exp(-logit))) for logit in (-50, -9.9, -0.1, 0.1, 9.9, 50)]
    assert bins == [0, 0, 39, 40, 79, 79]
    assert (score_bin(0.0), score_bin(1.0)) == (0, SCORE_BINS - 1)


def test_the_stability_index_is_that_of_its_formula() -> None:
    old, new = [0] * SCORE_BINS, [0] * SCORE_BINS
    for place in range(10):  # ten bins of a tenth each
        old[place] = 10
    new[0], new[9] = 30, 70
    shares = [(0.3, 0.1), (0.7, 0.1), *[(PSI_FLOOR, 0.1)] * 8]
    assert stability_index(new, old) == pytest.approx(
        sum((a - b) * math.log(a / b) for a, b in shares)
    )
    assert stability_index(old, old) == 0.0


@pytest.mark.parametrize("freedom", [3.0, 8.5, 40.0])
@pytest.mark.parametrize("p", [0.5, 0.05, 0.002, 1e-5])
def test_the_tail_of_chi_squared_is_near_that_of_scipy(freedom: float, p: float) -> None:
    x = float(stats.chi2.isf(p, freedom))
    assert chi_squared_tail(x, freedom) == pytest.approx(p, rel=0.1 if p > 1e-4 else 1.0)


def test_random_features_are_nearly_the_gaussian_kernel() -> None:
    drawn = features()
    vectors = embeddings(random(5), 40)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    squares = 2.0 - 2.0 * units @ units.T
    bank = embeddings(np.random.default_rng(2), 500)
    known = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    apart = np.median((2.0 - 2.0 * known @ known.T)[np.triu_indices(500, 1)])
    approximated = drawn.of(vectors) @ drawn.of(vectors).T
    assert np.abs(approximated - np.exp(-squares / (2.0 * apart))).max() < 0.2
    assert np.diag(approximated) == pytest.approx(np.ones(40), abs=1e-5)


@pytest.mark.parametrize("count", [60, 700])  # fewer and more than there are features
def test_the_spread_is_that_of_the_covariance(count: int) -> None:
    drawn = features().of(embeddings(random(6), count))
    covariance = np.cov(drawn.T.astype(np.float64))
    assert cloud_of(drawn).spread == pytest.approx(np.trace(covariance), rel=1e-5)


def test_the_squared_spread_is_unbiased() -> None:
    whole = features().of(embeddings(random(7), 4000)).astype(np.float64)
    truth = float((np.cov(whole.T) ** 2).sum())
    small = [cloud_of(features().of(embeddings(random(n), 50))).spread_2 for n in range(60)]
    assert np.mean(small) == pytest.approx(truth, rel=0.1)


@pytest.mark.parametrize(("shift", "seed"), [(0.0, 11), (0.06, 12), (0.1, 13), (0.13, 14)])
def test_clouds_are_compared_as_a_permutation_test_does(shift: float, seed: int) -> None:
    drawn = features()
    window = drawn.of(embeddings(random(seed), 200, shift=shift)).astype(np.float64)
    reference = drawn.of(embeddings(random(seed + 50), 400)).astype(np.float64)
    p = permutation_p(window, reference, seed)
    said = compare_clouds(cloud_of(np.float32(window)), cloud_of(np.float32(reference)))
    assert said.p == pytest.approx(p, abs=0.05)


def permutation_p(
    window: NDArray[np.float64], reference: NDArray[np.float64], seed: int, rounds: int = 2000
) -> float:
    """Return how often a random division of all lies as far apart as this one."""
    everything, n = np.concatenate([window, reference]), len(window)
    gram = everything @ everything.T
    signs = np.full((rounds + 1, len(everything)), -1.0 / len(reference))
    signs[0, :n] = 1.0 / n
    shuffle = np.random.default_rng(seed)
    for row in signs[1:]:
        row[shuffle.permutation(len(everything))[:n]] = 1.0 / n
    squares = np.einsum("ij,ij->i", signs @ gram, signs)
    return float((squares >= squares[0]).mean())


def test_without_a_change_p_of_the_embeddings_is_what_it_says() -> None:
    drawn = features()
    reference = cloud_of(drawn.of(embeddings(random(900), 20_000)))
    p = [
        compare_clouds(cloud_of(drawn.of(embeddings(random(n), 200))), reference).p
        for n in range(400)
    ]
    assert np.mean(np.asarray(p) <= 0.05) == pytest.approx(0.05, abs=0.035)
    assert np.mean(np.asarray(p) <= 0.002) <= 0.0125


def test_the_size_grows_with_the_shift_and_is_unbiased_without_one() -> None:
    drawn = features()
    reference = cloud_of(drawn.of(embeddings(random(20), 4000)))
    sizes = [
        compare_clouds(cloud_of(drawn.of(embeddings(random(21), 200, shift=shift))), reference).size
        for shift in (0.0, 0.2, 0.5, 1.0)
    ]
    assert sizes[0] < 0.005
    assert all(later > earlier for earlier, later in pairwise(sizes))


def test_clouds_join_to_the_mean_of_all() -> None:
    drawn = features().of(embeddings(random(30), 300))
    both = joined([cloud_of(drawn[:100]), cloud_of(drawn[100:])])
    whole = cloud_of(drawn)
    assert both.count == whole.count
    assert both.mean == pytest.approx(whole.mean, abs=1e-6)
    assert both.spread == pytest.approx(whole.spread, rel=0.01)


def test_images_that_are_all_one_are_the_same_or_not_at_all() -> None:
    one = Cloud(count=50, mean=np.ones(4, np.float32), spread=0.0, spread_2=0.0)
    other = Cloud(count=50, mean=np.zeros(4, np.float32), spread=0.0, spread_2=0.0)
    assert compare_clouds(one, one).p == 1.0
    assert compare_clouds(one, other).p == 0.0
    assert features().centre.size == WIDTH
