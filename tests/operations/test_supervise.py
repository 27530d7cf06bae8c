"""A child process is started again with growing patience, killed if it hangs, stopped if asked."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


SILENCE_S = 1.0


def child(program: str, *arguments: str) -> Child:
    command = [sys.executable, "-c", program, *arguments]
    return Child(name="one", command=command, environment=os.environ, silence_s=SILENCE_S)


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
    one = child(SLEEPS)
    one.command = [str(tmp_path / "none")]
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


# The daemon's own loop, in a process that has nothing to do, or that never gets ready.
SERVES = """
import threading
from triage.daemon import serve
from triage.operations.supervise import Supervisor
class Loads:
    ready, failure, beats = False, None, ()
    def gets_on(self):
        return False
def run(*parts):
    serve(parts, Supervisor([]), threading.Event())
"""
HOLDS_THE_GIL = (
    SERVES
    + """
import ctypes, pathlib, sys
def hold():
    pathlib.Path(sys.argv[1]).touch()
    ctypes.PyDLL(None).sleep(60)
threading.Thread(target=hold, daemon=True).start()
run()
"""
)


@contextmanager
def supervising(one: Child, clock: Clock) -> Iterator[Supervisor]:
    supervisor = Supervisor([one], monotonic=clock, stop_s=1.0)
    try:
        yield supervisor
    finally:
        supervisor.stop()


def turn_until(supervisor: Supervisor, done: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline_s
        supervisor.turn()
        time.sleep(0.01)


def test_a_child_that_stands_still_is_killed_and_started_again() -> None:
    clock = Clock(1000.0)
    one = child(SERVES + "run()")
    with supervising(one, clock) as supervisor:
        supervisor.turn()
        clock.now_s += SILENCE_S
        turn_until(supervisor, lambda: one.heard_s == clock.now_s)
        first = supervisor.pids()["one"]
        os.kill(first, signal.SIGSTOP)
        os.waitid(os.P_PID, first, os.WSTOPPED)
        supervisor.turn()
        clock.now_s += SILENCE_S
        supervisor.turn()
        assert one.process is not None
        assert one.process.poll() is None
        clock.now_s += 0.1
        supervisor.turn()
        wait_until_gone(first)
        supervisor.turn()
        assert supervisor.pids() == {}
        clock.now_s += FIRST_DELAY_S
        supervisor.turn()
        assert supervisor.pids()["one"] != first


def test_a_call_that_holds_every_thread_of_a_child_does_not_keep_it(tmp_path: Path) -> None:
    clock = Clock()
    held = tmp_path / "held"
    one = child(HOLDS_THE_GIL, str(held))
    with supervising(one, clock) as supervisor:
        turn_until(supervisor, held.exists)
        began_s = time.monotonic()

        def killed() -> bool:
            clock.now_s = time.monotonic() - began_s
            return bool(one.exits)

        turn_until(supervisor, killed)
        assert clock.now_s > SILENCE_S


def test_a_child_that_is_slow_to_get_ready_is_left_alone_while_its_loop_turns() -> None:
    clock = Clock()
    one = child(SERVES + "run(Loads())")
    with supervising(one, clock) as supervisor:
        for _ in range(4):
            turn_until(supervisor, lambda: one.heard_s == clock.now_s)
            clock.now_s += SILENCE_S
        assert not one.exits
