"""Each role tells systemd of itself: ready, alive, and more time while it stops."""

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROLES = ("receive", "watch", "schedule", "analyse")
CREDENTIALS = struct.Struct("3i")  # pid, uid, gid; unix(7)
PATIENCE_S = 90.0
CONFIGURATION = """\
demonstration = true
[receiver]
port = 0
[folders]
watch = ["{directory}"]
[store]
path = "{directory}/store"
minimum_free_mib = 1
[database]
url = "{url}"
"""


class Manager:
    """The socket of systemd, and one service that speaks to it."""

    def __init__(self, directory: Path, url: str) -> None:
        configuration = directory / "triage.toml"
        configuration.write_text(CONFIGURATION.format(directory=directory, url=url))
        self.door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.door.bind(str(directory / "notify"))
        self.door.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.door.settimeout(0.2)
        self.environ = {
            **{name: text for name, text in os.environ.items() if name[:7] != "TRIAGE_"},
            "TRIAGE_CONFIG": str(configuration),
            "NOTIFY_SOCKET": str(directory / "notify"),
            "WATCHDOG_USEC": "2000000",
            "OMP_NUM_THREADS": "1",
        }
        self.heard: list[tuple[int, str]] = []  # process, message
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> int:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "triage", "run", *arguments],
            env=self.environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return self.process.pid

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.until(lambda: self.process is not None and self.process.poll() is not None)
        self.listen()
        return self.process.wait(1)

    def listen(self) -> None:
        space = socket.CMSG_SPACE(CREDENTIALS.size)
        try:
            message, credentials, _, _ = self.door.recvmsg(4096, space)
            pid, _, _ = CREDENTIALS.unpack(credentials[0][2])
            self.heard.append((pid, message.decode()))
        except TimeoutError:
            pass

    def until(self, enough: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not enough():
            assert time.monotonic() < deadline_s, self.heard
            self.listen()

    def messages(self) -> list[str]:
        return [message for _, message in self.heard]

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.door.close()


@pytest.fixture
def manager(tmp_path: Path, sqlite_url: str) -> Iterator[Manager]:
    opened = Manager(tmp_path, sqlite_url)
    yield opened
    opened.close()


@pytest.mark.parametrize("role", ROLES)
def test_a_role_of_its_own_is_ready_alive_and_stops_in_order(role: str, manager: Manager) -> None:
    manager.start("--role", role)
    manager.until(lambda: {"READY=1", "WATCHDOG=1"} <= set(manager.messages()))
    assert manager.stop() == 0
    told = manager.messages()
    assert told.count("READY=1") == 1
    stopping = told[told.index("STOPPING=1") :]
    assert "EXTEND_TIMEOUT_USEC=90000000" in stopping
    assert "READY=1" not in stopping


def test_all_in_one_is_ready_before_any_model_and_no_child_speaks_for_it(manager: Manager) -> None:
    began_s = time.monotonic()
    pid = manager.start()
    manager.until(lambda: "READY=1" in manager.messages())
    assert time.monotonic() - began_s < 30
    # Long enough for the worker to have been ready as well, had it a voice.
    store = Path(manager.environ["TRIAGE_CONFIG"]).parent / "store"
    manager.until(lambda: any((store / "locks").glob("analyse-*")))
    until_s = time.monotonic() + 4
    manager.until(lambda: time.monotonic() > until_s)
    assert manager.stop() == 0
    assert {speaker for speaker, _ in manager.heard} == {pid}
