"""The audit trail as a part of the role `schedule`, and the notes of processes and persons."""

import os
import socket
import threading
from collections.abc import Collection

import structlog

from triage.config import Config
from triage.database.audit import APPLICATION_STARTED, APPLICATION_STOPPED
from triage.database.connection import Database
from triage.errors import TriageError
from triage.operations.audit import AuditTrail, keep_audit_trail, note, teller_of
from triage.operations.parts import RoleThread
from triage.operations.roles import RoleBeat

log = structlog.get_logger(__name__)

PROGRAM = "triage"


class AuditPart:
    """Keeps the audit trail from `start` to `stop`; waiting for a collector ends nothing."""

    ready = True
    beats: tuple[RoleBeat, ...] = ()  # that it waits is an alarm; its end ends the process

    def __init__(self, config: Config, db: Database) -> None:
        trail = AuditTrail(db, config.audit, teller_of(config, socket.gethostname()))
        self._stop = threading.Event()
        self._thread = RoleThread("audit", lambda: keep_audit_trail(trail, self._stop))

    def gets_on(self) -> bool:
        return True

    @property
    def failure(self) -> BaseException | None:
        return self._thread.failure

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def note_process(db: Database, config: Config, *, started: bool, roles: Collection[str]) -> None:
    """Note that this process starts or stops, where there is an audit trail."""
    if not config.audit.enabled:
        return
    detail = {"roles": sorted(roles), "host": socket.gethostname(), "pid": os.getpid()}
    what = APPLICATION_STARTED if started else APPLICATION_STOPPED
    try:
        note(db, what=what, by=PROGRAM, detail=detail)
    except TriageError as error:
        log.warning("process_not_noted", reason=str(error))
