"""Calibrated findings, and silence where an image does not belong."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.assurance import requirement
from triage.errors import InferenceError
from triage.inference.bundle import Bundle
from triage.inference.calibration import Calibration, sigmoid
from triage.inference.classifier import (
    NO_CLASSIFIER,
    OUT_OF_DISTRIBUTION,
    classify,
    classify_subject,
    probabilities,
)
from triage.inference.heads import LinearHead
from triage.records import Rank

WIDTH = 48


def vector(*, first: float = 0.0, second: float = 0.0, third: float = 3.0) -> NDArray[np.float32]:
    """An embedding: findings read features 0 and 1, the bank lies along feature 2."""
    made = np.zeros(WIDTH, np.float32)
    made[:3] = first, second, third
    return made


def test_a_probability_is_the_calibrated_logit(fitted: Bundle) -> None:
    (judged,) = classify(fitted, vector(first=1.0)[None])
    assert [finding.name for finding in judged.findings] == ["pneumothorax", "nodule"]
    # Logits 2 and 0, slope 1, intercept -1.
    expected = [1 / (1 + np.exp(-1.0)), 1 / (1 + np.exp(1.0))]
    assert [f.probability for f in judged.findings] == pytest.approx(expected, abs=1e-6)


def test_a_finding_is_flagged_from_its_operating_point_on(fitted: Bundle) -> None:
    below, on = classify(fitted, np.stack([vector(first=0.499), vector(first=0.5)]))
    assert [finding.flagged for finding in below.findings] == [False, False]
    assert on.findings[0].probability == pytest.approx(0.5)
    assert on.findings[0].flagged
    assert on.findings[0].raises_to is Rank.STAT
    assert on.findings[0].code is not None
    assert on.findings[0].code.value == "36118008"


def test_an_image_unlike_the_bank_has_a_reason_and_no_score(fitted: Bundle) -> None:
    (judged,) = classify(fitted, vector(first=9.0, third=-3.0)[None])
    assert judged.findings == ()
    assert not judged.in_distribution
    assert judged.reason == OUT_OF_DISTRIBUTION
    assert judged.distance is not None
    assert 0.5 < judged.distance <= 2.0


def test_a_bundle_without_a_head_says_so(medgemma: Bundle) -> None:
    (judged,) = classify(medgemma, vector()[None])
    assert judged.findings == ()
    assert judged.in_distribution
    assert judged.reason == NO_CLASSIFIER


def test_a_lesion_in_one_view_counts_for_the_subject(fitted: Bundle) -> None:
    views = np.stack([vector(), vector(first=2.0), vector()])
    subject = classify_subject(fitted, views)
    assert subject.findings[0].probability == classify(fitted, views)[1].findings[0].probability


def test_a_view_that_does_not_belong_takes_no_part(fitted: Bundle) -> None:
    stranger = vector(first=9.0, third=-3.0)
    subject = classify_subject(fitted, np.stack([vector(), vector(), stranger]))
    assert subject.in_distribution
    assert not subject.findings[0].flagged


def test_a_subject_of_mostly_strangers_is_gated(fitted: Bundle) -> None:
    stranger = vector(third=-3.0)
    subject = classify_subject(fitted, np.stack([vector(first=2.0), stranger, stranger]))
    assert not subject.in_distribution
    assert subject.findings == ()


@requirement("M1")
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_a_failure_and_never_a_negative(
    fitted: Bundle, poison: float
) -> None:
    with pytest.raises(InferenceError, match="not finite"):
        classify(fitted, vector(first=poison)[None])


@pytest.mark.parametrize("shape", [(0, WIDTH), (2, WIDTH + 1), (WIDTH,)])
def test_embeddings_of_another_shape_are_refused(fitted: Bundle, shape: tuple[int, ...]) -> None:
    with pytest.raises(InferenceError, match="shape"):
        classify_subject(fitted, np.zeros(shape, np.float32))


def test_extreme_logits_stay_probabilities() -> None:
    assert sigmoid(np.array([-1e6, 0.0, 1e6])).tolist() == [0.0, 0.5, 1.0]


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=2), st.floats(0.01, 20))
@settings(max_examples=50, deadline=None)
def test_more_evidence_never_lowers_a_probability(start: list[float], more: float) -> None:
    head = LinearHead(
        mean=np.zeros(2),
        scale=np.full(2, 3.0),
        weights=np.array([[1.0, 0.0]]),
        intercept=np.zeros(1),
    )
    calibration = Calibration(
        kind="platt", slope=np.full(1, 1.5), intercept=np.zeros(1), shift=np.zeros(1)
    )
    raised = [start[0] + more, start[1]]
    low, high = probabilities(head, calibration, np.array([start, raised]))[:, 0]
    assert high >= low


def test_an_embedding_whose_distance_overflows_is_a_failure(fitted: Bundle) -> None:
    huge = np.full((1, WIDTH), np.finfo(np.float32).max, np.float32)
    assert fitted.bank is not None
    narrow = replace(fitted.bank, scale=np.full_like(fitted.bank.scale, 1e-3))
    with pytest.raises(InferenceError, match="too large"):
        classify_subject(replace(fitted, bank=narrow), huge)
