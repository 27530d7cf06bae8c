"""Fitting finds what is there to find, and measuring counts right."""

import numpy as np
import pytest

from triage.inference.calibration import sigmoid
from triage.inference.classifier import probabilities
from triage.pocket.fit import (
    auroc,
    brier,
    fit_head,
    fit_logistic,
    fit_platt,
    operating_point,
)
from triage.pocket.measure import right_finding


def test_logistic_regression_finds_the_weights_that_made_the_labels() -> None:
    random = np.random.default_rng(1)
    features = random.standard_normal((20_000, 3))
    made = np.array([1.5, -0.7, 0.0])
    truth = random.random(20_000) < sigmoid(features @ made - 0.4)
    weights = fit_logistic(features, truth, l2=1e-6)
    np.testing.assert_allclose(weights, [*made, -0.4], atol=0.08)


def test_the_gradient_is_zero_at_the_fit() -> None:
    random = np.random.default_rng(2)
    features = random.standard_normal((300, 5))
    truth = features[:, 0] > 0
    weights = fit_logistic(features, truth, l2=0.01)
    chance = sigmoid(features @ weights[:-1] + weights[-1])
    gradient = features.T @ (chance - truth) / 300 + 0.01 * weights[:-1]
    assert np.abs(gradient).max() < 1e-6
    assert abs((chance - truth).mean()) < 1e-6


def test_separable_classes_do_not_run_away() -> None:
    features = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    weights = fit_logistic(features, np.array([False, False, True, True]), l2=1e-3)
    assert np.isfinite(weights).all()


def test_platt_undoes_an_overconfident_score() -> None:
    random = np.random.default_rng(3)
    logits = random.standard_normal(40_000) * 2
    truth = random.random(40_000) < sigmoid(logits)
    slope, intercept = fit_platt(4.0 * logits + 1.0, truth)
    assert slope == pytest.approx(0.25, abs=0.02)
    assert intercept == pytest.approx(-0.25, abs=0.05)


def test_a_head_is_calibrated_on_what_it_was_not_fitted_on() -> None:
    random = np.random.default_rng(4)
    features = random.standard_normal((3_000, 4)) * 5 + 2
    truth = (random.random(3_000) < sigmoid(features[:, 0] - 2))[:, None]
    head, calibration = fit_head(
        features[:1500],
        truth[:1500],
        held_vectors=features[1500:],
        held_truth=truth[1500:],
        l2=1e-3,
    )
    chances = probabilities(head, calibration, features[1500:])[:, 0]
    assert chances.mean() == pytest.approx(truth[1500:].mean(), abs=0.01)


def test_auroc_counts_pairs_and_halves_ties() -> None:
    truth = np.array([True, True, False, False])
    assert auroc(np.array([4.0, 3.0, 2.0, 1.0]), truth) == 1.0
    assert auroc(np.array([1.0, 2.0, 3.0, 4.0]), truth) == 0.0
    assert auroc(np.array([1.0, 1.0, 1.0, 1.0]), truth) == 0.5
    assert auroc(np.array([3.0, 1.0, 1.0, 0.0]), truth) == 0.875


def test_brier_is_the_mean_squared_error() -> None:
    assert brier(np.array([1.0, 0.5]), np.array([True, False])) == 0.125


def test_an_operating_point_keeps_the_sensitivity_it_was_asked_for() -> None:
    random = np.random.default_rng(5)
    truth = random.random(4_000) < 0.3
    chances = sigmoid(random.standard_normal(4_000) + 2.0 * truth - 1.0)
    for sensitivity in (0.8, 0.95, 1.0):
        point = operating_point(chances, truth, sensitivity=sensitivity)
        assert (chances[truth] >= point).mean() >= sensitivity
        assert point not in chances


def test_a_free_operating_point_separates_what_can_be_separated() -> None:
    chances = np.array([0.1, 0.2, 0.8, 0.9])
    truth = np.array([False, False, True, True])
    assert operating_point(chances, truth, sensitivity=0.5) == pytest.approx(0.5)


def test_right_finding_counts_none_as_a_state() -> None:
    chances = np.array([[0.9, 0.1], [0.1, 0.2], [0.2, 0.1], [0.3, 0.8]])
    truth = np.array([[True, False], [False, False], [True, False], [True, True]])
    assert right_finding(chances, truth) == 0.75
