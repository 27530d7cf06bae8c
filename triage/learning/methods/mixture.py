"""Several encoders look at the same view; what they see decides whom to believe.

After MedBridge's mixture of experts (arXiv 2505.21698): one linear head per encoder, mixed by a
softmax that reads all of them. Starts from one logistic head per encoder, all believed alike.
Costs one pass of every encoder for every image, and the memory of all of them.
"""

from dataclasses import replace

import numpy as np
import torch

from triage.errors import PermanentError
from triage.inference.bundle_fields import Features
from triage.learning.material.encoders import width_of
from triage.learning.methods.descent import descend_vectors
from triage.learning.methods.linear import fit_chosen
from triage.learning.methods.looking import learnable_splits
from triage.learning.methods.material import (
    Choices,
    Labelled,
    Material,
    Trained,
)
from triage.learning.methods.modules import MixtureModule


def fit(material: Material, choices: Choices) -> Trained:
    """Train routing and heads on the joined vectors of the training split."""
    if len(material.encoders) < 2:
        raise PermanentError(
            "a mixture needs two encoders at least", hint="Name the others with --encoder2."
        )
    features = Features()
    train, val = learnable_splits(material, material.encoders, features=features)
    widths = [width_of(directory) for directory in material.encoders]
    alone = [
        sliced(train, end - width, end)
        for end, width in zip(np.cumsum(widths), widths, strict=True)
    ]
    starts = [fit_chosen(material, each, choices) for each in alone]
    torch.manual_seed(choices.seed)
    module = MixtureModule([head for head, _ in starts])
    descent = descend_vectors(module, train, val, choices, intercept=module.intercept)
    return Trained(
        head=module.exported(),
        encoder=material.encoders[0],
        experts=material.encoders[1:],
        features=features,
        view=material.view,
        train=train,
        val=val,
        record={"l2_of_the_start": [strength.l2 for _, strength in starts], **descent.record()},
    )


def sliced(labelled: Labelled, first: int, end: int) -> Labelled:
    """The features of one expert."""
    return replace(
        labelled,
        parts=tuple(tuple(part[:, first:end] for part in parts) for parts in labelled.parts),
    )
