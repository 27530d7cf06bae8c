"""Train a bundle from labelled images: divide by patient, fit, gate, write, say how.

The method fits; this room does what is the same for all of them: splits, a provisional
calibration and operating points on the validation split, the bank and its gate, and the record
of every choice. Of the test split nothing is looked at but whether its pixels stand under another
patient too. What stands is a finished bundle or nothing.
"""

import math
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from triage.errors import PermanentError
from triage.inference.bundle import Bundle, digest_of, load_bundle
from triage.inference.bundle_fields import NAME, RENDERINGS
from triage.inference.bundle_making import Fitted, init_bundle
from triage.inference.bundle_parts import MANIFEST
from triage.inference.patients import Patients
from triage.learning.material.encoders import reference_of, require_encoder, trained_px
from triage.learning.material.images import Images, images_at
from triage.learning.material.labels import FILE, LabelRow, LabelTable
from triage.learning.material.same_pixels import Same, joined, same_drawn
from triage.learning.material.splits import TRAIN_VAL_TEST, grouped_split, require_grouped
from triage.learning.methods import METHODS
from triage.learning.methods.material import (
    Choices,
    Material,
    Trained,
    check_choices,
)
from triage.learning.training.provisional import FindingPlan, standing_on
from triage.learning.training.training_card import card
from triage.learning.training.training_record import patients_of, peak_memory_mib, record_of
from triage.pocket import BUNDLE as POCKET
from triage.records import ViewSpec
from triage.rules.eligibility import IntendedUse

