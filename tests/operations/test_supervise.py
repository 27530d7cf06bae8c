"""A child process is started again with growing patience, and stopped when asked."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triage.operations.supervise import (
    CALM_S,
    FIRST_DELAY_S,
    LONGEST_DELAY_S,
    Child,
    Supervisor,
    next_delay_s,
)


def test_a_child_that_never_ended_starts_at_once() -> None:
    assert next_delay_s([], 0.0) == 0.0


def test_the_first_fall_waits_briefly_and_each_further_one_twice_as_long() -> None:
    assert next_delay_s([100.0], 100.0) == FIRST_DELAY_S
    assert next_delay_s([100.0, 101.0], 101.0) == 2 * FIRST_DELAY_S
    assert next_delay_s([100.0, 101.0, 103.0], 103.0) == 4 * FIRST_DELAY_S


def test_a_child_that_ran_calmly_has_its_history_forgiven() -> None:
    assert next_delay_s([100.0, 101.0, 103.0, 104.0 + CALM_S], 104.0 + CALM_S) == FIRST_DELAY_S


@given(st.lists(st.floats(0, 1e6), max_size=50).map(sorted))
def test_the_wait_is_bounded_and_never_negative(exits: list[float]) -> None:
    now = exits[-1] if exits else 0.0
    assert 0.0 <= next_delay_s(exits, now) <= LONGEST_DELAY_S


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def child(program: str) -> Child:
    return Child(name="one", command=[sys.executable, "-c", program], environment=os.environ)


def wait_until_gone(pid: int) -> None:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


SLEEPS = "import time; time.sleep(60)"


def test_a_killed_child_comes_back_after_its_delay_and_not_before() -> None:
    clock = Clock()
    supervisor = Supervisor([child(SLEEPS)], monotonic=clock)
    supervisor.turn()
    first = supervisor.pids()["one"]
    os.kill(first, signal.SIGKILL)
    wait_until_gone(first)
    supervisor.turn()
    assert supervisor.pids() == {}
    clock.now_s = FIRST_DELAY_S
    supervisor.turn()
    assert supervisor.pids()["one"] != first
    supervisor.stop()


def test_a_child_that_cannot_be_started_is_tried_again_later(tmp_path: Path) -> None:
    clock = Clock()
    one = Child(name="one", command=[str(tmp_path / "none")], environment=os.environ)
    supervisor = Supervisor([one], monotonic=clock)
    supervisor.turn()
    supervisor.turn()
    assert one.exits == [0.0]
    clock.now_s = FIRST_DELAY_S
    supervisor.turn()
    assert one.exits == [0.0, FIRST_DELAY_S]


def test_stop_asks_first_and_kills_what_does_not_listen() -> None:
    deaf = "import signal; signal.signal(15, signal.SIG_IGN); \n" + SLEEPS
    one = child(deaf)
    supervisor = Supervisor([one], monotonic=time.monotonic, stop_s=0.2)
    supervisor.turn()
    assert one.process is not None
    process = one.process
    deadline = time.monotonic() + 10
    while not ignores_sigterm(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    supervisor.stop()
    assert process.returncode == -signal.SIGKILL
    assert supervisor.pids() == {}


def test_stop_lets_a_listening_child_end_by_itself() -> None:
    one = child(SLEEPS)
    supervisor = Supervisor([one])
    supervisor.turn()
    process = one.process
    supervisor.stop()
    assert process is not None
    assert process.returncode == -signal.SIGTERM


def ignores_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn"))
    return bool(int(mask, 16) & 1 << signal.SIGTERM - 1)


@pytest.mark.parametrize("stops", [1, 2])
def test_stop_may_be_called_again(stops: int) -> None:
    supervisor = Supervisor([child(SLEEPS)])
    supervisor.turn()
    for _ in range(stops):
        supervisor.stop()
    assert supervisor.pids() == {}
