"""Start-up reconciliation: what the store holds and what the database says are made to agree.

A crash between the rename of a file and the commit of its row leaves a file that nobody was told
of: it is taken in. A row whose file is gone is a loss that only a person can mend: an alarm. What
dead writers left half written is removed.

Runs in a thread of its own after the receiver listens. The walk over the files goes round in a
circle: where it was stopped is noted in the store, and the next start goes on from there.
"""

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice, takewhile
from pathlib import Path

import structlog

from triage.database.arrivals import held_digest, instance_paths
from triage.database.connection import Database
from triage.database.house import clear_alarm, raise_alarm
from triage.errors import ObjectRefused
from triage.ingest.intake import Intake
from triage.records import Source
from triage.store import Store

log = structlog.get_logger(__name__)

BATCH = 200
NOTE = "reconciled-to"  # in the store: the last file that was looked at
MISSING = "objects_missing"
STRANGE = "objects_unreadable"
SHOWN = 5  # digests that an alarm names


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """What one round found."""

    taken_in: int  # files without a row
    missing: int  # rows without a file
    leftovers: int  # half-written files of dead writers
    complete: bool  # False: stopped before the end


def reconcile(
    db: Database,
    store: Store,
    intake: Intake,
    *,
    stop: threading.Event,
    pause_s: float = 0.05,
    recheck_s: float = 2.0,
) -> Reconciliation:
    """Compare store and database once.

    `pause_s` is the rest after each batch of files, `recheck_s` how long a file may wait for the
    row that a running intake is about to commit. Raises TransientError where store or database is
    away; the next start goes on.
    """
    leftovers = store.sweep_leftovers()
    taken_in, strange = 0, list[str]()
    for batch in _batches(_circle(store)):
        orphans = _without_row(db, batch)
        if orphans and not stop.wait(recheck_s):
            for relative in _without_row(db, orphans):
                if _take_in(store, intake, relative):
                    taken_in += 1
                else:
                    strange.append(relative)
        if stop.wait(pause_s):
            return _report(db, taken_in, [], strange, leftovers, complete=False)
        (store.root / NOTE).write_text(batch[-1], "ascii")
    (store.root / NOTE).unlink(missing_ok=True)
    missing = _missing(db, store, stop)
    return _report(db, taken_in, missing, strange, leftovers, complete=not stop.is_set())


def _circle(store: Store) -> Iterator[str]:
    """Yield every stored object, beginning after the one that was noted last."""
    note = ""
    with suppress(FileNotFoundError, UnicodeDecodeError):
        note = (store.root / NOTE).read_text("ascii")
    before = takewhile(lambda relative: relative <= note, store.object_paths())
    return chain(store.object_paths(after=note), before)


def _batches(paths: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(islice(paths, BATCH)):
        yield batch


def _without_row(db: Database, paths: list[str]) -> list[str]:
    with db.read() as connection:
        return [path for path in paths if held_digest(connection, Path(path).stem) is None]


def _take_in(store: Store, intake: Intake, relative: str) -> bool:
    """Take in one file of our own; False if it is none that we would have written."""
    try:
        intake.accept(store.resolve(relative).read_bytes(), source=Source.RECONCILE)
    except FileNotFoundError:
        return True  # retention was quicker
    except ObjectRefused as refusal:
        log.error("stored_object_unreadable", path=relative, reason=str(refusal))
        return False
    return True


def _missing(db: Database, store: Store, stop: threading.Event) -> list[str]:
    """Return the paths of rows whose file is gone."""
    missing = []
    with db.read() as connection:
        for instance_id, relative in instance_paths(connection):
            if stop.is_set():
                break
            if not store.resolve(relative).exists():
                log.error("stored_object_missing", instance_id=instance_id, path=relative)
                missing.append(relative)
    return missing


def _report(
    db: Database,
    taken_in: int,
    missing: list[str],
    strange: list[str],
    leftovers: int,
    *,
    complete: bool,
) -> Reconciliation:
    if complete:
        _tell(db, MISSING, missing, "are in the database, but their files are gone from the store")
        _tell(db, STRANGE, strange, "are in the store without a row, and cannot be read")
    report = Reconciliation(
        taken_in=taken_in, missing=len(missing), leftovers=leftovers, complete=complete
    )
    log.info(
        "reconciled",
        taken_in=taken_in,
        missing=len(missing),
        leftovers=leftovers,
        complete=complete,
    )
    return report


def _tell(db: Database, code: str, paths: list[str], what: str) -> None:
    """Renew one alarm, or close it where there is nothing left to say."""
    with db.write() as connection:
        now = db.now(connection)
        clear_alarm(connection, code=code, subject="store", now=now)
        if paths:
            raise_alarm(
                connection,
                code=code,
                subject="store",
                message=f"{len(paths)} objects {what}: {', '.join(sorted(paths)[:SHOWN])}",
                next_step="Restore the files from a backup, or ask the senders to send again.",
                now=now,
            )
