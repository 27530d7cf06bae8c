"""Figures that say how good a classifier is, each with how sure of it one can be.

Pure: arrays in, numbers out; no file, no model, no clock. Truth is 0/1 (or bool), scores rise with
the finding, rows whose truth is not known are left out by the caller. A figure that the data cannot
give (one class only, no row) is NaN, never 0 or 1.

Intervals: Wilson's for shares (Wilson 1927); the percentile bootstrap over patients for areas and
for whatever else depends on all rows at once (Field & Welsh 2007: images of one patient are not
independent, so patients are drawn, each with all of its rows). What a wished sensitivity needs is
counted with the exact binomial; see `operating_points` for the threshold itself.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from triage.inference.calibration import sigmoid

Floats = NDArray[np.float64]
NAN: Final = math.nan
CONFIDENCE: Final = 0.95  # of every interval of a report
SMALLEST: Final = 1e-12  # probabilities are held this far from 0 and 1 before a logarithm
FEWEST: Final = 10  # patients of a class for an interval of what both classes decide
MOST_STEPS: Final = 100  # of Newton's method; it takes about 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """From where to where, and how much of it to believe."""

    low: float
    high: float
    confidence: float
    rounds: int = 0  # of the bootstrap that gave a number; 0: a closed form


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its interval; None where there is nothing to draw one from."""

    value: float
    interval: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """How a bootstrap draws: the same seed gives the same intervals."""

    rounds: int = 1000
    seed: int = 20240229


# --- areas


def auroc(truth: ArrayLike, scores: ArrayLike) -> float:
    """Share of positive-negative pairs in the right order, ties counting half (Hanley 1982)."""
    positive, values = pair(truth, scores)
    positives = int(positive.sum())
    negatives = positive.size - positives
    if not positives or not negatives:
        return NAN
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2.0
    total = float(ranks[place][positive].sum())
    return (total - positives * (positives + 1) / 2.0) / (positives * negatives)


def auprc(truth: ArrayLike, scores: ArrayLike) -> float:
    """Average precision: precision at each distinct score, weighted by the recall it adds.

    No interpolation between the points, which would be optimistic (Davis & Goadrich 2006). By
    chance alone it is the prevalence.
    """
    positive, values = pair(truth, scores)
    if not positive.any():
        return NAN
    hits, flagged = _cumulated(positive, values)
    gained = np.diff(hits, prepend=0.0)
    return float((gained * hits / flagged).sum() / hits[-1])


