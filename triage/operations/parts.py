"""The roles as parts that start, tell how they are, and stop: doors, schedule, analysis.

Each role has a thread whose end is the part's failure and, through it, the process's: nothing
dies quietly (DESIGN section 3.14). What a part needs it builds; what it shares it is given.
"""

import os
import socket
import threading
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Protocol
from zoneinfo import ZoneInfo

import structlog

from triage.config import Config
from triage.database.connection import Database
from triage.errors import TriageError
from triage.operations.loading import Loading
from triage.operations.roles import RoleBeat
from triage.operations.shared_store import HostToken
from triage.store import Store

if TYPE_CHECKING:
    from triage.imaging.decode_pool import DecodePool
    from triage.ingest.storage_scp import StorageReceiver
    from triage.operations.metrics_server import MetricsServer
    from triage.worker.roster import Roster
    from triage.worker.settings import WorkerSettings

log = structlog.get_logger(__name__)

LOOK_S = 1.0  # how often the receive role looks after its listeners
SCAN_STUCK_S = 900.0  # a first scan of a large folder is one turn
JOIN_S = 30.0


class Part(Protocol):
    """One group of roles of this process."""

    @property
    def ready(self) -> bool: ...

    def gets_on(self) -> bool:
        """Whether a part that is not ready yet has done work since it was last asked."""

    @property
    def failure(self) -> BaseException | None:
        """What ended the part by itself, None while it runs."""

    @property
    def beats(self) -> tuple[RoleBeat, ...]: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...


