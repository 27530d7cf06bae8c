"""Two hidden layers with dropout on the frozen embedding, as in the MURA study of MedGemma.

512 and 256 units by default; stopped by the log-loss of the validation split.
"""

import numpy as np
import torch

from triage.learning.material.encoders import pooled
from triage.learning.methods.descent import descend_vectors
from triage.learning.methods.looking import learnable_splits
from triage.learning.methods.material import (
    Choices,
    Material,
    Trained,
)
from triage.learning.methods.modules import MlpModule


def fit(material: Material, choices: Choices) -> Trained:
    """Train on the vectors of the training split."""
    features = pooled(material.encoders[0], choices.pooling)
    train, val = learnable_splits(material, material.encoders[:1], features=features)
    views = np.concatenate([np.concatenate(parts) for parts in train.parts]).astype(np.float64)
    torch.manual_seed(choices.seed)
    module = MlpModule(
        views.mean(axis=0),
        views.std(axis=0) + 1e-6,
        choices.hidden,
        len(material.table.findings),
        choices.dropout,
    )
    descent = descend_vectors(module, train, val, choices, intercept=module.last.bias)
    return Trained(
        head=module.exported(),
        encoder=material.encoders[0],
        features=features,
        view=material.view,
        train=train,
        val=val,
        record=descent.record(),
    )
