"""A site made of numbers: studies of a device, summed up in blocks as the sweep does it."""

from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from triage.learning.watching.drift import Block, Group
from triage.learning.watching.drift_statistics import (
    SCORE_BINS,
    RandomFeatures,
    cloud_of,
    moments_of,
    random_features,
    score_bin,
)

WIDTH = 48
START = datetime(2026, 1, 1, tzinfo=UTC)
GROUP = Group(bundle_digest="d", modality="CR", body_part_examined="CHEST", device="ROOM 1")


def embeddings(
    random: np.random.Generator, count: int, *, shift: float = 0.0
) -> NDArray[np.float32]:
    """Return embeddings of three kinds of images in correlated features; `shift` in deviations."""
    mixing = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)) / np.sqrt(WIDTH)
    kinds = np.random.default_rng(1).standard_normal((3, WIDTH))
    drawn = kinds[random.integers(0, 3, count)] + random.standard_normal((count, WIDTH)) @ mixing
    return np.asarray(drawn + shift, np.float32)


def features() -> RandomFeatures:
    bank = embeddings(np.random.default_rng(2), 500)
    units = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    ones = np.ones(WIDTH, np.float32)
    return random_features(np.zeros(WIDTH, np.float32), ones, units, seed=3)


def block(
    random: np.random.Generator,
    number: int,
    drawn_by: RandomFeatures,
    *,
    size: int = 100,
    shift: float = 0.0,
    score_shift: float = 0.0,
    gate_rate: float = 0.01,
) -> Block:
    """Return block `number` of a device; 3 % of studies are flagged where nothing has changed."""
    gated = int(random.binomial(size, gate_rate))
    logits = random.normal(-3.0 + score_shift, 1.5, size - gated)
    probabilities = 1.0 / (1.0 + np.exp(-logits))
    bins = [0] * SCORE_BINS
    for probability in probabilities:
        bins[score_bin(float(probability))] += 1
    vectors = embeddings(random, size, shift=shift)
    distances = random.gamma(8.0, 0.02, size) + 0.3 * shift
    return Block(
        studies=size,
        gated=gated,
        flagged=int((logits >= -0.18).sum()),
        distance=moments_of(distances.tolist()),
        scores={"opacity": tuple(bins)},
        cloud=cloud_of(drawn_by.of(vectors)),
        started_at=START + timedelta(hours=number),
        ended_at=START + timedelta(hours=number, minutes=59),
    )
