"""What gradient descent trains and what serves are the same arithmetic, in torch and in numpy."""

import numpy as np
import pytest
import torch

from triage.inference.heads import LinearHead, check_head, subject_logits
from triage.learning.methods.material import Choices, Parts, logits_of
from triage.learning.methods.modules import (
    HeadModule,
    LinearModule,
    MixtureModule,
    MlpModule,
    ViewAttentionModule,
    padded,
)

WIDTH = 12


def linear(seed: int, width: int = WIDTH) -> LinearHead:
    random = np.random.default_rng(seed)
    return LinearHead(
        mean=random.standard_normal(width),
        scale=random.uniform(0.5, 2.0, width),
        weights=random.standard_normal((3, width)),
        intercept=random.standard_normal(3),
    )


def modules() -> dict[str, HeadModule]:
    """One of each kind, with weights that are all different from their start."""
    torch.manual_seed(2)
    made = {
        "linear": LinearModule(linear(1)),
        "mlp": MlpModule(linear(2).mean, linear(2).scale, (7, 5), 3, 0.5),
        "view-attention": ViewAttentionModule(linear(3)),
        "mixture": MixtureModule([linear(4, 5), linear(5, WIDTH - 5)]),
    }
    for module in made.values():
        for weight in module.parameters():
            torch.nn.init.normal_(weight, std=0.7)
        module.eval()
    return made


def subjects() -> list[Parts]:
    """Subjects of one view, of several views, and of several parts of different length."""
    random = np.random.default_rng(8)
    shapes = ((1,), (4,), (2, 3), (1, 1, 5))
    return [
        tuple(random.standard_normal((views, WIDTH)).astype(np.float32) for views in counts)
        for counts in shapes
    ]


@pytest.mark.parametrize("kind", ["linear", "mlp", "view-attention", "mixture"])
def test_the_exported_head_gives_the_logits_of_the_module(kind: str) -> None:
    module = modules()[kind]
    with torch.no_grad():
        trained = module(*padded(subjects())).numpy()
    head = module.exported()
    check_head(head)
    np.testing.assert_allclose(logits_of(head, subjects()), trained, atol=1e-4)


@pytest.mark.parametrize("kind", ["linear", "mlp", "view-attention", "mixture"])
def test_padding_of_a_batch_changes_no_logit(kind: str) -> None:
    module = modules()[kind]
    with torch.no_grad():
        together = module(*padded(subjects()))
        alone = torch.cat([module(*padded([subject])) for subject in subjects()])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_attention_starts_as_the_mean_of_views_and_a_mixture_as_the_mean_of_experts() -> None:
    views = subjects()[1][0]
    start = linear(6)
    attention = ViewAttentionModule(start).exported()
    mean = subject_logits(start, views.mean(axis=0, keepdims=True))
    np.testing.assert_allclose(subject_logits(attention, views), mean, atol=1e-5)
    first, second = linear(7, 5), linear(8, WIDTH - 5)
    mixed = subject_logits(MixtureModule([first, second]).exported(), views[:1])
    alone = subject_logits(first, views[:1, :5]), subject_logits(second, views[:1, 5:])
    np.testing.assert_allclose(mixed, np.mean(alone, axis=0), atol=1e-5)


def test_choices_are_plain_data_so_that_the_record_can_hold_them() -> None:
    import json
    from dataclasses import asdict

    assert json.loads(json.dumps(asdict(Choices())))["class_weights"] == "none"
