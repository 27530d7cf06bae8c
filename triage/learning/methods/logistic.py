"""The reference: standardised L2 logistic regression per finding on mean-pooled tokens.

For a linear head on the mean of the tokens the logit is the exact sum of its patches' shares, so
the evidence for it can be shown without approximation.
"""

from triage.learning.material.encoders import pooled
from triage.learning.methods.linear import fit_chosen
from triage.learning.methods.looking import learnable_splits
from triage.learning.methods.material import (
    Choices,
    Material,
    Trained,
    validation_log_loss,
)


def fit(material: Material, choices: Choices) -> Trained:
    """Choose the strength by grouped cross-validation on the training split, fit on all of it."""
    features = pooled(material.encoders[0], choices.pooling)
    train, val = learnable_splits(material, material.encoders[:1], features=features)
    head, strength = fit_chosen(material, train, choices)
    return Trained(
        head=head,
        encoder=material.encoders[0],
        features=features,
        view=material.view,
        train=train,
        val=val,
        record={
            **strength.record(),
            "validation_log_loss": validation_log_loss(head, val),
        },
    )