def roc_points(truth: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """(1 - specificity, sensitivity) at every distinct threshold, from none flagged to all."""
    positive, values = pair(truth, scores)
    hits, flagged = _cumulated(positive, values)
    false = flagged - hits
    return (
        np.concatenate([[0.0], false / max(1.0, false[-1])]),
        np.concatenate([[0.0], hits / max(1.0, hits[-1])]),
    )


def precision_recall_points(truth: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """(recall, precision) at every distinct threshold, the strictest first."""
    positive, values = pair(truth, scores)
    hits, flagged = _cumulated(positive, values)
    return hits / max(1.0, hits[-1]), hits / flagged


# --- intervals


def wilson(successes: float, count: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share; (0, 1) for a count of zero."""
    if not 0 <= successes <= count:
        raise ValueError(f"{successes} of {count} is no share")
    if not count:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + (z / count) ** 2 / 4)
    # Rounding must not cut off an end that is exact in theory.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    return low, 1.0 if successes == count else min(1.0, centre + half)


def proportion(successes: int, count: int, confidence: float = 0.95) -> Estimate:
    """A share with Wilson's interval; NaN without one for a count of zero."""
    if not count:
        return Estimate(value=NAN, interval=None)
    low, high = wilson(successes, count, confidence)
    return Estimate(
        value=successes / count, interval=Interval(low=low, high=high, confidence=confidence)
    )


def bootstrap(
    groups: Sequence[Any] | NDArray[Any],
    statistic: Callable[[NDArray[np.intp]], float],
    *,
    seed: int,
    rounds: int = 1000,
    confidence: float = 0.95,
) -> Interval | None:
    """Percentile interval of `statistic(rows)` over draws of whole groups with replacement.

    `rows` are indices into `groups`, repeated as drawn. Rounds that give NaN (a draw without a
    positive) take no part; None where fewer than half the rounds, or fewer than two groups, say
    anything, because an interval from the lucky rest would be too narrow.
    """
    labels, member = np.unique(np.asarray(groups), return_inverse=True)
    if labels.size < 2:
        return None
    order = np.argsort(member, kind="stable")
    sizes = np.bincount(member)
    starts = np.cumsum(sizes) - sizes
    generator = np.random.default_rng(seed)
    values = np.full(rounds, NAN)
    for at in range(rounds):
        drawn = generator.integers(labels.size, size=labels.size)
        values[at] = statistic(order[_spans(starts[drawn], sizes[drawn])])
    told = values[np.isfinite(values)]
    if told.size * 2 < rounds:
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(told, [tail, 1 - tail])
    return Interval(low=float(low), high=float(high), confidence=confidence, rounds=told.size)


def area(
    figure: Callable[[ArrayLike, ArrayLike], float],
    truth: NDArray[np.bool_],
    scores: Floats,
    groups: Sequence[str],
    draws: Draws,
) -> Estimate:
    """`figure(truth, scores)` with the interval of a bootstrap over patients.

    No interval from fewer than FEWEST patients of a class, nor one of no width: draws from images
    that a threshold separates all say the same, which is not certainty.
    """
    value = figure(truth, scores)
    if not math.isfinite(value) or min(patients_by_class(truth, groups)) < FEWEST:
        return Estimate(value=value, interval=None)
    interval = bootstrap(
        groups,
        lambda rows: figure(truth[rows], scores[rows]),
        seed=draws.seed,
        rounds=draws.rounds,
    )
    if interval is not None and interval.low == interval.high:
        interval = None
    return Estimate(value=value, interval=interval)


def patients_by_class(truth: NDArray[np.bool_], groups: Sequence[str]) -> tuple[int, int]:
    """Patients who have a row with the finding, and those who have one without it."""
    labels = np.asarray(groups)
    return np.unique(labels[truth]).size, np.unique(labels[~truth]).size


def _spans(starts: NDArray[np.intp], sizes: NDArray[np.intp]) -> NDArray[np.intp]:
    """start, start + 1, … start + size - 1 of every group, one after the other."""
    ends = np.cumsum(sizes)
    return np.asarray(np.arange(ends[-1]) + np.repeat(starts - (ends - sizes), sizes), np.intp)


# --- calibration


def brier(truth: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean squared difference of probability and outcome; 0 is perfect."""
    positive, said = pair(truth, probabilities)
    return float(((said - positive) ** 2).mean()) if said.size else NAN


def log_loss(truth: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean negative log-likelihood in nats; certainty that was wrong costs most."""
    positive, said = pair(truth, probabilities)
    if not said.size:
        return NAN
    said = np.clip(said, SMALLEST, 1 - SMALLEST)
    return float(-np.where(positive, np.log(said), np.log1p(-said)).mean())


def fit_logistic(logits: Floats, targets: Floats) -> tuple[float, float]:
    """(slope, intercept) of least cross-entropy to targets in 0..1, by damped Newton steps.

    The loss is convex; NaN where it has no minimum within reach.
    """
    centre, spread = float(logits.mean()), float(logits.std()) or 1.0
    x = np.stack([(logits - centre) / spread, np.ones_like(logits)])
    share = np.clip(targets.mean(), SMALLEST, 1 - SMALLEST)
    beta = np.array([0.0, math.log(share / (1 - share))])
    loss = _cross_entropy(beta @ x, targets)
    for _ in range(MOST_STEPS):
        fitted = sigmoid(beta @ x)
        gradient = x @ (fitted - targets)
        if np.abs(gradient).max() < 1e-9 * len(targets):
            slope = beta[0] / spread
            return float(slope), float(beta[1] - slope * centre)
        curvature = (x * (fitted * (1 - fitted))) @ x.T
        step = np.linalg.solve(curvature + 1e-12 * np.eye(2), gradient)
        scale = 1.0
        while (lower := _cross_entropy((beta - scale * step) @ x, targets)) > loss + 1e-12:
            scale /= 2
            if scale < 1e-8:
                return NAN, NAN
        beta, loss = beta - scale * step, lower
    return NAN, NAN


def log_odds(probabilities: ArrayLike) -> Floats:
    """log(p / (1 - p)), finite for 0 and 1 too."""
    said = np.clip(np.asarray(probabilities, np.float64), SMALLEST, 1 - SMALLEST)
    return np.asarray(np.log(said) - np.log1p(-said), np.float64)


# --- counting for a wished sensitivity


def misses_chance(count: int, misses: int, sensitivity: float) -> float:
    """Chance of at most `misses` misses among `count` positives at this true sensitivity."""
    if misses >= count or sensitivity >= 1.0:
        return 1.0
    if sensitivity <= 0.0:
        return 0.0
    hit, miss = math.log(sensitivity), math.log1p(-sensitivity)
    return math.fsum(
        math.exp(
            math.lgamma(count + 1)
            - math.lgamma(k + 1)
            - math.lgamma(count - k + 1)
            + k * miss
            + (count - k) * hit
        )
        for k in range(misses + 1)
    )


def needed_positives(sensitivity: float, misses: int = 0, confidence: float = 0.95) -> int:
    """Fewest positives with which `misses` misses still show `sensitivity` at `confidence`.

    The smallest n at which a true sensitivity just at the target would give so few misses with a
    chance of at most 1 - confidence: 59 for 0.95 and no miss, 93 for one. Both lie inside (0, 1).
    """
    if not (0 < sensitivity < 1 and 0 < confidence < 1 and misses >= 0):
        raise ValueError("sensitivity and confidence lie between 0 and 1")
    low, high = misses, misses + 1
    while misses_chance(high, misses, sensitivity) > 1 - confidence:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        enough = misses_chance(middle, misses, sensitivity) <= 1 - confidence
        low, high = (low, middle) if enough else (middle, high)
    return high


def allowed_misses(count: int, sensitivity: float, confidence: float = 0.95) -> int | None:
    """Most misses among `count` positives that still show the sensitivity; None: not even none."""
    if count < needed_positives(sensitivity, 0, confidence):
        return None
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        shown = misses_chance(count, middle, sensitivity) <= 1 - confidence
        low, high = (middle, high) if shown else (low, middle)
    return low


def lower_bound(successes: int, count: int, confidence: float = 0.95) -> float:
    """One-sided exact lower bound of a share (Clopper & Pearson 1934); 0 for no success."""
    if not successes:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        shown = misses_chance(count, count - successes, middle) <= 1 - confidence
        low, high = (middle, high) if shown else (low, middle)
    return low


# --- arrays


def pair(truth: ArrayLike, values: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    """Both as arrays; ValueError where they do not belong together or hold masked rows."""
    positive, said = np.asarray(truth), np.asarray(values, np.float64)
    if positive.ndim != 1 or positive.shape != said.shape:
        raise ValueError(f"truth {positive.shape} and scores {said.shape} do not belong together")
    if not np.isfinite(said).all() or not np.isin(positive, (0, 1)).all():
        raise ValueError("truth must be 0 or 1 and scores finite: leave masked rows out")
    return positive.astype(np.bool_), said


def _cumulated(positive: NDArray[np.bool_], values: Floats) -> tuple[Floats, Floats]:
    """Hits and flagged rows at each distinct threshold, the strictest first."""
    order = np.argsort(-values, kind="stable")
    last = np.append(np.diff(values[order]) != 0, True)  # last row of each run of equal scores
    hits = np.cumsum(positive[order], dtype=np.float64)[last]
    return hits, np.arange(1, values.size + 1, dtype=np.float64)[last]


def _cross_entropy(logits: Floats, targets: Floats) -> float:
    return float((np.logaddexp(0.0, logits) - targets * logits).sum())
