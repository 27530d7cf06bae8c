"""PPV, NPV and flag rate where the finding is as common as at the site."""

import math

import numpy as np
import pytest

from triage.learning.judging.calibration_figures import calibrated
from triage.learning.judging.prevalence import STATED, AtPrevalence, Prevalence, at_prevalence
from triage.learning.judging.statistics import Estimate, proportion

NOTHING = calibrated(np.zeros(0, np.bool_), np.zeros(0), ())


def at(share: float, sensitivity: Estimate, specificity: Estimate) -> AtPrevalence:
    site = Prevalence(share=share, source=STATED)
    return at_prevalence(site, sensitivity, specificity, NOTHING)


def test_they_follow_from_sensitivity_and_specificity_by_bayes_rule() -> None:
    found = at(0.1, proportion(90, 100), proportion(160, 200))
    assert found.positive_predictive_value.value == pytest.approx(0.09 / (0.09 + 0.18))
    assert found.negative_predictive_value.value == pytest.approx(0.72 / (0.72 + 0.01))
    assert found.flag_rate.value == pytest.approx(0.27)


def test_at_the_prevalence_of_the_labelled_images_they_are_those_counted_there() -> None:
    found = at(100 / 300, proportion(90, 100), proportion(160, 200))
    assert found.positive_predictive_value.value == pytest.approx(90 / 130)
    assert found.negative_predictive_value.value == pytest.approx(160 / 170)
    assert found.flag_rate.value == pytest.approx(130 / 300)


@pytest.mark.parametrize("share", [0.01, 0.2])
def test_their_intervals_hold_the_truth_as_often_as_they_say(share: float) -> None:
    generator = np.random.default_rng(4)
    found, passed = 0.9 * share, 0.8 * (1 - share)
    missed, alarmed = share - found, 1 - share - passed
    truths = (found / (found + alarmed), passed / (passed + missed), found + alarmed)
    covered = np.zeros(3)
    for hits, passes in generator.binomial((40, 120), (0.9, 0.8), (400, 2)):
        told = at(share, proportion(int(hits), 40), proportion(int(passes), 120))
        for number, (estimate, truth) in enumerate(
            zip(
                (told.positive_predictive_value, told.negative_predictive_value, told.flag_rate),
                truths,
                strict=True,
            )
        ):
            assert estimate.interval is not None
            covered[number] += estimate.interval.low <= truth <= estimate.interval.high
    assert (covered / 400 >= 0.92).all()
    assert (covered / 400 <= 0.99).all()


def test_no_false_alarm_among_few_does_not_make_a_flag_certain() -> None:
    ppv = at(0.05, proportion(9, 10), proportion(30, 30)).positive_predictive_value
    assert ppv.value == 1.0
    assert ppv.interval is not None
    assert ppv.interval.low < 0.4
    assert ppv.interval.high == 1.0


def test_what_was_never_found_has_a_predictive_value_of_nothing_upwards() -> None:
    ppv = at(0.05, proportion(0, 10), proportion(20, 30)).positive_predictive_value
    assert ppv.value == 0.0
    assert ppv.interval is not None
    assert ppv.interval.low == 0.0
    assert 0.0 < ppv.interval.high < 0.2


def test_nothing_is_said_of_flags_that_nothing_has_or_without_one_class() -> None:
    silent = at(0.05, proportion(0, 10), proportion(30, 30))
    assert math.isnan(silent.positive_predictive_value.value)
    assert silent.negative_predictive_value.value == pytest.approx(0.95)
    lone = at(0.05, proportion(9, 10), proportion(0, 0))
    assert math.isnan(lone.positive_predictive_value.value)
    assert lone.flag_rate.interval is None
