"""Keeps the leases of jobs at hand while the worker looks at them.

A forward pass can outlast a lease, so a thread renews them; it stops when the loop's turns stop,
so a hung worker loses its jobs and another one takes them. Correctness does not rest on it: the
commit checks the fencing number (DESIGN section 3.6).
"""

import threading
import time
from collections.abc import Callable, Iterable

import structlog

from triage.database.connection import Database
from triage.database.queue import heartbeat
from triage.errors import DatabaseUnavailable
from triage.records import Job
from triage.worker.settings import WorkerSettings

log = structlog.get_logger(__name__)


class LeaseKeeper:
    """Renews what it is told to keep, for as long as `turned()` is called in time."""

    def __init__(
        self,
        db: Database,
        settings: WorkerSettings,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db = db
        self._settings = settings
        self._monotonic = monotonic
        self._jobs: dict[int, Job] = {}
        self._lost: set[int] = set()
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._last_turn_s = monotonic()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def turned(self) -> None:
        """Note one turn of the loop. Raises RuntimeError if the renewing thread has died."""
        self._last_turn_s = self._monotonic()
        if self._thread.ident is not None and not self._thread.is_alive():
            raise RuntimeError("the thread that renews leases has ended")

    def keep(self, jobs: Iterable[Job]) -> None:
        with self._guard:
            self._jobs.update({job.id: job for job in jobs})

    def drop(self, job: Job) -> None:
        with self._guard:
            self._jobs.pop(job.id, None)
            self._lost.discard(job.id)

    def lost(self, job: Job) -> bool:
        """Whether another worker has the job by now, as far as the last renewal told."""
        with self._guard:
            return job.id in self._lost

    def renew(self) -> None:
        """Renew once; jobs that are no longer held count as lost."""
        if self._monotonic() - self._last_turn_s > self._settings.hang_s:
            log.error("leases_left_to_expire", jobs=len(self._jobs))
            return
        with self._guard:
            jobs = list(self._jobs.values())
        if not jobs:
            return
        try:
            held = heartbeat(self._db, jobs, lease_s=self._settings.lease_s)
        except DatabaseUnavailable as error:
            log.warning("leases_not_renewed", reason=str(error))
            return
        with self._guard:
            self._lost.update({job.id for job in jobs} - held)

    def _run(self) -> None:
        while not self._stop.wait(self._settings.heartbeat_s):
            self.renew()
