"""How good a bundle is on labelled subjects: every figure with its interval and its counts.

Owns the shape of an evaluation (plain dataclasses, written as `evaluation.json`) and its making
from `Scored`. Areas have patient-clustered bootstrap intervals, shares at the operating point
Wilson's. Subjects without a score are counted beside every figure, and the sensitivity is also
given with them counted as missed, for a finding that was not looked for is not found. What depends
on how common the finding is stands at the site's prevalence too, where that is known.

Knows no bundle, no image and no page; `report` shows what stands here, `comparing` compares two.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triage.learning.judging import statistics as figures
from triage.learning.judging.calibration_figures import Calibrated, calibrated
from triage.learning.judging.prevalence import AtPrevalence, Prevalence, at_prevalence
from triage.learning.judging.scoring import Scored
from triage.learning.judging.statistics import CONFIDENCE, Draws, Estimate
from triage.learning.judging.subgroups import (
    Subgroup,
    group_warnings,
    missing_groups,
    subgroups_of,
)

SCHEMA_VERSION: Final = 1
CLUSTERED: Final = (
    "Some patients have several images. The intervals of shares treat images as independent and are"
    " then too narrow; those of areas and calibration count patients, and so does the sensitivity"
    " by patient."
)
HALF: Final = 0.5  # specificity below which flags put little in order; an AUROC of chance
FEW: Final = 20  # positives or negatives below which an area says little


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What was flagged against what was there."""

    hits: int
    misses: int
    false_alarms: int
    passes: int  # not flagged, and rightly so


@dataclass(frozen=True, slots=True, kw_only=True)
class ByPatient:
    """Patients with the finding; found is who has any of his images with it flagged."""

    found: int
    missed: int
    sensitivity: Estimate  # of patients with a score of such an image
    sensitivity_of_all: Estimate  # patients without one counted as missed


