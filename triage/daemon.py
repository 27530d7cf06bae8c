"""The composition root: builds the objects, starts the roles, stops them in order.

Owns nothing but the order. Receive, watch and schedule are light and share a process; analyse
holds the models and lives in a child process that is started again when it ends, so that no codec,
image or device can take the doors down with it (DESIGN sections 3.1 and 3.5). The doors open
first and close first: C-ECHO is answered before any model is thought of.
"""

import ctypes
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress

import structlog

from triage.config import Config
from triage.database.connection import Database, open_database, require_revision
from triage.errors import ConfigError, TransientError
from triage.log import configure_logging, text_of
from triage.operations.audit_part import AuditPart, note_process
from triage.operations.loading import STILL_S
from triage.operations.notify import VARIABLES, extend_timeout, notify, watchdog_interval_s
from triage.operations.parts import AnalysePart, DoorsPart, Part, SchedulePart
from triage.operations.supervise import Child, Supervisor
from triage.store import Store, open_store

log = structlog.get_logger(__name__)

ROLES = ("receive", "watch", "schedule", "analyse")
SUPERVISED_BY = "SUPERVISED_BY_PID"  # in the environment of a supervised child
EXIT_FAILED = 1
EXIT_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: another start may well succeed
TICK_S = 0.2
# What systemd is asked for while models load: longer than the daemon itself waits for a load that
# stands still, so that the daemon's own sentence comes first.
LOADING_EXTENSION_S = STILL_S + 30.0
DOORS = {"receive", "watch"}
M_ARENA_MAX, ARENAS = -8, 2  # mallopt(3)
STOPPING_EXTENSION_S = 90.0  # for one part or all children: their threads are waited for 30 s each


def run(config: Config, roles: Collection[str] = ()) -> int:
    """Run until SIGTERM or SIGINT; return the exit code (0 after an orderly stop).

    Without `roles`: receive, watch and schedule as threads here and analyse as supervised child
    processes. With `roles`: exactly those, in this process. Raises ConfigError, RevisionError and
    other TriageErrors for what forbids the start. Where a part has failed it does not return: it
    ends the process.
    """
    chosen = _chosen(config, roles)
    configure_logging(level=config.logging.level, form=config.logging.format)
    # A dump would hold images and names. Children inherit the limit.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if DOORS & chosen:
        _share_memory()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with ExitStack() as stack:
        db = open_database(config.database.url)
        stack.callback(db.dispose)
        require_revision(db)
        store = open_store(config.store.path, minimum_free_mib=config.store.minimum_free_mib)
        stack.callback(store.close)
        # A role that is named runs here; analyse by default runs in children.
        parts = _parts(config, db, store, chosen if roles else chosen - {"analyse"})
        supervisor = Supervisor([] if roles else _children(config))
        # Stopped in the reverse of this order: the doors first, the children last.
        stack.callback(_stop, supervisor)
        for part in reversed(parts):
            stack.callback(_stop, part)
        stack.callback(notify, "STOPPING=1")
        stack.callback(note_process, db, config, started=False, roles=chosen)
        note_process(db, config, started=True, roles=chosen)
        for part in parts:
            part.start()
        log.info("daemon_started", roles=sorted(chosen), pid=os.getpid())
        code = serve(parts, supervisor, stop)
        log.info("daemon_stops", exit_code=code)
    log.info("daemon_stopped", exit_code=code)
    if code:
        # The thread that failed may hang in a driver, which would then hold the interpreter's end.
        logging.shutdown()
        os._exit(code)
    return code


def _stop(what: Part | Supervisor) -> None:
    """Stop one of several: each has its own time, so that one that drains takes none of another's.

    Bounded, as nothing is stopped twice and nothing asks while it stops.
    """
    notify(extend_timeout(STOPPING_EXTENSION_S))
    what.stop()


def _share_memory() -> None:
    """Have threads share pools of memory: one for each association keeps what that has freed."""
    with suppress(OSError, AttributeError):  # of another C library than glibc
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)


