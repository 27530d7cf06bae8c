"""Rejected associations for the audit trail: counted in memory, noted by a turn of their role.

A rejection has no row, and whoever is rejected may come a thousand times a second. So the first
of a caller is noted at the next turn, its repetitions are counted for REPEATED_AFTER_S and noted
together, and beyond MOST_CALLERS all others count as one. A kill loses what came since the last
turn, a second at most, and counts of repetitions not yet noted.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from triage.database.audit import ASSOCIATION_REJECTED, note
from triage.database.connection import Database
from triage.errors import DatabaseUnavailable

log = structlog.get_logger(__name__)

REPEATED_AFTER_S = 60.0
MOST_CALLERS = 64
PROGRAM = "triage"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """Who was rejected, and why: our own words."""

    calling_ae_title: str
    address: str
    reason: str


OTHERS = Rejected(calling_ae_title="", address="", reason="too many different callers")


@dataclass(slots=True)
class _Count:
    times: int = 0
    noted_s: float | None = None


class Rejections:
    """Safe for threads: any may `count`, one calls `turn`."""

    def __init__(self, db: Database, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._counts: dict[Rejected, _Count] = {}

    def count(self, calling_ae_title: str, address: str, reason: str) -> None:
        """Never waits for anything."""
        rejected = Rejected(calling_ae_title=calling_ae_title, address=address, reason=reason)
        with self._lock:
            if rejected not in self._counts and len(self._counts) >= MOST_CALLERS:
                rejected = OTHERS
            self._counts.setdefault(rejected, _Count()).times += 1

    def turn(self, *, last: bool = False) -> None:
        """Note what is due, at the `last` turn all. What a database that is away misses waits."""
        due = self._take(last=last)
        if not due:
            return
        try:
            with self._db.write() as connection:
                now = self._db.now(connection)
                for rejected, times in due.items():
                    detail = {
                        "calling_ae_title": rejected.calling_ae_title,
                        "address": rejected.address,
                        "reason": rejected.reason,
                        "times": times,
                    }
                    note(connection, what=ASSOCIATION_REJECTED, by=PROGRAM, detail=detail, now=now)
        except DatabaseUnavailable as error:
            self._give_back(due)
            log.warning("rejections_not_noted", reason=str(error))

    def _take(self, *, last: bool) -> dict[Rejected, int]:
        now_s = self._monotonic()
        with self._lock:
            for rejected, count in list(self._counts.items()):
                idle = count.noted_s is not None and now_s - count.noted_s >= REPEATED_AFTER_S
                if idle and not count.times:
                    del self._counts[rejected]
            due = {}
            for rejected, count in self._counts.items():
                fresh = count.noted_s is None or now_s - count.noted_s >= REPEATED_AFTER_S
                if count.times and (fresh or last):
                    due[rejected], count.times, count.noted_s = count.times, 0, now_s
            return due

    def _give_back(self, due: dict[Rejected, int]) -> None:
        with self._lock:
            for rejected, times in due.items():
                count = self._counts.setdefault(rejected, _Count())
                count.times += times
                count.noted_s = None
