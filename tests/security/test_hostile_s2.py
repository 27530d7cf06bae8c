"""S2: bombs go through the whole program, and no process swells or stalls.

Each object of `bombs.bombs` is sent to the running program with the pocket model. Bounds, for the
receiver, the worker and each of its decoders: 5 s of processor time and under 256 MiB of growth; in
the long form, which has the machine to itself, answered within 5 s and decided within 5 s more. And
none is analysed: it is refused, quarantined, or listed as failed or not eligible, with its reason.
"""

from pathlib import Path

import pytest

from tests.assurance import Evidence, requirement
from tests.security.attacked import Fate, attack, attacked
from tests.security.bombs import bombs

BOUND_MIB = 256.0
BOUND_S = 5.0


@pytest.mark.timeout(600)
@requirement("S2", bound="each refused under 256 MiB and 5 s in every process")
def test_s2_bombs_are_refused_cheaply(
    evidence: Evidence, long: bool, sqlite_template: Path, tmp_path: Path
) -> None:
    with attacked(tmp_path, sqlite_template) as program:
        fates = attack(program, bombs())
    broken = [f"{fate.name}: {fault}" for fate in fates if (fault := fault_of(fate, long=long))]
    slowest = max(fates, key=lambda fate: fate.decided_s)
    largest = max(fates, key=lambda fate: fate.growth.worst_mib)
    evidence.record(
        trials=len(fates),
        losses=len(broken),
        worst=f"{largest.growth.worst_mib:.0f} MiB ({largest.name}),"
        f" {slowest.decided_s:.1f} s ({slowest.name})",
    )
    assert broken == []


def fault_of(fate: Fate, *, long: bool) -> str:
    """Return which bound was passed, in words; empty where none was."""
    if not fate.is_kept_out:
        return f"status {fate.status}, {fate.analysis} {fate.reason}"
    if fate.processor_s > BOUND_S:
        return f"took {fate.processor_s:.1f} s of the processors"
    if long and (fate.answered_s > BOUND_S or fate.decided_s - fate.answered_s > BOUND_S):
        return f"answered after {fate.answered_s:.1f} s, decided after {fate.decided_s:.1f} s"
    if fate.growth.worst_mib > BOUND_MIB:
        return fate.growth.told()
    return f"began {fate.growth.born}" if fate.growth.born else ""
