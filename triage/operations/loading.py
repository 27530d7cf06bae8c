"""Whether a process that loads models gets on, told by the work that it does.

A large model takes minutes to load, and no callback comes out of the libraries meanwhile. What
tells a load from a hang is processor time and bytes from the disk: a mount that does not answer
moves neither. Nothing here runs by itself; the daemon asks in its own turns (DESIGN section 3.14).
"""

import time
from collections.abc import Callable
from pathlib import Path

LOOK_S = 5.0
BUSY_SHARE = 0.05  # of one core between two looks; the daemon's own turns use less
MOVED_BYTES = 1 << 20  # read between two looks
STILL_S = 120.0  # a load that moved nothing for so long hangs
LONGEST_S = 1800.0  # no load may take longer, whatever it moves
IO = Path("/proc/self/io")

Meter = Callable[[], tuple[float, int]]


class Loading:
    """One load, from its first step on. `meter` gives processor time in s and bytes read."""

    def __init__(
        self, meter: Meter | None = None, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._meter = meter or process_meter
        self._monotonic = monotonic
        self._started_s = self._looked_s = self._moved_s = monotonic()
        self._last = self._meter()

    def look(self) -> bool:
        """Measure, at most every LOOK_S; True if work was done since the look before."""
        now_s = self._monotonic()
        since_s = now_s - self._looked_s
        if since_s < LOOK_S:
            return False
        (cpu_s, read_bytes), (last_cpu_s, last_read_bytes) = self._meter(), self._last
        self._last, self._looked_s = (cpu_s, read_bytes), now_s
        busy = cpu_s - last_cpu_s >= BUSY_SHARE * since_s
        if not busy and read_bytes - last_read_bytes < MOVED_BYTES:
            return False
        self._moved_s = now_s
        return True

    @property
    def hangs(self) -> bool:
        """Whether the load stands still, or has taken longer than any may."""
        now_s = self._monotonic()
        return now_s - self._moved_s > STILL_S or now_s - self._started_s > LONGEST_S


def process_meter() -> tuple[float, int]:
    """Return what this process has used: processor time, s, and bytes fetched from disks."""
    return time.process_time(), _read_bytes()


def _read_bytes() -> int:
    try:
        lines = IO.read_text("ascii").splitlines()
    except OSError:  # a kernel without task accounting: processor time must do
        return 0
    return int(dict(line.split(": ") for line in lines).get("read_bytes", 0))
