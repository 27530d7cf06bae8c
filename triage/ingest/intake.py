"""The one door: every object, from the network or a folder, is taken in here or refused here.

Owns the order of checks and what is left behind by each outcome (DESIGN sections 3.2, 3.3, 4):

1. no space, store or database away: raised, the sender tries again;
2. above the limit of size, no DICOM, a DICOMDIR, cut short, beyond a bound of depth or count: not
   taken in;
3. Study, Series or SOP Instance UID or SOP Class UID missing or ill-formed: not taken in;
4. another SOP Class or Instance UID than the C-STORE command said: not taken in;
5. else held, and success means durable: file, directories and row.

What is not taken in (2 to 4) is kept in the quarantine, once per content, where it is no larger
than LARGEST_KEPT_MIB; a DICOMDIR, anything larger, and what passes the limit of size, whose rest is
not asked for, are recorded as refused and not kept. Sender or folder still has them then: nothing
but a held or quarantined object may be deleted at its source.

An object is written while it comes (see `reception`) and is never in memory as a whole.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import structlog
from sqlalchemy import Connection

from triage.database.arrivals import ArrivalOutcome, record_arrival
from triage.database.connection import Database, lock_arrivals
from triage.database.intake_log import is_kept_aside, record_quarantined, record_refused
from triage.errors import (
    CommandMismatch,
    IdentifiersInvalid,
    ObjectRefused,
    ObjectUnparsable,
    StoreError,
    TriageError,
)
from triage.ingest.group_commit import GroupCommit
from triage.ingest.header import HeaderLimits, clean
from triage.ingest.part10 import file_meta
from triage.ingest.reception import (
    TOO_LARGE,
    Received,
    header_of,
    inspect,
    receiving,
    stage_aside,
    stage_object,
)
from triage.ingest.span import FileSpan
from triage.records import Arrival, Header, Source
from triage.rules.policies import Policies
from triage.store import MIB, Bytes, Staged, Store

log = structlog.get_logger(__name__)

LONGEST_UID = 64
LONGEST_PATH = 4096
# Deflated data sets whose headers are in memory at once; the others wait for their turn.
INFLATED_AT_ONCE = 2
REASON_CODES: dict[type[ObjectRefused], str] = {
    ObjectUnparsable: "unparsable",
    IdentifiersInvalid: "identifiers_invalid",
    CommandMismatch: "command_mismatch",
    ObjectRefused: "not_an_instance",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    """How an object came, as its bringer told; nothing of it is trusted."""

    source: Source
    transfer_syntax_uid: str | None = None  # None: the bytes are a file
    sender_ae_title: str = ""
    c_store_priority: int | None = None
    sop_class_uid: str | None = None  # of the C-STORE command
    sop_instance_uid: str | None = None
    original_path: str | None = None

    @property
    def meta(self) -> bytes | None:
        """Meta information for the quarantine, as told; None where the object came as a file."""
        if self.transfer_syntax_uid is None:
            return None
        return file_meta(
            sop_class_uid=self.told_sop_class_uid,
            sop_instance_uid=self.told_sop_instance_uid,
            transfer_syntax_uid=_as_ascii(self.transfer_syntax_uid),
        )

    @property
    def told_sop_class_uid(self) -> str:
        """The SOP Class UID, fit for a database and for ASCII files, however ill-formed."""
        return _as_ascii(self.sop_class_uid or "")

    @property
    def told_sop_instance_uid(self) -> str:
        """The SOP Instance UID, likewise."""
        return _as_ascii(self.sop_instance_uid or "")


class Intake:
    """The open door. `accept` may be called from any number of threads."""

    def __init__(
        self,
        db: Database,
        store: Store,
        *,
        policies: Policies,
        limits: HeaderLimits | None = None,
    ) -> None:
        self._store = store
        self._policies = policies
        self._limits = limits or HeaderLimits()
        self._inflating = threading.BoundedSemaphore(INFLATED_AT_ONCE)
        self._writer = GroupCommit(db, store)

    def start(self) -> None:
        """Start the writer thread. Call before the first `accept`."""
        self._writer.start()

    def stop(self) -> None:
        """Finish what was accepted, then end the writer thread; later calls are refused."""
        self._writer.stop()

    @property
    def alive(self) -> bool:
        """Whether the writer thread runs."""
        return self._writer.alive

    @property
    def fault(self) -> str:
        """Why nothing can be taken in at present, for a person; empty while all is well."""
        try:
            self._store.check_space(0)
        except TriageError as error:
            return str(error)
        return self._writer.database_fault

    def accept(
        self,
        data: Bytes | Iterable[Bytes],
        *,
        transfer_syntax_uid: str | None = None,
        source: Source,
        sender_ae_title: str = "",
        c_store_priority: int | None = None,
        expected_sop_class_uid: str | None = None,
        expected_sop_instance_uid: str | None = None,
        original_path: str | None = None,
    ) -> ArrivalOutcome:
        """Take in one object and return once it is durable.

        `data` is a DICOM file (PS3.10), or a bare data set where `transfer_syntax_uid` is given:
        bytes, or chunks of any size, each of which need stay valid only until the next one is
        asked for. Chunks are pulled by the calling thread and written as they come. An exception
        of the iterator passes through unchanged, nothing is recorded and nothing left behind.
        What raises below may raise before the last chunk was asked for.
        `c_store_priority` is (0000,0700); the expected UIDs are those of the C-STORE command.
        Raises ObjectRefused or a subclass, recorded already; OutOfSpace, StoreError or
        DatabaseUnavailable, where trying again later can help.
        """
        if isinstance(data, bytes | bytearray | memoryview):
            self._store.check_space(len(data))
            data = (data,)
        else:
            self._store.check_space(0)
        offer = _Offer(
            transfer_syntax_uid=transfer_syntax_uid,
            source=source,
            sender_ae_title=clean(sender_ae_title),
            c_store_priority=c_store_priority,
            sop_class_uid=expected_sop_class_uid,
            sop_instance_uid=expected_sop_instance_uid,
            original_path=original_path,
        )
        with receiving(self._store, data, transfer_syntax_uid, self._limits) as received:
            try:
                header = header_of(received, self._limits, self._inflating)
                _check_command(header, offer)
            except ObjectRefused as refusal:
                self._set_aside(received, refusal, offer)
                raise
            staged = stage_object(received, header)
        return self._hold(staged, header, offer)

    def inspect(self, file: FileSpan) -> Header:
        """Return the header of a file that `accept` would not refuse; records nothing.

        Raises ObjectRefused or a subclass, or what reading raises.
        """
        return inspect(file, self._limits, self._inflating)

    def refuse_unread(self, size_bytes: int, *, source: Source) -> None:
        """Record an object that is too large to be read at all."""
        refusal = ObjectRefused(f"the object has {size_bytes // MIB} MiB: {TOO_LARGE}")
        self._record_refused(str(refusal), _Offer(source=source))

    def _hold(self, staged: Staged, header: Header, offer: _Offer) -> ArrivalOutcome:
        arrival = Arrival(
            header=header,
            digest=staged.digest,
            path=staged.path,
            size_bytes=staged.size_bytes,
            source=offer.source,
            sender_ae_title=offer.sender_ae_title,
            c_store_priority=offer.c_store_priority,
        )

        def write(connection: Connection, now: datetime) -> ArrivalOutcome:
            outcome = record_arrival(connection, arrival, policies=self._policies, now=now)
            # Retention deletes files in transactions of its own: the same object, expired and now
            # sent again, may have lost its file between the rename and this row.
            if not self._store.resolve(arrival.path).exists():
                raise StoreError("the file was deleted as expired while it came again")
            return outcome

        try:
            outcome = self._writer.submit(write, staged=staged)
        finally:
            self._store.discard(staged)  # gone already where it found its place
        _log_outcome(arrival, outcome)
        return outcome

    def _set_aside(self, received: Received, refusal: ObjectRefused, offer: _Offer) -> None:
        """Record what was not taken in, with its bytes where they are kept."""
        reason = str(refusal)
        staged = stage_aside(self._store, received, offer.meta)
        if staged is None:
            self._record_refused(reason, offer)
            return
        quarantined = partial(
            record_quarantined,
            source=offer.source,
            sender_ae_title=offer.sender_ae_title,
            sop_instance_uid=offer.told_sop_instance_uid,
            sop_class_uid=offer.told_sop_class_uid,
            path=staged.path,
            original_path=clean(offer.original_path or "", LONGEST_PATH) or None,
            size_bytes=received.size_bytes,
            reason_code=REASON_CODES[type(refusal)],
            reason=reason,
        )
        refused = _refused(f"{reason} (already in quarantine)", offer)

        def write(connection: Connection, now: datetime) -> bool:
            lock_arrivals(connection)
            # The row decides, not the file: one that a crash left without a row is listed now.
            is_new = not is_kept_aside(connection, staged.path)
            (quarantined if is_new else refused)(connection, now=now)
            if not self._store.resolve(staged.path).exists():
                raise StoreError("the file was discarded from quarantine while it came again")
            return is_new

        try:
            kept = self._writer.submit(write, staged=staged)
        finally:
            self._store.discard(staged)  # gone already where it found its place
        _log_refusal(reason, offer, kept=kept)

    def _record_refused(self, reason: str, offer: _Offer) -> None:
        refused = _refused(reason, offer)
        self._writer.submit(lambda connection, now: refused(connection, now=now))
        _log_refusal(reason, offer, kept=False)


def _refused(reason: str, offer: _Offer) -> Callable[..., object]:
    return partial(
        record_refused,
        source=offer.source,
        sender_ae_title=offer.sender_ae_title,
        sop_instance_uid=offer.told_sop_instance_uid,
        reason=reason,
    )


def _check_command(header: Header, offer: _Offer) -> None:
    """Compare with the C-STORE command (PS3.4 B.2.3: A9xx). Raises CommandMismatch."""
    if offer.sop_class_uid not in (None, header.sop_class_uid):
        raise CommandMismatch("command and data set name different SOP Classes")
    if offer.sop_instance_uid not in (None, header.sop_instance_uid):
        raise CommandMismatch("command and data set name different SOP Instances")


def _as_ascii(text: str) -> str:
    return clean(text, LONGEST_UID).encode("ascii", "replace").decode("ascii")


def _log_outcome(arrival: Arrival, outcome: ArrivalOutcome) -> None:
    log.info(
        f"instance_{outcome.state}",
        study_instance_uid=arrival.header.study_instance_uid,
        sop_instance_uid=arrival.header.sop_instance_uid,
        source=arrival.source,
        size_bytes=arrival.size_bytes,
    )


def _log_refusal(reason: str, offer: _Offer, *, kept: bool) -> None:
    log.warning(
        "object_quarantined" if kept else "object_refused",
        reason=reason,
        source=offer.source,
        sop_instance_uid=offer.told_sop_instance_uid,
    )
