"""Two bundles on the same subjects: paired differences with intervals, and which subjects change.

Pairing matters: both bundles are right on the easy images, so the difference of two figures is far
surer than either. Each round of the bootstrap draws patients once and takes both bundles' figures
on that draw (paired cluster bootstrap). Only subjects with a score from both take part; how many
that leaves out, on which side, is told.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triage.errors import PermanentError
from triage.learning.judging import statistics as figures
from triage.learning.judging.scoring import Scored
from triage.learning.judging.statistics import Draws, Interval

Booleans = NDArray[np.bool_]
Reals = NDArray[np.float64]
# (truth, probabilities, flagged) -> figure
MEASURES: Final[Mapping[str, Callable[[Booleans, Reals, Booleans], float]]] = {
    "AUROC": lambda truth, said, flagged: figures.auroc(truth, said),
    "AUPRC": lambda truth, said, flagged: figures.auprc(truth, said),
    "sensitivity": lambda truth, said, flagged: _mean(flagged[truth]),
    "specificity": lambda truth, said, flagged: _mean(~flagged[~truth]),
    "flag rate": lambda truth, said, flagged: _mean(flagged),
    "Brier score": lambda truth, said, flagged: figures.brier(truth, said),
    "log-loss": lambda truth, said, flagged: figures.log_loss(truth, said),
}
LOWER_IS_BETTER: Final = frozenset({"Brier score", "log-loss"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """First bundle minus second; an interval that holds zero shows no difference."""

    measure: str
    first: float
    second: float
    difference: float
    interval: Interval | None

    @property
    def verdict(self) -> str:
        """What the interval allows one to say, in words."""
        if self.interval is None or not math.isfinite(self.difference):
            return "cannot be told"
        if self.interval.low <= 0.0 <= self.interval.high:
            return "no difference shown"
        if self.measure == "flag rate":
            return "flags more" if self.difference > 0 else "flags fewer"
        better = (self.difference > 0) != (self.measure in LOWER_IS_BETTER)
        return "better" if better else "worse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A subject that one of the bundles flags and the other does not."""

    subject: str
    truth: bool | None  # None: not known
    first: float
    second: float
    flagged_by_first: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingComparison:
    """One finding that both bundles know."""

    name: str
    images: int
    patients: int
    only_first: int  # with a known truth and a score from the first bundle alone
    only_second: int
    differences: tuple[Difference, ...]
    changes: tuple[Change, ...]  # by how far apart the bundles are, the farthest first


def compare(
    first: Scored,
    second: Scored,
    first_points: Mapping[str, float],
    second_points: Mapping[str, float],
    *,
    draws: Draws | None = None,
) -> tuple[FindingComparison, ...]:
    """Compare two bundles' scores of the same subjects, finding by finding.

    Raises PermanentError where the subjects differ or no finding is shared.
    """
    draws = draws or Draws()
    if first.subjects != second.subjects:
        raise PermanentError("the two bundles were not scored on the same subjects")
    numbers = {name.casefold(): number for number, name in enumerate(second.findings)}
    shared = [name for name in first.findings if name.casefold() in numbers]
    if not shared:
        raise PermanentError(
            "the two bundles share no finding",
            hint="`triage bundle show` lists the findings of each.",
        )
    return tuple(
        _compare(
            _Side(first, first.findings.index(name), first_points[name]),
            _Side(
                second,
                numbers[name.casefold()],
                second_points[second.findings[numbers[name.casefold()]]],
            ),
            draws,
        )
        for name in shared
    )


class _Side:
    """One bundle's half of a comparison of one finding."""

    def __init__(self, scored: Scored, number: int, threshold: float) -> None:
        self.scored, self.number = scored, number
        self.name = scored.findings[number]
        self.truth = scored.truth[:, number]
        self.said = scored.probabilities[:, number]
        self.flagged = np.asarray(np.nan_to_num(self.said, nan=-1.0) >= threshold, np.bool_)


def _compare(first: _Side, second: _Side, draws: Draws) -> FindingComparison:
    here, there = first.scored.has_score, second.scored.has_score
    labelled = np.isfinite(first.truth)
    use = np.flatnonzero(here & there & labelled)
    groups = [first.scored.groups[row] for row in use]
    return FindingComparison(
        name=first.name,
        images=use.size,
        patients=len(set(groups)),
        only_first=int((here & ~there & labelled).sum()),
        only_second=int((there & ~here & labelled).sum()),
        differences=tuple(_difference(measure, first, second, use, draws) for measure in MEASURES),
        changes=_changes(first, second, here & there),
    )


def _difference(
    measure: str,
    first: _Side,
    second: _Side,
    use: NDArray[np.intp],
    draws: Draws,
) -> Difference:
    figure = MEASURES[measure]
    truth, groups = first.truth[use] == 1.0, [first.scored.groups[row] for row in use]

    def of(side: _Side, rows: NDArray[np.intp]) -> float:
        at = use[rows]
        return figure(truth[rows], side.said[at], side.flagged[at])

    every = np.arange(use.size)
    one, other = of(first, every), of(second, every)
    interval = None
    if math.isfinite(one - other):
        interval = figures.bootstrap(
            groups,
            lambda rows: of(first, rows) - of(second, rows),
            seed=draws.seed,
            rounds=draws.rounds,
        )
    return Difference(
        measure=measure, first=one, second=other, difference=one - other, interval=interval
    )


def _changes(first: _Side, second: _Side, both: Booleans) -> tuple[Change, ...]:
    rows = np.flatnonzero(both & (first.flagged != second.flagged))
    farthest = sorted(rows, key=lambda row: -abs(first.said[row] - second.said[row]))
    return tuple(
        Change(
            subject=first.scored.subjects[row],
            truth=bool(first.truth[row] == 1.0) if np.isfinite(first.truth[row]) else None,
            first=float(first.said[row]),
            second=float(second.said[row]),
            flagged_by_first=bool(first.flagged[row]),
        )
        for row in farthest
    )


def _mean(flags: Booleans) -> float:
    return float(flags.mean()) if flags.size else math.nan
