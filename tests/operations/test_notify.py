"""systemd hears of readiness over its datagram socket, and silence is harmless."""

import os
import resource
import socket
from pathlib import Path

from triage.operations.notify import PIPE, extend_timeout, notify, watchdog_interval_s


def test_the_state_reaches_the_socket(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        assert notify("READY=1", {"NOTIFY_SOCKET": address})
        assert manager.recv(100) == b"READY=1"


def test_an_abstract_socket_is_reached_too() -> None:
    name = f"triage-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        assert notify("STOPPING=1", {"NOTIFY_SOCKET": f"@{name}"})
        assert manager.recv(100) == b"STOPPING=1"


def test_without_systemd_nothing_happens(tmp_path: Path) -> None:
    assert not notify("READY=1", {})
    assert not notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "gone")})


def test_a_process_without_a_free_descriptor_goes_on(tmp_path: Path) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, most[1]))
        try:
            assert not notify("WATCHDOG=1", {"NOTIFY_SOCKET": str(tmp_path / "notify")})
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, most)


def test_a_supervised_child_speaks_by_its_pipe_and_waits_for_nobody() -> None:
    ours, theirs = os.pipe2(os.O_NONBLOCK)
    environ = {PIPE: str(theirs)}
    assert notify("READY=1", environ)
    assert os.read(ours, 100) == b"READY=1\n"
    while notify("WATCHDOG=1", environ):  # until a supervisor that never listens has it full
        pass
    os.close(ours)
    assert not notify("WATCHDOG=1", environ)
    os.close(theirs)


def test_the_watchdog_is_fed_twice_per_interval_and_only_by_its_own_process() -> None:
    assert watchdog_interval_s({"WATCHDOG_USEC": "30000000"}) == 15.0
    mine = {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
    assert watchdog_interval_s(mine) == 15.0
    assert watchdog_interval_s({**mine, "WATCHDOG_PID": "1"}) is None
    assert watchdog_interval_s({}) is None


def test_more_time_is_asked_for_in_microseconds() -> None:
    assert extend_timeout(90.5) == "EXTEND_TIMEOUT_USEC=90500000"
