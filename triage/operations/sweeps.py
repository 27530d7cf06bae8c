"""The sweeps: what comes due by time alone, found again on every tick.

APScheduler is the in-memory ticker and nothing more: every sweep reads what is due from our own
tables and may run twice, late or on several hosts at once. A tick that was missed is made up for
by the next one, so ticks are coalesced and never expire (DESIGN section 3; clinical.md 4.5).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog
from apscheduler.events import (
    EVENT_JOB_ERROR,
    EVENT_JOB_MAX_INSTANCES,
    EVENT_JOB_MISSED,
    JobEvent,
)
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from triage.database import arrivals, house, queue, worklist
from triage.database.connection import Database
from triage.errors import TransientError
from triage.rules.policies import Policies

log = structlog.get_logger(__name__)

FORGET_ROLES_AFTER = timedelta(hours=24)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One idempotent piece of work; `run` returns how many things it has changed."""

    name: str
    every_s: float
    run: Callable[[], int]


def standard_sweeps(db: Database, policies: Policies) -> list[Sweep]:
    """Return the sweeps over the tables. Due retries need none: a claim sees them by due time."""

    def close_arrivals() -> int:
        with db.write() as connection:
            now = db.now(connection)
            series = arrivals.close_due_series(connection, policies=policies, now=now)
            return series + arrivals.close_due_studies(connection, policies=policies, now=now)

    def expired_leases() -> int:
        with db.write() as connection:
            return queue.sweep_expired(connection, policies=policies, now=db.now(connection))

    def due_priorities() -> int:
        with db.write() as connection:
            return worklist.refresh_due(connection, policies=policies, now=db.now(connection))

    def silent_roles() -> int:
        with db.write() as connection:
            before = db.now(connection) - FORGET_ROLES_AFTER
            return house.remove_silent_roles(connection, before=before)

    return [
        Sweep(name="close_arrivals", every_s=1.0, run=close_arrivals),
        Sweep(name="expired_leases", every_s=5.0, run=expired_leases),
        Sweep(name="due_priorities", every_s=5.0, run=due_priorities),
        Sweep(name="silent_roles", every_s=3600.0, run=silent_roles),
    ]


class Ticker:
    """Runs sweeps until stopped. `turned` is called after every sweep that came to its end.

    A sweep that meets a TransientError runs again at its next tick; any other error is a defect:
    it is kept in `failure`, and the daemon ends.
    """

    def __init__(self, sweeps: Sequence[Sweep], *, turned: Callable[[], None]) -> None:
        self._turned = turned
        self.failure: BaseException | None = None
        # One thread: sweeps write, and writers wait for each other anyway.
        self._scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(1)},
            job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1},
            timezone="UTC",
        )
        self._scheduler.add_listener(self._failed, EVENT_JOB_ERROR)
        self._scheduler.add_listener(self._missed, EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES)
        for sweep in sweeps:
            self._scheduler.add_job(
                self._run, "interval", args=[sweep], seconds=sweep.every_s, id=sweep.name
            )

    def start(self) -> None:
        self._scheduler.start()

    def stop(self) -> None:
        """Let the sweep that runs come to its end, then stop ticking."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)

    @property
    def alive(self) -> bool:
        return self.failure is None and bool(self._scheduler.running)

    def _run(self, sweep: Sweep) -> None:
        changed = sweep.run()
        if changed:
            log.debug("sweep_changed", sweep=sweep.name, count=changed)
        self._turned()

    def _failed(self, event: JobEvent) -> None:
        error = event.exception
        if isinstance(error, TransientError):
            log.warning("sweep_postponed", sweep=event.job_id, reason=str(error))
            return
        log.error("sweep_failed", sweep=event.job_id, exc_info=error)
        self.failure = error

    def _missed(self, event: JobEvent) -> None:
        log.warning("sweep_late", sweep=event.job_id)
