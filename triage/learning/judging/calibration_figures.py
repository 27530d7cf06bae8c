"""Whether probabilities mean what they say: slope, intercept, losses and a reliability table.

Told as the labelled images are, or at another prevalence, that of the site. Then the images of a
class are taken to look as they do here (Saerens et al. 2002): the slope stays, the intercept moves
by the difference of the log-odds of both prevalences (Prentice & Pyke 1979), and means are weighted
by class. Intervals of slope and intercept are Wald's with a variance that is summed by patient
(Liang & Zeger 1986), because images of one patient are not independent.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from triage.inference.calibration import sigmoid
from triage.learning.judging import statistics as figures
from triage.learning.judging.statistics import CONFIDENCE, Estimate, Floats, Interval, log_odds

UNTOLD: Final = Estimate(value=math.nan, interval=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """One bin of a reliability table: what was said against what was found."""

    count: int
    lowest: float
    highest: float
    predicted: float  # mean probability
    observed: float  # share of positives
    interval: Interval  # of the observed share


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """Whether the probabilities mean what they say, at one prevalence."""

    slope: Estimate
    intercept: Estimate
    brier: float
    brier_of_prevalence: float  # of one who always says the prevalence
    log_loss: float
    bins: tuple[Bin, ...]


def calibrated(
    truth: NDArray[np.bool_],
    said: Floats,
    groups: Sequence[str],
    prevalence: float | None = None,
) -> Calibrated:
    """Figures of the probabilities `said` (N,) at `prevalence`; None: that of `truth`.

    `groups` are the patients of the rows. What one class cannot tell at another prevalence is NaN.
    """
    share = float(truth.mean()) if truth.size else math.nan
    at = share if prevalence is None else prevalence
    slope, intercept = slope_and_intercept(truth, said, groups, prevalence)
    bins = reliability(truth, said)
    if prevalence is not None:
        bins = (
            tuple(_moved(each, truth, said, prevalence) for each in bins) if 0 < share < 1 else ()
        )
    return Calibrated(
        slope=slope,
        intercept=intercept,
        brier=_loss(figures.brier, truth, said, prevalence),
        brier_of_prevalence=at * (1 - at),
        log_loss=_loss(figures.log_loss, truth, said, prevalence),
        bins=bins,
    )


def slope_and_intercept(
    truth: NDArray[np.bool_],
    said: Floats,
    groups: Sequence[str],
    prevalence: float | None = None,
) -> tuple[Estimate, Estimate]:
    """`calibration_slope_intercept` with intervals.

    There is none from fewer than FEWEST patients of a class. At another prevalence, which is taken
    as known, the chance by which this many positives were labelled does not count: the interval of
    the intercept is narrower.
    """
    slope, intercept = calibration_slope_intercept(truth, said)
    if not math.isfinite(slope):
        return UNTOLD, UNTOLD
    rows = np.stack([log_odds(said), np.ones_like(said)], axis=1)
    fitted = sigmoid(rows @ (slope, intercept))
    curvature = (rows * (fitted * (1 - fitted))[:, None]).T @ rows
    influence = (rows * (truth - fitted)[:, None]) @ np.linalg.inv(curvature)
    if prevalence is not None:
        share = truth.mean()
        intercept += float(log_odds(prevalence) - log_odds(share))
        influence[:, 1] -= (truth - share) / (share * (1 - share) * truth.size)
    if min(figures.patients_by_class(truth, groups)) < figures.FEWEST:
        return Estimate(value=slope, interval=None), Estimate(value=intercept, interval=None)
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    by_patient = np.zeros((member.max() + 1, 2))
    np.add.at(by_patient, member, influence)
    few = len(by_patient) / (len(by_patient) - 1)
    errors = np.sqrt(few * (by_patient**2).sum(axis=0))
    return _wald(slope, float(errors[0])), _wald(intercept, float(errors[1]))


def calibration_slope_intercept(truth: ArrayLike, probabilities: ArrayLike) -> tuple[float, float]:
    """Slope and intercept of the logistic regression of outcome on log-odds (Cox 1958).

    1 and 0 are perfect. Slope below 1: too extreme (over-fitted); intercept below 0 at a slope of
    one: too high on the whole. NaN where no finite fit exists: one class, one probability only, or
    classes that a threshold separates without error.
    """
    positive, said = figures.pair(truth, probabilities)
    if not 0 < positive.sum() < positive.size:
        return math.nan, math.nan
    logits = log_odds(said)
    if np.ptp(logits) < 1e-9 or _separated(positive, logits):
        return math.nan, math.nan
    return figures.fit_logistic(logits, positive.astype(np.float64))


def reliability(truth: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> tuple[Bin, ...]:
    """Rows by probability in bins of (nearly) equal count; equal probabilities stay together.

    Equal-count bins, because with few positives bins of equal width are empty where it matters.
    Fewer bins where there are fewer than 5 rows for each.
    """
    positive, said = figures.pair(truth, probabilities)
    bins = min(bins, said.size // 5)
    if not bins:
        return ()
    order = np.argsort(said, kind="stable")
    said, positive = said[order], positive[order]
    wished = np.rint(np.arange(1, bins) * said.size / bins).astype(np.intp)
    cuts = np.unique(np.searchsorted(said, said[wished], side="left"))
    edges = [0, *(int(cut) for cut in cuts if cut), said.size]
    return tuple(_bin(said[low:high], positive[low:high]) for low, high in pairwise(edges))


def _bin(said: Floats, positive: NDArray[np.bool_]) -> Bin:
    low, high = figures.wilson(int(positive.sum()), said.size, CONFIDENCE)
    return Bin(
        count=said.size,
        lowest=float(said.min()),
        highest=float(said.max()),
        predicted=float(said.mean()),
        observed=float(positive.mean()),
        interval=Interval(low=low, high=high, confidence=CONFIDENCE),
    )


def _moved(each: Bin, truth: NDArray[np.bool_], said: Floats, prevalence: float) -> Bin:
    """The bin with its rows weighted so that `prevalence` of all rows have the finding."""
    share = float(truth.mean())
    present, absent = prevalence / share, (1 - prevalence) / (1 - share)
    inside = (said >= each.lowest) & (said <= each.highest)
    weights = np.where(truth[inside], present, absent)

    def move(observed: float) -> float:
        return observed * present / (observed * present + (1 - observed) * absent)

    interval = replace(each.interval, low=move(each.interval.low), high=move(each.interval.high))
    return replace(
        each,
        predicted=float(np.average(said[inside], weights=weights)),
        observed=move(each.observed),
        interval=interval,
    )


def _loss(
    figure: Callable[[ArrayLike, ArrayLike], float],
    truth: NDArray[np.bool_],
    said: Floats,
    prevalence: float | None,
) -> float:
    if prevalence is None:
        return figure(truth, said)
    present, absent = figure(truth[truth], said[truth]), figure(truth[~truth], said[~truth])
    return prevalence * present + (1 - prevalence) * absent


def _wald(value: float, error: float) -> Estimate:
    half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * error
    return Estimate(
        value=value,
        interval=Interval(low=value - half, high=value + half, confidence=CONFIDENCE),
    )


def _separated(positive: NDArray[np.bool_], logits: Floats) -> bool:
    yes, no = logits[positive], logits[~positive]
    return bool(yes.min() >= no.max() or no.min() >= yes.max())
