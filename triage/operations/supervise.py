"""Child processes, kept running: the analysis role lives in its own process (DESIGN section 3.5).

Owns start, restart with back-off, the end of a child that hangs and the stop in order. Does not
know what a child does; a child that ends is started again whatever its exit code, because the state
is in SQL and on disk and nothing else is lost with a process.

A child tells over a pipe what a service tells systemd (operations/notify.py). Whether it hangs is
judged by its silence alone: a call into a driver may hold every thread of it, and its end too.
"""

import io
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from triage.operations.notify import PIPE

log = structlog.get_logger(__name__)

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 60.0
CALM_S = 120.0  # a child that ran this long has recovered: its next fall counts as the first
STOP_S = 30.0  # how long a child may take to release its leases before it is killed


def next_delay_s(exits: Sequence[float], now_s: float) -> float:
    """Return how long to wait before the next start, given the times of the exits so far.

    Doubles with each exit that followed the one before within CALM_S, up to LONGEST_DELAY_S. Times
    are seconds of a monotonic clock, ascending.
    """
    falls = 0
    later = now_s
    for exit_s in reversed(exits):
        if later - exit_s > CALM_S:
            break
        falls += 1
        later = exit_s
    if falls == 0:
        return 0.0
    return min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** (falls - 1))


@dataclass(kw_only=True)
class Child:
    """One command that shall run. `exits` are monotonic seconds of its ends.

    It is killed when it has said nothing for longer than `silence_s`, from its start on.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    silence_s: float
    process: subprocess.Popen[bytes] | None = None
    pipe: io.FileIO | None = None  # what it says
    heard_s: float = 0.0
    exits: list[float] = field(default_factory=list)
    start_after_s: float = 0.0


class Supervisor:
    """Keeps children running. `turn()` is called by the daemon's loop and never blocks."""

    def __init__(
        self,
        children: Sequence[Child],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        stop_s: float = STOP_S,
    ) -> None:
        self._children = list(children)
        self._monotonic = monotonic
        self._stop_s = stop_s

    def turn(self) -> None:
        """Kill what hangs; start what should run and does not, once its back-off is over."""
        now_s = self._monotonic()
        for child in self._children:
            if child.process is not None and (code := child.process.poll()) is not None:
                self._note_exit(child, code, now_s)
            if child.process is not None:
                _end_if_silent(child, child.process, now_s)
            elif now_s >= child.start_after_s:
                self._start(child, now_s)

    def pids(self) -> dict[str, int]:
        """Return the process id of each child that runs."""
        return {
            child.name: child.process.pid for child in self._children if child.process is not None
        }

    def stop(self) -> None:
        """Ask every child to end, wait for all together, then kill what is left."""
        running = [(child, child.process) for child in self._children if child.process]
        for _, process in running:
            process.send_signal(signal.SIGTERM)
        deadline_s = self._monotonic() + self._stop_s
        for child, process in running:
            try:
                process.wait(timeout=max(0.0, deadline_s - self._monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("child_killed", child=child.name, pid=process.pid)
                process.kill()
                process.wait()
            _forget(child)

    def _start(self, child: Child, now_s: float) -> None:
        try:
            process = _begin(child)
        except OSError as error:  # no memory or no process left: the doors stay open
            log.error("child_not_started", child=child.name, reason=error.strerror)
            self._note_exit(child, None, now_s)
            return
        child.heard_s = now_s
        log.info("child_started", child=child.name, pid=process.pid)

    def _note_exit(self, child: Child, code: int | None, now_s: float) -> None:
        _forget(child)
        child.exits = [*child.exits[-31:], now_s]
        delay_s = next_delay_s(child.exits, now_s)
        child.start_after_s = now_s + delay_s
        log.error("child_ended", child=child.name, exit_code=code, restart_in_s=delay_s)


def _begin(child: Child) -> subprocess.Popen[bytes]:
    ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    child.pipe = io.FileIO(ours)
    voice = {PIPE: str(theirs), "WATCHDOG_USEC": str(round(child.silence_s * 1e6))}
    try:
        # An own session keeps a terminal's Ctrl-C away from the child: it is stopped by `stop()`,
        # after the doors are closed.
        child.process = subprocess.Popen(
            child.command,
            env={**child.environment, **voice},
            pass_fds=[theirs],
            start_new_session=True,
        )
    finally:
        os.close(theirs)
    return child.process


def _end_if_silent(child: Child, process: subprocess.Popen[bytes], now_s: float) -> None:
    if child.pipe is not None and child.pipe.read(1 << 16):
        child.heard_s = now_s
    silent_s = now_s - child.heard_s
    if silent_s <= child.silence_s:
        return
    log.error(
        "child_hangs",
        child=child.name,
        pid=process.pid,
        silent_s=round(silent_s, 1),
        next_step="Nothing: it is killed and started again. If that comes again, look after the"
        " GPU (`nvidia-smi`) and the disks (`dmesg`).",
    )
    process.kill()
    child.heard_s = now_s  # what even SIGKILL does not end is tried and told of again, not always


def _forget(child: Child) -> None:
    child.process = None
    if child.pipe is not None:
        child.pipe.close()
