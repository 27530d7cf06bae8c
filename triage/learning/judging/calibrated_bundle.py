"""Write what `calibrating` has fitted: a new bundle with its record, its card, and whom it saw."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Final

from triage.learning.judging.calibrating import Conditions, Fit, Wish
from triage.learning.judging.evaluation import as_json
from triage.learning.judging.selection import CALIBRATION
from triage.learning.material.splits import names_to_keep

if TYPE_CHECKING:
    from triage.inference.bundle import Bundle
    from triage.inference.bundle_fields import CalibrationRecord
    from triage.learning.material.labels import LabelRow

HEADING: Final = "## Calibration on local studies"
SINCE: Final = """\
**Calibrated since.** The last section says which calibration and operating points hold now. All
before it was written when the bundle was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a calibration comes from, for the record."""

    labels_digest: str
    on: date
    conditions: Conditions
    site: str = ""
    rows: str = ""  # which rows of the labels, in words
    warnings: tuple[str, ...] = ()  # what is wrong with that choice


def write_calibrated(
    bundle: "Bundle",
    out: Path,
    fit: Fit,
    wish: Wish,
    *,
    version: str,
    source: Provenance,
    rows: "Sequence[LabelRow]",
) -> "Bundle":
    """Write the new bundle beside the old one; raises BundleError where `out` is a bundle.

    `rows` are those of the labels that it was fitted on: it records their patients, after those
    that the old bundle has seen.
    """
    from triage.inference.bundle_making import derive_bundle
    from triage.inference.patients import new_patients, with_seen

    thresholds = {each.name: each.threshold for each in fit.findings}
    details = {
        **as_json(source),
        "from": bundle.identity.digest,
        "confidence": wish.confidence,
        "gated": fit.gated,
        "failed": fit.failed,
        "findings": {each.name: as_json(each) for each in fit.findings},
    }
    names = [name for row in rows for name in names_to_keep(row)]
    return derive_bundle(
        bundle,
        out,
        version=version,
        calibration=fit.calibration,
        record=_record(bundle, fit, wish, source),
        findings=tuple(
            replace(spec, operating_point=thresholds[spec.name])
            for spec in bundle.manifest.findings
        ),
        patients=with_seen(bundle.patients or new_patients({}), CALIBRATION, names),
        figures={**bundle.manifest.figures, "calibration": details},
        card=_card(bundle, fit, wish, source, version=version),
    )


def _record(bundle: "Bundle", fit: Fit, wish: Wish, source: Provenance) -> "CalibrationRecord":
    """Counts and shifts of findings that were left as they were stay too."""
    from triage.inference.bundle_fields import CalibrationRecord

    old = bundle.manifest.calibration
    positives = dict(old.positives) if old else {}
    shifted = dict(old.prevalence) if old else {}
    for each in fit.findings:
        if each.images or each.name not in positives:
            positives[each.name] = each.positives
        if each.fitted:
            shifted.pop(each.name, None)
            if each.name in wish.prevalence:
                shifted[each.name] = wish.prevalence[each.name]
    return CalibrationRecord(
        kind=fit.calibration.kind,
        local=fit.local,
        images=fit.images,
        patients=fit.patients,
        positives=positives,
        date=source.on.isoformat(),
        labels_digest=source.labels_digest,
        prevalence=shifted,
        target_sensitivity=wish.sensitivity,
        confidence=wish.confidence,
        refusals={each.name: each.refusal for each in fit.findings if each.refusal},
        dtype=source.conditions.dtype,
        device_class=source.conditions.device_class,
        local_findings=fit.local_findings,
    )


def _card(bundle: "Bundle", fit: Fit, wish: Wish, source: Provenance, *, version: str) -> str:
    """The old card with a section on this calibration in place of an earlier one's."""
    title = f"# {bundle.identity.name} {bundle.identity.version}\n"
    before = bundle.card.split(HEADING)[0].removeprefix(title).replace(SINCE, "").strip()
    where = f", {' '.join(source.site.split())}" if source.site else ""
    at = source.conditions
    made = f", at {at.dtype} on {at.device_class}" if at.dtype else ""
    lines = [
        HEADING,
        "",
        f"{fit.calibration.kind}, {source.on.isoformat()}{where}{made}: {fit.images}"
        f" images of {fit.patients} patients; {fit.gated} turned away by the gate, {fit.failed}"
        f" without a result.",
        f"Wished sensitivity {wish.sensitivity:g} with {wish.confidence:.0%} confidence.",
        "",
    ]
    for each in fit.findings:
        earlier = "" if each.images else " by an earlier calibration"
        state = each.refusal or f"supported{earlier}"
        lines.append(f"- {each.name}: flagged from {each.threshold:.4f}; {state}.")
    title = f"# {bundle.identity.name} {version}"
    return "\n\n".join((title, SINCE, before, "\n".join(lines))) + "\n"
