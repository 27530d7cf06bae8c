"""Feed a target for a time, watch time and growth, keep what breaks it."""

import faulthandler
import hashlib
import random
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.security.fuzz.mutation import damaged
from tests.security.fuzz.targets import REGRESSIONS, TARGETS, seeds, silence

SLOWEST_S = 5.0
MOST_GROWTH_MIB = 256.0
HUNG_S = 30.0  # then the process ends with where it was


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one target did. `broken` names the regression files that were written."""

    target: str
    trials: int
    slowest_s: float
    growth_mib: float
    broken: tuple[str, ...]


def fuzz(
    target: str,
    *,
    seconds: float,
    draw_from: int,
    into: Path = REGRESSIONS,
    call: Callable[[bytes], None] | None = None,
) -> Outcome:
    """Run one target until the time is over; what broke it is written into a folder.

    call: what is run in the place of the target.
    """
    with silence():
        return _fuzz(target, call or TARGETS[target], seconds, draw_from, into)


def _fuzz(
    target: str, call: Callable[[bytes], None], seconds: float, draw_from: int, into: Path
) -> Outcome:
    pool, draw = seeds(target), random.Random(draw_from)
    trials, slowest_s, broken = 0, 0.0, set[str]()
    for data in pool:
        try_one(call, data)  # honest input, which also loads what is loaded once
    base_mib = held_at_most_mib()
    ends_s = time.monotonic() + seconds
    while time.monotonic() < ends_s:
        data = damaged(draw, pool)
        took_s, fault = try_one(call, data)
        trials, slowest_s = trials + 1, max(slowest_s, took_s)
        if fault:
            broken.add(keep(target, data, fault, into))
    return Outcome(
        target=target,
        trials=trials,
        slowest_s=slowest_s,
        growth_mib=held_at_most_mib() - base_mib,
        broken=tuple(sorted(broken)),
    )


def try_one(call: Callable[[bytes], None], data: bytes) -> tuple[float, str]:
    """Return how long one input took, and what is wrong: a traceback, a time; or nothing."""
    faulthandler.dump_traceback_later(HUNG_S, exit=True)
    began_s = time.monotonic()
    fault = ""
    try:
        call(data)
    except Exception:  # noqa: BLE001 - whatever it is, it should have been caught
        fault = traceback.format_exc()
    finally:
        faulthandler.cancel_dump_traceback_later()
    took_s = time.monotonic() - began_s
    if took_s > SLOWEST_S:
        fault = fault or f"took {took_s:.1f} s"
    return took_s, fault


def keep(target: str, data: bytes, fault: str, into: Path) -> str:
    """Write the input beside its fault; one file for each place where it arose."""
    lines = [line for line in fault.splitlines() if line.strip()]
    place = "".join(line for line in lines if line.lstrip().startswith("File"))
    name = f"{target}-{hashlib.sha256((place or lines[-1][:20]).encode()).hexdigest()[:12]}"
    path = into / name
    if not path.exists():
        path.write_bytes(data)
        print(f"{name}: {len(data)} bytes\n{fault}", flush=True)
    return name


def held_at_most_mib() -> float:
    """The high-water mark of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0
