"""What a bundle says of itself, for an evaluation: points, what is behind them, its name."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from triage.learning.judging.prevalence import RECORDED, Prevalence
from triage.learning.judging.report import Model

if TYPE_CHECKING:
    from triage.inference.bundle import Bundle


def points_of(bundle: "Bundle") -> dict[str, float]:
    """Operating point by finding."""
    return {spec.name: spec.operating_point for spec in bundle.manifest.findings}


def refusals_of(bundle: "Bundle", made: tuple[str, str]) -> dict[str, str]:
    """Why no sensitivity stands behind an operating point, by finding; supported ones are absent.

    `made` is (dtype, device class) of the scores: as in the daemon, a point holds for its own.

    Of a finding that was not calibrated on local studies no point is supported, wherever it was
    chosen: its probabilities may not mean the same there.
    """
    record = bundle.manifest.calibration
    said = {}
    for name in (spec.name for spec in bundle.manifest.findings):
        if record is None or not record.is_local(name):
            said[name] = "its probabilities were not calibrated on local studies"
        elif record.target_sensitivity is None:
            said[name] = "the bundle records no sensitivity it was chosen for"
        elif (record.dtype, record.device_class) != made:
            said[name] = (
                f"it was chosen {record.where}, and these scores were made at {' on '.join(made)};"
                f" evaluate with --dtype and --device of the machine that serves"
            )
    return said | (dict(record.refusals) if record else {})


def prevalences_of(bundle: "Bundle") -> dict[str, Prevalence]:
    """How common each finding is at the site, as far as the calibration records it."""
    record = bundle.manifest.calibration
    recorded = record.prevalence if record else {}
    return {name: Prevalence(share=share, source=RECORDED) for name, share in recorded.items()}


def unlabelled(bundle: "Bundle", judged: Sequence[str], labelled: Sequence[str]) -> tuple[str, ...]:
    """What is left out because bundle and labels do not both know it."""
    known = {name.casefold() for name in judged}
    said = []
    if missing := [s.name for s in bundle.manifest.findings if s.name.casefold() not in known]:
        said.append(f"Not labelled, hence not judged: {', '.join(missing)}.")
    if odd := [name for name in labelled if name.casefold() not in known]:
        said.append(f"Labelled, but no finding of this bundle: {', '.join(odd)}.")
    return tuple(said)


def same_vectors(first: "Bundle", second: "Bundle") -> bool:
    """Whether one embedding of an image serves both bundles."""
    return (
        first.encoder_digest == second.encoder_digest
        and first.features_digest == second.features_digest
        and first.view_spec == second.view_spec
        and first.manifest.preprocessing_version == second.manifest.preprocessing_version
    )


def judged_model(bundle: "Bundle") -> Model:
    """The head of a report."""
    record = bundle.manifest.calibration
    words = "none recorded"
    if record is not None:
        words = f"{record.kind}, {'on local studies' if record.local else 'not on local studies'}"
        if record.images:
            words += f", {record.images} images of {record.patients} patients"
        if record.date:
            words += f", {record.date}"
        if record.dtype:
            words += f", {record.where}"
        if record.target_sensitivity is not None:
            words += f", for a sensitivity of {record.target_sensitivity:g}"
    return Model(
        name=bundle.identity.name,
        version=bundle.identity.version,
        digest=bundle.identity.digest,
        not_for_clinical_use=bundle.not_for_clinical_use,
        calibration=words,
        locally_calibrated=bundle.locally_calibrated,
    )
