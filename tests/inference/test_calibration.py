"""Logits become the probabilities that a person computes by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triage.errors import BundleError
from triage.inference.calibration import (
    Calibration,
    calibrated,
    calibration_arrays,
    check_calibration,
    read_calibration,
    sigmoid,
    uncalibrated,
)

PLATT = Calibration(
    kind="platt",
    slope=np.array([2.0, 0.5]),
    intercept=np.array([-1.0, 0.0]),
    shift=np.zeros(2),
)
STEPS = (np.array([-1.0, 0.0, 2.0]), np.array([0.1, 0.5, 0.9]))
ISOTONIC = replace(uncalibrated(2), kind="isotonic", knots=(STEPS, STEPS))
KINDS = {"none": uncalibrated(2), "platt": PLATT, "isotonic": ISOTONIC}


def test_without_a_calibration_a_probability_is_the_sigmoid_of_the_logit() -> None:
    np.testing.assert_allclose(calibrated(uncalibrated(2), np.array([0.0, np.log(3)])), [0.5, 0.75])


def test_platt_scales_and_moves_the_logit() -> None:
    chances = calibrated(PLATT, np.array([0.5, 2 * np.log(4)]))
    np.testing.assert_allclose(chances, [0.5, 0.8])


def test_isotonic_is_straight_between_knots_and_level_outside() -> None:
    logits = np.array([[-9.0, -0.5], [1.0, 99.0]])
    np.testing.assert_allclose(calibrated(ISOTONIC, logits), [[0.1, 0.3], [0.7, 0.9]])


@pytest.mark.parametrize("kind", KINDS)
def test_a_shift_moves_the_log_odds_of_every_kind(kind: str) -> None:
    plain, logits = KINDS[kind], np.array([[0.2, -0.4], [1.5, 0.0]])
    shifted = calibrated(replace(plain, shift=np.array([1.0, -2.0])), logits)
    before = calibrated(plain, logits)
    moved = np.log(shifted / (1 - shifted)) - np.log(before / (1 - before))
    np.testing.assert_allclose(moved, [[1.0, -2.0]] * 2, atol=1e-9)


def test_certainty_stays_certain_under_a_shift() -> None:
    sure = (np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    calibration = replace(ISOTONIC, knots=(sure, sure), shift=np.array([3.0, -3.0]))
    assert calibrated(calibration, np.array([0.0, 1.0])).tolist() == [0.0, 1.0]


@given(st.sampled_from(sorted(KINDS)), st.floats(-40, 40), st.floats(0, 20))
@settings(max_examples=60, deadline=None)
def test_a_higher_logit_never_has_a_lower_probability(kind: str, low: float, more: float) -> None:
    chances = calibrated(KINDS[kind], np.array([[low, low], [low + more, low + more]]))
    assert (chances[1] >= chances[0]).all()
    assert ((chances >= 0) & (chances <= 1)).all()


def test_extreme_logits_stay_probabilities() -> None:
    assert sigmoid(np.array([-1e6, 0.0, 1e6])).tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_what_is_read(kind: str) -> None:
    before = replace(KINDS[kind], shift=np.array([0.1, -0.3]))
    read = read_calibration(kind, calibration_arrays(before), 2)
    logits = np.linspace(-3, 3, 10).reshape(5, 2)
    np.testing.assert_array_equal(calibrated(read, logits), calibrated(before, logits))


UNFITTING = {
    "unknown kind": (replace(PLATT, kind="beta"), "beta"),
    "another count": (uncalibrated(3), "fits 2 findings"),
    "not finite": (replace(PLATT, intercept=np.array([np.nan, 0.0])), "intercept"),
    "turned round": (replace(PLATT, slope=np.array([1.0, -0.1])), "round"),
    "none with a slope": (replace(PLATT, kind="none"), "slope or an intercept"),
    "knots of another kind": (replace(PLATT, knots=(STEPS, STEPS)), "knots"),
    "knots of one finding": (replace(ISOTONIC, knots=(STEPS,)), "knots"),
    "knots that stand": (
        replace(ISOTONIC, knots=(STEPS, (np.zeros(2), np.array([0.1, 0.2])))),
        "do not rise",
    ),
    "knots that fall": (
        replace(ISOTONIC, knots=(STEPS, (np.array([0.0, 1.0]), np.array([0.2, 0.1])))),
        "fall",
    ),
    "knots above one": (
        replace(ISOTONIC, knots=(STEPS, (np.array([0.0, 1.0]), np.array([0.2, 1.1])))),
        "leave 0 to 1",
    ),
    "knots not finite": (
        replace(ISOTONIC, knots=(STEPS, (np.array([0.0, 1.0]), np.array([0.2, np.nan])))),
        "leave 0 to 1",
    ),
}


@pytest.mark.parametrize(("calibration", "said"), UNFITTING.values(), ids=UNFITTING)
def test_an_unusable_calibration_is_refused(calibration: Calibration, said: str) -> None:
    with pytest.raises(BundleError, match=said):
        check_calibration(calibration, 2)


def test_a_file_with_other_arrays_than_its_kind_has_is_refused() -> None:
    arrays = calibration_arrays(ISOTONIC)
    with pytest.raises(BundleError, match="no use for the array x_1"):
        read_calibration("platt", arrays, 2)
    with pytest.raises(BundleError, match="lacks the array x_3"):
        read_calibration("isotonic", {k: v[:1] for k, v in arrays.items()}, 3)