@dataclass(frozen=True, slots=True, kw_only=True)
class AtPoint:
    """Figures at the operating point, with Wilson's intervals."""

    threshold: float
    refusal: str  # why no sensitivity stands behind the threshold; "" where one does
    counts: Counts
    sensitivity: Estimate
    sensitivity_of_all: Estimate  # positives without a score counted as missed
    by_patient: ByPatient
    specificity: Estimate
    positive_predictive_value: Estimate
    negative_predictive_value: Estimate
    flag_rate: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingFigures:
    """One finding. Images are rows of the table: an image, or a study."""

    name: str
    images: int  # with a score and a known truth
    patients: int
    positives: int
    masked: int  # truth not known
    gated: int  # of those with a known truth
    failed: int
    prevalence: float  # among the labelled images, of which that of the site may differ
    auroc: Estimate
    auprc: Estimate
    at_point: AtPoint
    calibration: Calibrated
    at_prevalence: AtPrevalence | None  # None: the site's prevalence is not known
    subgroups: tuple[Subgroup, ...]
    warnings: tuple[str, ...]

    @property
    def calibration_of_site(self) -> Calibrated:
        """At the site's prevalence, or that of the labelled images where it is not known."""
        return self.at_prevalence.calibration if self.at_prevalence else self.calibration


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All findings of a bundle on one set of subjects."""

    subjects: int
    patients: int
    scored: int
    gated: int
    failed: int
    reasons: Mapping[str, int]  # of rows without a score
    findings: tuple[FindingFigures, ...]
    warnings: tuple[str, ...]  # that hold for every finding
    confidence: float
    rounds: int
    seed: int


def evaluate(
    scored: Scored,
    points: Mapping[str, float],
    *,
    refusals: Mapping[str, str] | None = None,
    prevalences: Mapping[str, Prevalence] | None = None,
    draws: Draws | None = None,
) -> Evaluation:
    """Measure every finding of `scored` at its operating point in `points`.

    `refusals` say, by finding, why its point is not supported; `prevalences` how common it is at
    the site. Same seed, same intervals.
    """
    named, sites, draws = refusals or {}, prevalences or {}, draws or Draws()
    reasons: dict[str, int] = {}
    for reason in filter(None, scored.reasons):
        reasons[reason] = reasons.get(reason, 0) + 1
    return Evaluation(
        subjects=len(scored.subjects),
        patients=len(set(scored.groups)),
        scored=int(scored.has_score.sum()),
        gated=int(scored.gated.sum()),
        failed=int(scored.failed.sum()),
        reasons=reasons,
        findings=tuple(
            _finding(scored, number, (points[name], named.get(name, "")), sites.get(name), draws)
            for number, name in enumerate(scored.findings)
        ),
        warnings=tuple(_warnings_of_all(scored)),
        confidence=CONFIDENCE,
        rounds=draws.rounds,
        seed=draws.seed,
    )


def as_json(value: object) -> Any:
    """Turn dataclasses into JSON values; what cannot be told (NaN) is null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in _fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_json(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [as_json(entry) for entry in value]
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# --- one finding


def _finding(
    scored: Scored,
    number: int,
    point: tuple[float, str],
    site: Prevalence | None,
    draws: Draws,
) -> FindingFigures:
    known, labelled = scored.known(number), np.isfinite(scored.truth[:, number])
    truth = scored.truth[known, number] == 1.0
    said = scored.probabilities[known, number]
    groups = [group for group, use in zip(scored.groups, known, strict=True) if use]
    at_point = _at_point(scored, number, *point)
    at_site = None
    if site is not None:
        moved = calibrated(truth, said, groups, site.share)
        at_site = at_prevalence(site, at_point.sensitivity, at_point.specificity, moved)
    auroc = figures.area(figures.auroc, truth, said, groups, draws)
    subgroups = subgroups_of(scored, number, point[0], draws)
    lost = int((scored.truth[labelled & ~scored.has_score, number] == 1.0).sum())
    return FindingFigures(
        name=scored.findings[number],
        images=int(known.sum()),
        patients=len(set(groups)),
        positives=int(truth.sum()),
        masked=int((~labelled).sum()),
        gated=int((scored.gated & labelled).sum()),
        failed=int((scored.failed & labelled).sum()),
        prevalence=float(truth.mean()) if truth.size else math.nan,
        auroc=auroc,
        auprc=figures.area(figures.auprc, truth, said, groups, draws),
        at_point=at_point,
        calibration=calibrated(truth, said, groups),
        at_prevalence=at_site,
        subgroups=subgroups,
        warnings=(*_warnings(truth, lost, auroc, at_point), *group_warnings(subgroups)),
    )


def _at_point(scored: Scored, number: int, threshold: float, refusal: str) -> AtPoint:
    known, present = scored.known(number), scored.truth[:, number] == 1.0
    flagged = known & (np.nan_to_num(scored.probabilities[:, number], nan=-1.0) >= threshold)
    hits, misses = int((flagged & present).sum()), int((known & present & ~flagged).sum())
    false, passes = int((flagged & ~present).sum()), int((known & ~present & ~flagged).sum())
    return AtPoint(
        threshold=threshold,
        refusal=refusal,
        counts=Counts(hits=hits, misses=misses, false_alarms=false, passes=passes),
        sensitivity=figures.proportion(hits, hits + misses),
        sensitivity_of_all=figures.proportion(hits, int(present.sum())),
        by_patient=_by_patient(scored.groups, flagged & present, known & present, present),
        specificity=figures.proportion(passes, passes + false),
        positive_predictive_value=figures.proportion(hits, hits + false),
        negative_predictive_value=figures.proportion(passes, passes + misses),
        flag_rate=figures.proportion(hits + false, int(known.sum())),
    )


def _by_patient(
    groups: Sequence[str],
    found: NDArray[np.bool_],
    looked_at: NDArray[np.bool_],
    present: NDArray[np.bool_],
) -> ByPatient:
    names = np.asarray(groups)
    hits, judged, every = (np.unique(names[rows]).size for rows in (found, looked_at, present))
    return ByPatient(
        found=hits,
        missed=judged - hits,
        sensitivity=figures.proportion(hits, judged),
        sensitivity_of_all=figures.proportion(hits, every),
    )


def _warnings_of_all(scored: Scored) -> Iterator[str]:
    if len(set(scored.groups)) < len(scored.groups):
        yield CLUSTERED
    if missing := missing_groups(scored):
        yield (
            f"Not judged by {', '.join(missing)}: the labels have no such column, or one value in"
            " it. Whether the model holds for each of those groups is not known."
        )


def _warnings(truth: NDArray[np.bool_], lost: int, auroc: Estimate, point: AtPoint) -> list[str]:
    positives, negatives = int(truth.sum()), int((~truth).sum())
    said = []
    if not positives or not negatives:
        said.append("One class is missing: no area, and sensitivity or specificity, can be given.")
    elif min(positives, negatives) < FEW:
        said.append(
            f"Only {positives} with and {negatives} without the finding: the intervals are wide"
            f" and the bootstrap is unsure of its own ends."
        )
    if auroc.interval is not None and auroc.interval.low <= HALF:
        said.append("The AUROC is not shown to be above chance.")
    if point.refusal:
        said.append(f"No sensitivity stands behind the operating point: {point.refusal}.")
    if point.specificity.value < HALF:
        said.append(
            f"{1 - point.specificity.value:.0%} of the images without the finding are flagged: a"
            f" list in this order is hardly better than one in no order."
        )
    if lost:
        images = "image" if lost == 1 else "images"
        said.append(
            f"{lost} {images} with the finding got no score: no threshold can find what was not"
            f" looked at."
        )
    return said


def _fields(value: Any) -> tuple["dataclasses.Field[Any]", ...]:
    return dataclasses.fields(value)
