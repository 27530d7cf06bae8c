"""How much the processes of a program grow at their worst, by the kernel's own high-water mark.

Of a process that was there before, counted is what it came to have above what it had; of one that
began meanwhile, what it had above its parent, as a fork begins with its parent's pages.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.sampling import GONE, PROC, name, tree

EVERY_S = 0.02
RESET_PEAK = "5"  # proc(5), clear_refs


@dataclass(slots=True)
class Growth:
    """Megabytes by process; complete when the block has ended."""

    mib: dict[int, float] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    born: set[int] = field(default_factory=set)

    @property
    def worst_mib(self) -> float:
        return max(self.mib.values(), default=0.0)

    def told(self) -> str:
        """Return the worst process with its growth."""
        if not self.mib:
            return "no process"
        worst = max(self.mib, key=lambda pid: self.mib[pid])
        return f"{self.names[worst]} {self.mib[worst]:.0f} MiB"


@contextmanager
def growing(pid: int) -> Iterator[Growth]:
    """Watch the tree of `pid` until the block ends."""
    growth, stop = Growth(), threading.Event()
    base = {each: _peak_mib(each, reset=True) for each in tree(pid)}
    growth.names = {each: name(each) for each in base}

    def look() -> None:
        for each in tree(pid):
            if each not in base:
                base[each] = base[pid]
                growth.born.add(each)
                growth.names[each] = name(each)
            growth.mib[each] = max(growth.mib.get(each, 0.0), _peak_mib(each) - base[each])

    def turn() -> None:
        while not stop.wait(EVERY_S):
            look()

    thread = threading.Thread(target=turn, name="growing")
    thread.start()
    try:
        yield growth
    finally:
        stop.set()
        thread.join()
        look()


def descriptors(pid: int) -> int:
    return sum(1 for _ in (PROC / str(pid) / "fd").iterdir())


def threads(pid: int) -> int:
    return sum(1 for _ in (PROC / str(pid) / "task").iterdir())


def held_mib(pid: int) -> float:
    """Return what the process has in memory now."""
    return _field_mib(pid, "VmRSS:")


def processor_s(pid: int) -> float:
    """Return the processor time that the tree of `pid` has taken so far."""
    ticks = 0
    for each in tree(pid):
        with suppress(*GONE):
            rest = (PROC / str(each) / "stat").read_text("utf-8", "replace").rpartition(")")[2]
            ticks += sum(map(int, rest.split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _peak_mib(pid: int, *, reset: bool = False) -> float:
    with suppress(*GONE, OSError):
        if reset:
            (PROC / str(pid) / "clear_refs").write_text(RESET_PEAK)
        return _field_mib(pid, "VmHWM:")
    return 0.0


def _field_mib(pid: int, wanted: str) -> float:
    for line in Path(PROC / str(pid) / "status").read_text("utf-8", "replace").splitlines():
        if line.startswith(wanted):
            return int(line.split()[1]) / 1024
    return 0.0  # a process that has ended and waits for its parent
