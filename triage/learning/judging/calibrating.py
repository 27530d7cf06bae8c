"""Fit a bundle's calibration and operating points to the studies of one site.

Platt's two parameters per finding by default, with his smoothed targets (Platt 1999); isotonic
steps only with enough events (EVENTS_FOR_ISOTONIC), because below they are noise with ties; then,
where the site's prevalence is not that of the labelled studies, a shift of the log-odds by the
difference (Saerens et al. 2002). The operating point of each finding is chosen last, on the final
probabilities: `operating_points` gives it or refuses.

A finding that cannot be fitted, or whose point is refused, keeps the cut of the bundle it comes
from: the same raw scores are flagged as before, and the record says that no sensitivity stands
behind it. Nothing is made up, and nothing is changed in place: the result is a new bundle.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from triage.errors import PermanentError
from triage.learning.judging.evaluation import as_json
from triage.learning.judging.operating_points import OperatingPoint, Refusal, threshold_for
from triage.learning.judging.statistics import fit_logistic, log_odds

if TYPE_CHECKING:
    from triage.inference.bundle import Bundle
    from triage.inference.bundle_fields import CalibrationRecord
    from triage.inference.calibration import Calibration
    from triage.learning.judging.scoring import Scored

METHODS: Final = ("platt", "isotonic", "none")
EVENTS_FOR_ISOTONIC: Final = 1000  # of the rarer class
EVENTS_FOR_PLATT: Final = 10  # of the rarer class; two parameters from fewer are a guess
EVENTS_FOR_COMFORT: Final = 50  # below it a fit is made, with a warning
HEADING: Final = "## Calibration on local studies"
Reals = NDArray[np.float64]


class CalibrationRefused(PermanentError):
    """The labelled studies do not support the calibration that was asked for."""

    hint = "Label more studies, or use `--method platt`, which needs fewer."


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the person asked for."""

    method: str = "platt"  # one of METHODS
    prevalence: Mapping[str, float] = field(default_factory=dict)  # of the site, by finding
    sensitivity: float = 0.95
    confidence: float = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingFit:
    """What became of one finding of the bundle."""

    name: str
    images: int  # with a score and a known truth
    patients: int
    positives: int
    positive_patients: int
    fitted: bool  # False: its calibration is still that of the bundle it comes from
    point: OperatingPoint | None
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

    @property
    def local(self) -> bool:
        """Whether the probabilities of every finding now rest on the labelled studies."""
        return self.calibration.kind != "none" and all(each.fitted for each in self.findings)


def without_calibration(bundle: "Bundle") -> "Bundle":
    """The same bundle with probability = sigmoid(logit): what a calibration is fitted on."""
    from triage.inference.calibration import uncalibrated

    return replace(bundle, calibration=uncalibrated(len(bundle.manifest.findings)))


