"""Where the time between an image's arrival and its flag went.

The stages are logged with each analysed job, so that a slow flag can be told from its own line:
`waited_ms` from the due time to the claim (an arriving image is due when its row is written),
`decode_ms` in the decoder process, `model_ms` in the batch that it shared, `total_ms` from the due
time to the commit of the flag. What is left of the total is the daemon's own share.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from triage.records import Job


@dataclass(kw_only=True)
class Stopwatch:
    """The times of one job; `claimed_s` is the monotonic time at which its claim began."""

    waited_s: float
    claimed_s: float
    decode_s: float = 0.0
    model_s: float = 0.0
    monotonic: Callable[[], float] = time.monotonic

    def told(self) -> dict[str, float]:
        """Return the stages up to now in milliseconds, as they are logged."""
        total_s = self.waited_s + self.monotonic() - self.claimed_s
        stages = {
            "waited_ms": self.waited_s,
            "decode_ms": self.decode_s,
            "model_ms": self.model_s,
            "total_ms": total_s,
        }
        return {name: round(1000 * seconds, 1) for name, seconds in stages.items()}


def started(job: Job, *, lease_s: float, claimed_s: float) -> Stopwatch:
    """Start the watch of a claimed job; its lease tells when that was by the database's clock."""
    claimed_at = job.lease_expires_at - timedelta(seconds=lease_s)
    return Stopwatch(waited_s=(claimed_at - job.due_at).total_seconds(), claimed_s=claimed_s)
