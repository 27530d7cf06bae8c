"""What an operating point does where the finding is as common as at the site.

Labelled images are usually enriched, so that PPV, NPV and flag rate among them are not those of the
worklist. Here they follow from sensitivity and specificity by Bayes' rule, at a prevalence that is
taken as known. Their intervals join Wilson's limits of both (MOVER: Zou & Donner 2008; for ratios
Newcombe 2016).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from triage.learning.judging.calibration_figures import Calibrated
from triage.learning.judging.statistics import CONFIDENCE, Estimate, Interval

STATED: Final = "as stated"
RECORDED: Final = "as the bundle's calibration records"
STEPS: Final = 50  # halvings for the end of an interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Prevalence:
    """How common the finding is at the site."""

    share: float  # inside (0, 1)
    source: str  # STATED or RECORDED


@dataclass(frozen=True, slots=True, kw_only=True)
class AtPrevalence:
    """Figures of images with a score that depend on how common the finding is."""

    prevalence: float
    source: str
    positive_predictive_value: Estimate
    negative_predictive_value: Estimate
    flag_rate: Estimate
    calibration: Calibrated


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A share of all images, with its limits."""

    value: float
    low: float
    high: float


def at_prevalence(
    site: Prevalence, sensitivity: Estimate, specificity: Estimate, calibration: Calibrated
) -> AtPrevalence:
    """Figures at the site's prevalence, of which `calibration` is too; NaN lacks a class."""
    found, missed = _parts(sensitivity, site.share)
    passed, alarmed = _parts(specificity, 1 - site.share)
    return AtPrevalence(
        prevalence=site.share,
        source=site.source,
        positive_predictive_value=_ratio(found, alarmed),
        negative_predictive_value=_ratio(passed, missed),
        flag_rate=_sum(found, alarmed),
        calibration=calibration,
    )


def _parts(of_class: Estimate, share: float) -> tuple[_Part, _Part]:
    """What is right and what is wrong of a class that is `share` of all images."""
    span = of_class.interval
    low, high = (span.low, span.high) if span else (math.nan, math.nan)
    return (
        _Part(value=share * of_class.value, low=share * low, high=share * high),
        _Part(value=share * (1 - of_class.value), low=share * (1 - high), high=share * (1 - low)),
    )


def _sum(first: _Part, second: _Part) -> Estimate:
    value = first.value + second.value
    if math.isnan(value):
        return Estimate(value=value, interval=None)
    low = value - math.hypot(first.value - first.low, second.value - second.low)
    high = value + math.hypot(first.high - first.value, second.high - second.value)
    return Estimate(value=value, interval=_interval(low, high))


def _ratio(right: _Part, wrong: _Part) -> Estimate:
    """right / (right + wrong): of all that is called so, how much is so.

    A ratio v is held possible where the interval of (1 - v) right - v wrong holds zero.
    """
    total = right.value + wrong.value
    if math.isnan(total) or not total:
        return Estimate(value=math.nan, interval=None)
    value = right.value / total

    def below(v: float) -> bool:
        spread = math.hypot((1 - v) * (right.value - right.low), v * (wrong.high - wrong.value))
        return (1 - v) * right.value - v * wrong.value > spread

    def above(v: float) -> bool:
        spread = math.hypot((1 - v) * (right.high - right.value), v * (wrong.value - wrong.low))
        return v * wrong.value - (1 - v) * right.value > spread

    return Estimate(
        value=value, interval=_interval(_end(value, 0.0, below), _end(value, 1.0, above))
    )


def _end(inside: float, limit: float, excluded: Callable[[float], bool]) -> float:
    """The last value from `inside` towards `limit` that is not excluded."""
    if not excluded(limit):
        return limit
    for _ in range(STEPS):
        middle = (inside + limit) / 2
        inside, limit = (inside, middle) if excluded(middle) else (middle, limit)
    return inside


def _interval(low: float, high: float) -> Interval:
    return Interval(low=max(0.0, low), high=min(1.0, high), confidence=CONFIDENCE)