def serve(parts: Sequence[Part], supervisor: Supervisor, stop: threading.Event) -> int:
    """Look after everything until told to stop; return the exit code."""
    pulse = Pulse(parts)
    parent = os.environ.get(SUPERVISED_BY, "")
    while not stop.wait(TICK_S):
        supervisor.turn()
        failure = next((part.failure for part in parts if part.failure), None)
        if failure is not None:
            log.error("daemon_fails", reason=text_of(failure), kind=type(failure).__name__)
            return EXIT_AGAIN if isinstance(failure, TransientError) else EXIT_FAILED
        if parent and str(os.getppid()) != parent:
            log.error("daemon_fails", reason="the supervising process has ended")
            return EXIT_FAILED
        pulse.turn()
    return 0


class Pulse:
    """What systemd or the supervisor hears: ready once, then a ping while every role turns.

    Until it is ready: a request for more time whenever what is not ready has done some work, so
    that a large model may take its time to load and a hung load may not.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        environ: Mapping[str, str] = os.environ,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._parts = parts
        self._environ = environ
        self._monotonic = monotonic
        self._ready = False
        self._interval_s = watchdog_interval_s(environ)
        self._pinged_s = monotonic()

    def turn(self) -> None:
        if not self._ready and all(part.ready for part in self._parts):
            self._ready = True
            notify("READY=1", self._environ)
            log.info("daemon_ready")
        elif not self._ready and all(part.ready or part.gets_on() for part in self._parts):
            notify(extend_timeout(LOADING_EXTENSION_S), self._environ)
        now_s = self._monotonic()
        if self._interval_s is None or now_s - self._pinged_s < self._interval_s:
            return
        stuck = [beat.role for part in self._parts for beat in part.beats if beat.stuck]
        if stuck:
            log.error("roles_stuck", roles=stuck)
            return
        if notify("WATCHDOG=1", self._environ):  # else tried again in the next turn
            self._pinged_s = now_s


def _chosen(config: Config, roles: Collection[str]) -> set[str]:
    """Return the roles to run somewhere; named ones must have something to do."""
    unknown = set(roles) - set(ROLES)
    if unknown:
        raise ConfigError(f"there is no role {min(unknown)!r}; roles are {', '.join(ROLES)}")
    idle = set()
    if not config.receiver.enabled:
        idle.add("receive")
    if not config.folders.watch:
        idle.add("watch")
    if set(roles) & idle:
        raise ConfigError(
            f"the role {min(set(roles) & idle)} has nothing to do",
            hint="Set [receiver] enabled = true, or name a folder in [folders] watch.",
        )
    return set(roles) or set(ROLES) - idle


def _parts(config: Config, db: Database, store: Store, roles: set[str]) -> list[Part]:
    """Build the parts of this process, in the order in which they start and stop."""
    parts: list[Part] = []
    if roles & {"receive", "watch"}:
        parts.append(DoorsPart(config, db, store, roles))
    if "schedule" in roles:
        parts.append(SchedulePart(config, db, store))
        if config.audit.enabled:
            parts.append(AuditPart(config, db))
    if "analyse" in roles:
        parts.append(AnalysePart(config, db, store))
    return parts


def _children(config: Config) -> list[Child]:
    """Return one worker process per slot. It reads the same configuration."""
    from triage.worker.serving import slots
    from triage.worker.settings import WorkerSettings

    # As long as a role may make no turn: a worker that can still tell why it ends does so first.
    silence_s = WorkerSettings(lease_s=config.worker.lease_s).hang_s
    environment = {name: text for name, text in os.environ.items() if name not in VARIABLES}
    environment[SUPERVISED_BY] = str(os.getpid())
    if config.source is not None:
        environment["TRIAGE_CONFIG"] = str(config.source.absolute())
    command = (sys.executable, "-m", "triage", "run", "--role", "analyse")
    return [
        Child(
            name=f"analyse-{number}",
            command=command,
            environment=environment,
            silence_s=silence_s,
        )
        for number in range(slots(config))
    ]
