"""Retention: old images leave the disk, their rows stay.

Pixels, embedding and caption go together, and never those of an unread flagged study; which
studies may go is decided by `database.retention` (DESIGN section 4). The rows say "images expired"
before the files go, so a crash in between leaves files without use and never rows that promise
images which are gone.
"""

import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import structlog

from triage.database.connection import Database
from triage.database.retention import expirable_studies, expire_study, still_expired
from triage.operations.sweeps import Sweep
from triage.store import Store

log = structlog.get_logger(__name__)

EVERY_S = 60.0
STUDIES_A_TURN = 100
TURN_S = 5.0  # then the other sweeps, which close series and renew priorities, have their turn
PATHS_A_TRANSACTION = 50  # bounds how long arrivals wait for deletions


def retention_sweep(db: Database, store: Store, *, retention_days: int) -> Sweep:
    """Return the sweep that expires what is older than `retention_days`."""
    return Sweep(
        name="retention",
        every_s=EVERY_S,
        run=lambda: expire_due(db, store, retention_days=retention_days),
    )


def expire_due(
    db: Database,
    store: Store,
    *,
    retention_days: int,
    monotonic: Callable[[], float] = time.monotonic,
) -> int:
    """Expire studies for about TURN_S, at most STUDIES_A_TURN; return how many.

    Raises TransientError.
    """
    ends_s = monotonic() + TURN_S
    with db.read() as connection:
        before = db.now(connection) - timedelta(days=retention_days)
        due = expirable_studies(connection, before=before, limit=STUDIES_A_TURN)
    for done, study_id in enumerate(due):
        if monotonic() >= ends_s:
            return done
        with db.write() as connection:
            paths = expire_study(connection, study_id, now=db.now(connection))
        for first in range(0, len(paths), PATHS_A_TRANSACTION):
            delete_expired(db, store, paths[first : first + PATHS_A_TRANSACTION])
        log.info("images_expired", study_id=study_id, files=len(paths))
    return len(due)


def delete_expired(db: Database, store: Store, paths: Sequence[str]) -> None:
    """Delete files that no row holds; none of them can arrive again while the deletion lasts."""
    with db.write() as connection:
        for path in still_expired(connection, paths):
            store.delete(path)
