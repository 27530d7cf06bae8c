"""S3: damaged PDUs, commands, data sets and files hang nothing and raise nothing uncaught.

Targets are in `fuzz.targets`. Short form: what once broke a target, and some hundred new inputs
each; long form: a minute and a half each. `make fuzz` goes on for as long as it is let.
"""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assurance import Evidence, requirement
from tests.security.fuzz.running import MOST_GROWTH_MIB, SLOWEST_S, fuzz, try_one
from tests.security.fuzz.targets import REGRESSIONS, TARGETS, seeds

SECONDS, SECONDS_LONG = 1.5, 90.0
BOUND = "no uncaught error, 5 s each, under 256 MiB of growth"


@requirement("S3", bound=BOUND)
@pytest.mark.parametrize("target", TARGETS)
def test_s3_damaged_input_is_answered(
    target: str, evidence: Evidence, long: bool, tmp_path: Path
) -> None:
    done = fuzz(target, seconds=SECONDS_LONG if long else SECONDS, draw_from=4, into=tmp_path)
    evidence.record(
        trials=done.trials,
        losses=len(done.broken),
        worst=f"{done.slowest_s:.2f} s, {done.growth_mib:.0f} MiB",
    )
    assert done.broken == ()
    assert done.slowest_s < SLOWEST_S
    assert done.growth_mib < MOST_GROWTH_MIB


@requirement("S3", bound=BOUND)
@pytest.mark.parametrize("target", TARGETS)
def test_s3_any_bytes_are_answered(target: str) -> None:
    pool = seeds(target)[:12]

    @settings(max_examples=100, deadline=SLOWEST_S * 1000, database=None)
    @given(
        seed=st.sampled_from(pool),
        start=st.integers(0, 4096),
        put=st.binary(max_size=24),
        cut=st.integers(0, 4096),
    )
    def answered(seed: bytes, start: int, put: bytes, cut: int) -> None:
        place = start % (len(seed) + 1)
        TARGETS[target](seed[:place] + put + seed[place + cut % 64 :])

    answered()


@requirement("S3", bound="each input that once broke something")
@pytest.mark.parametrize("name", sorted(path.name for path in REGRESSIONS.iterdir()))
def test_s3_what_once_broke_something_no_longer_does(name: str) -> None:
    took_s, fault = try_one(TARGETS[name.partition("-")[0]], (REGRESSIONS / name).read_bytes())
    assert fault == ""
    assert took_s < SLOWEST_S


def test_a_fault_is_seen_and_kept(tmp_path: Path) -> None:
    def breaks(said: bytes) -> None:
        if len(said) > 60:
            raise KeyError(len(said))

    done = fuzz("dimse", seconds=0.2, draw_from=1, into=tmp_path, call=breaks)
    assert len(done.broken) == 1
    assert [path.name for path in tmp_path.iterdir()] == list(done.broken)
