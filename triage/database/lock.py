"""One writer at a time over all threads and processes of a host.

SQLite below 3.51.3 can corrupt a WAL database when two connections write or checkpoint at once
(sqlite.org/wal.html, "The WAL-Reset Bug"). So writers take this lock before they begin. It is
flock on a file of its own: the kernel releases it when its holder dies, and closing the database
file elsewhere in the process does not, as it would a POSIX record lock on the same file.
"""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from triage.errors import DatabaseUnavailable

SHORTEST_WAIT_S = 0.0005
LONGEST_WAIT_S = 0.002


class WriterLock:
    """The lock file of one database. Not reentrant: a transaction does not open another."""

    def __init__(self, path: Path, *, timeout_s: float) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._threads = threading.Lock()  # so that one thread per process polls the file

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock; raises DatabaseUnavailable after `timeout_s`."""
        give_up_at = time.monotonic() + self._timeout_s
        if not self._threads.acquire(timeout=self._timeout_s):
            raise self._busy()
        try:
            with self._file(give_up_at):
                yield
        finally:
            self._threads.release()

    @contextmanager
    def _file(self, give_up_at: float) -> Iterator[None]:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DatabaseUnavailable(
                f"the lock file beside the database cannot be opened: {error.strerror}"
            ) from error
        try:
            self._wait(descriptor, give_up_at)
            yield
        finally:
            os.close(descriptor)

    def _wait(self, descriptor: int, give_up_at: float) -> None:
        wait_s = SHORTEST_WAIT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= give_up_at:
                    raise self._busy() from None
                time.sleep(wait_s)
                wait_s = min(wait_s * 1.5, LONGEST_WAIT_S)
            else:
                return

    def _busy(self) -> DatabaseUnavailable:
        return DatabaseUnavailable(
            f"another writer kept the database locked for {self._timeout_s:g} s"
        )
