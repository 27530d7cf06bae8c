"""From embeddings to calibrated findings, and whether the image belongs here at all.

What a head and a calibration compute is theirs (`heads`, `calibration`); here they become
findings, by the one function that the daemon and every evaluation call. Findings are
independent of each other: several can be present. The gate is the mean cosine distance of the
standardised embedding to its nearest neighbours in a bank of images of the intended kind
(after Sun et al., ICML 2022). Numpy only; no device, no torch.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triage.errors import InferenceError
from triage.inference.bundle import Bundle
from triage.inference.bundle_parts import Bank, unit_rows
from triage.inference.calibration import Calibration, calibrated
from triage.inference.heads import Head, subject_logits, view_logits
from triage.records import Finding

NO_CLASSIFIER = "no classifier for this encoder"
OUT_OF_DISTRIBUTION = "image is unlike those the model was made for"


@dataclass(frozen=True, slots=True, kw_only=True)
class Classified:
    """What a head says. Outside the distribution there are no findings, whatever they were."""

    findings: tuple[Finding, ...]
    distance: float | None  # None: a bundle without a bank
    in_distribution: bool
    reason: str = ""  # why there are no findings


def classify(bundle: Bundle, vectors: NDArray[np.float32]) -> list[Classified]:
    """Judge each of (B, D) embeddings as a subject of one view; of a bundle without crops.

    Raises InferenceError for one that is not finite.
    """
    return [classify_subject(bundle, vector[None]) for vector in _checked(bundle, vectors)]


def classify_subject(bundle: Bundle, vectors: NDArray[np.float32]) -> Classified:
    """Judge one subject by all its views, (V, D).

    How views are put together is the head's; for most the highest logit counts, since a lesion
    may show in one slice only. The gate's distance is the median over views, so that the ends of
    a volume, which look like nothing in particular, do not decide; views beyond the limit take
    no part. Where a bundle takes crops, the whole image, which is the first view, decides alone:
    a crop is like no whole image in the bank.
    """
    vectors = _checked(bundle, vectors)
    crops = bundle.view_spec.crops
    if crops and len(vectors) != 1 + crops**2:
        raise InferenceError(f"{len(vectors)} views, where the image and its crops are expected")
    gate = bundle.manifest.gate
    distance, use = None, np.ones(len(vectors), np.bool_)
    if bundle.bank is not None and gate is not None:
        held = vectors[:1] if crops else vectors
        distances = bank_distances(bundle.bank, held, gate.neighbours)
        if not np.isfinite(distances).all():
            raise InferenceError("the embedding is too large to be told from others")
        distance, use = float(np.median(distances)), use & (distances <= gate.threshold)
        if distance > gate.threshold:
            return Classified(
                findings=(), distance=distance, in_distribution=False, reason=OUT_OF_DISTRIBUTION
            )
    if bundle.head is None or bundle.calibration is None:
        return Classified(
            findings=(), distance=distance, in_distribution=True, reason=NO_CLASSIFIER
        )
    logits = subject_logits(bundle.head, vectors[use])
    return Classified(
        findings=_findings(bundle, calibrated(bundle.calibration, logits)),
        distance=distance,
        in_distribution=True,
    )


def _findings(bundle: Bundle, chances: NDArray[np.float64]) -> tuple[Finding, ...]:
    if not np.isfinite(chances).all():
        raise InferenceError("the head gave a value that is not finite for this image")
    return tuple(
        Finding(
            name=spec.name,
            code=spec.code,
            probability=float(probability),
            operating_point=spec.operating_point,
            flagged=bool(probability >= spec.operating_point),
            raises_to=spec.raises_to,
        )
        for spec, probability in zip(bundle.manifest.findings, chances, strict=True)
    )


def probabilities(
    head: Head, calibration: Calibration, vectors: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Calibrated probabilities (B, F), each embedding judged alone and ungated."""
    return calibrated(calibration, view_logits(head, vectors))


def bank_distances(
    bank: Bank, vectors: NDArray[np.float32], neighbours: int
) -> NDArray[np.float64]:
    """Mean cosine distance, 0 to 2, of each of (B, D) to its nearest `neighbours`."""
    with np.errstate(over="ignore", invalid="ignore"):  # an overflow ends as a distance of NaN
        units = unit_rows((vectors.astype(np.float32) - bank.mean) / bank.scale)
    similarity = units @ bank.units.T
    nearest = np.partition(similarity, -neighbours, axis=1)[:, -neighbours:]
    return np.asarray(1.0 - nearest.mean(axis=1, dtype=np.float64), np.float64)


def bank_of(head: Head, vectors: NDArray[np.float32]) -> Bank:
    """A bank of (N, D) embeddings, standardised as the head does it."""
    mean, scale = head.mean.astype(np.float32), head.scale.astype(np.float32)
    return Bank(mean=mean, scale=scale, units=unit_rows((vectors - mean) / scale))


def _checked(bundle: Bundle, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    width = bundle.width
    if vectors.ndim != 2 or not len(vectors) or width not in {None, vectors.shape[1]}:
        raise InferenceError(f"embeddings of shape {vectors.shape} do not fit the bundle")
    if not np.isfinite(vectors).all():
        raise InferenceError("the embedding holds a value that is not finite")
    return vectors
