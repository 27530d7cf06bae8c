"""Decide what follows a failed attempt: another one later, or the dead letters.

Exponential back-off with jitter: the delay doubles with each attempt up to a bound, and the
upper half of it is random, so that jobs which failed together do not come back together.
"""

from dataclasses import dataclass

from triage.errors import ConfigError
from triage.rules import checks


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """`[retry]` in triage.toml; raises ConfigError if unusable."""

    attempts: int = 5  # runs in all, the first one included
    base_s: float = 5.0  # delay after the first failure, before jitter
    max_s: float = 900.0  # no delay is longer

    def __post_init__(self) -> None:
        if not isinstance(self.attempts, int):
            raise ConfigError(f"[retry] attempts must be a whole number, not {self.attempts!r}")
        checks.number("retry", "attempts", self.attempts, least=1)
        checks.number("retry", "base_s", self.base_s, above=True)
        checks.number("retry", "max_s", self.max_s, least=self.base_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Run again, no earlier than `delay_s` from now."""

    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Dead:
    """No further run: a dead letter, with the reason for a person."""

    reason: str


def longest_delay_s(attempts: int, policy: RetryPolicy) -> float:
    """Return the delay in seconds after the given attempt (1 = first) before jitter."""
    doublings = min(attempts - 1, 60)  # far beyond any max_s, and never an overflow
    return float(min(policy.base_s * 2.0**doublings, policy.max_s))


def after_failure(
    *, transient: bool, attempts: int, policy: RetryPolicy, jitter: float
) -> Retry | Dead:
    """Decide after the run number `attempts` (1 = first) has failed or lost its lease.

    `transient` is whether the error is a TransientError; `jitter` is drawn by the caller from
    [0, 1). The delay lies between half of `longest_delay_s` and the whole of it.
    """
    if not transient:
        return Dead(reason="failed permanently")
    if attempts >= policy.attempts:
        return Dead(reason=f"gave up after {attempts} attempts")
    return Retry(delay_s=longest_delay_s(attempts, policy) * (0.5 + jitter / 2))
