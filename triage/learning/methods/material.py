"""What every method is given and what it gives back, and the labelled vectors in between.

A subject has parts (an image, or a series), as the daemon classifies them; a part has views. The
logit of a subject is the highest of its parts, and `heads.subject_logits` says what a part's is.
A blank label is NaN and takes part in no loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triage.errors import PermanentError
from triage.inference.bundle_fields import MAXIMUM_CROPS, Features
from triage.inference.features import (
    MAXIMUM_CAPTION_TOKENS,
    MAXIMUM_TERMS,
    QueryPooling,
    Terms,
)
from triage.inference.heads import Head, subject_logits
from triage.learning.material.images import Images
from triage.learning.material.labels import LabelTable
from triage.learning.material.lens import POOLINGS
from triage.learning.material.same_pixels import Same
from triage.records import ViewSpec
from triage.rules.eligibility import IntendedUse

Reals = NDArray[np.float64]
Parts = tuple[NDArray[np.float32], ...]  # per part (V, D)
L2_GRID: Final = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
CLASS_WEIGHTS: Final = ("none", "balanced")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """What says that a finding is there, and what says that it is not."""

    present: tuple[str, ...]
    absent: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """Everything that can be chosen; a method reads what concerns it, the record holds it all."""

    seed: int = 1
    class_weights: str = "none"  # one of CLASS_WEIGHTS
    pooling: str = "mean"  # one of POOLINGS
    # logistic regression, by itself and where others start from it
    l2: tuple[float, ...] = L2_GRID  # strengths to choose from by grouped cross-validation
    folds: int = 5
    # gradient descent
    epochs: int = 60
    patience: int = 8  # epochs without a better loss on the validation split
    batch_size: int = 32  # subjects per step
    rate: float = 1e-3
    weight_decay: float = 1e-2
    # mlp
    hidden: tuple[int, ...] = (512, 256)
    dropout: float = 0.1
    # unfreeze
    blocks: int = 2  # last blocks of the tower; 0 = frozen, the number of its blocks or more = all
    encoder_rate: float = 1e-4  # of the last block
    layer_decay: float = 0.7  # factor of the rate from each block to the one before it
    # queries
    queries: int = 4
    query_width: int = 32  # values per query
    layer: int | None = None  # hidden layer from 1; None = the middle one
    # focal
    crops: int = 2  # n x n
    # caption fusion
    maximum_terms: int = 300
    maximum_new_tokens: int = 64
    # zero-shot, by finding
    prompts: Mapping[str, Prompts] = field(default_factory=dict)


def check_choices(choices: Choices) -> None:
    """Raise PermanentError for a choice that cannot be meant, before any work is done."""
    for sound, said in (
        (choices.class_weights in CLASS_WEIGHTS, f"class weights: {', '.join(CLASS_WEIGHTS)}"),
        (choices.pooling in POOLINGS, f"pooling: {', '.join(POOLINGS)}"),
        (bool(choices.l2) and min(choices.l2) >= 0, "L2 strengths: 0 or more"),
        (choices.folds >= 2, "folds: 2 or more"),
        (min(choices.epochs, choices.patience, choices.batch_size) >= 1, "epochs: 1 or more"),
        (0 <= choices.dropout < 1, "dropout: 0 or more, below 1"),
        (bool(choices.hidden) and min(choices.hidden) >= 1, "hidden units: 1 or more"),
        (choices.blocks >= 0, "blocks: 0 or more"),
        (0 < choices.layer_decay <= 1, "layer decay: above 0, up to 1"),
        (0 <= choices.crops <= MAXIMUM_CROPS, f"crops: 0 to {MAXIMUM_CROPS}"),
        (1 <= choices.maximum_terms <= MAXIMUM_TERMS, f"terms: 1 to {MAXIMUM_TERMS}"),
        (
            1 <= choices.maximum_new_tokens <= MAXIMUM_CAPTION_TOKENS,
            f"new tokens of a caption: 1 to {MAXIMUM_CAPTION_TOKENS}",
        ),
    ):
        if not sound:
            raise PermanentError(f"a choice is out of range; {said}", hint="Choose another value.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Labelled images, divided by patient, and the encoders to look at them with."""

    table: LabelTable  # patients that hold the same pixels are one in it
    images: Path | Images  # a directory, or where studies are found
    encoders: tuple[Path, ...]  # the first, then the further ones of a mixture
    view: ViewSpec
    splits: Mapping[str, Sequence[int]]  # row indices of train, val and test
    work: Path  # scratch directory of this training
    same_pixels: Same = ()  # rows of the labels that are copies under another patient
    embeddings: Path | None = None  # directory of `triage embed --out` to go on with
    use: IntendedUse = field(default_factory=IntendedUse)
    device: str = "auto"
    dtype: str = "auto"  # of the embeddings, as the daemon will serve them
    batch_size: int = 16  # views that an encoder takes at once
    scratch_mib: int = 8192  # bound of tokens and views kept in `work`
    # Rows that could not be read, by row of the labels, and why: filled while images are read.
    left_out: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """N subjects of one split, embedded."""

    rows: tuple[int, ...]  # of the table
    parts: tuple[Parts, ...]
    truth: Reals  # (N, F) of 1, 0 and NaN
    groups: tuple[str, ...]  # patient of each

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a method leaves behind."""

    head: Head
    encoder: Path  # directory that the head was fitted on
    features: Features  # without experts, which `experts` names
    view: ViewSpec
    train: Labelled
    val: Labelled
    experts: tuple[Path, ...] = ()  # directories of the further encoders
    pooling: QueryPooling | None = None
    terms: Terms | None = None
    captions: bool | None = None  # whether the bundle may write captions; None = as the encoder can
    record: Mapping[str, Any] = field(default_factory=dict)  # what the method found and chose


def logits_of(head: Head, parts: Sequence[Parts]) -> Reals:
    """Logits (N, F) of subjects, as the daemon takes them: the highest part of each."""
    return np.stack(
        [np.max([subject_logits(head, part) for part in subject], axis=0) for subject in parts]
    )


def masked_log_loss(logits: Reals, truth: Reals) -> float:
    """Mean log-loss over what is known; NaN where nothing is."""
    known = ~np.isnan(truth)
    entropy = np.logaddexp(0.0, logits) - np.where(known, truth, 0.0) * logits
    return float(entropy[known].mean()) if known.any() else float("nan")


def validation_log_loss(head: Head, val: Labelled) -> float | None:
    """For the record; None where nothing is known."""
    loss = masked_log_loss(logits_of(head, val.parts), val.truth) if len(val) else float("nan")
    return None if np.isnan(loss) else round(loss, 5)


def require_both_classes(labelled: Labelled, findings: Sequence[str], split: str) -> None:
    """Raise PermanentError unless every finding has a positive and a negative."""
    for name, column in zip(findings, labelled.truth.T, strict=True):
        positives, negatives = int((column == 1).sum()), int((column == 0).sum())
        if not positives or not negatives:
            raise PermanentError(
                f"finding {name} has {positives} positive and {negatives} negative subjects in"
                f" the split {split}: nothing can be learnt from that",
                hint="Label more subjects, or leave the finding out with --findings.",
            )