class RoleThread:
    """A thread that keeps the error it ended with."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self.failure: BaseException | None = None
        self._name = name
        self._work = work
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> bool:
        """Wait for the end, at most JOIN_S; False where the thread hangs."""
        if self._thread.ident is not None:
            self._thread.join(JOIN_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._work()
        except TriageError as error:
            self.failure = error
            log.error("role_ended", role=self._name, reason=str(error), next_step=error.hint)
        except Exception as error:  # the top of a thread: the daemon ends with it
            self.failure = error
            log.exception("role_ended", role=self._name)


class DoorsPart:
    """Receive and watch: one intake behind both, opened at once and drained at the end."""

    ready = True  # once `start` has returned, the doors are open

    def __init__(self, config: Config, db: Database, store: Store, roles: Collection[str]) -> None:
        from triage.ingest.header import HeaderLimits
        from triage.ingest.intake import Intake

        self._db = db
        self._store = store
        self._stop = threading.Event()
        self._token = HostToken(store.root)
        self._intake = Intake(
            db,
            store,
            policies=config.policies,
            limits=HeaderLimits(maximum_object_mib=config.receiver.maximum_object_mib),
        )
        self._threads: list[RoleThread] = []
        self._beats: list[RoleBeat] = []
        self._receiver = self._open_receiver(config) if "receive" in roles else None
        if "watch" in roles:
            self._open_watcher(config)

    def gets_on(self) -> bool:
        return True

    @property
    def beats(self) -> tuple[RoleBeat, ...]:
        return tuple(self._beats)

    @property
    def failure(self) -> BaseException | None:
        return next((each.failure for each in self._threads if each.failure), None)

    def start(self) -> None:
        from triage.operations.upkeep import upkeep

        self._intake.start()
        if self._receiver is not None:
            self._receiver.start()
        self._threads += upkeep(self._db, self._store, self._intake, stop=self._stop)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Folders first, then the listener with its open associations, then the writer."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._receiver is not None:
            self._receiver.stop()
        self._intake.stop()
        for beat in self._beats:
            beat.stopped()
        self._token.close()

    def _fault(self) -> dict[str, Any]:
        """Why nothing is taken in; a failed sync lasts until the daemon is started again."""
        return {"fault": self._intake.fault, "fault_lasts": bool(self._store.fault)}

    def _open_receiver(self, config: Config) -> "StorageReceiver":
        from triage.ingest.storage_scp import StorageReceiver
        from triage.operations.audit_rejections import Rejections

        rejections = Rejections(self._db) if config.audit.enabled else None
        receiver = StorageReceiver(
            self._intake, config.receiver, turned_away=rejections.count if rejections else None
        )
        beat = RoleBeat(
            self._db,
            "receive",
            detail=lambda: {
                "port": receiver.port,
                "associations": receiver.associations,
                **self._fault(),
                **self._token.detail(),
            },
        )

        def look_after() -> None:
            while not self._stop.is_set():
                if not (receiver.alive and self._intake.alive):
                    raise RuntimeError("a listener or the intake's writer has ended")
                beat.turned()
                stops = self._stop.wait(LOOK_S)
                if rejections is not None:
                    rejections.turn(last=stops)

        self._beats.append(beat)
        self._threads.append(RoleThread("receive", look_after))
        return receiver

    def _open_watcher(self, config: Config) -> None:
        from triage.ingest.folder import FolderWatcher

        watcher = FolderWatcher(
            self._intake,
            self._db,
            config.folders,
            maximum_object_mib=config.receiver.maximum_object_mib,
        )
        folders = len(config.folders.watch)
        beat = RoleBeat(
            self._db,
            "watch",
            stuck_after_s=SCAN_STUCK_S,
            detail=lambda: {
                "folders": folders,
                **self._fault(),
                **self._token.detail(),
            },
        )

        def watch() -> None:
            beat.turned()
            watcher.run(self._stop, turned=beat.turned)

        self._beats.append(beat)
        self._threads.append(RoleThread("watch", watch))


class SchedulePart:
    """The ticker of the sweeps; its heartbeat is written by sweeps that came to their end.

    The metrics are served beside it, by a thread that the sweeps never wait for.
    """

    ready = True

    def __init__(self, config: Config, db: Database, store: Store) -> None:
        from triage.operations.drift_watch import drift_sweep
        from triage.operations.history import history_sweep
        from triage.operations.retention import retention_sweep
        from triage.operations.sweeps import Ticker, standard_sweeps

        self._token = HostToken(store.root)
        self._metrics = _metrics(config)
        self._beat = RoleBeat(db, "schedule", stuck_after_s=120.0, detail=self._detail)
        sweeps = standard_sweeps(db, config.policies)
        sweeps.append(history_sweep(db, ZoneInfo(config.site.timezone)))
        if config.store.retention_days:
            sweeps.append(retention_sweep(db, store, retention_days=config.store.retention_days))
        sweeps.append(drift_sweep(db, config))
        self._ticker = Ticker(sweeps, turned=self._beat.turned)

    def gets_on(self) -> bool:
        return True

    @property
    def beats(self) -> tuple[RoleBeat, ...]:
        return (self._beat,)

    @property
    def failure(self) -> BaseException | None:
        return self._ticker.failure

    def start(self) -> None:
        if self._metrics is not None:
            self._metrics.start()
        self._beat.turned()
        self._ticker.start()

    def stop(self) -> None:
        self._ticker.stop()
        if self._metrics is not None:
            self._metrics.stop()
        self._beat.stopped()
        self._token.close()

    def _detail(self) -> dict[str, Any]:
        metrics = {"metrics": self._metrics.detail()} if self._metrics is not None else {}
        return {**metrics, **self._token.detail()}


def _metrics(config: Config) -> "MetricsServer | None":
    if not config.metrics.enabled:
        return None
    from triage.operations.metrics import CONTENT_TYPE, exposition
    from triage.operations.metrics_server import MetricsServer

    return MetricsServer(
        config.metrics.host,
        config.metrics.port,
        lambda: exposition(config),
        content_type=CONTENT_TYPE,
    )


class AnalysePart:
    """The worker with its models. Ready once every known answer has been asked for."""

    def __init__(
        self, config: Config, db: Database, store: Store, *, loading: Loading | None = None
    ) -> None:
        self._config = config
        self._db = db
        self._store = store
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._roster: Roster | None = None
        self._pool: DecodePool | None = None
        self._token = HostToken(store.root)
        self._settings = _settings(config)
        self._beat = RoleBeat(
            db, "analyse", stuck_after_s=self._settings.hang_s, detail=self._detail
        )
        self._thread = RoleThread("analyse", self._run)
        self._loading = loading or Loading()

    @property
    def ready(self) -> bool:
        return self._ready.is_set()

    def gets_on(self) -> bool:
        """While models load: turn the heartbeat for a thread that lives and does work."""
        if self.ready or not self._thread.alive or not self._loading.look():
            return False
        self._beat.turned(state="starting")
        return True

    @property
    def beats(self) -> tuple[RoleBeat, ...]:
        return (self._beat,)

    @property
    def failure(self) -> BaseException | None:
        if self._thread.failure is not None:
            return self._thread.failure
        if not self.ready and self._loading.hangs:
            return RuntimeError("loading the models stands still or takes too long")
        if self._beat.stuck:
            return RuntimeError("the worker has made no turn for too long")
        if self._pool is not None and self._pool.failed:
            return RuntimeError("a thread of the decoders has ended")
        return None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish the batch at hand and give back the rest."""
        self._stop.set()
        if self._thread.join():
            self._beat.stopped()
        self._token.close()

    def _detail(self) -> dict[str, Any]:
        from triage.worker.serving import slots

        models = {"models": self._roster.detail()} if self._roster else {}
        return {**models, "slots": slots(self._config), **self._token.detail()}

    def _run(self) -> None:
        from triage.imaging.decode_pool import DecodePool
        from triage.worker.loop import AnalysisWorker
        from triage.worker.roster import Roster
        from triage.worker.scopes import note_scopes
        from triage.worker.serving import open_models, slots
        from triage.worker.slots import Slot

        self._beat.turned(state="starting")
        slot = Slot(self._store.root / "locks", slots(self._config))
        pool = DecodePool(
            self._config.inference.decode_processes, timeout_s=self._config.worker.deadline_s
        )
        self._pool = pool
        with pool:
            models = open_models(self._config, slot=slot.number)
            note_scopes(self._db, models)
            roster = Roster(models, recheck_s=self._config.worker.known_answer_s)
            self._roster = roster
            worker = AnalysisWorker(
                self._db,
                self._store,
                roster,
                pool,
                owner=f"{socket.gethostname()}:{os.getpid()}",
                policies=self._config.policies,
                settings=self._settings,
                stop=self._stop,
                turned=lambda: self._beat.turned(state="running" if roster.may_claim else "failed"),
            )
            log.info("worker_ready", slot=slot.number, models=len(roster.models))
            self._ready.set()
            worker.run()
        slot.close()


def _settings(config: Config) -> "WorkerSettings":
    from triage.worker.settings import WorkerSettings

    return WorkerSettings(
        batch_size=config.inference.batch_size,
        batch_wait_ms=config.inference.batch_wait_ms,
        lease_s=config.worker.lease_s,
        heartbeat_s=config.worker.heartbeat_s,
        caption_when=config.caption.when if config.caption.enabled else "never",
    )
