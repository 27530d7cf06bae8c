"""Gradient descent with early stopping: one loop for all methods that need it.

AdamW with a cosine over all epochs. After each epoch the log-loss on the validation split is
taken; the weights of the best epoch are kept, the start counts as one, and `patience` epochs
without a better one end the work. Everything random comes from the seed.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from triage.errors import PermanentError
from triage.learning.methods.material import Choices, Labelled, Reals
from triage.learning.methods.modules import HeadModule, padded
from triage.learning.progress import Progress

LOWEST_RATE: Final = 0.02  # of the peak, at the end of the cosine
CLIP: Final = 1.0  # largest norm of a gradient
Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """How a method sees a split: logits (B, F) of the rows at `indices`, and their truth."""

    logits: Callable[[Rows], Tensor]
    truth: Reals  # (N, F) with NaN


@dataclass(frozen=True, slots=True, kw_only=True)
class Descent:
    """What a descent came to."""

    best_epoch: int  # 0: the start was not bettered
    epochs: int  # that were run
    log_loss_start: float
    log_loss_best: float
    parameters: int
    seconds: float

    def record(self) -> dict[str, Any]:
        """For the training record of the bundle."""
        return {
            "best_epoch": self.best_epoch,
            "epochs_run": self.epochs,
            "validation_log_loss_start": round(self.log_loss_start, 5),
            "validation_log_loss_best": round(self.log_loss_best, 5),
            "trained_parameters": self.parameters,
            "descent_s": round(self.seconds, 2),
        }


def descend_vectors(
    module: HeadModule, train: Labelled, val: Labelled, choices: Choices, *, intercept: Tensor
) -> Descent:
    """`descend` for a head on vectors that lie in memory."""
    return descend(
        module, split_of(module, train), split_of(module, val), choices, intercept=intercept
    )


def split_of(module: HeadModule, labelled: Labelled) -> Split:
    """A split of vectors that lie in memory, as a head sees it."""
    vectors, seen = padded(labelled.parts)
    return Split(logits=lambda rows: module(vectors[rows], seen[rows]), truth=labelled.truth)


def descend(
    model: nn.Module,
    train: Split,
    val: Split,
    choices: Choices,
    *,
    intercept: Tensor,
    groups: Sequence[Mapping[str, Any]] | None = None,
) -> Descent:
    """Train `model` in place; `groups` are AdamW's, with a rate each (default: all, at `rate`).

    `intercept` is added last to the logits, (..., F): balanced classes shift it for the work.
    """
    began = time.monotonic()
    _require_labels(val)
    groups = groups or [{"params": list(model.parameters()), "lr": choices.rate}]
    weights = [weight for group in groups for weight in group["params"]]
    balance = _balance(train.truth, choices.class_weights)
    shift = torch.zeros(1) if balance is None else balance.log()
    _add(intercept, shift)
    start = _loss_of(model, val, shift, choices.batch_size)
    best, best_epoch, reached, epoch = _copied(weights), 0, start, 0
    with Progress("Training, epochs", choices.epochs) as progress:
        for epoch in _epochs(model, train, choices, groups, balance):
            progress.advance()
            now = _loss_of(model, val, shift, choices.batch_size)
            if now < reached:
                best, best_epoch, reached = _copied(weights), epoch, now
            elif epoch - best_epoch >= choices.patience:
                break
    _restore(weights, best)
    _add(intercept, -shift)
    model.eval()
    return Descent(
        best_epoch=best_epoch,
        epochs=epoch,
        log_loss_start=start,
        log_loss_best=reached,
        parameters=sum(weight.numel() for weight in weights),
        seconds=time.monotonic() - began,
    )


def _epochs(
    model: nn.Module,
    train: Split,
    choices: Choices,
    groups: Sequence[Mapping[str, Any]],
    balance: Tensor | None,
) -> Iterator[int]:
    """Train epoch by epoch; gives the number of each that is done, from 1."""
    optimiser = torch.optim.AdamW(
        [dict(group) for group in groups], weight_decay=choices.weight_decay
    )
    weights = [weight for group in groups for weight in group["params"]]
    steps = choices.epochs * math.ceil(len(train.truth) / choices.batch_size)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _cosine(step, steps))
    random = np.random.default_rng([choices.seed, 11])
    for epoch in range(1, choices.epochs + 1):
        model.train()
        for rows in _chunks(random.permutation(len(train.truth)), choices.batch_size):
            optimiser.zero_grad(set_to_none=True)
            loss = masked_entropy(train.logits(rows), train.truth[rows], balance)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(weights, CLIP)
            optimiser.step()
            rate.step()
        yield epoch


def _require_labels(val: Split) -> None:
    if np.isnan(val.truth).all():
        raise PermanentError(
            "the validation split has no label, so nobody can say when to stop",
            hint="Label some of its subjects, or leave the column split blank for some rows.",
        )


@torch.no_grad()
def _restore(weights: Sequence[Tensor], kept: Sequence[Tensor]) -> None:
    for weight, value in zip(weights, kept, strict=True):
        weight.copy_(value)


def _copied(weights: Sequence[Tensor]) -> list[Tensor]:
    return [weight.detach().clone() for weight in weights]


def masked_entropy(logits: Tensor, truth: Reals, balance: Tensor | None = None) -> Tensor:
    """Mean log-loss over the labels that are known; 0 where a batch has none."""
    known = torch.from_numpy(~np.isnan(truth)).to(logits.device)
    wanted = torch.from_numpy(np.nan_to_num(truth)).to(logits)
    entropy = functional.binary_cross_entropy_with_logits(
        logits, wanted, reduction="none", pos_weight=None if balance is None else balance.to(logits)
    )
    return (entropy * known).sum() / known.sum().clamp(min=1)


@torch.no_grad()
def _add(intercept: Tensor, shift: Tensor) -> None:
    intercept += shift.to(intercept)


def _balance(truth: Reals, class_weights: str) -> Tensor | None:
    """Weight (F,) of a positive: as many times as there are negatives to one."""
    if class_weights == "none":
        return None
    positives = np.maximum((truth == 1).sum(axis=0), 1)
    negatives = np.maximum((truth == 0).sum(axis=0), 1)
    return torch.from_numpy(negatives / positives)


@torch.no_grad()
def _loss_of(model: nn.Module, val: Split, shift: Tensor, size: int) -> float:
    """Masked log-loss over the whole split without dropout, at the true odds of the classes."""
    model.eval()
    lost, known = 0.0, int((~np.isnan(val.truth)).sum())
    for rows in _chunks(np.arange(len(val.truth)), size):
        truth = val.truth[rows]
        logits = val.logits(rows)
        entropy = masked_entropy(logits - shift.to(logits), truth)
        lost += entropy.item() * int((~np.isnan(truth)).sum())
    return lost / max(known, 1)


def _chunks(rows: Rows, size: int) -> Iterator[Rows]:
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


def _cosine(step: int, steps: int) -> float:
    """Half a cosine from the peak to LOWEST_RATE of it."""
    share = min(1.0, step / max(1, steps))
    return LOWEST_RATE + (1.0 - LOWEST_RATE) * 0.5 * (1.0 + math.cos(math.pi * share))
