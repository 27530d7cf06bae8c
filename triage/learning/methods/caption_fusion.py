"""Words of the generated caption, by TF-IDF, beside the image features: an ablation.

The claim of the fracture study of MedGemma (420 films) rests on one split with 13 positives; this
method is here so that it can be measured. The caption is written from the same tokens, greedily,
and its words are counted unseen; terms and their weights come from the captions of the training
split alone. Costs the writing of a caption for every view before the flag, seconds each.
"""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from triage.errors import PermanentError
from triage.inference.bundle_fields import Features
from triage.inference.device import on_device
from triage.inference.encoder import Encoder
from triage.inference.features import Terms, fit_terms, tfidf
from triage.inference.writer import Writer, open_writer, prompt_digest
from triage.learning.material.encoders import architecture_of
from triage.learning.methods.linear import fit_chosen
from triage.learning.methods.looking import open_first, subjects_with_views, truth_of
from triage.learning.methods.material import (
    Choices,
    Labelled,
    Material,
    Parts,
    Trained,
    require_both_classes,
    validation_log_loss,
)
from triage.learning.progress import Progress

Told = list[tuple[int, list[tuple[NDArray[np.float32], list[str]]]]]  # row: vectors, captions


def fit(material: Material, choices: Choices) -> Trained:
    """Write the captions of train and val, choose the terms, fit a logistic head on both."""
    directory = material.encoders[0]
    encoder, writer = _open(material, choices)
    told = [_told(material, encoder, writer, split) for split in ("train", "val")]
    captions = [text for _, parts in told[0] for _, texts in parts for text in texts]
    terms = fit_terms(
        captions,
        maximum_new_tokens=choices.maximum_new_tokens,
        prompt_digest=prompt_digest(choices.maximum_new_tokens),
        maximum_terms=choices.maximum_terms,
    )
    if not terms.terms:
        raise PermanentError("the captions of the training split share no word")
    train, val = (_joined(material, each, terms) for each in told)
    require_both_classes(train, material.table.findings, "train")
    head, strength = fit_chosen(material, train, choices)
    return Trained(
        head=head,
        encoder=directory,
        features=Features(captions=True),
        view=material.view,
        train=train,
        val=val,
        terms=terms,
        record={
            "terms_chosen": len(terms.terms),
            "different_captions": len(set(captions)),
            **strength.record(),
            "validation_log_loss": validation_log_loss(head, val),
        },
    )


def _open(material: Material, choices: Choices) -> tuple[Encoder, Writer]:
    """Tower and language model of the first encoder. Raises PermanentError."""
    directory = material.encoders[0]
    if architecture_of(directory) != "Gemma3ForConditionalGeneration":
        raise PermanentError(
            f"the encoder in {directory} writes no captions",
            hint="Caption fusion needs MedGemma; train another method for this encoder.",
        )
    encoder = open_first(material, Features(), captions=True)
    if encoder.whole is None:
        raise PermanentError(f"the encoder in {directory} writes no captions")
    writer = open_writer(
        directory,
        encoder.whole,
        maximum_new_tokens=choices.maximum_new_tokens,
        turn=encoder.turn,
    )
    return encoder, writer


def _told(material: Material, encoder: Encoder, writer: Writer, split: str) -> Told:
    told: Told = []
    size = material.batch_size
    with Progress(f"Captions ({split})", len(material.splits[split])) as progress:
        for row, parts in subjects_with_views(material, split):
            told.append((row, [_of_part(encoder, writer, part, size) for part in parts]))
            progress.advance()
    return told


def _of_part(
    encoder: Encoder, writer: Writer, views: NDArray[np.float32], size: int
) -> tuple[NDArray[np.float32], list[str]]:
    """Vectors (V, D) and captions of the views of one part."""
    vectors, texts = [], []
    for first in range(0, len(views), size):
        embedded = encoder.embed(views[first : first + size], keep_features=True)
        vectors.append(embedded.vectors)
        texts += on_device(partial(writer.write, embedded.features or ()))
    return np.concatenate(vectors), texts


def _joined(material: Material, told: Told, terms: Terms) -> Labelled:
    """Vectors with the words behind them, as `Encoder.embed` gives them with these terms."""
    parts: list[Parts] = [
        tuple(
            np.concatenate([vectors, tfidf(terms, texts)], axis=1).astype(np.float32)
            for vectors, texts in each
        )
        for _, each in told
    ]
    rows = [row for row, _ in told]
    return Labelled(
        rows=tuple(rows),
        parts=tuple(parts),
        truth=truth_of(material, rows),
        groups=tuple(material.table.rows[row].patient for row in rows),
    )
