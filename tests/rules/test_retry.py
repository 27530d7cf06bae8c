"""A transient failure is tried again, later each time, a bounded number of times."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.assurance import requirement
from triage.errors import ConfigError
from triage.rules.retry import Dead, Retry, RetryPolicy, after_failure, longest_delay_s

POLICY = RetryPolicy(attempts=5, base_s=5, max_s=60)

policies = st.builds(
    lambda attempts, base_s, factor: RetryPolicy(
        attempts=attempts, base_s=base_s, max_s=base_s * factor
    ),
    st.integers(1, 200),
    st.floats(0.001, 1000),
    st.floats(1, 1000),
)
jitters = st.floats(0, 1, exclude_max=True)


def delay_s(attempts: int, jitter: float = 0.0) -> float:
    outcome = after_failure(transient=True, attempts=attempts, policy=POLICY, jitter=jitter)
    assert isinstance(outcome, Retry)
    return outcome.delay_s


def test_the_delay_doubles_up_to_its_bound() -> None:
    assert [longest_delay_s(attempts, POLICY) for attempts in range(1, 7)] == [
        5, 10, 20, 40, 60, 60,
    ]  # fmt: skip


def test_jitter_moves_the_delay_between_its_half_and_its_whole() -> None:
    assert delay_s(3, jitter=0.0) == 10
    assert delay_s(3, jitter=0.5) == 15
    assert 19 < delay_s(3, jitter=0.9999) < 20


def test_a_permanent_failure_is_dead_at_once() -> None:
    outcome = after_failure(transient=False, attempts=1, policy=POLICY, jitter=0)
    assert outcome == Dead(reason="failed permanently")


def test_the_last_attempt_is_not_repeated() -> None:
    assert delay_s(4) == 20
    outcome = after_failure(transient=True, attempts=5, policy=POLICY, jitter=0)
    assert outcome == Dead(reason="gave up after 5 attempts")


@requirement("Q3")
@given(policy=policies, jitter=jitters)
def test_every_job_comes_to_an_end(policy: RetryPolicy, jitter: float) -> None:
    outcomes = [
        after_failure(transient=True, attempts=attempts, policy=policy, jitter=jitter)
        for attempts in range(1, policy.attempts + 1)
    ]
    assert [type(outcome) for outcome in outcomes] == [Retry] * (policy.attempts - 1) + [Dead]


@given(policy=policies, attempts=st.integers(1, 10_000), jitter=jitters)
def test_delays_are_bounded(policy: RetryPolicy, attempts: int, jitter: float) -> None:
    outcome = after_failure(transient=True, attempts=attempts, policy=policy, jitter=jitter)
    if isinstance(outcome, Retry):
        assert policy.base_s / 2 <= outcome.delay_s <= policy.max_s


@given(policy=policies, attempts=st.integers(1, 10_000), jitter=jitters)
def test_delays_never_shrink_with_the_attempts(
    policy: RetryPolicy, attempts: int, jitter: float
) -> None:
    # Equal jitter on both sides stands for the expectation, which is linear in it.
    assert longest_delay_s(attempts, policy) <= longest_delay_s(attempts + 1, policy)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"attempts": 0}, "attempts"),
        ({"attempts": 1.5}, "attempts"),
        ({"base_s": 0}, "base_s"),
        ({"base_s": float("nan")}, "base_s"),
        ({"base_s": 10, "max_s": 5}, "max_s"),
        ({"max_s": float("inf")}, "max_s"),
    ],
)
def test_an_unusable_policy_is_refused_by_section_and_key(
    values: dict[str, float], key: str
) -> None:
    with pytest.raises(ConfigError, match=rf"\[retry\] {key}"):
        RetryPolicy(**values)  # type: ignore[arg-type]
