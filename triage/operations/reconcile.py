"""Start-up reconciliation: what the store holds and what the database says are made to agree.

A crash between the rename of a file and the commit of its row leaves a file that nobody was told
of: it is taken in, or listed where it lies in the quarantine. A row whose file is gone is a loss
that only a person can mend: an alarm. What dead writers left half written is removed, and so are
files whose deletion was decided: of expired images, and settled ones of the quarantine.

Runs in a thread of its own after the receiver listens. Where several processes have one store, they
take turns: two at once would take in one file twice. The walk over the files goes round in a
circle: where it was stopped is noted in the store, and the next start goes on from there.
"""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice, takewhile
from pathlib import Path

import structlog

from triage.database.arrivals import held_digest, instance_paths
from triage.database.connection import Database, lock_arrivals
from triage.database.house import clear_alarm, raise_alarm
from triage.database.intake_log import is_kept_aside, record_quarantined, was_kept_aside
from triage.database.retention import expired_paths
from triage.errors import PermanentError, StoreError
from triage.ingest.intake import Intake
from triage.operations.retention import delete_expired
from triage.records import AlarmCode, Source
from triage.store import Store

log = structlog.get_logger(__name__)

BATCH = 200
NOTE = "reconciled-to"  # in the store: the last file that was looked at
LOCK = "reconcile.lock"
TURN_S = 0.5  # how often the lock of another process is tried
SHOWN = 5  # digests that an alarm names
UNRECORDED = "kept aside without a record, as a crash leaves it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """What one round found."""

    taken_in: int  # files without a row
    missing: int  # rows without a file
    leftovers: int  # half-written files of dead writers, files whose deletion was decided
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
    away; the next try goes on.
    """
    try:
        with turn(store, stop, LOCK):
            return _reconcile(db, store, intake, stop=stop, pause_s=pause_s, recheck_s=recheck_s)
    except OSError as error:  # also of the note: a full disk must not end the daemon
        raise StoreError(f"the store cannot be gone through ({error.strerror})") from error


def _reconcile(
    db: Database,
    store: Store,
    intake: Intake,
    *,
    stop: threading.Event,
    pause_s: float,
    recheck_s: float,
) -> Reconciliation:
    leftovers = store.sweep_leftovers()
    taken_in, strange = 0, list[str]()
    for batch in _batches(circle(store, NOTE)):
        orphans = _without_row(db, batch)
        if orphans and not stop.wait(recheck_s):
            for relative in _without_row(db, orphans):
                if _take_in(store, intake, relative):
                    taken_in += 1
                else:
                    strange.append(relative)
        leftovers += _sweep_expired(db, store, batch)
        if stop.wait(pause_s):
            return _report(db, taken_in, [], strange, leftovers, complete=False)
        (store.root / NOTE).write_text(batch[-1], "ascii")
    (store.root / NOTE).unlink(missing_ok=True)
    leftovers += _settle_quarantine(db, store, stop, recheck_s=recheck_s)
    missing = _missing(db, store, stop)
    return _report(db, taken_in, missing, strange, leftovers, complete=not stop.is_set())


@contextmanager
def turn(store: Store, stop: threading.Event, name: str) -> Iterator[None]:
    """Wait until no other process has the lock `name` of this store, or until told to stop."""
    try:
        (store.root / "locks").mkdir(mode=0o700, exist_ok=True)
        path = store.root / "locks" / name
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"the store refuses a lock file ({error.strerror})") from error
    try:
        while not stop.is_set():
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stop.wait(TURN_S)
            else:
                break
        yield
    finally:
        os.close(descriptor)


def circle(store: Store, name: str) -> Iterator[str]:
    """Yield every stored object, beginning after the one in the note `name`."""
    note = ""
    with suppress(FileNotFoundError, UnicodeDecodeError):
        note = (store.root / name).read_text("ascii")
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
        intake.accept(store.pieces(relative), source=Source.RECONCILE)
    except FileNotFoundError:
        return True  # retention was quicker
    except PermanentError as error:  # one bad file must not end the daemon at every start
        log.error("stored_object_unreadable", path=relative, reason=str(error))
        return False
    return True


def _sweep_expired(db: Database, store: Store, batch: list[str]) -> int:
    """Delete the files that retention did not come to; return how many those were."""
    with db.read() as connection:
        expired = expired_paths(connection, batch)
    if expired:
        delete_expired(db, store, expired)
    return len(expired)


def _settle_quarantine(
    db: Database, store: Store, stop: threading.Event, *, recheck_s: float
) -> int:
    """List what lies in the quarantine without a row, delete what was released or discarded.

    Returns how many files were deleted.
    """
    odd = []
    for batch in _batches(store.quarantine_paths()):
        with db.read() as connection:
            odd += [path for path in batch if not is_kept_aside(connection, path)]
    deleted = 0
    if odd and not stop.wait(recheck_s):
        for relative in odd:
            deleted += _settle(db, store, relative)
    return deleted


def _settle(db: Database, store: Store, relative: str) -> bool:
    """Give one file of the quarantine its row, or delete it; True if it was deleted."""
    with db.write() as connection:
        lock_arrivals(connection)
        path = store.resolve(relative)
        if is_kept_aside(connection, relative) or not path.exists():
            return False
        if was_kept_aside(connection, relative):
            store.delete(relative)
            return True
        record_quarantined(
            connection,
            source=Source.RECONCILE,
            sender_ae_title="",
            sop_instance_uid="",
            sop_class_uid="",
            path=relative,
            original_path=None,
            size_bytes=path.stat().st_size,
            reason_code="unrecorded",
            reason=UNRECORDED,
            now=db.now(connection),
        )
        return False


def _missing(db: Database, store: Store, stop: threading.Event) -> list[str]:
    """Return the paths of rows whose file is gone."""
    gone: dict[str, int] = {}
    with db.read() as connection:
        for instance_id, relative in instance_paths(connection):
            if stop.is_set():
                break
            if not store.resolve(relative).exists():
                gone[relative] = instance_id
    for batch in _batches(iter(tuple(gone))):
        with db.read() as connection:  # a later one: retention may have been there meanwhile
            for relative in expired_paths(connection, batch):
                del gone[relative]
    for relative, instance_id in gone.items():
        log.error("stored_object_missing", instance_id=instance_id, path=relative)
    return list(gone)


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
        _tell(
            db,
            AlarmCode.OBJECTS_MISSING,
            missing,
            "are in the database, but their files are gone from the store",
        )
        _tell(
            db,
            AlarmCode.OBJECTS_UNREADABLE,
            strange,
            "are in the store without a row, and cannot be taken in",
        )
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


def _tell(db: Database, code: AlarmCode, paths: list[str], what: str) -> None:
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
