"""What the processes of one program take while it runs: memory, threads and descriptors, over time.

Read from /proc, without help of the program. A slope is the least-squares line through the samples.
"""

import statistics
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

PROC = Path("/proc")
GONE = (FileNotFoundError, ProcessLookupError, PermissionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One process at one moment; at_s is of the monotonic clock.

    own_mib is what it wrote and no other has. pss_mib counts a page that several processes have in
    parts, so it moves when other programs with the same libraries come and go.
    """

    pid: int
    at_s: float
    rss_mib: float
    pss_mib: float
    own_mib: float
    threads: int
    descriptors: int


@dataclass(slots=True)
class Series:
    """The samples of each process, in order of time."""

    of: dict[int, list[Sample]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)

    def add(self, sample: Sample) -> None:
        self.of.setdefault(sample.pid, []).append(sample)


def tree(pid: int) -> list[int]:
    """Return `pid` and all that came from it and live, the oldest first."""
    children: dict[int, list[int]] = {}
    for path in PROC.glob("[0-9]*/stat"):
        with suppress(*GONE):
            # The name in parentheses may hold anything; the parent is the second field after it.
            rest = path.read_text("utf-8", "replace").rpartition(")")[2].split()
            if rest[0] != "Z":
                children.setdefault(int(rest[1]), []).append(int(path.parent.name))
    found = [pid]
    for each in found:
        found += sorted(children.get(each, ()))
    return found


def sample(pid: int) -> Sample | None:
    """Read one process; None when it is gone."""
    at_s = time.monotonic()
    try:
        status = _fields(PROC / str(pid) / "status")
        rollup = _fields(PROC / str(pid) / "smaps_rollup")
        descriptors = sum(1 for _ in (PROC / str(pid) / "fd").iterdir())
        return Sample(
            pid=pid,
            at_s=at_s,
            rss_mib=int(status["VmRSS"]) / 1024,
            pss_mib=int(rollup["Pss"]) / 1024,
            own_mib=int(rollup["Private_Dirty"]) / 1024,
            threads=int(status["Threads"]),
            descriptors=descriptors,
        )
    except (*GONE, KeyError):
        return None


def name(pid: int) -> str:
    """Return what the process does, as its command line tells: `run`, `run --role analyse`, …"""
    with suppress(*GONE):
        words = (PROC / str(pid) / "cmdline").read_text("utf-8", "replace").split("\0")
        return _told(words)
    return "gone"


@contextmanager
def sampling(pid: int, every_s: float) -> Iterator[Series]:
    """Sample the tree of `pid` in the background until the block ends."""
    series, stop = Series(), threading.Event()

    def turn() -> None:
        while not stop.wait(every_s):
            for each in tree(pid):
                if taken := sample(each):
                    series.names.setdefault(each, name(each))
                    series.add(taken)

    thread = threading.Thread(target=turn, name="sampling")
    thread.start()
    try:
        yield series
    finally:
        stop.set()
        thread.join()


def slope_per_min(points: Iterable[tuple[float, float]]) -> float:
    """Return how much is gained in a minute; points are (seconds, value)."""
    times, values = zip(*points, strict=True)
    return float(statistics.linear_regression(times, values).slope) * 60


def after(samples: Sequence[Sample], share: float) -> list[Sample]:
    """Leave out the first `share` of the time, in which caches and pools fill."""
    begun, ended = samples[0].at_s, samples[-1].at_s
    return [each for each in samples if each.at_s >= begun + share * (ended - begun)]


def _fields(path: Path) -> dict[str, str]:
    lines = path.read_text("utf-8", "replace").splitlines()
    return {
        key: words.split()[0]
        for key, _, words in (line.partition(":") for line in lines)
        if words.split()
    }


def _told(words: Sequence[str]) -> str:
    after_module = [word for word in words if word]
    if "run" in after_module:
        return " ".join(after_module[after_module.index("run") :])
    return " ".join(Path(word).name for word in after_module[:3])
