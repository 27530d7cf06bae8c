"""The upkeep of the store behind the open doors: reconciliation to its end, and scrubbing.

A reconciliation that an error broke off is tried again; scrubbing waits for its first try alone, so
that one file that the disk does not give back keeps no other from being read.
"""

import threading

import structlog

from triage.database.connection import Database
from triage.errors import TransientError
from triage.ingest.intake import Intake
from triage.operations.parts import RoleThread
from triage.operations.reconcile import reconcile
from triage.operations.scrub import scrub
from triage.store import Store

log = structlog.get_logger(__name__)

AGAIN_S = 60.0
LOOK_S = 1.0


def upkeep(
    db: Database,
    store: Store,
    intake: Intake,
    *,
    stop: threading.Event,
    again_s: float = AGAIN_S,
) -> list[RoleThread]:
    """Return the threads of it, not started yet; they end soon after `stop` is set."""
    tried = threading.Event()

    def reconcile_at_last() -> None:
        while True:
            try:
                reconcile(db, store, intake, stop=stop)
                return
            except TransientError as error:
                log.warning("reconciliation_postponed", reason=str(error), next_step=error.hint)
            finally:
                tried.set()
            if stop.wait(again_s):
                return

    def scrub_after() -> None:
        while not tried.wait(LOOK_S):
            if stop.is_set():  # while the reconciliation hangs
                return
        scrub(db, store, stop=stop)

    return [RoleThread("reconcile", reconcile_at_last), RoleThread("scrub", scrub_after)]
