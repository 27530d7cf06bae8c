"""Calibration: logits of a head to probabilities that mean what they say at one site.

Owns the arithmetic and the arrays of `calibration.safetensors`; what a person must know about a
calibration (of whose images, how many, when) is `bundle_fields.CalibrationRecord`. Fitting
belongs to `learning`. Per finding, one of

    none      sigmoid(logit)
    platt     sigmoid(slope * logit + intercept)                        (Platt, 1999)
    isotonic  linear between knots (logit, probability), level outside  (Zadrozny and Elkan, 2002)

and last a shift of the log-odds by the difference of two prevalences (Saerens et al., 2002).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from triage.errors import BundleError

Reals: TypeAlias = NDArray[np.float64]
KINDS: Final = ("none", "platt", "isotonic")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Arrays over the F findings of a head; what its kind does not use is as in `uncalibrated`.

    A slope is never negative: it would turn the highest view of a subject into the lowest. A
    head that scores the wrong way round on a site's studies is no head for that site.
    """

    kind: str  # one of KINDS
    slope: Reals  # (F,) at least 0
    intercept: Reals  # (F,)
    shift: Reals  # (F,) log-odds(site) - log-odds(calibration set), added last; 0 = none
    # Per finding (x, y), each (K,): logits that rise strictly, probabilities that never fall.
    knots: tuple[tuple[Reals, Reals], ...] = ()


def uncalibrated(findings: int) -> Calibration:
    """The calibration that changes nothing: probability = sigmoid(logit)."""
    return Calibration(
        kind="none", slope=np.ones(findings), intercept=np.zeros(findings), shift=np.zeros(findings)
    )


def calibrated(calibration: Calibration, logits: Reals) -> Reals:
    """Probabilities (..., F) of logits (..., F)."""
    if calibration.kind != "isotonic":
        raised = calibration.slope * logits + calibration.intercept  # 1 and 0 where kind is none
        return sigmoid(raised + calibration.shift)
    chances = np.stack(
        [np.interp(logits[..., i], x, y) for i, (x, y) in enumerate(calibration.knots)], axis=-1
    )
    odds = np.exp(calibration.shift)
    return np.asarray(chances * odds / (1.0 - chances + chances * odds), np.float64)


def sigmoid(logits: Reals) -> Reals:
    """1 / (1 + exp(-x)) without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)), np.float64)


def check_calibration(calibration: Calibration, findings: int) -> None:
    """Raise BundleError unless it fits so many findings and never turns an order round."""
    if calibration.kind not in KINDS:
        raise BundleError(f"a calibration of kind {calibration.kind!r} is not known")
    for name in ("slope", "intercept", "shift"):
        array: Reals = getattr(calibration, name)
        if array.shape != (findings,) or not np.isfinite(array).all():
            raise BundleError(f"the calibration has no {name} that fits {findings} findings")
    if (calibration.slope < 0).any():
        raise BundleError("the calibration turns the scores of a finding round: negative slope")
    if calibration.kind == "none" and (
        (calibration.slope != 1).any() or calibration.intercept.any()
    ):
        raise BundleError("a calibration of kind none has a slope or an intercept")
    if len(calibration.knots) != (findings if calibration.kind == "isotonic" else 0):
        raise BundleError(f"the calibration has no knots that fit {findings} findings")
    for x, y in calibration.knots:
        if x.ndim != 1 or x.shape != y.shape or not x.size:
            raise BundleError("the calibration has knots of unfitting shape")
        if not (np.isfinite(x).all() and (np.diff(x) > 0).all()):
            raise BundleError("the calibration has knots whose logits do not rise")
        if not ((y >= 0).all() and (y <= 1).all() and (np.diff(y) >= 0).all()):
            raise BundleError("the calibration has knots whose probabilities fall or leave 0 to 1")


def calibration_arrays(calibration: Calibration) -> dict[str, Reals]:
    """The arrays of `calibration.safetensors`, float64: operating points lie between scores."""
    arrays = {name: getattr(calibration, name) for name in ("slope", "intercept", "shift")}
    for number, (x, y) in enumerate(calibration.knots, start=1):
        arrays |= {f"x_{number}": x, f"y_{number}": y}
    return {name: np.ascontiguousarray(array, np.float64) for name, array in arrays.items()}


def read_calibration(kind: str, arrays: Mapping[str, NDArray[Any]], findings: int) -> Calibration:
    """Make the calibration of `kind` from the arrays of its file; raises BundleError."""
    plain = ("slope", "intercept", "shift")
    numbers = range(1, findings + 1) if kind == "isotonic" else range(0)
    wanted = {*plain, *(f"{axis}_{number}" for number in numbers for axis in "xy")}
    if odd := wanted ^ set(arrays):
        state = "lacks" if min(odd) not in arrays else "has no use for"
        raise BundleError(f"a calibration of kind {kind} {state} the array {min(odd)}")
    found = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    calibration = Calibration(
        kind=kind,
        slope=found["slope"],
        intercept=found["intercept"],
        shift=found["shift"],
        knots=tuple((found[f"x_{number}"], found[f"y_{number}"]) for number in numbers),
    )
    check_calibration(calibration, findings)
    return calibration
