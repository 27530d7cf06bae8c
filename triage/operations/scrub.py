"""Scrubbing: what is held is read again, slowly, and compared with what was received.

A disk may give back other bytes than it was given, without an error. Every object is named by the
digest of its data set, so a file tells by itself whether it still holds what was acknowledged. One
that does not is an alarm; it is left as it is, for a person, until the object is sent again or its
file restored. Of many, one alarm says how many more there are. Bytes of our own file meta
information are no part of the digest.

Goes round the store in a circle, like `reconcile`: where it was stopped is noted in the store. Of
several processes with one store, one at a time does it.
"""

import math
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Connection

from triage.database.arrivals import uids_of_digest
from triage.database.connection import Database
from triage.database.house import clear_alarm, open_subjects, raise_alarm
from triage.errors import ObjectRefused, StoreError, TransientError
from triage.ingest.part10 import begin_digest, split
from triage.ingest.span import pieces
from triage.operations.reconcile import circle, turn
from triage.records import AlarmCode
from triage.store import MIB, Store

log = structlog.get_logger(__name__)

MIB_PER_S = 8.0  # little beside what a disk gives; a TiB takes a day and a half
LEAST_BYTES = 64 * 1024  # what opening a small file counts as
EVERY_S = 86_400.0  # from the end of one round to the beginning of the next
RECHECK_S = 600.0  # how often files with an alarm are read again
RETRY_S = 60.0
NOTE = "scrubbed-to"  # in the store: the last file that was read
NOTE_EVERY = 100  # files
LOCK = "scrub.lock"
MOST_ALARMS = 20  # of single files, open at once; one more counts the rest
NEXT_STEP = "Send the study again or restore the file from a backup, and test the disk."
REST = "store"  # what the alarm is about that counts the rest
REST_STEP = "Test the disk first; the log names each of them (stored_object_damaged)."


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrubbed:
    """What one round found."""

    read: int  # objects
    damaged: int
    complete: bool  # False: stopped before the end


def scrub(db: Database, store: Store, *, stop: threading.Event) -> None:
    """Read the store round after round until `stop` is set; a store that is away is waited for."""
    while not stop.is_set():
        try:
            with turn(store, stop, LOCK):
                scrub_once(db, store, stop=stop)
                ends_s = time.monotonic() + EVERY_S
                while not stop.wait(RECHECK_S) and time.monotonic() < ends_s:
                    recheck(db, store, stop=stop)
        except (TransientError, OSError) as error:
            log.warning("scrub_postponed", reason=_words(error))
            stop.wait(RETRY_S)


def scrub_once(
    db: Database,
    store: Store,
    *,
    stop: threading.Event,
    mib_per_s: float = MIB_PER_S,
    recheck_s: float = RECHECK_S,
) -> Scrubbed:
    """Read every object once, `mib_per_s` at most, beginning with those that have an alarm.

    Raises DatabaseUnavailable, or OSError where the note cannot be written.
    """
    read, damaged, rest, due_s = 0, 0, 0, time.monotonic()
    # The number of an earlier round stands until this one has come to its end.
    told = math.inf if _rest_is_told(db) else 0
    for relative in circle(store, NOTE):
        if time.monotonic() >= due_s:
            recheck(db, store, stop=stop, mib_per_s=mib_per_s)
            if rest > told:
                _tell_rest(db, rest)
                told = rest
            due_s = time.monotonic() + recheck_s
        sound = is_sound(store, relative, stop=stop, mib_per_s=mib_per_s)
        if stop.is_set():
            return Scrubbed(read=read, damaged=damaged, complete=False)
        read += 1
        if sound is False:
            named = _tell(db, relative)
            damaged += named is not None
            rest += named is False
        if read % NOTE_EVERY == 0:
            (store.root / NOTE).write_text(relative, "ascii")
    (store.root / NOTE).unlink(missing_ok=True)
    _tell_rest(db, rest)
    log.info("store_scrubbed", read=read, damaged=damaged)
    return Scrubbed(read=read, damaged=damaged, complete=True)


def recheck(
    db: Database, store: Store, *, stop: threading.Event, mib_per_s: float = MIB_PER_S
) -> None:
    """Close the alarms of files that are as they should be again, or that are gone."""
    with db.read() as connection:
        subjects = _named(connection)
    for relative in subjects:
        sound = is_sound(store, relative, stop=stop, mib_per_s=mib_per_s)
        if stop.is_set():
            return
        if sound is not False:
            with db.write() as connection:
                now = db.now(connection)
                clear_alarm(connection, code=AlarmCode.OBJECTS_DAMAGED, subject=relative, now=now)


def is_sound(
    store: Store, relative: str, *, stop: threading.Event, mib_per_s: float = MIB_PER_S
) -> bool | None:
    """Whether a file holds what its name says; None where it is gone, or `stop` came first."""
    digest: Any = None
    try:
        for piece in store.pieces(relative):
            if digest is None:
                data_set = split(piece)
                digest = begin_digest(data_set.transfer_syntax_uid)
                for part in pieces(data_set.encoded, MIB):
                    digest.update(part)
            else:
                digest.update(piece)
            if stop.wait(max(len(piece), LEAST_BYTES) / MIB / mib_per_s):
                return None
    except FileNotFoundError:
        return None  # expired meanwhile, or missed by `reconcile`
    except (ObjectRefused, StoreError):
        return False  # no DICOM any more, or a disk that does not give it back
    return digest is not None and digest.hexdigest() == Path(relative).stem


def _named(connection: Connection) -> list[str]:
    """Return the files that have an open alarm of their own."""
    subjects = open_subjects(connection, code=AlarmCode.OBJECTS_DAMAGED)
    return [subject for subject in subjects if subject != REST]


def _tell(db: Database, relative: str) -> bool | None:
    """Raise the alarm of one file; False where too many have one.

    None where no row holds it: that is told by `reconcile`.
    """
    with db.write() as connection:
        uids = uids_of_digest(connection, Path(relative).stem)
        if uids is None:
            return None
        study_instance_uid, sop_instance_uid = uids
        subjects = _named(connection)
        named = relative in subjects or len(subjects) < MOST_ALARMS
        if named:
            raise_alarm(
                connection,
                code=AlarmCode.OBJECTS_DAMAGED,
                subject=relative,
                message=f"the stored file of image {sop_instance_uid} of study"
                f" {study_instance_uid} does not hold what was received: {relative}",
                next_step=NEXT_STEP,
                now=db.now(connection),
            )
    log.error(
        "stored_object_damaged",
        path=relative,
        study_instance_uid=study_instance_uid,
        sop_instance_uid=sop_instance_uid,
    )
    return named


def _rest_is_told(db: Database) -> bool:
    with db.read() as connection:
        return REST in open_subjects(connection, code=AlarmCode.OBJECTS_DAMAGED)


def _tell_rest(db: Database, rest: int) -> None:
    """Renew the alarm that counts what has no alarm of its own, or close it."""
    with db.write() as connection:
        now = db.now(connection)
        clear_alarm(connection, code=AlarmCode.OBJECTS_DAMAGED, subject=REST, now=now)
        if rest:
            raise_alarm(
                connection,
                code=AlarmCode.OBJECTS_DAMAGED,
                subject=REST,
                message=f"at least {rest} more stored files do not hold what was received",
                next_step=REST_STEP,
                now=now,
            )


def _words(error: Exception) -> str:
    """An error of the system without the path that it names."""
    return (isinstance(error, OSError) and error.strerror) or str(error)
