"""Two hidden layers with dropout on the frozen embedding, as in the MURA study of MedGemma.

512 and 256 units by default; stopped by the log-loss of the validation split.
"""

import numpy as np
import torch

from triage.learning.methods.descent import Split, descend
from triage.learning.methods.looking import labelled_splits, pooled
from triage.learning.methods.material import (
    Choices,
    Labelled,
    Material,
    Trained,
    require_both_classes,
)
from triage.learning.methods.modules import HeadModule, MlpModule, padded


def fit(material: Material, choices: Choices) -> Trained:
    """Train on the vectors of the training split."""
    features = pooled(material.encoders[0], choices.pooling)
    train, val = labelled_splits(material, material.encoders[:1], features=features)
    require_both_classes(train, material.table.findings, "train")
    views = np.concatenate([np.concatenate(parts) for parts in train.parts]).astype(np.float64)
    torch.manual_seed(choices.seed)
    module = MlpModule(
        views.mean(axis=0),
        views.std(axis=0) + 1e-6,
        choices.hidden,
        len(material.table.findings),
        choices.dropout,
    )
    descent = descend(
        module,
        split_of(module, train),
        split_of(module, val),
        choices,
        intercept=module.last.bias,
    )
    return Trained(
        head=module.exported(),
        encoder=material.encoders[0],
        features=features,
        view=material.view,
        train=train,
        val=val,
        record=descent.record(),
    )


def split_of(module: HeadModule, labelled: Labelled) -> Split:
    """A split of vectors that lie in memory, as a head sees it."""
    vectors, seen = padded(labelled.parts)
    return Split(logits=lambda rows: module(vectors[rows], seen[rows]), truth=labelled.truth)
