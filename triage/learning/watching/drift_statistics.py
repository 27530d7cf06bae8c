"""Has a window of studies another distribution than its reference? One function per question.

Everything is computed from sums (counts, moments, means of features), so that a window costs the
same however long ago its images were deleted. Pure, numpy and math only: the daemon uses it.

Sources: random Fourier features, Rahimi and Recht 2007; the kernel two-sample statistic, Gretton
et al., JMLR 2012; its limit as a scaled chi-squared with an unbiased tr S^2, Bai and Saranadasa
1996; the cube root of a chi-squared, Wilson and Hilferty 1931; Fisher's exact test; Welch 1947.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]

SCORE_LIMIT = 10.0  # logits beyond it count as this far
SCORE_BINS = 80  # of a quarter of a logit
PSI_BINS = 10
PSI_FLOOR = 1e-4  # share of an empty bin
KOLMOGOROV_TERMS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Enough of some numbers to compare their means."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else math.nan

    @property
    def variance(self) -> float:
        """Unbiased; 0.0 for fewer than two numbers."""
        if self.count < 2:
            return 0.0
        return max(0.0, (self.squares - self.count * self.mean**2) / (self.count - 1))

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            count=self.count + other.count,
            total=self.total + other.total,
            squares=self.squares + other.squares,
        )


def moments_of(values: Sequence[float]) -> Moments:
    """Return the moments of finite numbers."""
    array = np.asarray(values, np.float64)
    return Moments(count=array.size, total=float(array.sum()), squares=float((array * array).sum()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """The kernel mean of some embeddings, and how far they lie from it."""

    count: int
    mean: NDArray[np.float32]  # (m,) of the random features
    spread: float  # tr S of their covariance, unbiased
    spread_2: float  # tr S^2, unbiased


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomFeatures:
    """m features whose inner product is nearly a Gaussian kernel of standardised unit vectors."""

    centre: NDArray[np.float32]  # (D,)
    scale: NDArray[np.float32]  # (D,)
    directions: NDArray[np.float32]  # (m / 2, D), over the kernel's width already

    def of(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (N, m) features of (N, D) embeddings; each row has length one."""
        standard = (vectors - self.centre) / self.scale
        units = standard / np.maximum(np.linalg.norm(standard, axis=1, keepdims=True), 1e-12)
        angles = units @ self.directions.T
        stacked = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
        return np.asarray(stacked / math.sqrt(len(self.directions)), np.float32)


def random_features(
    centre: NDArray[np.float32],
    scale: NDArray[np.float32],
    units: NDArray[np.float32],
    *,
    seed: int,
    half: int = 256,
) -> RandomFeatures:
    """Draw 2 x `half` features; the kernel is as wide as the median distance of `units` (N, D)."""
    # The legacy generator: its numbers never change, and what was drawn once is kept in blocks.
    random = np.random.RandomState(seed)
    some = units[random.permutation(len(units))[:400]].astype(np.float64)
    squares = np.maximum(2.0 - 2.0 * some @ some.T, 0.0)  # of unit vectors
    apart = squares[np.triu_indices(len(some), 1)]
    width = math.sqrt(float(np.median(apart))) if apart.size else 1.0
    directions = random.standard_normal(size=(half, centre.size)) / max(width, 1e-6)
    return RandomFeatures(centre=centre, scale=scale, directions=np.asarray(directions, np.float32))


def cloud_of(features: NDArray[np.float32]) -> Cloud:
    """Sum up (N, m) features, N at least 3."""
    n = len(features)
    mean = features.mean(axis=0, dtype=np.float64)
    centred = features.astype(np.float64) - mean
    # Gram matrix and covariance have the same traces; the smaller one is made.
    gram = (centred @ centred.T if n <= mean.size else centred.T @ centred) / (n - 1)
    spread, raw = float(np.trace(gram)), float((gram * gram).sum())
    spread_2 = (n - 1) ** 2 / ((n + 1) * (n - 2)) * (raw - spread**2 / (n - 1))
    return Cloud(
        count=n, mean=np.asarray(mean, np.float32), spread=spread, spread_2=max(spread_2, 0.0)
    )


