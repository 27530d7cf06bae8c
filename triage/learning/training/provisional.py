"""What stands on a fitted head before anybody has calibrated it: all of it provisional.

Platt's two parameters and operating points from the validation split, a bank of training vectors
and the gate's limit from held-out images of the same kind. The bundle says that it is not
calibrated on local studies, whatever stands here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triage.inference.bundle_fields import CalibrationRecord, FindingSpec, Gate
from triage.inference.bundle_making import Fitted
from triage.inference.calibration import Calibration, calibrated, uncalibrated
from triage.inference.classifier import bank_distances, bank_of
from triage.learning.material.labels import LabelTable
from triage.learning.methods.material import Labelled, Reals, Trained, logits_of
from triage.pocket.fit import fit_platt, operating_point
from triage.records import Code, Rank

NEIGHBOURS: Final = 10
IN_DISTRIBUTION: Final = 0.99  # share of held-out images within the gate
BANK_ROWS: Final = 2000
SENSITIVITY: Final = 0.95  # that a provisional operating point keeps on the validation split
UNDECIDED: Final = 0.5  # operating point where nothing says a better one
PROVISIONAL: Final = (
    "provisional: chosen on the validation split, by which the training was chosen too"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingPlan:
    """What a finding is coded as and which rank its flag asks for."""

    code: Code | None = None
    raises_to: Rank = Rank.HIGH


def standing_on(trained: Trained, table: LabelTable, findings: Mapping[str, FindingPlan]) -> Fitted:
    """What stands on the head: provisional calibration and operating points, bank and gate."""
    val = trained.val
    logits = logits_of(trained.head, val.parts) if len(val) else np.empty((0, len(table.findings)))
    calibration, refusals = provisional_calibration(logits, val.truth, table.findings)
    chances = calibrated(calibration, logits)
    bank, gate = bank_and_gate(trained)
    return Fitted(
        head=trained.head,
        findings=tuple(
            FindingSpec(
                name=name,
                code=findings.get(name, FindingPlan()).code,
                operating_point=_point(chances[:, i], val.truth[:, i]),
                raises_to=findings.get(name, FindingPlan()).raises_to,
            )
            for i, name in enumerate(table.findings)
        ),
        calibration=calibration,
        record=CalibrationRecord(
            kind=calibration.kind,
            local=False,
            images=sum(len(parts) for parts in val.parts),
            patients=len(set(val.groups)),
            positives=_count(val, 1.0, table.findings),
            date=datetime.now(UTC).date().isoformat(),
            labels_digest=table.digest,
            refusals=refusals,
        ),
        bank_vectors=bank,
        gate=gate,
    )


def provisional_calibration(
    logits: Reals, truth: Reals, findings: Sequence[str]
) -> tuple[Calibration, dict[str, str]]:
    """Platt's two parameters per finding on the validation split, and what is wrong with them.

    A finding without both classes there, or that the head scores the wrong way round, keeps its
    logits as they are.
    """
    plain = uncalibrated(len(findings))
    slope, intercept = plain.slope.copy(), plain.intercept.copy()
    refusals = {}
    for i, name in enumerate(findings):
        known = ~np.isnan(truth[:, i])
        positive = truth[known, i] == 1
        refusals[name] = PROVISIONAL
        if positive.all() or not positive.any():
            refusals[name] = "not calibrated: the validation split lacks a class of it"
            continue
        found = fit_platt(logits[known, i], positive)
        if found[0] <= 0:
            refusals[name] = "not calibrated: the validation split is scored the wrong way round"
            continue
        slope[i], intercept[i] = found
    return replace(plain, kind="platt", slope=slope, intercept=intercept), refusals


def bank_and_gate(trained: Trained) -> tuple[NDArray[np.float32] | None, Gate | None]:
    """Vectors of the training split, and the distance that IN_DISTRIBUTION of the validation keeps.

    None where either split is empty. As `classify_subject` does it: by the whole image where there
    are crops, else by the median view.
    """
    bank = _whole_views(trained, trained.train)
    held = [_gated_views(trained, part) for parts in trained.val.parts for part in parts]
    if not len(bank) or not held:
        return None, None
    bank = bank[np.linspace(0, len(bank) - 1, min(BANK_ROWS, len(bank))).round().astype(int)]
    neighbours = min(NEIGHBOURS, len(bank))
    distances = [
        float(np.median(bank_distances(bank_of(trained.head, bank), views, neighbours)))
        for views in held
    ]
    limit = float(np.quantile(distances, IN_DISTRIBUTION, method="higher"))
    # Rounded up: the image that set the limit lies within it.
    threshold = min(2.0, float(np.ceil(max(limit, 1e-5) * 1e5) / 1e5))
    return bank, Gate(neighbours=neighbours, threshold=threshold)


def _point(chances: Reals, truth: Reals) -> float:
    known = ~np.isnan(truth)
    positive = truth[known] == 1
    if positive.all() or not positive.any():
        return UNDECIDED
    return operating_point(chances[known], positive, sensitivity=SENSITIVITY)


def _count(labelled: Labelled, value: float, findings: Sequence[str]) -> dict[str, int]:
    return {name: int((labelled.truth[:, i] == value).sum()) for i, name in enumerate(findings)}


def _gated_views(trained: Trained, part: NDArray[np.float32]) -> NDArray[np.float32]:
    return part[:1] if trained.view.crops else part


def _whole_views(trained: Trained, labelled: Labelled) -> NDArray[np.float32]:
    views = [_gated_views(trained, part) for parts in labelled.parts for part in parts]
    return np.concatenate(views) if views else np.empty((0, 0), np.float32)
