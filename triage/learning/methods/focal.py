"""Focal sampling: the whole image and overlapping crops at full resolution, attention over them.

After MedBridge (arXiv 2505.21698), with the encoder frozen. The crops are further views of the
same subject; each finding learns which views to listen to. Costs n x n + 1 passes of the encoder
for every image. Starts from a logistic head on the whole images, which hears all views alike.
"""

from dataclasses import replace

import torch

from triage.errors import PermanentError
from triage.learning.material.encoders import pooled
from triage.learning.methods.descent import descend_vectors
from triage.learning.methods.linear import fit_chosen
from triage.learning.methods.looking import learnable_splits
from triage.learning.methods.material import (
    Choices,
    Labelled,
    Material,
    Trained,
)
from triage.learning.methods.modules import ViewAttentionModule


def fit(material: Material, choices: Choices) -> Trained:
    """Train attention and weights on the views of the training split."""
    if choices.crops < 1:
        raise PermanentError("focal sampling needs crops", hint="Give --crops 2 or more.")
    features = pooled(material.encoders[0], choices.pooling)
    view = replace(material.view, crops=choices.crops)
    train, val = learnable_splits(material, material.encoders[:1], features=features, view=view)
    start = mean_of_views(train)
    head, strength = fit_chosen(material, start, choices)
    torch.manual_seed(choices.seed)
    module = ViewAttentionModule(head)
    descent = descend_vectors(module, train, val, choices, intercept=module.intercept)
    return Trained(
        head=module.exported(),
        encoder=material.encoders[0],
        features=features,
        view=view,
        train=train,
        val=val,
        record={"l2_of_the_start": strength.l2, **descent.record()},
    )


def mean_of_views(labelled: Labelled) -> Labelled:
    """Each part by the mean of its views: what attention that favours none would see."""
    return replace(
        labelled,
        parts=tuple(
            tuple(part.mean(axis=0, keepdims=True) for part in parts) for parts in labelled.parts
        ),
    )
