"""Two bundles on the same subjects: paired differences with intervals, and which subjects change.

Pairing matters: both bundles are right on the easy images, so the difference of two figures is far
surer than either. Each round of the bootstrap draws patients once and takes both bundles' figures
on that draw (paired cluster bootstrap).

A gate that turns hard images away must not make its bundle look better. So sensitivity is of all
subjects with the finding, and one without a score counts as missed; what else is compared is of
subjects with a score from both. How many each leaves without a score is told by class.
"""

import math
from collections.abc import Callable, Mapping, Sequence
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
LOWER_IS_BETTER: Final = frozenset({"Brier score", "log-loss"})
SENSITIVITY: Final = "sensitivity"
SPECIFICITY: Final = "specificity"
# (truth, probabilities, flagged) -> figure
MEASURES: Final[Mapping[str, Callable[[Booleans, Reals, Booleans], float]]] = {
    "AUROC": lambda truth, said, flagged: figures.auroc(truth, said),
    "AUPRC": lambda truth, said, flagged: figures.auprc(truth, said),
    SENSITIVITY: lambda truth, said, flagged: _mean(flagged[truth]),
    SPECIFICITY: lambda truth, said, flagged: _mean(~flagged[~truth]),
    "flag rate": lambda truth, said, flagged: _mean(flagged),
    "Brier score": lambda truth, said, flagged: figures.brier(truth, said),
    "log-loss": lambda truth, said, flagged: figures.log_loss(truth, said),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """First bundle minus second; an interval that holds zero shows no difference."""

    measure: str
    first: float
    second: float
    difference: float
    interval: Interval | None
    why_not: str = ""  # why there is no interval

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
    """A subject that one of the bundles flags and the other does not, or gives no score."""

    subject: str
    truth: bool | None  # None: not known
    first: float  # NaN: no score
    second: float
    flagged_by_first: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WithoutScore:
    """Subjects with a known truth that one bundle gave no score, by what they show."""

    gated_with_finding: int
    gated_without: int
    failed_with_finding: int
    failed_without: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingComparison:
    """One finding that both bundles know."""

    name: str
    images: int  # with a known truth and a score from both
    patients: int
    only_first: int  # with a known truth and a score from the first bundle alone
    only_second: int
    first_without_score: WithoutScore
    second_without_score: WithoutScore
    warnings: tuple[str, ...]
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
    both = np.flatnonzero(here & there & labelled)
    differences = tuple(
        _difference(
            measure,
            first,
            second,
            np.flatnonzero(labelled) if measure == SENSITIVITY else both,
            draws,
        )
        for measure in MEASURES
    )
    return FindingComparison(
        name=first.name,
        images=both.size,
        patients=len({first.scored.groups[row] for row in both}),
        only_first=int((here & ~there & labelled).sum()),
        only_second=int((there & ~here & labelled).sum()),
        first_without_score=_without_score(first),
        second_without_score=_without_score(second),
        warnings=(*_gate_warning(first, second), *_interval_warnings(differences)),
        differences=differences,
        changes=_changes(first, second),
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
    interval, why_not = None, _too_few(measure, truth, groups)
    if not why_not:
        interval = figures.bootstrap(
            groups,
            lambda rows: of(first, rows) - of(second, rows),
            seed=draws.seed,
            rounds=draws.rounds,
        )
        why_not = "" if interval else "too few draws of patients give a figure"
    return Difference(
        measure=measure,
        first=one,
        second=other,
        difference=one - other,
        interval=interval,
        why_not=why_not,
    )


def _too_few(measure: str, truth: Booleans, groups: list[str]) -> str:
    """Why so few patients give no interval of the measure; "" where there are enough."""
    present, absent = figures.patients_by_class(truth, groups)
    told = {SENSITIVITY: [(present, "with")], SPECIFICITY: [(absent, "without")]}
    few = [
        f"{count} {'patient' if count == 1 else 'patients'} {which} the finding"
        for count, which in told.get(measure, [(present, "with"), (absent, "without")])
        if count < figures.FEWEST
    ]
    return f"{' and '.join(few)}, and {figures.FEWEST} are needed" if few else ""


def _without_score(side: _Side) -> WithoutScore:
    present, absent = side.truth == 1.0, side.truth == 0.0
    return WithoutScore(
        gated_with_finding=int((side.scored.gated & present).sum()),
        gated_without=int((side.scored.gated & absent).sum()),
        failed_with_finding=int((side.scored.failed & present).sum()),
        failed_without=int((side.scored.failed & absent).sum()),
    )


def _gate_warning(first: _Side, second: _Side) -> list[str]:
    labelled = np.isfinite(first.truth)
    differ = int(((first.scored.gated != second.scored.gated) & labelled).sum())
    if not differ:
        return []
    images = "1 image is" if differ == 1 else f"{differ} images are"
    return [
        f"The gates differ: {images} turned away by one bundle and not by the other. An image with"
        f" the finding that got no score counts as missed; every figure but the sensitivity is of"
        f" images that both judged, where the stricter gate may have left the easy ones."
    ]


def _interval_warnings(differences: Sequence[Difference]) -> list[str]:
    """One sentence for each reason, with the measures that have it."""
    reasons: dict[str, list[str]] = {}
    for each in differences:
        if each.why_not:
            reasons.setdefault(each.why_not, []).append(each.measure)
    return [
        f"No interval, hence no verdict, for {', '.join(measures)}: {reason}."
        for reason, measures in reasons.items()
    ]


def _changes(first: _Side, second: _Side) -> tuple[Change, ...]:
    apart = np.abs(np.nan_to_num(first.said) - np.nan_to_num(second.said))
    farthest = sorted(np.flatnonzero(first.flagged != second.flagged), key=lambda row: -apart[row])
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
