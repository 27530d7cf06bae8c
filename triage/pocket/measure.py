"""Measure a pocket bundle on phantoms through the code that serves it.

The same figures stand in the bundle's card, and a test measures the shipped bundle again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triage.imaging.resize import resize
from triage.inference.bundle import Bundle
from triage.inference.captioner import Captioner
from triage.inference.classifier import bank_distances, probabilities
from triage.inference.encoder import Encoder
from triage.pocket.dataset import Dataset, batch
from triage.pocket.fit import Reals, Truths, auroc, brier, fit_logistic
from triage.pocket.lesions import Kind
from triage.records import Caption

BATCH: Final = 50
PIXELS: Final = 28  # side of the pictures that the pixel baseline sees
BASELINE_L2: Final = (1e-3, 1e-2, 1e-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Figures on one set of phantoms, all shares 0..1."""

    any_finding_auroc: float
    right_finding: float  # highest of the findings and "none of them" is true of the phantom
    caption_exact: float
    gated: float  # in-distribution images that the gate turns away
    per_finding: dict[str, dict[str, float]]


def embed(encoder: Encoder, views: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Embeddings (N, D) of stored views (N, S, S)."""
    parts = [encoder.embed(batch(views[rows])).vectors for rows in _slices(len(views))]
    return np.concatenate(parts)


def present(data: Dataset) -> Truths:
    """Which findings are there, (N, kinds)."""
    return np.asarray(data.truth.reshape(len(data), len(Kind), 4)[:, :, 0] > 0, np.bool_)


def any_present(truth: Truths) -> Truths:
    """Whether anything is there, (N,)."""
    return np.asarray(truth.any(axis=1), np.bool_)


def any_finding(chances: Reals) -> Reals:
    """Chance of at least one finding, taken as independent."""
    return np.asarray(1.0 - np.prod(1.0 - chances, axis=1), np.float64)


def measure(bundle: Bundle, encoder: Encoder, captioner: Captioner, data: Dataset) -> Measured:
    """All figures of a bundle with head and bank on phantoms of chests."""
    head, calibration = bundle.head, bundle.calibration
    if not (head and calibration and bundle.bank and bundle.manifest.gate):
        raise ValueError("only a bundle with head and bank can be measured")
    vectors, truth = embed(encoder, data.views), present(data)
    chances = probabilities(head, calibration, vectors)
    distances = bank_distances(bundle.bank, vectors, bundle.manifest.gate.neighbours)
    said = captions(captioner, data.views)
    per_finding = {}
    for column, spec in enumerate(bundle.manifest.findings):
        there, flagged = truth[:, column], chances[:, column] >= spec.operating_point
        per_finding[spec.name] = {
            "auroc": auroc(chances[:, column], there),
            "sensitivity": float(flagged[there].mean()),
            "specificity": float((~flagged[~there]).mean()),
            "brier": brier(chances[:, column], there),
        }
    return Measured(
        any_finding_auroc=auroc(any_finding(chances), any_present(truth)),
        right_finding=right_finding(chances, truth),
        caption_exact=float(np.mean([a == b for a, b in zip(said, data.captions, strict=True)])),
        gated=float((distances > bundle.manifest.gate.threshold).mean()),
        per_finding=per_finding,
    )


def right_finding(chances: Reals, truth: Truths) -> float:
    """Share of phantoms whose most probable state, "none" among them, is true of them."""
    states = np.column_stack([chances, 1.0 - any_finding(chances)])
    true_states = np.column_stack([truth, ~any_present(truth)])
    return float(true_states[np.arange(len(states)), states.argmax(axis=1)].mean())


def captions(captioner: Captioner, views: NDArray[np.uint16]) -> list[str]:
    """What the captioner says; an image that it fails on gives an empty text."""
    said: list[str] = []
    for rows in _slices(len(views)):
        answers = captioner.describe(batch(views[rows]))
        said += [answer.text if isinstance(answer, Caption) else "" for answer in answers]
    return said


def gate_share(bundle: Bundle, encoder: Encoder, views: NDArray[np.uint16]) -> float:
    """Share of pictures beyond the gate's threshold."""
    if bundle.bank is None or bundle.manifest.gate is None:
        raise ValueError("a bundle without a bank gates nothing")
    gate = bundle.manifest.gate
    distances = bank_distances(bundle.bank, embed(encoder, views), gate.neighbours)
    return float((distances > gate.threshold).mean())


def pixel_auroc(train: Dataset, held: Dataset) -> float:
    """Any-finding AUROC of logistic regression on pixels, at the best of BASELINE_L2 for it."""
    features, held_features = pixel_features(train), pixel_features(held)
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-3
    standard, held_standard = (features - mean) / scale, (held_features - mean) / scale
    truth, held_truth = any_present(present(train)), any_present(present(held))
    reached = []
    for l2 in BASELINE_L2:
        weights = fit_logistic(standard, truth, l2=l2, steps=12)
        reached.append(auroc(held_standard @ weights[:-1] + weights[-1], held_truth))
    return max(reached)


def pixel_features(data: Dataset) -> Reals:
    """Views reduced to PIXELS x PIXELS, one row each."""
    small = [resize(batch(data.views[rows])[:, 0], PIXELS, PIXELS) for rows in _slices(len(data))]
    return np.concatenate(small).reshape(len(data), -1).astype(np.float64)


def as_figures(measured: Measured) -> dict[str, Any]:
    """The figures as they stand in bundle.json, to four digits."""
    return {
        "any_finding_auroc": round(measured.any_finding_auroc, 4),
        "right_finding": round(measured.right_finding, 4),
        "caption_exact": round(measured.caption_exact, 4),
        "gated_in_distribution": round(measured.gated, 4),
        "per_finding": {
            name: {key: round(value, 4) for key, value in values.items()}
            for name, values in measured.per_finding.items()
        },
    }


def _slices(count: int) -> Iterator[slice]:
    return (slice(start, start + BATCH) for start in range(0, count, BATCH))
