"""Fitting on vectors: blanks teach nothing, patients stay together, true odds come back."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from triage.errors import PermanentError
from triage.inference.heads import LinearHead
from triage.learning.material.labels import FILE, LabelRow, LabelTable
from triage.learning.methods.descent import Split, descend, masked_entropy, split_of
from triage.learning.methods.linear import choose_l2, fit_linear, restandardised
from triage.learning.methods.material import (
    Choices,
    Labelled,
    Material,
    logits_of,
    masked_log_loss,
)
from triage.learning.methods.modules import LinearModule
from triage.records import ViewSpec

NAN = float("nan")


def labelled(
    vectors: NDArray[np.floating], truth: NDArray[np.floating], groups: list[str] | None = None
) -> Labelled:
    """Subjects of one view each, (N, D) and (N, F)."""
    return Labelled(
        rows=tuple(range(len(vectors))),
        parts=tuple((vector[None].astype(np.float32),) for vector in vectors),
        truth=np.asarray(truth, np.float64),
        groups=tuple(groups or [str(i) for i in range(len(vectors))]),
    )


def material_of(given: Labelled) -> Material:
    rows = tuple(
        LabelRow(
            subject=f"{i}.png", group=group, truth=tuple(truth), split="", strata={}, line=i + 2
        )
        for i, (group, truth) in enumerate(zip(given.groups, given.truth.tolist(), strict=True))
    )
    findings = tuple(f"finding {i}" for i in range(given.truth.shape[1]))
    return Material(
        table=LabelTable(findings=findings, rows=rows, digest="", subject_column=FILE),
        images=Path(),
        encoders=(),
        view=ViewSpec(rendering="dicom", size_px=8),
        splits={"train": list(given.rows)},
        work=Path(),
    )


def separable(count: int = 60, width: int = 6) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    random = np.random.default_rng(3)
    vectors = random.standard_normal((count, width))
    return vectors, (vectors[:, :1] + 0.5 * random.standard_normal((count, 1)) > 0).astype(float)


def test_a_blank_teaches_nothing_and_a_zero_does() -> None:
    vectors, truth = separable()
    truth[40:] = NAN
    head = fit_linear(labelled(vectors, truth), l2=0.1)
    order = [*range(40), *range(59, 39, -1)]  # other blank images, the same mean and deviation
    np.testing.assert_allclose(
        fit_linear(labelled(vectors[order], truth), l2=0.1).weights, head.weights, atol=1e-6
    )
    negative = np.where(np.isnan(truth), 0.0, truth)
    assert (
        np.abs(fit_linear(labelled(vectors, negative), l2=0.1).weights - head.weights).max() > 0.1
    )


def test_a_blank_takes_no_part_in_the_loss_of_descent() -> None:
    logits = torch.tensor([[0.3, -2.0], [1.5, 0.7]], requires_grad=True)
    truth = np.array([[1.0, NAN], [0.0, 1.0]])
    loss = masked_entropy(logits, truth)
    loss.backward()
    expected = masked_log_loss(logits.detach().double().numpy(), truth)
    assert loss.item() == pytest.approx(expected)
    assert logits.grad is not None
    assert logits.grad[0, 1] == 0
    assert (logits.grad != 0).sum() == 3
    assert masked_entropy(logits, np.full((2, 2), NAN)).item() == 0.0


def test_fewer_rows_than_features_give_the_same_optimum_as_the_plain_way() -> None:
    random = np.random.default_rng(5)
    vectors = random.standard_normal((12, 40))
    truth = (vectors[:, :1] > 0).astype(float)
    head = fit_linear(labelled(vectors, truth), l2=0.2)
    standard = (vectors.astype(np.float32) - head.mean) / head.scale
    chance = 1 / (1 + np.exp(-(standard @ head.weights[0] + head.intercept[0])))
    gradient = standard.T @ (chance - truth[:, 0]) / 12 + 0.2 * head.weights[0]
    assert np.abs(gradient).max() < 1e-6


@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_a_head_that_knows_nothing_says_the_true_share_whatever_the_weights(weights: str) -> None:
    random = np.random.default_rng(6)
    vectors, truth = random.standard_normal((100, 3)), np.zeros((100, 1))
    truth[:10] = 1.0
    head = fit_linear(labelled(vectors, truth), l2=1e4, class_weights=weights)
    assert head.intercept[0] == pytest.approx(np.log(10 / 90), abs=0.02)


def test_balanced_descent_begins_and_ends_at_the_true_odds() -> None:
    random = np.random.default_rng(7)
    vectors, truth = random.standard_normal((100, 3)), np.zeros((100, 1))
    truth[:10] = 1.0
    given = labelled(vectors, truth)
    module = LinearModule(
        LinearHead(
            mean=np.zeros(3), scale=np.ones(3), weights=np.zeros((1, 3)), intercept=np.zeros(1)
        )
    )
    choices = Choices(
        class_weights="balanced", epochs=150, patience=150, rate=0.05, weight_decay=0.0
    )
    split = split_of(module, given)
    done = descend(module, split, split, choices, intercept=module.intercept)
    assert done.log_loss_start == pytest.approx(np.log(2))
    chances = 1 / (1 + np.exp(-logits_of(module.exported(), given.parts)))
    assert chances.mean() == pytest.approx(0.1, abs=0.03)


def test_strength_is_chosen_on_patients_that_had_no_part_in_the_fit() -> None:
    """Four films of each patient are alike: who divides films would learn patients by heart."""
    random = np.random.default_rng(8)
    patients = random.standard_normal((30, 40))
    answers = random.integers(0, 2, 30)  # nothing to be learnt
    vectors = np.repeat(patients, 4, axis=0) + 1e-3 * random.standard_normal((120, 40))
    truth = np.repeat(answers, 4)[:, None].astype(float)
    groups = [f"p{i // 4}" for i in range(120)]
    choices = Choices(l2=(1e-4, 10.0), folds=5)
    together = labelled(vectors, truth, groups)
    assert choose_l2(material_of(together), together, choices).l2 == 10.0
    apart = labelled(vectors, truth)
    assert choose_l2(material_of(apart), apart, choices).l2 == 1e-4


def test_one_patient_cannot_choose_a_strength() -> None:
    vectors, truth = separable(20)
    alone = labelled(vectors, truth, ["same"] * 20)
    with pytest.raises(PermanentError, match="two patients"):
        choose_l2(material_of(alone), alone, Choices())
    assert choose_l2(material_of(alone), alone, Choices(l2=(0.1,))).l2 == 0.1


def test_a_lesion_in_one_slice_of_many_is_judged_by_its_slice() -> None:
    """Fitted on the mean of its slices, a head that takes the highest would flag every series."""
    random = np.random.default_rng(9)
    truth = np.arange(80) % 2.0
    parts = []
    for positive in truth:
        views = random.standard_normal((6, 4))
        views[:, 0] = 0.3 * views[:, 0] - 1.0
        if positive:
            views[random.integers(6), 0] = 2.0
        parts.append((views.astype(np.float32),))
    series = replace(labelled(np.zeros((80, 4)), truth[:, None]), parts=tuple(parts))
    logits = logits_of(fit_linear(series, l2=1e-3), series.parts)
    assert masked_log_loss(logits, series.truth) < 0.05
    assert (logits[truth == 1] > 1.0).all()
    assert (logits[truth == 0] < -1.0).all()


def test_another_mean_and_deviation_change_no_logit() -> None:
    vectors, truth = separable()
    given = labelled(vectors, truth)
    head = fit_linear(given, l2=0.1)
    moved = labelled(3.0 * vectors + 5.0, truth)
    other = restandardised(head, moved)
    np.testing.assert_allclose(other.mean, (3.0 * vectors + 5.0).mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(
        logits_of(other, given.parts), logits_of(head, given.parts), atol=1e-8
    )


def test_descent_stops_when_patience_ends_and_keeps_the_best_epoch() -> None:
    """Validation asks for the opposite of training: the first step is already one too many."""
    vectors, truth = separable()
    given, opposite = labelled(vectors, truth), labelled(vectors, 1.0 - truth)
    module = LinearModule(fit_linear(given, l2=1.0))
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    choices = Choices(epochs=50, patience=3, rate=0.05)
    done = descend(
        module,
        split_of(module, given),
        split_of(module, opposite),
        choices,
        intercept=module.intercept,
    )
    assert done.best_epoch == 0
    assert done.epochs == 3
    for name, weight in module.state_dict().items():
        torch.testing.assert_close(weight, before[name])


def test_a_validation_split_without_a_label_cannot_say_when_to_stop() -> None:
    vectors, truth = separable()
    given = labelled(vectors, truth)
    module = LinearModule(fit_linear(given, l2=1.0))
    blank = Split(logits=lambda rows: torch.zeros(len(rows), 1), truth=np.full((4, 1), NAN))
    with pytest.raises(PermanentError, match="when to stop"):
        descend(module, split_of(module, given), blank, Choices(), intercept=module.intercept)
