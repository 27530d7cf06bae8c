"""How the worker runs: numbers from triage.toml, with their defaults as there."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """[inference], [worker] and [caption], as far as the loop needs them."""

    batch_size: int = 8  # views per forward pass
    batch_wait_ms: int = 50
    lease_s: float = 60.0
    heartbeat_s: float = 15.0
    idle_s: float = 0.02  # between two looks into an empty queue: part of arrival-to-flag
    caption_when: str = "flagged"  # flagged | all | never
    caption_batch: int = 4

    @property
    def hang_s(self) -> float:
        """Time without a turn after which the worker's leases are left to expire."""
        return max(600.0, 10 * self.lease_s)
