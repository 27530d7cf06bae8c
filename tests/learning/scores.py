"""Scored subjects for tests, as `scoring.score` would make them."""

from collections.abc import Mapping, Sequence

import numpy as np

from triage.inference.calibration import sigmoid
from triage.learning.judging.scoring import Scored


def scored(
    truth: Sequence[float],
    said: Sequence[float],
    *,
    groups: Sequence[str] | None = None,
    gated: Sequence[int] = (),
    failed: Sequence[int] = (),
    strata: Sequence[Mapping[str, str]] | None = None,
    name: str = "effusion",
) -> Scored:
    """Return subjects with one finding; rows in `gated` and `failed` lose their score."""
    count = len(truth)
    turned, broken = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    turned[list(gated)], broken[list(failed)] = True, True
    probabilities = np.array(said, np.float64)[:, None]
    probabilities[turned | broken] = np.nan
    reasons = [
        "unlike" if row in gated else "damaged" if row in failed else "" for row in range(count)
    ]
    return Scored(
        findings=(name,),
        subjects=tuple(f"{row}.png" for row in range(count)),
        groups=tuple(groups or (f"p{row}" for row in range(count))),
        truth=np.array(truth, np.float64)[:, None],
        probabilities=probabilities,
        gated=turned,
        failed=broken,
        reasons=tuple(reasons),
        strata=tuple(strata or ({} for _ in range(count))),
    )


def drawn(count: int, *, seed: int = 0, prevalence: float = 0.4, gap: float = 2.0) -> Scored:
    """Return images of patients of their own whose log-odds lie `gap` apart by class."""
    generator = np.random.default_rng(seed)
    truth = (generator.random(count) < prevalence).astype(float)
    return scored(truth.tolist(), sigmoid(generator.normal(gap * (truth - 0.5), 1.0)).tolist())
