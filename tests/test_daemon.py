"""The daemon ends loudly when a part of it does, and tells systemd the truth."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from triage.config import Config, ReceiverConfig
from triage.daemon import EXIT_AGAIN, EXIT_FAILED, SUPERVISED_BY, Pulse, run, serve
from triage.database.connection import Database, open_database
from triage.errors import ConfigError, DeviceFault
from triage.operations.parts import RoleThread
from triage.operations.roles import STUCK_AFTER_S, RoleBeat
from triage.operations.supervise import Supervisor


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Stub:
    """A part of attributes."""

    ready: bool = True
    failure: BaseException | None = None
    beats: tuple[RoleBeat, ...] = ()
    works: bool = False

    def gets_on(self) -> bool:
        return self.works

    def start(self) -> None: ...

    def stop(self) -> None: ...


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Stand in for systemd."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
        door.bind(str(tmp_path / "notify"))
        door.setblocking(False)
        yield door


@pytest.fixture
def db(sqlite_url: str) -> Iterator[Database]:
    opened = open_database(sqlite_url)
    yield opened
    opened.dispose()


def heard(manager: socket.socket) -> list[str]:
    said = []
    while True:
        try:
            said.append(manager.recv(100).decode())
        except BlockingIOError:
            return said


@pytest.mark.parametrize(
    ("failure", "code"),
    [(RuntimeError("a thread ended"), EXIT_FAILED), (DeviceFault("broken"), EXIT_AGAIN)],
)
def test_the_process_ends_when_a_part_has_ended(failure: BaseException, code: int) -> None:
    parts = [Stub(), Stub(failure=failure)]
    assert serve(parts, Supervisor([]), threading.Event()) == code


NEVER_FINALIZED = """
import atexit, threading
from triage.cli import main
atexit.register(threading.Event().wait)
raise SystemExit(main(["run", "--role", "schedule"]))
"""


def test_a_failed_daemon_does_not_wait_for_the_end_of_the_interpreter(
    sqlite_url: str, tmp_path: Path
) -> None:
    environ = {
        **{name: text for name, text in os.environ.items() if name[:7] != "TRIAGE_"},
        "TRIAGE_STORE__PATH": str(tmp_path / "store"),
        "TRIAGE_DATABASE__URL": sqlite_url,
        SUPERVISED_BY: "1",  # which has ended, as another one is its parent
    }
    done = subprocess.run(
        [sys.executable, "-c", NEVER_FINALIZED],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == EXIT_FAILED, done.stderr
    assert "daemon_stopped" in done.stderr.splitlines()[-1]


def test_a_stop_that_was_asked_for_is_a_success() -> None:
    stop = threading.Event()
    stop.set()
    assert serve([Stub()], Supervisor([]), stop) == 0


def test_a_thread_keeps_the_error_that_it_ended_with() -> None:
    def work() -> None:
        raise ValueError("defect")

    thread = RoleThread("watch", work)
    thread.start()
    assert thread.join()
    assert isinstance(thread.failure, ValueError)


def test_ready_is_said_once_and_only_when_every_part_is(
    manager: socket.socket, tmp_path: Path
) -> None:
    part = Stub(ready=False)
    pulse = Pulse([Stub(), part], environ={"NOTIFY_SOCKET": str(tmp_path / "notify")})
    pulse.turn()
    assert heard(manager) == []
    part.ready = True
    pulse.turn()
    pulse.turn()
    assert heard(manager) == ["READY=1"]


def test_more_time_is_asked_for_only_while_what_is_not_ready_gets_on(
    manager: socket.socket, tmp_path: Path
) -> None:
    part = Stub(ready=False, works=True)
    pulse = Pulse([Stub(), part], environ={"NOTIFY_SOCKET": str(tmp_path / "notify")})
    pulse.turn()
    assert heard(manager) == ["EXTEND_TIMEOUT_USEC=150000000"]
    part.works = False
    pulse.turn()
    assert heard(manager) == []
    part.ready = part.works = True
    pulse.turn()
    pulse.turn()
    assert heard(manager) == ["READY=1"]


def test_the_watchdog_is_fed_only_while_every_role_makes_its_turns(
    manager: socket.socket, tmp_path: Path, db: Database
) -> None:
    clock = Clock()
    beat = RoleBeat(db, "receive", monotonic=clock)
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "20000000"}
    pulse = Pulse([Stub(ready=False, beats=(beat,))], environ=environ, monotonic=clock)
    beat.turned()
    clock.now_s += 9
    pulse.turn()
    assert heard(manager) == []
    clock.now_s += 1
    pulse.turn()
    assert heard(manager) == ["WATCHDOG=1"]
    clock.now_s += STUCK_AFTER_S
    pulse.turn()
    assert heard(manager) == []
    beat.turned()
    pulse.turn()
    assert heard(manager) == ["WATCHDOG=1"]


def test_a_ping_that_did_not_get_through_is_sent_again_in_the_next_turn(tmp_path: Path) -> None:
    clock = Clock()
    environ = {"NOTIFY_SOCKET": str(tmp_path / "late"), "WATCHDOG_USEC": "20000000"}
    pulse = Pulse([Stub(ready=False)], environ=environ, monotonic=clock)
    clock.now_s += 10
    pulse.turn()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "late"))
        pulse.turn()
        manager.settimeout(5)
        assert manager.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize("role", ["receive", "watch"])
def test_a_named_role_without_anything_to_do_is_refused(role: str) -> None:
    with pytest.raises(ConfigError, match=role):
        run(Config(receiver=ReceiverConfig(enabled=False)), [role])


def test_an_unknown_role_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="dream"):
        run(Config(), ["dream"])
