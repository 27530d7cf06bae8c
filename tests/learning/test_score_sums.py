"""The running sums of two models' scores give what all pairs together give."""

import numpy as np
import pytest

from triage.learning.watching.score_sums import ScoreSums


def summed(a: list[float], b: list[float]) -> ScoreSums:
    sums = ScoreSums()
    for served, other in zip(a, b, strict=True):
        sums.add(served, other)
    return sums


def test_sums_are_those_of_all_pairs() -> None:
    random = np.random.default_rng(0)
    a = random.random(500)
    b = np.clip(a + 0.1 * random.standard_normal(500), 0, 1)
    sums = summed(a.tolist(), b.tolist())
    assert sums.pairs == 500
    assert sums.mean_difference == pytest.approx((b - a).mean())
    assert sums.mean_absolute == pytest.approx(np.abs(b - a).mean())
    assert sums.largest == pytest.approx(np.abs(b - a).max())
    assert sums.correlation == pytest.approx(np.corrcoef(a, b)[0, 1])


def test_scores_that_hardly_differ_keep_their_digits() -> None:
    a = (0.999 + 1e-7 * np.arange(100)).tolist()
    assert summed(a, a).correlation == pytest.approx(1.0)


def test_where_all_scores_are_alike_there_is_no_correlation() -> None:
    assert summed([0.5] * 9, [0.1] * 9).correlation is None
    assert ScoreSums().mean_difference == 0.0
