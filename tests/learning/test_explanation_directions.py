"""A head's logit is one exact sum over features, whatever kind of head it is."""

import numpy as np
import pytest
import torch

from triage.inference.heads import (
    Head,
    LinearHead,
    MixtureHead,
    MlpHead,
    ViewAttentionHead,
    subject_logits,
)
from triage.learning.explaining.directions import direction, torch_logit

D, F = 12, 3


def heads() -> dict[str, Head]:
    random = np.random.default_rng(7)
    draw = random.standard_normal
    common = {"mean": draw(D), "scale": random.uniform(0.5, 2.0, D)}
    return {
        "linear": LinearHead(**common, weights=draw((F, D)), intercept=draw(F)),
        "mlp": MlpHead(
            **common,
            layers=((draw((9, D)), draw(9)), (draw((5, 9)), draw(5)), (draw((F, 5)), draw(F))),
        ),
        "view-attention": ViewAttentionHead(
            **common, query=draw((F, D)), weights=draw((F, D)), intercept=draw(F)
        ),
        "mixture": MixtureHead(
            **common,
            widths=(7, 5),
            route=draw((2, D)),
            route_bias=draw(2),
            heads=draw((F, D)),
            intercept=draw((2, F)),
        ),
    }


@pytest.mark.parametrize("kind", heads())
@pytest.mark.parametrize("views", [1, 4])
def test_the_sum_over_features_is_the_logit(kind: str, views: int) -> None:
    head = heads()[kind]
    vectors = np.random.default_rng(views).standard_normal((views, D)).astype(np.float32)
    for finding in range(F):
        found = direction(head, vectors, finding)
        assert found.shares.sum() == pytest.approx(1.0)
        assert found.shares @ found.logits(vectors) == pytest.approx(
            subject_logits(head, vectors)[finding], abs=1e-9
        )


@pytest.mark.parametrize("kind", heads())
def test_the_differentiable_head_is_the_head(kind: str) -> None:
    head = heads()[kind]
    vectors = np.random.default_rng(3).standard_normal((4, D))
    for finding in range(F):
        logit = torch_logit(head, torch.from_numpy(vectors), finding)
        assert float(logit) == pytest.approx(subject_logits(head, vectors)[finding], abs=1e-9)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_where_no_choice_is_free_the_gradient_is_the_direction(kind: str) -> None:
    head = heads()[kind]
    vectors = torch.from_numpy(np.random.default_rng(5).standard_normal((2, D)))
    vectors.requires_grad_(True)
    (slope,) = torch.autograd.grad(torch_logit(head, vectors, 1), vectors)
    found = direction(head, vectors.detach().numpy(), 1)
    expected = found.shares[:, None] * found.weights
    np.testing.assert_allclose(slope.numpy(), expected, atol=1e-9)
