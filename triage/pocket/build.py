"""Build the pocket bundle from a seed: weights, head, bank, operating points, figures, card.

Every set of phantoms has its own range of seeds. The encoder is trained on one, the head is
fitted on another, calibration, operating points and the gate's threshold come from a third, and
the figures from a fourth. The gate is measured on seeds that training has not seen, and on a
hand, a body part that training never shows.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import structlog
import torch

from triage.inference.bundle import Bundle, load_bundle
from triage.inference.bundle_fields import CalibrationRecord, FindingSpec, Gate
from triage.inference.bundle_making import Fitted, init_bundle
from triage.inference.captioner import load_captioner
from triage.inference.classifier import bank_distances, bank_of, probabilities
from triage.inference.encoder import Encoder, load_encoder, open_encoder
from triage.pocket.card import card
from triage.pocket.dataset import VIEW_PX, Dataset, chests, joined, not_chests
from triage.pocket.fit import fit_head, operating_point
from triage.pocket.lesions import Kind
from triage.pocket.measure import as_figures, embed, gate_share, measure, pixel_auroc, present
from triage.pocket.model import build_model, build_processor, save
from triage.pocket.others import FAMILIES, hand
from triage.pocket.train import Schedule, train
from triage.records import Code, Rank, ViewSpec
from triage.rules.eligibility import IntendedUse

ARCHITECTURE: Final = "Gemma3ForConditionalGeneration"
VIEW: Final = ViewSpec(rendering="dicom", size_px=VIEW_PX)
INTENDED_USE: Final = IntendedUse(
    modalities=("CR", "DX"),
    body_parts=("CHEST",),
    view_positions=("PA", "AP"),
    minimum_age_y=18,
)
SPECS: Final[dict[Kind, tuple[Code, Rank]]] = {
    Kind.PNEUMOTHORAX: (Code(value="36118008", scheme="SCT", meaning="Pneumothorax"), Rank.STAT),
    Kind.EFFUSION: (Code(value="60046008", scheme="SCT", meaning="Pleural effusion"), Rank.HIGH),
    Kind.CONSOLIDATION: (
        Code(value="95436008", scheme="SCT", meaning="Lung consolidation"),
        Rank.HIGH,
    ),
    Kind.NODULE: (
        Code(value="427359005", scheme="SCT", meaning="Solitary nodule of lung"),
        Rank.MEDIUM,
    ),
}
L2: Final = 1e-3
SENSITIVITY: Final = 0.95  # least sensitivity of an operating point on the calibration set
NEIGHBOURS: Final = 10
IN_DISTRIBUTION: Final = 0.995  # share of held-out chests within the gate
BANK_ROWS: Final = 1500
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeds:
    """Ranges of phantom seeds; no two overlap."""

    train: range = range(12_000)
    train_others: range = range(1_500)  # of the other families: seeds of their own kind
    head: range = range(400_000, 403_000)
    calibration: range = range(500_000, 502_000)
    evaluation: range = range(900_000, 901_000)
    gate: range = range(900_000, 900_500)


def build(
    out: Path, *, seed: int = 1, schedule: Schedule | None = None, seeds: Seeds | None = None
) -> Bundle:
    """Train, fit, measure and write the bundle at `out`, replacing what is there at the end."""
    seeds = seeds or Seeds()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".pocket-") as folder:
        work = Path(folder)
        data = chests(seeds.train)
        log.info("phantoms_drawn", count=len(data))
        processor = build_processor()
        model = build_model(processor.tokenizer, seed)
        train(
            model,
            processor,
            joined(data, not_chests(seeds.train_others)),
            seed=seed,
            schedule=schedule or Schedule(),
        )
        save(model, processor, work / "encoder")
        return finish(work, out, train_data=data, seeds=seeds)


def finish(work: Path, out: Path, *, train_data: Dataset, seeds: Seeds) -> Bundle:
    """Make the bundle around the trained `work`/encoder and put it at `out`."""
    encoder = open_encoder(
        work / "encoder", architecture=ARCHITECTURE, size_px=VIEW_PX, device="cpu"
    )
    fitted = fit(encoder, chests(seeds.head), chests(seeds.calibration))
    log.info("head_fitted", findings=len(fitted.findings), gate=fitted.gate)
    draft = _write(work, work / "draft", fitted, figures={})
    figures = _figures(draft, train_data, seeds)
    log.info("bundle_measured", **figures)
    shutil.rmtree(work / "draft")
    made = work / "made"
    _write(work, made, fitted, figures=figures)
    if out.exists():
        shutil.rmtree(out)
    made.rename(out)
    return load_bundle(out)


def fit(encoder: Encoder, head_data: Dataset, held_data: Dataset) -> Fitted:
    """Head on one set; calibration, operating points and gate on the other."""
    vectors, held = embed(encoder, head_data.views), embed(encoder, held_data.views)
    held_truth = present(held_data)
    head, calibration = fit_head(
        vectors.astype(np.float64),
        present(head_data),
        held_vectors=held.astype(np.float64),
        held_truth=held_truth,
        l2=L2,
    )
    chances = probabilities(head, calibration, held)
    findings = tuple(
        FindingSpec(
            name=str(kind),
            code=SPECS[kind][0],
            operating_point=round(
                operating_point(chances[:, i], held_truth[:, i], sensitivity=SENSITIVITY), 4
            ),
            raises_to=SPECS[kind][1],
        )
        for i, kind in enumerate(Kind)
    )
    bank_vectors = vectors[:BANK_ROWS]
    distances = bank_distances(bank_of(head, bank_vectors), held, NEIGHBOURS)
    threshold = round(float(np.quantile(distances, IN_DISTRIBUTION)), 5)
    return Fitted(
        head=head,
        calibration=calibration,
        record=CalibrationRecord(
            kind=calibration.kind,
            local=False,
            images=len(held),
            positives={str(kind): int(held_truth[:, i].sum()) for i, kind in enumerate(Kind)},
            target_sensitivity=SENSITIVITY,
        ),
        findings=findings,
        bank_vectors=bank_vectors,
        gate=Gate(neighbours=NEIGHBOURS, threshold=threshold),
    )


def _write(work: Path, out: Path, fitted: Fitted, *, figures: dict[str, Any]) -> Bundle:
    shutil.copytree(work / "encoder", out / "encoder")
    return init_bundle(
        out / "encoder",
        out,
        name="pocket",
        version="1",
        view=VIEW,
        intended_use=INTENDED_USE,
        not_for_clinical_use=True,
        card=card(figures, fitted.findings),
        fitted=fitted,
        figures=figures,
        device="cpu",
        dtypes=("float32", "bfloat16"),
    )


def _figures(bundle: Bundle, train_data: Dataset, seeds: Seeds) -> dict[str, Any]:
    """All figures of the card, through the code that serves."""
    encoder = load_encoder(bundle, device="cpu", captions=True)
    captioner = load_captioner(bundle, encoder, maximum_new_tokens=24)
    held = chests(seeds.evaluation)
    families = {**FAMILIES, "hand": hand}
    weights = sum(weight.numel() for weight in encoder.whole.parameters()) if encoder.whole else 0
    return {
        "phantoms": len(held),
        "parameters": weights,
        **as_figures(measure(bundle, encoder, captioner, held)),
        "pixel_regression_auroc": round(pixel_auroc(train_data, held), 4),
        "gated": {
            name: round(gate_share(bundle, encoder, not_chests(seeds.gate, [family]).views), 4)
            for name, family in families.items()
        },
    }


def set_threads(count: int) -> None:
    """Bound the processor cores that torch takes."""
    torch.set_num_threads(count)
