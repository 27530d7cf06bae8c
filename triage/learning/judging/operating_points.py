"""The threshold that a wished sensitivity needs, or why the data cannot support one.

With n positive patients, k misses are still compatible with the target at the wished confidence if
a true sensitivity just at the target would give so few of them rarely enough (exact binomial). The
threshold then lies at the (k+1)-th lowest positive score: a distribution-free tolerance limit
(Wilks 1941), which holds whatever the scores are like. Below the smallest n that allows no miss at
all there is no threshold, only a `Refusal` that says how many patients are there and needed.

Images of one patient are not independent, so each patient counts once, by the lowest score of its
positive images: a patient with one missed image counts as missed, and so does one with an image
that the gate turned away. Choose on calibration patients, report on others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from triage.learning.judging.statistics import allowed_misses, lower_bound, needed_positives

# The same image may score this much lower elsewhere (kernels differ in the order of their sums).
SLACK: Final = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """A threshold and what it was shown to do on the patients it was chosen on."""

    threshold: float  # flagged from this probability on
    target: float  # wished sensitivity
    confidence: float
    positives: int  # patients with the finding
    allowed: int  # misses with which the target is still shown
    misses: int
    sensitivity_bound: float  # one-sided exact lower bound on the calibration patients
    specificity: float  # observed, over images without the finding; NaN without any


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why there is no threshold."""

    target: float
    confidence: float
    positives: int
    needed: int
    turned_away: int = 0  # of the positives: missed at any threshold

    @property
    def reason(self) -> str:
        """One sentence for a person."""
        if self.turned_away:
            return (
                f"the gate turned away images of {self.turned_away} of {self.positives} patients"
                f" with the finding, who count as missed: {self.needed} are needed, no other of"
                f" them missed, to show a sensitivity of {self.target:g} with"
                f" {self.confidence:.0%} confidence"
            )
        return (
            f"{self.positives} patients with the finding cannot show a sensitivity of"
            f" {self.target:g} with {self.confidence:.0%} confidence: {self.needed} are needed,"
            f" none of them missed"
        )


def threshold_for(
    truth: ArrayLike,
    scores: ArrayLike,
    groups: Sequence[Any] | NDArray[Any] | None = None,
    *,
    sensitivity: float = 0.95,
    confidence: float = 0.95,
) -> OperatingPoint | Refusal:
    """Choose the highest threshold that shows `sensitivity`; rows without `groups` are patients.

    Truth is 0/1 without masked rows; an image that the gate turned away has the score -inf. The
    threshold stands a little below the deciding score, as far as that flags no further image here,
    so that rounding elsewhere cannot lose that patient.
    """
    positive, values = np.asarray(truth).astype(np.bool_), np.asarray(scores, np.float64)
    labels = np.arange(values.size) if groups is None else np.asarray(groups)
    lowest = _lowest_by_group(values[positive], labels[positive])
    turned_away = int(np.isneginf(lowest).sum())
    allowed = allowed_misses(lowest.size, sensitivity, confidence)
    if allowed is None or allowed < turned_away:
        return Refusal(
            target=sensitivity,
            confidence=confidence,
            positives=lowest.size,
            needed=needed_positives(sensitivity, turned_away, confidence),
            turned_away=turned_away,
        )
    deciding = float(np.sort(lowest)[allowed])
    below = values[values < deciding]
    gap = deciding - float(below.max()) if below.size else deciding
    threshold = max(0.0, deciding - min(SLACK, gap / 2))
    misses = int((lowest < threshold).sum())
    negatives = values[~positive]
    return OperatingPoint(
        threshold=threshold,
        target=sensitivity,
        confidence=confidence,
        positives=lowest.size,
        allowed=allowed,
        misses=misses,
        sensitivity_bound=lower_bound(lowest.size - misses, lowest.size, confidence),
        specificity=float((negatives < threshold).mean()) if negatives.size else float("nan"),
    )


def _lowest_by_group(scores: NDArray[np.float64], groups: NDArray[Any]) -> NDArray[np.float64]:
    if not scores.size:
        return scores
    _, member = np.unique(groups, return_inverse=True)
    lowest = np.full(member.max() + 1, np.inf)
    np.minimum.at(lowest, member, scores)
    return lowest
