"""Bundles on one tiny encoder whose heads read brightness, for the real worker to serve."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.inference import twins
from triage.inference.bundle import Bundle
from triage.inference.bundle_fields import FindingSpec, Gate
from triage.inference.bundle_making import Fitted, init_bundle
from triage.inference.heads import LinearHead
from triage.records import Rank, ViewSpec

SIZE_PX = 56
FINDING = "bright"


def bright_views(levels: tuple[float, ...]) -> NDArray[np.float32]:
    noise = np.random.default_rng(0).uniform(-0.05, 0.05, (len(levels), 1, SIZE_PX, SIZE_PX))
    return np.asarray(np.clip(noise + np.reshape(levels, (-1, 1, 1, 1)), 0, 1), np.float32)


def embeddings(directory: Path, views: NDArray[np.float32]) -> NDArray[np.float32]:
    from triage.inference.encoder import open_encoder

    encoder = open_encoder(
        directory,
        architecture="Gemma3ForConditionalGeneration",
        size_px=SIZE_PX,
        device="cpu",
        dtype="float32",
    )
    return encoder.embed(views).vectors


def make_bundle(
    encoder: Path,
    out: Path,
    *,
    name: str,
    eager: float = 0.0,
    gate: float = 2.0,
    local: bool = True,
    size_px: int = SIZE_PX,
) -> Bundle:
    """Make a bundle that flags bright images; `eager` is added to its logit."""
    dark, bright = embeddings(encoder, bright_views((0.1, 0.9)))
    along = (bright - dark).astype(np.float64)
    weights = 8.0 * along / float(along @ along)
    middle = (bright + dark).astype(np.float64) / 2.0
    plain = twins.fitted(width=along.size)
    ones = np.ones(1)
    fitted = Fitted(
        head=LinearHead(
            mean=np.zeros(along.size),
            scale=np.ones(along.size),
            weights=weights[None],
            intercept=np.asarray([eager - weights @ middle]),
        ),
        calibration=replace(plain.calibration, slope=ones, intercept=0 * ones, shift=0 * ones),
        record=replace(plain.record, local=local),
        findings=(FindingSpec(name=FINDING, code=None, operating_point=0.5, raises_to=Rank.HIGH),),
        bank_vectors=np.repeat(middle[None].astype(np.float32), 8, axis=0),
        gate=Gate(neighbours=3, threshold=gate),
    )
    return init_bundle(
        encoder,
        out,
        name=name,
        view=ViewSpec(rendering="dicom", size_px=size_px),
        fitted=fitted,
        captions=False,
        device="cpu",
    )
