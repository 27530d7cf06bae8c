"""One writer for all doors: many objects share one database commit and few directory syncs.

Owns the order after the file is written: rename, directory sync, row, commit, answer (DESIGN
section 3.3). Objects that arrive while a group is being committed make the next group, so a lone
object waits for nothing and a crowd pays for one sync. A group whose rows all go well, as nearly
every group, is written without savepoints. Where a row fails, the transaction is undone and the
group written again with one savepoint for each row, and what fails then is tried once more alone;
its neighbours do not notice.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

import structlog
from sqlalchemy import Connection

from triage.database.connection import Database
from triage.errors import DatabaseUnavailable, StoreError, TriageError
from triage.store import Staged, Store

log = structlog.get_logger(__name__)

LARGEST_GROUP = 64
PROBE_S = 5.0  # between two looks at a database that was away, while nobody brings anything
T = TypeVar("T")
Write = Callable[[Connection, datetime], T]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry(Generic[T]):
    write: Write[T]
    staged: Staged | None
    done: "Future[T]" = field(default_factory=Future)


class _RowFailed(Exception):
    """Carries the error of one row, its cause, out of the transaction that it undoes."""


class GroupCommit:
    """The writer thread. `submit` from any thread between `start` and `stop`."""

    def __init__(self, db: Database, store: Store, *, probe_s: float = PROBE_S) -> None:
        self._db = db
        self._store = store
        self._probe_s = probe_s
        self._entries: queue.SimpleQueue[_Entry[Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()  # between `submit` and the end of the thread
        self._open = False
        self._database_fault = ""

    def start(self) -> None:
        """Start the writer thread."""
        self._open = True
        self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish what was submitted, then end the thread."""
        with self._lock:
            self._open = False
            self._entries.put(None)
        if self._thread is not None:
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def database_fault(self) -> str:
        """Why the database was away when last needed or looked at; empty once it is back."""
        return self._database_fault

    def submit(self, write: Write[T], *, staged: Staged | None = None) -> T:
        """Commit one object: give `staged` its place, call `write`, return when both are durable.

        `write` runs in the writer thread, up to three times, of which at most one is kept. Raises
        what it raises, OutOfSpace, StoreError or DatabaseUnavailable.
        """
        entry = _Entry(write=write, staged=staged)
        with self._lock:
            if not self._open:
                raise StoreError("nothing is taken in while the daemon stops")
            self._entries.put(entry)
        return entry.done.result()

    def _run(self) -> None:
        group: list[_Entry[Any]] = []
        try:
            while group := self._next_group():
                self._commit(group)
        except Exception as error:
            log.exception("group_commit_ended")
            self._abandon(group, error)

    def _next_group(self) -> list[_Entry[Any]]:
        """Wait for one entry and take what else is there; empty at the end."""
        group: list[_Entry[Any]] = []
        entry = self._next_entry()
        while entry is not None:
            group.append(entry)
            if len(group) >= LARGEST_GROUP or self._entries.empty():
                return group
            entry = self._entries.get()
        if group:
            self._entries.put(None)  # come back for the end
        return group

    def _next_entry(self) -> _Entry[Any] | None:
        """Wait for one entry; see meanwhile whether a database that was away is back.

        A sender that asks by C-ECHO before it sends would else never send again.
        """
        while self._database_fault:
            try:
                return self._entries.get(timeout=self._probe_s)
            except queue.Empty:
                self._write_together(())
        return self._entries.get()

    def _abandon(self, group: Sequence[_Entry[Any]], error: Exception) -> None:
        """Answer everyone who waits: this thread will not."""
        with self._lock:
            self._open = False
            waiting = list(group)
            while not self._entries.empty():
                entry = self._entries.get()
                if entry is not None:
                    waiting.append(entry)
        for entry in waiting:
            if not entry.done.done():
                entry.done.set_exception(StoreError(f"the writer ended ({type(error).__name__})"))

    def _commit(self, group: Sequence[_Entry[Any]]) -> None:
        try:
            self._store.commit([entry.staged for entry in group if entry.staged is not None])
        except TriageError as error:
            for entry in group:
                entry.done.set_exception(error)
            return
        if self._write_together(group) is None:
            return
        for entry in self._write_apart(group) if len(group) > 1 else group:
            lost = self._write_together([entry])
            if lost is not None:
                entry.done.set_exception(lost)

    def _write_together(self, group: Sequence[_Entry[Any]]) -> BaseException | None:
        """Write one transaction without savepoints; nothing, if a row failed: return its error.

        The breadth of the `except` here and below is the isolation itself: whatever is wrong with
        one object reaches the thread that brought it, and no other.
        """
        try:
            with self._db.write() as connection:
                now = self._db.now(connection)
                try:
                    results = [entry.write(connection, now) for entry in group]
                except DatabaseUnavailable:
                    raise
                except Exception as error:
                    raise _RowFailed from error
        except _RowFailed as failure:
            self._database_fault = ""
            return failure.__cause__
        except TriageError as error:
            self._fail(group, error)
        else:
            self._answer(group, results)
        return None

    def _write_apart(self, group: Sequence[_Entry[Any]]) -> Sequence[_Entry[Any]]:
        """Write one transaction with a savepoint for each row; return what failed."""
        written: list[_Entry[Any]] = []
        failed: list[_Entry[Any]] = []
        results = []
        try:
            with self._db.write() as connection:
                now = self._db.now(connection)
                for entry in group:
                    try:
                        with connection.begin_nested():
                            results.append(entry.write(connection, now))
                        written.append(entry)
                    except DatabaseUnavailable:
                        raise
                    except Exception:  # noqa: BLE001
                        failed.append(entry)
        except TriageError as error:
            self._fail(group, error)
            return ()
        self._answer(written, results)
        return failed

    def _answer(self, group: Sequence[_Entry[Any]], results: Sequence[Any]) -> None:
        self._database_fault = ""
        for entry, result in zip(group, results, strict=True):
            entry.done.set_result(result)

    def _fail(self, group: Sequence[_Entry[Any]], error: TriageError) -> None:
        self._database_fault = str(error)
        for entry in group:
            entry.done.set_exception(error)
