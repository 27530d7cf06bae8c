"""Fit a bundle's calibration and operating points to the studies of one site.

Platt's two parameters per finding by default, with his smoothed targets (Platt 1999); isotonic
steps only with enough events (EVENTS_FOR_ISOTONIC), because below they are noise with ties; then,
where the site's prevalence is not that of the labelled studies, a shift of the log-odds by the
difference (Saerens et al. 2002). The method none leaves the probabilities as they are. The
operating point of each finding is chosen last, on the final probabilities: `operating_points`
gives it or refuses. Events are patients: further images of one are no further evidence.

A finding that cannot be fitted, or whose point is refused, keeps the cut of the bundle it comes
from: the same raw scores are flagged as before, and the record says that no sensitivity stands
behind it. One without labels here stays as an earlier calibration has left it, so that findings
whose labels lie in several files can be calibrated one after the other. Nothing is made up, and
nothing is changed in place: `calibrated_bundle` writes a new one.
"""

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from triage.errors import PermanentError
from triage.learning.judging.operating_points import OperatingPoint, Refusal, threshold_for
from triage.learning.judging.statistics import fit_logistic, log_odds

if TYPE_CHECKING:
    from triage.inference.bundle import Bundle
    from triage.inference.calibration import Calibration
    from triage.learning.judging.scoring import Scored

METHODS: Final = ("platt", "isotonic", "none")
EVENTS_FOR_ISOTONIC: Final = 1000  # patients of the rarer class
EVENTS_FOR_PLATT: Final = 10  # patients of the rarer class; two parameters from fewer are a guess
EVENTS_FOR_COMFORT: Final = 50  # below it a fit is made, with a warning
UNLABELLED: Final = "it has no labels here"
FALLING: Final = "its scores do not rise with the finding on these studies"
Reals = NDArray[np.float64]