IMAGE_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".dcm", ""})  # DICOM often has none


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be trained, as a person has asked for it."""

    method: str  # of methods.METHODS
    table: LabelTable
    images: Path | Images
    encoders: tuple[Path, ...]
    out: Path
    name: str
    version: str = "1"
    choices: Choices = field(default_factory=Choices)
    shares: Mapping[str, float] = field(default_factory=lambda: dict(TRAIN_VAL_TEST))
    findings: Mapping[str, FindingPlan] = field(default_factory=dict)
    intended_use: IntendedUse = field(default_factory=IntendedUse)
    rendering: str = "dicom"
    size_px: int | None = None  # None: as the encoder was trained
    antialias: bool = True
    maximum_slices: int = 16
    embeddings: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 16
    scratch_mib: int = 8192
    not_for_clinical_use: bool = False


def train(plan: Plan) -> Bundle:
    """Train and write the bundle at `plan.out`, which must not be there.

    Raises PermanentError for what cannot be trained, and what reading and embedding raise.
    """
    began = time.monotonic()
    _check(plan)
    out = plan.out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".train-") as folder:
        work = Path(folder)
        material = _material(plan, work)
        fit_began = time.monotonic()
        trained = METHODS[plan.method].fit(material, plan.choices)
        fit_s = time.monotonic() - fit_began
        fitted = standing_on(trained, plan.table, plan.findings)
        record = record_of(plan, material, trained, fitted)
        record["cost"] = {
            "fit_s": round(fit_s, 2),
            "total_s": round(time.monotonic() - began, 2),
            "peak_memory_mib": peak_memory_mib(),
        }
        patients = patients_of(plan, material.splits)
        made = _write(plan, trained, fitted, record, patients=patients, made=work / "made")
        made.rename(out)
    return load_bundle(out, check_encoder=False)


def unlabelled(images: Path | None, findings: Sequence[str]) -> LabelTable:
    """All images below a directory with nothing known of them, each a patient of its own."""
    files = sorted(
        path
        for path in (images.rglob("*") if images else ())
        if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES
    )
    rows = tuple(
        LabelRow(
            subject=path.relative_to(images).as_posix(),
            group="",
            truth=(math.nan,) * len(findings),
            split="",
            strata={},
            line=line,
        )
        for line, path in enumerate(files, start=1)
        if images
    )
    return LabelTable(findings=tuple(findings), rows=rows, digest="", subject_column=FILE)


def inherits_demonstration(directory: Path) -> bool:
    """Whether an encoder is the built-in one, or belongs to a bundle that no clinic may use."""
    beside = directory.resolve().parent
    if (beside / MANIFEST).is_file():
        bundle = load_bundle(beside, check_encoder=False)
        if bundle.encoder_directory.resolve() == directory.resolve():
            return bundle.not_for_clinical_use
    pocket = load_bundle(POCKET, check_encoder=False)
    return digest_of(reference_of(directory).files) == pocket.encoder_digest


# --- parts


def _check(plan: Plan) -> None:
    """Refuse at once what would be refused after hours."""
    if plan.method not in METHODS:
        raise PermanentError(
            f"there is no method {plan.method!r}", hint=f"Methods are {', '.join(METHODS)}."
        )
    if plan.out.exists():
        raise PermanentError(f"{plan.out} is there already", hint="Name a new directory by --out.")
    check_choices(plan.choices)
    for name in (plan.name, plan.version, *plan.table.findings):
        if not NAME.fullmatch(name):
            raise PermanentError(
                f"a bundle cannot hold the name {name[:64]!r}",
                hint="Up to 64 letters, digits, spaces, dots, hyphens and underscores: --name and"
                " --model-version.",
            )
    if plan.rendering not in RENDERINGS:
        raise PermanentError(
            f"there is no rendering {plan.rendering!r}",
            hint=f"Renderings are {', '.join(sorted(RENDERINGS))}.",
        )
    if unknown := set(plan.findings) - set(plan.table.findings):
        raise PermanentError(
            f"the labels have no finding {min(unknown)}",
            hint=f"They have {', '.join(plan.table.findings)}.",
        )
    for directory in plan.encoders:
        require_encoder(directory)


def _same_pixels(plan: Plan, view: ViewSpec) -> Same:
    """What stands under two patients: all that is looked at of the test split too."""
    if not plan.table.digest:  # images without labels: nobody says whose they are
        return ()
    return same_drawn(plan.table.rows, images_at(plan.images), view, kept=plan.embeddings)


def _material(plan: Plan, work: Path) -> Material:
    view = ViewSpec(
        rendering=plan.rendering,
        size_px=plan.size_px or trained_px(plan.encoders[0]),
        antialias=plan.antialias,
        maximum_slices=plan.maximum_slices,
    )
    same = _same_pixels(plan, view)
    table = joined(plan.table, same)
    splits = grouped_split(table, seed=plan.choices.seed, shares=plan.shares)
    splits = {"train": [], "val": [], "test": []} | splits
    require_grouped(table, splits)
    images_at(plan.images).require([table.rows[i] for i in (*splits["train"], *splits["val"])])
    if METHODS[plan.method].needs_labels:
        for split in ("train", "val"):
            if not splits[split]:
                raise PermanentError(
                    f"the split {split} has no subject",
                    hint="Leave the column split blank for some rows, or label more patients.",
                )
    return Material(
        table=table,
        same_pixels=same,
        images=plan.images,
        encoders=plan.encoders,
        view=view,
        splits=splits,
        work=work,
        embeddings=plan.embeddings,
        use=plan.intended_use,
        device=plan.device,
        dtype=plan.dtype,
        batch_size=plan.batch_size,
        scratch_mib=plan.scratch_mib,
    )


def _write(
    plan: Plan,
    trained: Trained,
    fitted: Fitted,
    record: Mapping[str, Any],
    *,
    patients: Patients,
    made: Path,
) -> Path:
    encoder = trained.encoder
    if encoder.is_relative_to(made.parent):  # made by the method: it becomes part of the bundle
        made.mkdir()
        encoder = Path(shutil.move(encoder, made / "encoder"))
    demonstration = plan.not_for_clinical_use or any(map(inherits_demonstration, plan.encoders))
    init_bundle(
        encoder,
        made,
        name=plan.name,
        version=plan.version,
        view=trained.view,
        intended_use=plan.intended_use,
        captions=trained.captions,
        card=card(plan.name, plan.version, record, fitted, demonstration=demonstration),
        not_for_clinical_use=demonstration,
        features=trained.features,
        experts=trained.experts,
        pooling=trained.pooling,
        terms=trained.terms,
        fitted=fitted,
        training=record,
        patients=patients,
        device=plan.device,
        dtypes=(plan.dtype,),
    )
    return made
