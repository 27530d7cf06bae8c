"""Logistic regression per finding on labelled vectors, its strength chosen on held-out patients.

Numpy in float64, by Newton's method on a convex loss (`pocket.fit`): no seed but that of the folds.
Subjects of several views are fitted by their witness views, as MI-SVM does it (Andrews et al.,
2003): the view that speaks loudest stands for the subject, and the fit is repeated until none
changes, for the head takes the highest view when it serves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from triage.errors import PermanentError
from triage.inference.heads import LinearHead
from triage.learning.material.splits import grouped_folds
from triage.learning.methods.material import (
    Choices,
    Labelled,
    Material,
    Reals,
    logits_of,
    masked_log_loss,
)
from triage.pocket.fit import fit_logistic

WITNESS_ROUNDS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Strength:
    """The chosen L2 strength and what led to it."""

    l2: float
    log_loss: dict[str, float]  # on held-out patients, by strength; empty where none was tried

    def record(self) -> dict[str, Any]:
        """For the training record of the bundle."""
        return {"l2_chosen": self.l2, "l2_cross_validated_log_loss": self.log_loss}


def fit_linear(labelled: Labelled, *, l2: float, class_weights: str = "none") -> LinearHead:
    """One regression per finding, on what is known of it."""
    views = np.concatenate([np.concatenate(parts) for parts in labelled.parts]).astype(np.float64)
    mean, scale = views.mean(axis=0), views.std(axis=0) + 1e-6
    subjects = [(np.concatenate(parts) - mean) / scale for parts in labelled.parts]
    fitted = [_fit_finding(subjects, truth, l2, class_weights) for truth in labelled.truth.T]
    return LinearHead(
        mean=mean,
        scale=scale,
        weights=np.stack([weights[:-1] for weights in fitted]),
        intercept=np.array([weights[-1] for weights in fitted]),
    )


def choose_l2(material: Material, labelled: Labelled, choices: Choices) -> Strength:
    """The strength of least log-loss on held-out patients of `labelled`; a tie takes the larger."""
    if len(choices.l2) == 1:
        return Strength(l2=choices.l2[0], log_loss={})
    place = {row: i for i, row in enumerate(labelled.rows)}
    count = min(choices.folds, len(set(labelled.groups)))
    if count < 2:
        raise PermanentError(
            "the training split has fewer than two patients",
            hint="Label more patients, or give one strength with --l2.",
        )
    folds = [
        ([place[row] for row in fit], [place[row] for row in held])
        for fit, held in grouped_folds(
            material.table, labelled.rows, seed=choices.seed, folds=count
        )
    ]
    found = {l2: _held_out_loss(labelled, folds, l2) for l2 in sorted(choices.l2, reverse=True)}
    best = min(found, key=lambda l2: found[l2])
    return Strength(l2=best, log_loss={f"{l2:g}": round(loss, 5) for l2, loss in found.items()})


def fit_chosen(
    material: Material, labelled: Labelled, choices: Choices
) -> tuple[LinearHead, Strength]:
    """Choose the strength, then fit on all of `labelled`."""
    strength = choose_l2(material, labelled, choices)
    return fit_linear(labelled, l2=strength.l2, class_weights=choices.class_weights), strength


def taken(labelled: Labelled, indices: Sequence[int]) -> Labelled:
    """The subjects at `indices`."""
    return Labelled(
        rows=tuple(labelled.rows[i] for i in indices),
        parts=tuple(labelled.parts[i] for i in indices),
        truth=labelled.truth[list(indices)],
        groups=tuple(labelled.groups[i] for i in indices),
    )


def _held_out_loss(
    labelled: Labelled, folds: Sequence[tuple[list[int], list[int]]], l2: float
) -> float:
    """Log-loss over all folds together; a fold whose fit lacks a class of a finding masks it."""
    logits = np.zeros_like(labelled.truth)
    truth = labelled.truth.copy()
    for fit, held in folds:
        part = taken(labelled, fit)
        logits[held] = logits_of(fit_linear(part, l2=l2), [labelled.parts[i] for i in held])
        lacking = ~((part.truth == 1).any(axis=0) & (part.truth == 0).any(axis=0))
        truth[held] = np.where(lacking, np.nan, truth[held])
    loss = masked_log_loss(logits, truth)
    return loss if np.isfinite(loss) else float("inf")


def _fit_finding(subjects: Sequence[Reals], truth: Reals, l2: float, class_weights: str) -> Reals:
    """Weights and intercept (D + 1,) of one finding."""
    known = [int(i) for i in np.flatnonzero(~np.isnan(truth))]
    positive = truth[known] == 1
    width = subjects[0].shape[1]
    if positive.all() or not positive.any():  # a fold may lack a class: say its rate and no more
        rate = (positive.sum() + 0.5) / (len(known) + 1.0)
        return np.append(np.zeros(width), np.log(rate / (1.0 - rate)))
    several = any(len(subjects[i]) > 1 for i in known)
    standing = np.stack([subjects[i].mean(axis=0) for i in known])
    weights = _regression(standing, positive, l2, class_weights)
    for _ in range(WITNESS_ROUNDS if several else 0):
        chosen = np.stack([subjects[i][(subjects[i] @ weights[:-1]).argmax()] for i in known])
        if np.array_equal(chosen, standing):
            break
        standing = chosen
        weights = _regression(standing, positive, l2, class_weights)
    return weights


def _regression(features: Reals, positive: Reals, l2: float, class_weights: str) -> Reals:
    """Fit in the span of the rows where there are fewer rows than features: the same optimum."""
    truth = np.asarray(positive, np.bool_)
    share, shift = None, 0.0
    if class_weights == "balanced":
        counts = np.array([(~truth).sum(), truth.sum()])
        share = (len(truth) / (2.0 * counts))[truth.astype(int)]
        # Weighted classes are of equal share; the true odds come back by the intercept.
        shift = float(np.log(counts[1] / counts[0]))
    if len(features) < features.shape[1]:
        basis, coordinates = np.linalg.qr(features.T)
        small = fit_logistic(coordinates.T, truth, l2=l2, share=share)
        weights = np.append(basis @ small[:-1], small[-1])
    else:
        weights = fit_logistic(features, truth, l2=l2, share=share)
    weights[-1] += shift
    return weights


def restandardised(head: LinearHead, labelled: Labelled) -> LinearHead:
    """The same logits with the mean and deviation of these vectors, as the gate wants them."""
    views = np.concatenate([np.concatenate(parts) for parts in labelled.parts]).astype(np.float64)
    mean, scale = views.mean(axis=0), views.std(axis=0) + 1e-6
    return LinearHead(
        mean=mean,
        scale=scale,
        weights=head.weights * scale / head.scale,
        intercept=head.intercept + head.weights @ ((mean - head.mean) / head.scale),
    )