class CalibrationRefused(PermanentError):
    """The labelled studies do not support the calibration that was asked for."""

    hint = "Label more studies, or use `--method platt`, which needs fewer."


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the person asked for."""

    method: str = "platt"  # one of METHODS
    # Of the site, by finding; heard where the finding is fitted, so never with the method none.
    prevalence: Mapping[str, float] = field(default_factory=dict)
    sensitivity: float = 0.95
    confidence: float = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What decides whether a fit is one for the site: where its scores were made, and of whom."""

    dtype: str = ""
    device_class: str = ""
    training_rows: int = 0  # that the bundle was fitted on: scores of these say nothing of others


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingFit:
    """What became of one finding of the bundle."""

    name: str
    images: int  # with a score and a known truth
    patients: int
    positives: int
    positive_patients: int
    turned_away: int  # patients with the finding, by the gate: they count as missed
    fitted: bool  # False: its calibration is still that of the bundle it comes from
    point: OperatingPoint | None  # None: the cut is still that of the bundle it comes from
    threshold: float  # that the bundle has now
    refusal: str  # why no sensitivity stands behind the threshold; "" where one does
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A calibration for every finding of the bundle, in its order."""

    calibration: "Calibration"
    findings: tuple[FindingFit, ...]
    images: int
    patients: int
    gated: int
    failed: int
    local_findings: tuple[str, ...]  # fitted on studies of the site, here or in an earlier call

    @property
    def local(self) -> bool:
        """Whether the probabilities of every finding now rest on studies of the site."""
        return len(self.local_findings) == len(self.findings)


def without_calibration(bundle: "Bundle") -> "Bundle":
    """The same bundle with probability = sigmoid(logit): what a calibration is fitted on."""
    from triage.inference.calibration import uncalibrated

    return replace(bundle, calibration=uncalibrated(len(bundle.manifest.findings)))


def fit(
    bundle: "Bundle", scored: "Scored", wish: Wish, conditions: Conditions = Conditions()
) -> Fit:
    """Fit every finding of `bundle` that `scored` knows, by scores of `without_calibration`.

    Raises CalibrationRefused where isotonic steps lack events, or would stand beside another
    kind of calibration of a finding that has no labels here.
    """
    before = _local_before(bundle, conditions)
    numbers = {name: number for number, name in enumerate(scored.findings)}
    drafts = [
        _draft(bundle, scored, number, numbers.get(spec.name), wish)
        for number, spec in enumerate(bundle.manifest.findings)
    ]
    calibration = _joined(bundle, drafts, wish.method)
    findings = tuple(
        _chosen(bundle, calibration, number, draft, wish=wish, before=before)
        for number, draft in enumerate(drafts)
    )
    used = scored.has_score & np.isfinite(scored.truth).any(axis=1)
    return Fit(
        calibration=calibration,
        findings=findings,
        images=int(used.sum()),
        patients=len({group for group, use in zip(scored.groups, used, strict=True) if use}),
        gated=int(scored.gated.sum()),
        failed=int(scored.failed.sum()),
        local_findings=_local_now(findings, before, conditions),
    )


def _local_before(bundle: "Bundle", conditions: Conditions) -> Set[str]:
    """Findings that an earlier call has fitted on studies of the site, by scores as made here."""
    record = bundle.manifest.calibration
    made = (conditions.dtype, conditions.device_class)
    if record is None or (record.dtype, record.device_class) != made:
        return set()
    return {spec.name for spec in bundle.manifest.findings if record.is_local(spec.name)}


def _local_now(
    findings: tuple[FindingFit, ...], before: Set[str], conditions: Conditions
) -> tuple[str, ...]:
    fitted = {each.name for each in findings if each.fitted}
    wrong = {each.name for each in findings if each.refusal == FALLING}
    local = before - fitted - wrong if conditions.training_rows else (before | fitted) - wrong
    return tuple(each.name for each in findings if each.name in local)


# --- one finding


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """Rows of one finding, and its calibration before the operating point."""

    logits: Reals
    truth: NDArray[np.bool_]
    groups: tuple[str, ...]
    turned_away: tuple[str, ...] = ()  # patients of images with the finding, by the gate
    slope: float = 1.0
    intercept: float = 0.0
    shift: float = 0.0
    knots: tuple[Reals, Reals] | None = None
    kept: str = ""  # why the old cut is kept too; "" where a point may be chosen

    @property
    def patients(self) -> tuple[int, int]:
        """How many have an image with the finding, and how many one without it."""
        pairs = set(zip(self.groups, self.truth.tolist(), strict=True))
        return sum(true for _, true in pairs), sum(not true for _, true in pairs)


def _draft(
    bundle: "Bundle", scored: "Scored", number: int, column: int | None, wish: Wish
) -> _Draft:
    if column is None or not np.isfinite(scored.truth[:, column]).any():
        empty = _Draft(logits=np.empty(0), truth=np.empty(0, np.bool_), groups=())
        return _as_before(bundle, number, empty, UNLABELLED)
    known = scored.known(column)
    missed = scored.gated & (scored.truth[:, column] == 1.0)
    draft = _Draft(
        logits=log_odds(scored.probabilities[known, column]),
        truth=scored.truth[known, column] == 1.0,
        groups=tuple(group for group, use in zip(scored.groups, known, strict=True) if use),
        turned_away=tuple(group for group, use in zip(scored.groups, missed, strict=True) if use),
    )
    if wish.method == "none":
        return _as_before(bundle, number, draft, "")
    if reason := _unfit(draft, wish.method, scored.findings[column]):
        return _as_before(bundle, number, draft, reason)
    draft = _fitted(draft, wish.method)
    if draft.slope <= 0 or not math.isfinite(draft.slope + draft.intercept):
        return _as_before(bundle, number, draft, FALLING)
    prevalence = wish.prevalence.get(scored.findings[column])
    if prevalence is None:
        return draft
    shift = log_odds(prevalence) - log_odds(draft.truth.mean())
    return replace(draft, shift=float(shift))


def _unfit(draft: _Draft, method: str, name: str) -> str:
    """Why this finding cannot be fitted; raises where a wished isotonic fit lacks events."""
    present, absent = draft.patients
    if method == "isotonic" and min(present, absent) < EVENTS_FOR_ISOTONIC:
        raise CalibrationRefused(
            f"isotonic calibration of {name} needs {EVENTS_FOR_ISOTONIC} patients with and without"
            f" the finding; there are {present} and {absent}"
        )
    if min(present, absent) < EVENTS_FOR_PLATT:
        return (
            f"{present} patients with and {absent} without the finding are too few to fit a"
            f" calibration ({EVENTS_FOR_PLATT} of each are needed)"
        )
    return ""


def _fitted(draft: _Draft, method: str) -> _Draft:
    if method == "isotonic":
        return replace(draft, knots=isotonic(draft.logits, draft.truth))
    slope, intercept = platt(draft.logits, draft.truth)
    return replace(draft, slope=slope, intercept=intercept)


def platt(logits: Reals, truth: NDArray[np.bool_]) -> tuple[float, float]:
    """(slope, intercept) by maximum likelihood with Platt's smoothed targets.

    The targets (n+ + 1) / (n+ + 2) and 1 / (n- + 2) keep the fit finite where a threshold
    separates the classes, which few images often allow.
    """
    positives, negatives = int(truth.sum()), int((~truth).sum())
    targets = np.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    return fit_logistic(logits, targets)


def isotonic(logits: Reals, truth: NDArray[np.bool_]) -> tuple[Reals, Reals]:
    """Knots (logits, probabilities) of the rising step fit, held off 0 and 1 by one event."""
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
    model.fit(logits, truth.astype(np.float64))
    margin = 1.0 / (truth.size + 2)
    levels = np.clip(np.asarray(model.y_thresholds_, np.float64), margin, 1 - margin)
    return np.asarray(model.X_thresholds_, np.float64), levels


def _as_before(bundle: "Bundle", number: int, draft: _Draft, reason: str) -> _Draft:
    """The draft with the calibration that the bundle has for this finding already."""
    old = bundle.calibration
    if old is None:
        raise CalibrationRefused("the bundle has no head to calibrate", hint="Train one first.")
    return replace(
        draft,
        slope=float(old.slope[number]),
        intercept=float(old.intercept[number]),
        shift=float(old.shift[number]),
        knots=old.knots[number] if old.knots else None,
        kept=reason,
    )


def _joined(bundle: "Bundle", drafts: list[_Draft], method: str) -> "Calibration":
    from triage.inference.calibration import Calibration

    stepped = [draft.knots is not None for draft in drafts]
    if any(stepped) and not all(stepped):
        raise CalibrationRefused(
            "isotonic and other calibrations cannot stand in one bundle: every finding needs"
            " labels here",
            hint="Label every finding of `triage bundle show`, or use `--method platt` from a"
            " bundle that is not isotonic.",
        )
    old = bundle.calibration
    kept = old.kind if old and method == "none" else "platt"
    return Calibration(
        kind="isotonic" if all(stepped) else kept,
        slope=np.array([draft.slope for draft in drafts]),
        intercept=np.array([draft.intercept for draft in drafts]),
        shift=np.array([draft.shift for draft in drafts]),
        knots=tuple(draft.knots for draft in drafts if draft.knots is not None),
    )


def _chosen(
    bundle: "Bundle",
    calibration: "Calibration",
    number: int,
    draft: _Draft,
    *,
    wish: Wish,
    before: Set[str],
) -> FindingFit:
    """Choose the operating point on the final probabilities, or keep the old cut and say why."""
    spec = bundle.manifest.findings[number]
    found = None if draft.kept else _point(calibration, number, draft, wish)
    point = found if isinstance(found, OperatingPoint) else None
    refusal = found.reason if isinstance(found, Refusal) else draft.kept
    if draft.kept == UNLABELLED and spec.name in before:
        refusal = _refusal_before(bundle, spec.name, wish)
    return FindingFit(
        name=spec.name,
        images=draft.truth.size,
        patients=len(set(draft.groups)),
        positives=int(draft.truth.sum()),
        positive_patients=draft.patients[0],
        turned_away=len(set(draft.turned_away)),
        fitted=not draft.kept and wish.method != "none",
        point=point,
        threshold=point.threshold if point else same_cut(bundle, calibration, number),
        refusal=refusal,
        warnings=_warnings(draft, wish, spec.name),
    )


def _point(
    calibration: "Calibration", number: int, draft: _Draft, wish: Wish
) -> OperatingPoint | Refusal:
    gone = len(draft.turned_away)
    said = probabilities_of(calibration, number, draft.logits)
    return threshold_for(
        np.r_[draft.truth, np.ones(gone, np.bool_)],
        np.r_[said, np.full(gone, -np.inf)],
        np.array(draft.groups + draft.turned_away),
        sensitivity=wish.sensitivity,
        confidence=wish.confidence,
    )


def _refusal_before(bundle: "Bundle", name: str, wish: Wish) -> str:
    """Why the point of an earlier local calibration does not support the wish; "" if it does."""
    record = bundle.manifest.calibration
    if record is None or name in record.refusals:
        return record.refusals[name] if record else UNLABELLED
    target, confidence = record.target_sensitivity or 0.0, record.confidence or 0.0
    if target >= wish.sensitivity and confidence >= wish.confidence:
        return ""
    return f"its point was chosen for a sensitivity of {target:g} with {confidence:.0%} confidence"


def _warnings(draft: _Draft, wish: Wish, name: str) -> tuple[str, ...]:
    rarer = min(draft.patients)
    if draft.kept and draft.truth.size and name in wish.prevalence:
        return ("its probabilities were not fitted, so the prevalence given was not applied",)
    if not draft.kept and wish.method == "platt" and rarer < EVENTS_FOR_COMFORT:
        return (f"fitted on {rarer} patients of the rarer class; {EVENTS_FOR_COMFORT} are advised",)
    return ()


def probabilities_of(calibration: "Calibration", number: int, logits: Reals) -> Reals:
    """Probabilities of one finding, by the arithmetic that serves."""
    from triage.inference.calibration import calibrated

    every = np.zeros((logits.size, calibration.slope.size))
    every[:, number] = logits
    return np.asarray(calibrated(calibration, every)[:, number], np.float64)


def same_cut(bundle: "Bundle", calibration: "Calibration", number: int) -> float:
    """The probability that flags the same raw scores as the bundle's point did before."""
    old, point = bundle.calibration, bundle.manifest.findings[number].operating_point
    if old is None or not 0.0 < point < 1.0:
        return point  # flags all, or none
    logit = float(log_odds(point)) - float(old.shift[number])
    if old.knots:
        x, y = old.knots[number]
        level = 1.0 / (1.0 + math.exp(-logit))
        if not y[0] < level <= y[-1]:
            return 0.0 if level <= y[0] else 1.0
        at = int(np.searchsorted(y, level))
        part = (level - y[at - 1]) / (y[at] - y[at - 1])
        logit = float(x[at - 1] + part * (x[at] - x[at - 1]))
    elif old.slope[number] > 0:
        logit = (logit - float(old.intercept[number])) / float(old.slope[number])
    else:
        return point
    return float(probabilities_of(calibration, number, np.array([logit]))[0])
