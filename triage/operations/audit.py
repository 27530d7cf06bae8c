"""The audit trail: from rows to messages in the spool, and from there to the collector.

One thread of the role `schedule` reads what was committed since it last stopped, writes messages
into the spool, moves its mark and delivers. Durability is therefore the database's, and nobody
waits for an auditor: where the spool is full or the collector down, rows wait where they are, an
alarm says so, and nothing is dropped. A crash between two steps repeats none of them: a segment
carries the numbers of its rows.
"""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import structlog

from triage.config import AuditConfig, Config
from triage.database import audit as room
from triage.database.connection import Database
from triage.database.house import clear_alarm, raise_alarm
from triage.errors import DatabaseUnavailable, TransientError, TriageError
from triage.operations.audit_delivery import deliver
from triage.operations.audit_messages import told, transferred
from triage.operations.audit_spool import AuditUnavailable, Spool
from triage.operations.audit_xml import Teller
from triage.records import AlarmCode

log = structlog.get_logger(__name__)

TURN_S = 15.0
QUIET = timedelta(seconds=30)  # a study whose last object is older has been handed over
LONGEST = timedelta(seconds=300)  # then a transfer that still goes on is told of in part
ROWS_A_SEGMENT = 10_000
ALARM_SUBJECT = "audit"


class AuditTrail:
    """What the role `schedule` does about the audit trail, one turn at a time."""

    def __init__(
        self,
        db: Database,
        config: AuditConfig,
        teller: Teller,
        *,
        send: Callable[[Spool], int] | None = None,
    ) -> None:
        self._db = db
        self._teller = teller
        self._spool = Spool(config.spool, maximum_mib=config.maximum_spool_mib)
        self._send = send
        if send is None and config.host:
            self._send = lambda spool: deliver(spool, config, host=teller.host)
        self._alarmed: bool | None = None  # None: an alarm of an earlier run may be open
        self._is_open = False

    def turn(self) -> int:
        """Spool what is new and deliver what waits; return how many messages were spooled.

        What stands in the way becomes an alarm. Raises DatabaseUnavailable.
        """
        trouble: TriageError | None = None
        spooled = 0
        try:
            self._open()
            spooled = self._spool_all()
        except DatabaseUnavailable:
            raise
        except TransientError as error:
            trouble = error
        try:
            if self._send is not None:
                self._send(self._spool)
        except TriageError as error:
            trouble = error
        self._tell(trouble)
        return spooled

    def _open(self) -> None:
        """Set the marks, where there are none yet, and open the spool."""
        if self._is_open:
            return
        with self._db.write() as connection:
            room.begin(connection, now=self._db.now(connection))
        self._spool.open()
        self._is_open = True

    def _spool_all(self) -> int:
        spooled = 0
        for mark in room.TABLES:
            while True:
                if self._spool.is_full:
                    raise AuditUnavailable(
                        "the audit spool holds [audit] maximum_spool_mib; messages wait in the"
                        " database",
                        hint="Bring the collector of [audit] host back, or take the segments away.",
                    )
                moved, messages = self._spool_some(mark)
                spooled += messages
                if not moved:
                    break
        return spooled

    def _spool_some(self, mark: str) -> tuple[bool, int]:
        """Write one segment at most; return whether the mark moved and how many messages it has."""
        with self._db.read() as connection:
            after = room.mark(connection, mark)
        held = self._spool.after(mark, after)
        if held is not None:  # written just before the last end of this program
            return self._move(mark, after=after, to=held.to), 0
        to, messages = self._new(mark, after)
        if to == after:
            return False, 0
        if messages:
            self._spool.write(mark, messages, after=after, to=to)
        return self._move(mark, after=after, to=to), len(messages)

    def _move(self, mark: str, *, after: int, to: int) -> bool:
        with self._db.write() as connection:
            return room.move(connection, mark, after=after, to=to)

    def _new(self, mark: str, after: int) -> tuple[int, list[str]]:
        """Return up to which number rows can be told of, and what is to be said of them."""
        with self._db.read() as connection:
            now = self._db.now(connection)
            to = room.upto(connection, mark, after=after, now=now, limit=ROWS_A_SEGMENT)
            if mark == room.DECISIONS:
                decisions = room.noted(connection, after=after, to=to)
                studies = room.studies(
                    connection, {each.study_id for each in decisions if each.study_id is not None}
                )
                each_told = (
                    told(each, studies.get(each.study_id or 0), self._teller) for each in decisions
                )
                return to, [message for message in each_told if message is not None]
            some = room.transfers(connection, after=after, to=to)
            if to - after < ROWS_A_SEGMENT:
                to = max(after, room.whole(some, to=to, now=now, quiet=QUIET, longest=LONGEST))
            some = [each for each in some if each.last_id <= to]
            studies = room.studies(
                connection, {each.study_id for each in some if each.study_id is not None}
            )
        return to, [
            transferred(each, studies.get(each.study_id or 0), self._teller) for each in some
        ]

    def _tell(self, trouble: TriageError | None) -> None:
        """Open or close the alarm; written only when something changes."""
        if trouble is not None:
            log.warning("audit_waits", reason=str(trouble), next_step=trouble.hint)
        if self._alarmed == (trouble is not None):
            return
        with self._db.write() as connection:
            now = self._db.now(connection)
            if trouble is None:
                clear_alarm(connection, code=AlarmCode.AUDIT_WAITS, subject=ALARM_SUBJECT, now=now)
            else:
                raise_alarm(
                    connection,
                    code=AlarmCode.AUDIT_WAITS,
                    subject=ALARM_SUBJECT,
                    message=f"Audit messages are not delivered: {trouble}.",
                    next_step=trouble.hint,
                    now=now,
                )
        self._alarmed = trouble is not None


def keep_audit_trail(trail: AuditTrail, stop: threading.Event) -> None:
    """Turn until told to stop: the work of a thread. A database that is away is waited for."""
    while not stop.is_set():
        try:
            trail.turn()
        except TransientError as error:
            log.warning("audit_postponed", reason=str(error), next_step=error.hint)
        stop.wait(TURN_S)


def teller_of(config: Config, host: str) -> Teller:
    return Teller(ae_title=config.receiver.ae_title, host=host, site=config.site.name)


# --- notes: what has no row of its own


def note(db: Database, *, what: str, by: str, detail: dict[str, Any], study: str = "") -> None:
    """Leave a note for the audit trail; with `study`, one for each study of that name.

    Raises TriageError.
    """
    from triage.database.worklist import find_study

    with db.write() as connection:
        now: datetime = db.now(connection)
        room.begin(connection, now=now)  # the first note of all is the start of a process
        ids: list[int | None] = [*find_study(connection, study)] if study else [None]
        for study_id in ids:
            room.note(connection, what=what, by=by, detail=detail, now=now, study_id=study_id)