def joined(clouds: Sequence[Cloud]) -> Cloud:
    """Return the cloud of all together; the spread is the mean of the spreads within."""
    weights = np.asarray([cloud.count for cloud in clouds], np.float64)
    shares = weights / weights.sum()
    means = np.stack([cloud.mean for cloud in clouds]).astype(np.float64)
    return Cloud(
        count=int(weights.sum()),
        mean=np.asarray(shares @ means, np.float32),
        spread=float(shares @ [cloud.spread for cloud in clouds]),
        spread_2=float(shares @ [cloud.spread_2 for cloud in clouds]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`p` without a change is uniform or above it; `size` is how large the difference is."""

    p: float
    size: float


SAME = Comparison(p=1.0, size=0.0)


def compare_clouds(window: Cloud, reference: Cloud) -> Comparison:
    """Squared distance of the kernel means (MMD) against what chance gives.

    Under no change n m / (n + m) times it is a weighted sum of chi-squared; one chi-squared with
    the same mean and variance stands for it. `size` is the unbiased MMD^2 over the spread of the
    reference: 0 the same, 0.1 plain to see, 1 apart.
    """
    chance = 1.0 / window.count + 1.0 / reference.count
    spread = _mixed(window, reference, window.spread, reference.spread)
    spread_2 = _mixed(window, reference, window.spread_2, reference.spread_2)
    apart = window.mean.astype(np.float64) - reference.mean.astype(np.float64)
    square = float(apart @ apart)
    if spread <= 0.0 or spread_2 <= 0.0:
        return SAME if square < 1e-12 else Comparison(p=0.0, size=math.inf)
    freedom = spread**2 / spread_2
    expected = chance * spread
    p = chi_squared_tail(freedom * square / expected, freedom)
    return Comparison(p=p, size=max(0.0, square - expected) / max(reference.spread, 1e-12))


def _mixed(window: Cloud, reference: Cloud, of_window: float, of_reference: float) -> float:
    """Weigh a trace by what each side adds to the chance of a difference."""
    a, b = 1.0 / window.count, 1.0 / reference.count
    return (a * of_window + b * of_reference) / (a + b)


def chi_squared_tail(x: float, freedom: float) -> float:
    """P(chi-squared > x), to a tenth of itself down to 1e-4 for `freedom` of 3 or more."""
    if x <= 0.0:
        return 1.0
    step = 2.0 / (9.0 * freedom)
    z = ((x / freedom) ** (1.0 / 3.0) - (1.0 - step)) / math.sqrt(step)
    return 0.5 * math.erfc(z / math.sqrt(2.0))


def compare_means(window: Moments, reference: Moments) -> Comparison:
    """Welch's test with the normal limit: counts are in the hundreds. `size` in deviations."""
    if window.count < 2 or reference.count < 2:
        return SAME
    apart = window.mean - reference.mean
    error = math.sqrt(window.variance / window.count + reference.variance / reference.count)
    if error == 0.0:
        return SAME if apart == 0.0 else Comparison(p=0.0, size=math.inf)
    deviation = math.sqrt(reference.variance) or error
    return Comparison(p=math.erfc(abs(apart) / error / math.sqrt(2.0)), size=abs(apart) / deviation)


def compare_rates(hits: int, of: int, reference_hits: int, reference_of: int) -> Comparison:
    """Fisher's exact test, two-sided; `size` is the absolute difference of the rates."""
    if not of or not reference_of:
        return SAME
    total, drawn = hits + reference_hits, of
    everything = of + reference_of
    low, high = max(0, total - reference_of), min(total, drawn)
    counts = np.arange(low, high + 1)
    logs = np.asarray([_log_hypergeometric(int(k), drawn, total, everything) for k in counts])
    chances = np.exp(logs - logs.max())
    chances /= chances.sum()
    own = chances[hits - low]
    p = float(chances[chances <= own * (1.0 + 1e-7)].sum())
    return Comparison(p=min(1.0, p), size=abs(hits / of - reference_hits / reference_of))


def _log_hypergeometric(k: int, drawn: int, total: int, everything: int) -> float:
    return _log_choose(total, k) + _log_choose(everything - total, drawn - k)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def score_bin(probability: float) -> int:
    """Return the bin of a probability, by its logit."""
    safe = min(max(probability, 1e-12), 1.0 - 1e-12)
    logit = math.log(safe / (1.0 - safe))
    place = (logit + SCORE_LIMIT) / (2.0 * SCORE_LIMIT) * SCORE_BINS
    return min(SCORE_BINS - 1, max(0, int(place)))


def compare_scores(window: Sequence[int], reference: Sequence[int]) -> Comparison:
    """Kolmogorov and Smirnov's test on the bins of `score_bin`; `size` is the PSI.

    Bins can only hide a difference: the test is on the safe side.
    """
    new, old = np.asarray(window, np.float64), np.asarray(reference, np.float64)
    n, m = float(new.sum()), float(old.sum())
    if not n or not m:
        return SAME
    distance = float(np.abs(np.cumsum(new) / n - np.cumsum(old) / m).max())
    p = kolmogorov_tail(distance * math.sqrt(n * m / (n + m)))
    return Comparison(p=p, size=stability_index(window, reference))


def kolmogorov_tail(x: float) -> float:
    """P(K > x) of Kolmogorov's distribution."""
    if x < 0.2:
        return 1.0
    terms = (
        2.0 * (-1.0) ** (k - 1) * math.exp(-2.0 * k * k * x * x)
        for k in range(1, KOLMOGOROV_TERMS + 1)
    )
    return min(1.0, max(0.0, sum(terms)))


def stability_index(window: Sequence[int], reference: Sequence[int]) -> float:
    """Population stability index over (about) tenths of the reference, bins being whole."""
    new, old = np.asarray(window, np.float64), np.asarray(reference, np.float64)
    if not new.sum() or not old.sum():
        return 0.0
    tenth = np.minimum((np.cumsum(old) - 0.5 * old) / old.sum() * PSI_BINS, PSI_BINS - 1)
    places = tenth.astype(np.int64)
    a = np.bincount(places, new, PSI_BINS) / new.sum()
    b = np.bincount(places, old, PSI_BINS) / old.sum()
    used = (a > 0) | (b > 0)
    a, b = np.maximum(a[used], PSI_FLOOR), np.maximum(b[used], PSI_FLOOR)
    return float(((a - b) * np.log(a / b)).sum())