def fit(bundle: "Bundle", scored: "Scored", wish: Wish) -> Fit:
    """Fit every finding of `bundle` that `scored` knows, by scores of `without_calibration`.

    Raises CalibrationRefused where isotonic steps lack events, or would stand beside another
    kind of calibration of a finding that has no labels here.
    """
    numbers = {name: number for number, name in enumerate(scored.findings)}
    drafts = [
        _draft(bundle, scored, number, numbers.get(spec.name), wish)
        for number, spec in enumerate(bundle.manifest.findings)
    ]
    calibration = _joined(drafts, wish.method)
    used = scored.has_score & np.isfinite(scored.truth).any(axis=1)
    return Fit(
        calibration=calibration,
        findings=tuple(
            _chosen(bundle, calibration, number, draft, wish) for number, draft in enumerate(drafts)
        ),
        images=int(used.sum()),
        patients=len({group for group, use in zip(scored.groups, used, strict=True) if use}),
        gated=int(scored.gated.sum()),
        failed=int(scored.failed.sum()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a calibration comes from, for the record."""

    labels_digest: str
    on: date
    site: str = ""
    rows: str = ""  # which rows of the labels, in words
    warnings: tuple[str, ...] = ()  # what is wrong with that choice


def write_calibrated(
    bundle: "Bundle", out: Path, fit: Fit, wish: Wish, *, version: str, source: Provenance
) -> "Bundle":
    """Write the new bundle beside the old one; raises BundleError where `out` is a bundle."""
    from triage.inference.bundle_making import derive_bundle

    thresholds = {each.name: each.threshold for each in fit.findings}
    details = {
        **as_json(source),
        "from": bundle.identity.digest,
        "confidence": wish.confidence,
        "gated": fit.gated,
        "failed": fit.failed,
        "findings": {each.name: as_json(each) for each in fit.findings},
    }
    return derive_bundle(
        bundle,
        out,
        version=version,
        calibration=fit.calibration,
        record=_record(fit, wish, source),
        findings=tuple(
            replace(spec, operating_point=thresholds[spec.name])
            for spec in bundle.manifest.findings
        ),
        figures={**bundle.manifest.figures, "calibration": details},
        card=_card(bundle, fit, wish, source),
    )


def _record(fit: Fit, wish: Wish, source: Provenance) -> "CalibrationRecord":
    from triage.inference.bundle_fields import CalibrationRecord

    return CalibrationRecord(
        kind=fit.calibration.kind,
        local=fit.local,
        images=fit.images,
        patients=fit.patients,
        positives={each.name: each.positives for each in fit.findings},
        date=source.on.isoformat(),
        labels_digest=source.labels_digest,
        prevalence=dict(wish.prevalence),
        target_sensitivity=wish.sensitivity,
        refusals={each.name: each.refusal for each in fit.findings if each.refusal},
    )


# --- one finding


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """Rows of one finding, and its calibration before the operating point."""

    logits: Reals
    truth: NDArray[np.bool_]
    groups: tuple[str, ...]
    slope: float = 1.0
    intercept: float = 0.0
    shift: float = 0.0
    knots: tuple[Reals, Reals] | None = None
    kept: str = ""  # why the calibration is still the old one; "" where it is fitted


def _draft(
    bundle: "Bundle", scored: "Scored", number: int, column: int | None, wish: Wish
) -> _Draft:
    if column is None:
        empty = _Draft(logits=np.empty(0), truth=np.empty(0, np.bool_), groups=())
        return _as_before(bundle, number, empty, "it has no labels here")
    known = scored.known(column)
    draft = _Draft(
        logits=log_odds(scored.probabilities[known, column]),
        truth=scored.truth[known, column] == 1.0,
        groups=tuple(group for group, use in zip(scored.groups, known, strict=True) if use),
    )
    if reason := _unfit(draft, wish.method, scored.findings[column]):
        return _as_before(bundle, number, draft, reason)
    draft = _fitted(draft, wish.method)
    if draft.slope <= 0 or not math.isfinite(draft.slope + draft.intercept):
        return _as_before(
            bundle, number, draft, "its scores do not rise with the finding on these studies"
        )
    prevalence = wish.prevalence.get(scored.findings[column])
    if prevalence is None:
        return draft
    shift = log_odds(prevalence) - log_odds(draft.truth.mean())
    return replace(draft, shift=float(shift))


def _unfit(draft: _Draft, method: str, name: str) -> str:
    """Why this finding cannot be fitted; raises where a wished isotonic fit lacks events."""
    rarer = int(min(draft.truth.sum(), (~draft.truth).sum()))
    if method == "isotonic" and rarer < EVENTS_FOR_ISOTONIC:
        raise CalibrationRefused(
            f"isotonic calibration of {name} needs {EVENTS_FOR_ISOTONIC} images with and without"
            f" the finding; there are {int(draft.truth.sum())} and {int((~draft.truth).sum())}"
        )
    if rarer < EVENTS_FOR_PLATT:
        return (
            f"{int(draft.truth.sum())} images with and {int((~draft.truth).sum())} without the"
            f" finding are too few to fit a calibration ({EVENTS_FOR_PLATT} of each are needed)"
        )
    return ""


def _fitted(draft: _Draft, method: str) -> _Draft:
    if method == "platt":
        slope, intercept = platt(draft.logits, draft.truth)
        return replace(draft, slope=slope, intercept=intercept)
    if method == "isotonic":
        return replace(draft, knots=isotonic(draft.logits, draft.truth))
    return draft


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


def _joined(drafts: list[_Draft], method: str) -> "Calibration":
    from triage.inference.calibration import Calibration

    stepped = [draft.knots is not None for draft in drafts]
    if any(stepped) and not all(stepped):
        raise CalibrationRefused(
            "isotonic and other calibrations cannot stand in one bundle: every finding needs"
            " labels here",
            hint="Label every finding of `triage bundle show`, or use `--method platt` from a"
            " bundle that is not isotonic.",
        )
    slope = np.array([draft.slope for draft in drafts])
    intercept = np.array([draft.intercept for draft in drafts])
    plain = bool((slope == 1).all() and not intercept.any())
    kind = "isotonic" if all(stepped) else "none" if method == "none" and plain else "platt"
    return Calibration(
        kind=kind,
        slope=slope,
        intercept=intercept,
        shift=np.array([draft.shift for draft in drafts]),
        knots=tuple(draft.knots for draft in drafts if draft.knots is not None),
    )


def _chosen(
    bundle: "Bundle", calibration: "Calibration", number: int, draft: _Draft, wish: Wish
) -> FindingFit:
    """Choose the operating point on the final probabilities, or keep the old cut and say why."""
    spec = bundle.manifest.findings[number]
    said = probabilities_of(calibration, number, draft.logits)
    point: OperatingPoint | Refusal | None = None
    if not draft.kept:
        point = threshold_for(
            draft.truth,
            said,
            np.array(draft.groups),
            sensitivity=wish.sensitivity,
            confidence=wish.confidence,
        )
    supported = isinstance(point, OperatingPoint)
    refusal = point.reason if isinstance(point, Refusal) else draft.kept
    positives = {group for group, true in zip(draft.groups, draft.truth, strict=True) if true}
    return FindingFit(
        name=spec.name,
        images=draft.truth.size,
        patients=len(set(draft.groups)),
        positives=int(draft.truth.sum()),
        positive_patients=len(positives),
        fitted=not draft.kept,
        point=point if isinstance(point, OperatingPoint) else None,
        threshold=point.threshold
        if isinstance(point, OperatingPoint)
        else same_cut(bundle, calibration, number),
        refusal="" if supported else refusal,
        warnings=_warnings(draft, wish),
    )


def _warnings(draft: _Draft, wish: Wish) -> tuple[str, ...]:
    rarer = int(min(draft.truth.sum(), (~draft.truth).sum()))
    if not draft.kept and wish.method == "platt" and rarer < EVENTS_FOR_COMFORT:
        return (f"fitted on {rarer} images of the rarer class; {EVENTS_FOR_COMFORT} are advised",)
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


def _card(bundle: "Bundle", fit: Fit, wish: Wish, source: Provenance) -> str:
    """The old card with a section on this calibration in place of an earlier one's."""
    where = f", {' '.join(source.site.split())}" if source.site else ""
    lines = [
        HEADING,
        "",
        f"{fit.calibration.kind}, {source.on.isoformat()}{where}: {fit.images}"
        f" images of {fit.patients} patients; {fit.gated} turned away by the gate, {fit.failed}"
        f" without a result.",
        f"Wished sensitivity {wish.sensitivity:g} with {wish.confidence:.0%} confidence.",
        "",
    ]
    for each in fit.findings:
        state = each.refusal or "supported"
        lines.append(f"- {each.name}: flagged from {each.threshold:.4f}; {state}.")
    return bundle.card.split(HEADING)[0].rstrip() + "\n\n" + "\n".join(lines) + "\n"
