"""Heartbeats of the roles: written by a role's own turns, idle turns too, never by a timer.

A thread that ends or hangs therefore falls silent by itself; `health` and the watchdog both look
at the last turn and at nothing else (DESIGN section 3.14).
"""

import os
import socket
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import structlog

from triage.database.connection import Database
from triage.database.house import record_role, remove_role
from triage.errors import DatabaseUnavailable
from triage.operations.health import STUCK_AFTER_S, is_stuck

log = structlog.get_logger(__name__)

WRITE_EVERY_S = 5.0


class RoleBeat:
    """The heartbeat of one role of this process. `turned` belongs to the role's thread.

    `stuck_after_s` is told to `health` with every beat: a forward pass on a slow processor takes
    longer than a look into a folder.
    """

    def __init__(
        self,
        db: Database,
        role: str,
        *,
        stuck_after_s: float = STUCK_AFTER_S,
        detail: Callable[[], dict[str, Any]] = dict,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.role = role
        self.stuck_after_s = stuck_after_s
        self._db = db
        self._detail = detail
        self._monotonic = monotonic
        self._host = socket.gethostname()
        self._started_at: datetime | None = None
        self._last_turn_s = monotonic()
        self._written_s: float | None = None
        self._state = "starting"

    def turned(self, *, state: str = "running") -> None:
        """Note one turn; written at once when the state changes, else every WRITE_EVERY_S."""
        self._last_turn_s = self._monotonic()
        changed, self._state = state != self._state, state
        silent = self._written_s is None or self._last_turn_s - self._written_s >= WRITE_EVERY_S
        if changed or silent:
            self._write()

    @property
    def silent_s(self) -> float:
        """Time since the last turn."""
        return self._monotonic() - self._last_turn_s

    @property
    def stuck(self) -> bool:
        return is_stuck(self.silent_s, self.stuck_after_s)

    def stopped(self) -> None:
        """Take the role off the list after an orderly stop."""
        try:
            with self._db.write() as connection:
                remove_role(connection, role=self.role, host=self._host, pid=os.getpid())
        except DatabaseUnavailable as error:
            log.warning("role_not_removed", role=self.role, reason=str(error))

    def _write(self) -> None:
        try:
            with self._db.write() as connection:
                now = self._db.now(connection)
                self._started_at = self._started_at or now
                record_role(
                    connection,
                    role=self.role,
                    host=self._host,
                    pid=os.getpid(),
                    started_at=self._started_at,
                    state=self._state,
                    detail={**self._detail(), "stuck_after_s": self.stuck_after_s},
                    now=now,
                )
        except DatabaseUnavailable as error:
            log.warning("role_not_recorded", role=self.role, reason=str(error))
            return
        self._written_s = self._monotonic()
