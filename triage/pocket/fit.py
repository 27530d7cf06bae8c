"""Fit what stands on an embedding: head, calibration, operating points, bank; and measure it.

Numpy in float64. Newton's method on a convex loss, so the result does not depend on a seed.
"""

import numpy as np
from numpy.typing import NDArray

from triage.inference.calibration import Calibration, sigmoid
from triage.inference.heads import LinearHead

Reals = NDArray[np.float64]
Truths = NDArray[np.bool_]


def fit_logistic(
    features: Reals, truth: Truths, *, l2: float, steps: int = 50, share: Reals | None = None
) -> Reals:
    """Weights (D + 1,), the intercept last and not penalised, of mean log-loss + l2/2 |w|^2.

    `share` (N,) weighs the rows in that mean, all alike without it; its own mean is one.
    """
    design = np.hstack([features, np.ones((len(features), 1))])
    penalty = np.full(design.shape[1], l2)
    penalty[-1] = 0.0
    start = np.zeros(design.shape[1])
    return _newton(design, truth.astype(np.float64), penalty, start, steps=steps, share=share)


def fit_platt(scores: Reals, truth: Truths) -> tuple[float, float]:
    """Slope and intercept of Platt's calibration, with his smoothed targets and start (1999)."""
    positives, negatives = int(truth.sum()), int((~truth).sum())
    targets = np.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    design = np.stack([scores, np.ones_like(scores)], axis=1)
    start = np.array([0.0, np.log((positives + 1) / (negatives + 1))])
    slope, intercept = _newton(design, targets, np.zeros(2), start, steps=100)
    return float(slope), float(intercept)


def _newton(
    design: Reals,
    targets: Reals,
    penalty: Reals,
    start: Reals,
    *,
    steps: int,
    share: Reals | None = None,
) -> Reals:
    """Minimise mean log-loss + penalty/2 w^2 by Newton's method with halved steps.

    A full step can overshoot where all chances are near 0 or 1 (Lin, Lin and Weng, 2007).
    """

    rows = np.ones(len(design)) if share is None else share

    def loss(weights: Reals) -> float:
        logits = design @ weights
        entropy = rows * (np.logaddexp(0.0, logits) - targets * logits)
        return float(entropy.mean() + 0.5 * (penalty * weights**2).sum())

    weights, reached = start, loss(start)
    for _ in range(steps):
        chance = sigmoid(design @ weights)
        gradient = design.T @ (rows * (chance - targets)) / len(design) + penalty * weights
        hessian = (design * (rows * chance * (1.0 - chance))[:, None]).T @ design / len(design)
        hessian[np.diag_indices_from(hessian)] += penalty + 1e-10
        move = np.linalg.solve(hessian, gradient)
        length = 1.0
        while (tried := loss(weights - length * move)) > reached and length > 1e-6:
            length /= 2.0
        if tried > reached:
            break
        weights, reached = weights - length * move, tried
        if np.abs(length * move).max() < 1e-9:
            break
    return weights


def fit_head(
    vectors: Reals, truth: Truths, *, held_vectors: Reals, held_truth: Truths, l2: float
) -> tuple[LinearHead, Calibration]:
    """One finding per column of `truth` (N, F), calibrated on the held-out embeddings."""
    mean, scale = vectors.mean(axis=0), vectors.std(axis=0) + 1e-6
    standard, held = (vectors - mean) / scale, (held_vectors - mean) / scale
    rows = [fit_logistic(standard, column, l2=l2) for column in truth.T]
    weights, intercept = np.stack([row[:-1] for row in rows]), np.array([row[-1] for row in rows])
    held_scores = held @ weights.T + intercept
    platt = [fit_platt(held_scores[:, i], held_truth[:, i]) for i in range(truth.shape[1])]
    slope = np.array([slope for slope, _ in platt])
    sign = np.where(slope < 0, -1.0, 1.0)  # a finding that the head scores the wrong way round
    head = LinearHead(
        mean=mean, scale=scale, weights=weights * sign[:, None], intercept=intercept * sign
    )
    calibration = Calibration(
        kind="platt",
        slope=slope * sign,
        intercept=np.array([intercept for _, intercept in platt]),
        shift=np.zeros(len(platt)),
    )
    return head, calibration


def operating_point(chances: Reals, truth: Truths, *, sensitivity: float) -> float:
    """The threshold of highest sensitivity + specificity among those that keep `sensitivity`.

    It lies midway between two scores, so that neither sits on it.
    """
    found = np.unique(chances)
    thresholds = np.concatenate([[0.0], (found[1:] + found[:-1]) / 2.0])
    caught = 1.0 - np.searchsorted(np.sort(chances[truth]), thresholds) / truth.sum()
    spared = np.searchsorted(np.sort(chances[~truth]), thresholds) / (~truth).sum()
    worth = np.where(caught >= sensitivity, caught + spared, -1.0)
    return float(thresholds[worth.argmax()])


def auroc(scores: Reals, truth: Truths) -> float:
    """Area under the ROC curve by mid-ranks (Mann and Whitney); ties count a half."""
    values, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2.0)[inverse]
    positives = int(truth.sum())
    wins = ranks[truth].sum() - positives * (positives + 1) / 2
    return float(wins / (positives * (len(truth) - positives))) if len(values) else float("nan")


def brier(chances: Reals, truth: Truths) -> float:
    """Mean squared error of the probabilities."""
    return float(np.mean((chances - truth) ** 2))
