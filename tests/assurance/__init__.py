"""Promises and their evidence: the requirements, the trials that show them, the table of both.

A trial is a test that names its requirement and its bound, and records what it counted:

    @requirement("N8", bound="a store within 2 s beside 100 idle connections")
    def test_n8_idle_connections_leave_a_store_working(evidence: Evidence, long: bool) -> None:
        ...
        evidence.record(trials=100, losses=late, worst=f"{slowest:.2f} s")
        assert late == 0

A test may serve several requirements and a requirement have several tests. `record` comes before
the assertion, so that a promise that is not kept stands in the table with its figure. `long` is
false in `make test` (seconds) and true in `make faults`; a trial whose short form is no matter of
seconds is marked `long_only`, and `make test` leaves it out.
"""

import pytest

from tests.assurance.plugin import Evidence

__all__ = ["Evidence", "requirement"]


def requirement(code: str, *, bound: str = "") -> pytest.MarkDecorator:
    """Mark a test as a trial of the requirement `code`; `bound` is what it must reach, in words.

    Without a bound, the test's own assertions are it.
    """
    return pytest.mark.requirement(code, bound=bound)
