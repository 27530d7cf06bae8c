"""The watch role: files in watched folders become objects, once, when they are whole.

Owns finding files, knowing when they are complete, and what happens to them afterwards
([folders] after). The scan is the truth: at start and every `rescan_s` all files are looked at, and
one whose path, size and modification time were read before is passed over. Events of the kernel
only make it quicker: they overflow, and miss what is written before a new directory is watched
(inotify(7)). Folders on network mounts, or with [folders] poll, are scanned every `stable_s`.

Not looked at: symbolic links (they lead out of the folder), names that begin with a dot, names of
half-written files by convention. With `after = move`, sources go to `.done` or `.failed` inside
the watched folder. A source is moved or deleted only after the commit, and deleted only if the
object is held: what was refused stays for a person, and what no quarantine lists stays in its
place, with an alarm while it does.

File names may hold a patient's name, so none is logged.
"""

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import FileIO
from itertools import islice
from pathlib import Path

import structlog
from watchdog.events import (
    EVENT_TYPE_CLOSED,
    EVENT_TYPE_CREATED,
    EVENT_TYPE_MODIFIED,
    EVENT_TYPE_MOVED,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from triage.config import FoldersConfig
from triage.database.connection import Database
from triage.database.intake_log import (
    known_folder_entries,
    record_refused,
    remember_folder_entry,
)
from triage.errors import ObjectRefused, TransientError
from triage.ingest.files import (
    SourceChanged,
    chunks_of,
    delete_inside,
    files_below,
    is_passed_over,
    move_inside,
    open_source,
    path_text,
    span_of,
    stamp_of,
)
from triage.ingest.folder_alarms import FolderAlarms
from triage.ingest.intake import Intake
from triage.ingest.mounts import FSTAB, MOUNTINFO, mount_point, needs_polling, text_of, unmounted
from triage.ingest.reception import LARGEST_KEPT_MIB
from triage.ingest.span import FileSpan
from triage.ingest.stability import Candidate, Stamp, Tracker
from triage.records import Source
from triage.store import MIB

log = structlog.get_logger(__name__)

DONE, FAILED = ".done", ".failed"
UNKEPT = "failed"  # the outcome of a file that is neither held nor in the quarantine
FAILURE = "an error of triage: see folder_file_failed in the log"
NO_MEMORY = "no memory to read a file"
READERS = 4  # files taken in at once; they share the intake's group commits
LARGEST_TURN = 64
QUERY_BATCH = 500
PAUSE_S = 10.0  # after an error that passes: no space, database away
IDLE_S = 0.2
SCAN_GAP_S = 1.0  # between scans that new directories ask for


class FolderWatcher:
    """Watches every folder of [folders] watch. `turn` does what is due and never sleeps."""

    def __init__(
        self,
        intake: Intake,
        db: Database,
        config: FoldersConfig,
        *,
        maximum_object_mib: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._intake = intake
        self._db = db
        self._config = config
        self._maximum_object_mib = maximum_object_mib
        self._clock = clock
        self._roots = tuple(dict.fromkeys(folder.resolve() for folder in config.watch))
        self._tracker = Tracker(stable_s=config.stable_s)
        self._events: queue.SimpleQueue[tuple[Path, bool, bool]] = queue.SimpleQueue()
        self._observers: list[BaseObserver] = []
        self._next_scan_s = clock()
        self._last_scan_s = clock() - SCAN_GAP_S
        self._resume_s = clock()
        self._polled = self._roots
        self._new_directories = False
        self._alarms = FolderAlarms(db)
        self._unread: dict[Path, str] = {}  # why the last reading of a file failed
        self._mounts: dict[Path, Path] = {}  # of each root the innermost mount point seen
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="folder-reader")

    def start(self) -> None:
        """Begin to observe; the first `turn` scans everything."""
        mountinfo, polled = text_of(MOUNTINFO), []
        for root in self._roots:
            if self._config.poll or needs_polling(root, mountinfo) or not self._observe(root):
                polled.append(root)
        self._polled = tuple(polled)
        log.info("folders_watched", folders=len(self._roots), polled=len(polled))

    def run(self, stop: threading.Event, *, turned: Callable[[], None] = lambda: None) -> None:
        """Turn until `stop` is set; `turned` is called after every turn (role heartbeat)."""
        self.start()
        try:
            while not stop.is_set():
                busy = self.turn()
                turned()
                if not busy:
                    stop.wait(IDLE_S)
        finally:
            self.stop()

    def stop(self) -> None:
        """Stop observing; files that are being taken in are finished."""
        for observer in self._observers:
            observer.stop()
            observer.join()
        self._observers.clear()
        self._pool.shutdown()

    def turn(self) -> int:
        """Do what is due: rescan, take in files that are complete. Returns how many were read."""
        now_s = self._clock()
        self._take_events(now_s)
        if now_s < self._resume_s:
            return 0
        try:
            if now_s >= self._next_scan_s:
                self._scan(now_s)
            return self._take_files(now_s)
        except TransientError as error:
            log.warning("folders_paused", reason=str(error), pause_s=PAUSE_S)
            self._resume_s = now_s + PAUSE_S
            return 0

    # --- finding

    def _observe(self, root: Path) -> bool:
        """Ask the kernel for events; False where it has none to give (no folder, too many)."""
        observer = Observer()
        observer.schedule(_Events(self._events), str(root), recursive=True)
        try:
            observer.start()
        except OSError as error:
            log.warning("folder_events_unavailable", reason=error.strerror)
            return False
        self._observers.append(observer)
        return True

    def _take_events(self, now_s: float) -> None:
        while not self._events.empty():
            path, closed, directory = self._events.get()
            if directory:
                # Files may stand in it, or come to stand before it is watched, without an event:
                # look now, and once more.
                self._new_directories = True
                soon_s = max(now_s, self._last_scan_s + SCAN_GAP_S)
                self._next_scan_s = min(self._next_scan_s, soon_s)
                continue
            stamp = stamp_of(path)
            if stamp is not None and self._is_wanted(path):
                self._tracker.observe(path, stamp, now_s, closed=closed)

    def _is_wanted(self, path: Path) -> bool:
        root = self._root_of(path)
        return root is not None and not any(map(is_passed_over, path.relative_to(root).parts))

    def _root_of(self, path: Path) -> Path | None:
        return next((root for root in self._roots if path.is_relative_to(root)), None)

    def _scan(self, now_s: float) -> None:
        mountinfo, fstab = text_of(MOUNTINFO), text_of(FSTAB)
        for root in self._roots:
            self._alarms.tell_missing(root, self._missing(root, mountinfo, fstab))
            self._look_through(root, now_s)
        again = self._polled or self._new_directories
        interval_s = min(self._config.stable_s, self._config.rescan_s)
        self._next_scan_s = now_s + (interval_s if again else self._config.rescan_s)
        self._last_scan_s, self._new_directories = now_s, False

    def _look_through(self, root: Path, now_s: float) -> None:
        """Look at every file of a folder, track those not read as they are, tell what is wrong."""
        unreadable: dict[Path, str] = {}
        unkept = 0
        found = files_below(root, unreadable)
        while batch := list(islice(found, QUERY_BATCH)):
            for (path, stamp), outcome in zip(batch, self._known(batch), strict=True):
                unkept += outcome == UNKEPT
                if outcome is None:
                    self._tracker.observe(path, stamp, now_s)
                    if path in self._unread:
                        unreadable.setdefault(path, self._unread[path])
        for path in list(self._unread):
            if path.is_relative_to(root) and path not in unreadable:
                self._unread.pop(path, None)  # gone, or read by another watcher
        self._alarms.tell_unreadable(root, list(unreadable.values()))
        self._alarms.tell_failed(root, unkept)

    def _missing(self, root: Path, mountinfo: str, fstab: str) -> str:
        """Say what is wrong with a folder that is not there; empty where it is."""
        if not root.is_dir():
            return "is not there"
        point = mount_point(root, mountinfo)
        former = self._mounts.setdefault(root, point)
        if len(point.parts) > len(former.parts):
            self._mounts[root] = former = point
            if root not in self._polled and needs_polling(root, mountinfo):
                self._polled = (*self._polled, root)
        lost = former if former != point else unmounted(root, mountinfo, fstab)
        return f"lies on {path_text(lost)}, which is not mounted" if lost else ""

    def _known(self, found: Sequence[tuple[Path, Stamp]]) -> list[str | None]:
        """Return what became of each; None where it was not read at its present size and mtime."""
        with self._db.read() as connection:
            known = known_folder_entries(connection, [path_text(path) for path, _ in found])
        outcomes = []
        for path, stamp in found:
            size_bytes, mtime_ns, outcome = known.get(path_text(path), (-1, -1, None))
            is_read = (size_bytes, mtime_ns) == (stamp.size_bytes, stamp.mtime_ns)
            outcomes.append(outcome if is_read else None)
        return outcomes

    # --- taking in

    def _take_files(self, now_s: float) -> int:
        ready = []
        for candidate in self._tracker.ready(now_s):
            if self._is_unchanged(candidate, now_s):
                ready.append(candidate)
            if len(ready) == LARGEST_TURN:
                break
        todo = []
        if ready:
            outcomes = self._known([(candidate.path, candidate.stamp) for candidate in ready])
            for candidate, outcome in zip(ready, outcomes, strict=True):
                if outcome is None:
                    todo.append(candidate)
                else:
                    self._tracker.forget(candidate.path)
        return sum(self._pool.map(partial(self._take, now_s=now_s), todo))

    def _is_unchanged(self, candidate: Candidate, now_s: float) -> bool:
        stamp = stamp_of(candidate.path)
        if stamp != candidate.stamp:
            self._tracker.tried(candidate, stamp, now_s)
        return stamp == candidate.stamp

    def _take(self, candidate: Candidate, *, now_s: float) -> bool:
        """Take in one file; False if it turned out not to be whole yet. Runs in a reader thread.

        An error of ours must not stop the folder at this file for ever: it is remembered as
        failed, and tried again when the file changes.
        """
        try:
            outcome, held = self._outcome(candidate, now_s)
        except TransientError:
            raise
        except Exception:
            log.exception("folder_file_failed")
            self._tell_failure()
            outcome, held = UNKEPT, False
        if not outcome:
            return False
        if outcome == UNKEPT or not self._put_away(candidate, held=held):
            self._remember(candidate, outcome)
        self._tracker.tried(candidate, stamp_of(candidate.path), now_s)
        return True

    def _tell_failure(self) -> None:
        """Leave the trace of a file that no disposition tells of; the log has its cause."""
        with self._db.write() as connection:
            record_refused(
                connection,
                source=Source.FOLDER,
                sender_ae_title="",
                sop_instance_uid="",
                reason=FAILURE,
                now=self._db.now(connection),
            )

    def _outcome(self, candidate: Candidate, now_s: float) -> tuple[str, bool]:
        """Read and hand over one file; return what became of it ("" for nothing yet), if held."""
        self._unread.pop(candidate.path, None)
        if candidate.stamp.size_bytes > self._maximum_object_mib * MIB:
            self._intake.refuse_unread(candidate.stamp.size_bytes, source=Source.FOLDER)
            return UNKEPT, False
        try:
            with open_source(candidate, self._home_of(candidate)) as source:
                return self._outcome_of(source, candidate, now_s)
        except (SourceChanged, FileNotFoundError):
            pass
        except OSError as error:
            self._note_unread(candidate, str(error.strerror))
        except MemoryError:
            self._note_unread(candidate, NO_MEMORY)
        self._tracker.tried(candidate, stamp_of(candidate.path), now_s)
        return "", False

    def _note_unread(self, candidate: Candidate, reason: str) -> None:
        """Note why a file could not be read: the scan that finds it again tells, and it waits."""
        log.warning("folder_file_unreadable", reason=reason)
        self._unread[candidate.path] = reason

    def _outcome_of(self, source: FileIO, candidate: Candidate, now_s: float) -> tuple[str, bool]:
        """The same of an open file. Raises SourceChanged or OSError, where it cannot be judged."""
        stable = self._tracker.is_stable(candidate, now_s)
        # Without pixels it may be cut off between two elements, before them.
        if not (stable or self._is_whole_image(span_of(source, candidate))):
            self._tracker.not_whole(candidate.path)
            return "", False
        try:
            outcome = self._intake.accept(
                chunks_of(source, candidate),
                source=Source.FOLDER,
                original_path=path_text(candidate.path),
            )
        except ObjectRefused:
            kept = candidate.stamp.size_bytes <= LARGEST_KEPT_MIB * MIB
            return "refused" if kept else UNKEPT, False
        return outcome.state, True

    def _is_whole_image(self, span: FileSpan) -> bool:
        try:
            return self._intake.inspect(span).has_pixels
        except ObjectRefused:
            return False

    def _remember(self, candidate: Candidate, outcome: str) -> None:
        with self._db.write() as connection:
            remember_folder_entry(
                connection,
                path_text(candidate.path),
                size_bytes=candidate.stamp.size_bytes,
                mtime_ns=candidate.stamp.mtime_ns,
                outcome=outcome,
                now=self._db.now(connection),
            )

    def _put_away(self, candidate: Candidate, *, held: bool) -> bool:
        """Move or delete a source as [folders] after says; True if it is no longer there.

        What stands under its name by now may be another file, that nobody has read.
        """
        root = self._home_of(candidate)
        try:
            if self._config.after == "move":
                return move_inside(candidate, root, DONE if held else FAILED)
            if self._config.after == "delete" and held:
                return delete_inside(candidate, root)
        except FileNotFoundError:
            return True
        except OSError as error:
            # The object is held and the file will be remembered: only tidiness is lost.
            log.warning("folder_source_stays", reason=error.strerror)
        return False

    def _home_of(self, candidate: Candidate) -> Path:
        return self._root_of(candidate.path) or candidate.path.parent


class _Events(FileSystemEventHandler):
    """Passes on (path, closed, directory); runs in the observer's thread."""

    def __init__(self, events: "queue.SimpleQueue[tuple[Path, bool, bool]]") -> None:
        self._events = events

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Pass on what may mean a new or changed file."""
        moved = event.event_type == EVENT_TYPE_MOVED
        path = Path(os.fsdecode(event.dest_path if moved else event.src_path))
        closed = moved or event.event_type == EVENT_TYPE_CLOSED
        if closed or event.event_type in (EVENT_TYPE_CREATED, EVENT_TYPE_MODIFIED):
            if event.is_directory and event.event_type == EVENT_TYPE_MODIFIED:
                return  # its files send events of their own
            self._events.put((path, closed, event.is_directory))
