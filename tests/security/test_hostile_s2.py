"""S2: bombs go through the whole program, and no process swells or stalls.

Each object of `bombs.bombs` is sent to the running program with the pocket model. Bounds, for the
receiver, the worker and each of its decoders: 5 s of processor time and under 256 MiB of growth; in
the long form, which has the machine to itself, answered within 5 s and decided within 5 s more. And
none is analysed: it is refused, quarantined, or listed as failed or not eligible, with its reason.
Objects just within the limits may be analysed, and cost no more.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import pytest

from tests.assurance import Evidence, requirement
from tests.security.attacked import Fate, attack, attacked, status_of
from tests.security.bombs import bombs, deflated_objects, just_within
from tests.security.watching import growing

BOUND_MIB = 256.0
BOUND_S = 5.0
SENDERS = 24
SHORT_STEP = 3


@pytest.mark.timeout(600)
@requirement("S2", bound="each refused under 256 MiB and 5 s in every process")
def test_s2_bombs_are_refused_cheaply(
    evidence: Evidence, long: bool, sqlite_template: Path, tmp_path: Path
) -> None:
    with attacked(tmp_path, sqlite_template) as program:
        fates = attack(program, bombs())
    admitted = [f"{fate.name}: {fate.told()}" for fate in fates if not fate.is_kept_out]
    assert record(evidence, fates, admitted, long=long) == []


@pytest.mark.timeout(600)
@requirement("S2", bound="each just within the limits under 256 MiB and 5 s in every process")
def test_s2_what_is_just_within_the_limits_is_as_cheap(
    evidence: Evidence, long: bool, sqlite_template: Path, tmp_path: Path
) -> None:
    with attacked(tmp_path, sqlite_template) as program:
        fates = attack(program, islice(just_within(), None, None, 1 if long else SHORT_STEP))
    assert record(evidence, fates, [], long=long) == []


@pytest.mark.long_only
@pytest.mark.timeout(600)
@requirement("S2", bound=f"{SENDERS} deflated objects at once under 256 MiB, each answered")
def test_s2_deflated_objects_of_many_senders_at_once_are_all_answered(
    evidence: Evidence, sqlite_template: Path, tmp_path: Path
) -> None:
    objects = deflated_objects(SENDERS, zeros_mib=60)
    with attacked(tmp_path, sqlite_template) as program, ThreadPoolExecutor(SENDERS) as senders:
        assert program.process is not None
        with growing(program.process.pid) as growth:
            statuses = list(senders.map(partial(status_of, program.port()), objects))
    lost = sum(status != 0 for status in statuses)
    evidence.record(trials=SENDERS, losses=lost, worst=growth.told())
    assert lost == 0
    assert growth.worst_mib < BOUND_MIB, growth.told()


def record(evidence: Evidence, fates: list[Fate], broken: list[str], *, long: bool) -> list[str]:
    """Add to `broken` which bounds were passed; return it, recorded."""
    broken += [f"{fate.name}: {fault}" for fate in fates if (fault := fault_of(fate, long=long))]
    slowest = max(fates, key=lambda fate: fate.decided_s)
    largest = max(fates, key=lambda fate: fate.growth.worst_mib)
    evidence.record(
        trials=len(fates),
        losses=len(broken),
        worst=f"{largest.growth.worst_mib:.0f} MiB ({largest.name}),"
        f" {slowest.decided_s:.1f} s ({slowest.name})",
    )
    return broken


def fault_of(fate: Fate, *, long: bool) -> str:
    """Return which bound was passed, in words; empty where none was."""
    if fate.processor_s > BOUND_S:
        return f"took {fate.processor_s:.1f} s of the processors"
    if long and (fate.answered_s > BOUND_S or fate.decided_s - fate.answered_s > BOUND_S):
        return f"answered after {fate.answered_s:.1f} s, decided after {fate.decided_s:.1f} s"
    if fate.growth.worst_mib > BOUND_MIB:
        return fate.growth.told()
    return f"began {fate.growth.born}" if fate.growth.born else ""
