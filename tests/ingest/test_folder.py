"""A file in a watched folder becomes an object once, when it is whole, and its source is safe."""

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tests.assurance import requirement
from tests.dicom_files import make_dx, make_sr, to_bytes, write
from triage.config import FoldersConfig
from triage.database.connection import Database, open_database
from triage.ingest.folder import FolderWatcher
from triage.ingest.intake import Intake
from triage.rules.policies import Policies
from triage.store import Store


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    """One dialect is enough here: the folder writes through functions that run on both."""
    opened = open_database(sqlite_url)
    yield opened
    opened.dispose()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.mkdir()
    return path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(
    database: Database, intake: Intake, folder: Path, clock: Clock
) -> Iterator[Callable[..., FolderWatcher]]:
    """Make watchers that only scan: events have tests of their own below."""
    made = []

    def make(**settings: Any) -> FolderWatcher:
        most = settings.pop("maximum_object_mib", 64)
        config = FoldersConfig(watch=(folder,), **{"stable_s": 5.0, "rescan_s": 60.0} | settings)
        watcher = FolderWatcher(intake, database, config, maximum_object_mib=most, clock=clock)
        made.append(watcher)
        return watcher

    yield make
    for watcher in made:
        watcher.stop()


def rows(database: Database, statement: str) -> list[tuple[Any, ...]]:
    with database.read() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def held(database: Database) -> int:
    return int(rows(database, "SELECT count(*) FROM instances")[0][0])


def open_alarms(database: Database) -> list[tuple[Any, ...]]:
    return rows(database, "SELECT code, message FROM alarms WHERE cleared_at IS NULL")


def settle(watcher: FolderWatcher, clock: Clock) -> int:
    """Let the watcher find what is there and wait until it is stable."""
    read = watcher.turn()
    clock.pass_s(5)
    return read + watcher.turn()


@requirement("G5")
def test_what_lies_there_at_start_is_taken_in_nested_folders_too(
    database: Database, folder: Path, watch: Callable[..., FolderWatcher], clock: Clock
) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "top.dcm").write_bytes(to_bytes(make_dx()))
    (folder / "a" / "b" / "IM0001").write_bytes(to_bytes(make_dx()))
    watcher = watch()
    assert settle(watcher, clock) == 2
    assert held(database) == 2


@requirement("G4")
def test_a_file_that_still_grows_is_not_touched(
    database: Database, folder: Path, watch: Callable[..., FolderWatcher], clock: Clock
) -> None:
    data = to_bytes(make_dx())
    path = folder / "slow.dcm"
    watcher = watch(rescan_s=1.0)
    for end in range(1000, len(data), 1000):
        path.write_bytes(data[:end])
        assert watcher.turn() == 0
        clock.pass_s(3)
    path.write_bytes(data)
    assert settle(watcher, clock) == 1
    assert held(database) == 1
    assert rows(database, "SELECT id FROM quarantine") == []


def test_a_file_is_read_once_though_it_stays(
    database: Database, folder: Path, watch: Callable[..., FolderWatcher], clock: Clock
) -> None:
    (folder / "a.dcm").write_bytes(to_bytes(make_dx()))
    settle(watch(), clock)
    later = watch()
    for _ in range(5):
        clock.pass_s(60)
        assert later.turn() == 0
    assert rows(database, "SELECT count(*) FROM object_events") == [(1,)]


def test_a_file_that_changes_is_read_again(
    database: Database, folder: Path, watch: Callable[..., FolderWatcher], clock: Clock
) -> None:
    path = folder / "a.dcm"
    path.write_bytes(to_bytes(make_dx()))
    watcher = watch()
    settle(watcher, clock)
    path.write_bytes(to_bytes(make_dx()))
    os.utime(path, ns=(1, 1))
    clock.pass_s(60)
    settle(watcher, clock)
    assert held(database) == 2


@requirement("G4")
def test_links_dot_files_and_half_written_names_are_passed_over(
    database: Database,
    folder: Path,
    watch: Callable[..., FolderWatcher],
    clock: Clock,
    tmp_path: Path,
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.dcm").write_bytes(to_bytes(make_dx()))
    (folder / "link.dcm").symlink_to(outside / "secret.dcm")
    (folder / "directory").symlink_to(outside)
    (folder / ".hidden.dcm").write_bytes(to_bytes(make_dx()))
    (folder / "a.dcm.part").write_bytes(to_bytes(make_dx()))
    os.mkfifo(folder / "pipe")
    assert settle(watch(), clock) == 0
    assert held(database) == 0


def test_after_move_held_files_and_refused_files_part_ways(
    database: Database, folder: Path, watch: Callable[..., FolderWatcher], clock: Clock
) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "good.dcm").write_bytes(to_bytes(make_dx()))
    (folder / "sub" / "letter.txt").write_bytes(b"Dear colleague")
    watcher = watch(after="move")
    settle(watcher, clock)
    assert (folder / ".done" / "sub" / "good.dcm").exists()
    assert (folder / ".failed" / "sub" / "letter.txt").exists()
    assert list((folder / "sub").iterdir()) == []
    clock.pass_s(60)
    assert settle(watcher, clock) == 0, "what was moved is not read again"


def test_after_move_a_namesake_does_not_replace_an_older_one(
    folder: Path, watch: Callable[..., FolderWatcher], clock: Clock
) -> None:
    watcher = watch(after="move")
    for _ in range(3):
        (folder / "a.dcm").write_bytes(to_bytes(make_dx()))
        clock.pass_s(60)
        settle(watcher, clock)
    assert sorted(path.name for path in (folder / ".done").iterdir()) == [
        "a.dcm",
        "a.dcm.1",
        "a.dcm.2",
    ]


def test_after_delete_only_what_is_held_is_deleted(
    database: Database, folder: Path, watch: Callable[..., FolderWatcher], clock: Clock
) -> None:
    data = to_bytes(make_dx())
    (folder / "good.dcm").write_bytes(data)
    (folder / "again.dcm").write_bytes(data)
    (folder / "letter.txt").write_bytes(b"Dear colleague")
    watcher = watch(after="delete")
    settle(watcher, clock)
    assert [path.name for path in folder.iterdir()] == ["letter.txt"]
    assert held(database) == 1
    clock.pass_s(60)
    assert settle(watcher, clock) == 0


class Replaced:
    """An intake; while it works, the sender puts another file in the place of the first."""

    def __init__(self, intake: Intake, path: Path, other: bytes) -> None:
        self._intake, self._path, self._other = intake, path, other
        self.inspect = intake.inspect

    def accept(self, *data: Any, **how: Any) -> Any:
        outcome = self._intake.accept(*data, **how)
        if self._other:
            beside = self._path.with_name(".next")
            beside.write_bytes(self._other)
            beside.rename(self._path)
            self._other = b""
        return outcome


@pytest.mark.parametrize("after", ["delete", "move"])
def test_a_file_that_took_the_place_of_the_one_that_was_read_is_read_before_it_is_put_away(
    database: Database, intake: Intake, folder: Path, clock: Clock, after: str
) -> None:
    path = folder / "a.dcm"
    path.write_bytes(to_bytes(make_dx()))
    door = Replaced(intake, path, to_bytes(make_dx()) + bytes(2))
    config = FoldersConfig(watch=(folder,), after=after, stable_s=5.0, rescan_s=60.0)
    watcher = FolderWatcher(door, database, config, maximum_object_mib=64, clock=clock)  # type: ignore[arg-type]
    try:
        settle(watcher, clock)
        assert path.exists()
        clock.pass_s(60)
        settle(watcher, clock)
    finally:
        watcher.stop()
    assert held(database) == 2
    assert not path.exists()


@pytest.mark.parametrize("after", ["keep", "delete", "move"])
def test_a_file_that_took_the_place_of_another_is_read_when_it_is_stable_not_at_the_rescan(
    database: Database, intake: Intake, folder: Path, clock: Clock, after: str
) -> None:
    path = folder / "a.dcm"
    path.write_bytes(to_bytes(make_dx()))
    door = Replaced(intake, path, to_bytes(make_dx()) + bytes(2))
    config = FoldersConfig(watch=(folder,), after=after, stable_s=5.0, rescan_s=3600.0)
    watcher = FolderWatcher(door, database, config, maximum_object_mib=64, clock=clock)  # type: ignore[arg-type]
    try:
        settle(watcher, clock)
        clock.pass_s(4)
        assert watcher.turn() == 0
        clock.pass_s(1)
        assert watcher.turn() == 1
    finally:
        watcher.stop()
    assert held(database) == 2


class Overwritten(Replaced):
    """An intake; before it reads, the sender writes the file anew."""

    def accept(self, *data: Any, **how: Any) -> Any:
        if self._other:
            self._path.write_bytes(self._other)
            self._other = b""
        return self._intake.accept(*data, **how)


def test_a_file_that_changes_while_it_is_read_is_read_when_it_is_stable_again(
    database: Database, intake: Intake, folder: Path, clock: Clock
) -> None:
    path = folder / "a.dcm"
    path.write_bytes(to_bytes(make_dx()))
    door = Overwritten(intake, path, to_bytes(make_dx()) + bytes(2))
    config = FoldersConfig(watch=(folder,), stable_s=5.0, rescan_s=3600.0)
    watcher = FolderWatcher(door, database, config, maximum_object_mib=64, clock=clock)  # type: ignore[arg-type]
    try:
        assert settle(watcher, clock) == 0
        clock.pass_s(5)
        assert watcher.turn() == 1
    finally:
        watcher.stop()
    assert held(database) == 1


def test_a_file_of_the_same_name_is_taken_in_again_after_the_first_was_put_away(
    database: Database, folder: Path, watch: Callable[..., FolderWatcher], clock: Clock
) -> None:
    path = folder / "a.dcm"
    watcher = watch(after="delete")
    for _ in range(2):
        path.write_bytes(to_bytes(make_dx()))
        os.utime(path, ns=(1, 1))
        clock.pass_s(60)
        settle(watcher, clock)
        assert not path.exists()
    assert held(database) == 2


def test_no_source_is_touched_while_nothing_can_be_held(
    sqlite_url: str, store: Store, folder: Path, clock: Clock
) -> None:
    database = open_database(sqlite_url, lock_timeout_s=0.1)
    holder = open_database(sqlite_url)
    door = Intake(database, store, policies=Policies())
    door.start()
    (folder / "a.dcm").write_bytes(to_bytes(make_dx()))
    config = FoldersConfig(watch=(folder,), after="delete", stable_s=5, rescan_s=60)
    watcher = FolderWatcher(door, database, config, maximum_object_mib=64, clock=clock)
    watcher.turn()
    clock.pass_s(5)
    with holder.write():
        assert watcher.turn() == 0
        assert (folder / "a.dcm").exists()
    clock.pass_s(1)
    assert watcher.turn() == 0, "it pauses"
    clock.pass_s(10)
    assert watcher.turn() == 1
    assert not (folder / "a.dcm").exists()
    watcher.stop()
    door.stop()


@pytest.mark.parametrize("after", ["keep", "move", "delete"])
def test_what_no_quarantine_lists_stays_and_is_an_alarm_until_it_is_gone(
    database: Database, folder: Path, watch: Callable[..., FolderWatcher], clock: Clock, after: str
) -> None:
    for name, size_mib in {"never read": 129, "larger than is kept": 65}.items():
        with (folder / name).open("wb") as file:
            file.truncate(size_mib * 1024 * 1024)
    (folder / "letter.txt").write_bytes(b"Dear colleague")
    watcher = watch(after=after, maximum_object_mib=128)
    assert settle(watcher, clock) == 3
    told = rows(database, "SELECT state FROM object_events ORDER BY state")
    assert told == [("quarantined",), ("refused",), ("refused",)]
    for name, left in {"never read": 2, "larger than is kept": 1}.items():
        clock.pass_s(60)
        assert settle(watcher, clock) == 0
        [(code, message)] = open_alarms(database)
        assert code == "folder_failed"
        assert message.endswith(f"has files that were neither taken in nor kept aside ({left})")
        (folder / name).unlink()
    clock.pass_s(60)
    watcher.turn()
    assert open_alarms(database) == []


def test_a_file_that_fails_by_our_own_fault_is_told_until_it_is_taken_in_and_stops_no_other(
    watch: Callable[..., FolderWatcher], database: Database, folder: Path, clock: Clock
) -> None:
    with database.write() as connection:
        connection.execute(
            text(
                "CREATE TRIGGER refuse BEFORE INSERT ON instances"
                " WHEN new.sop_class_uid LIKE '%88%'"
                " BEGIN SELECT RAISE(ABORT, 'a rule is broken'); END"
            )
        )
    write(make_sr(), folder / "a.dcm")
    write(make_dx(), folder / "b.dcm")
    watcher = watch()
    assert settle(watcher, clock) == 2
    assert held(database) == 1
    told = rows(database, "SELECT state, source FROM object_events ORDER BY state")
    assert told == [("refused", "folder"), ("stored", "folder")]
    clock.pass_s(60)
    assert settle(watcher, clock) == 0
    assert [code for code, _ in open_alarms(database)] == ["folder_failed"]
    with database.write() as connection:
        connection.execute(text("DROP TRIGGER refuse"))
    os.utime(folder / "a.dcm", ns=(1, 1))
    clock.pass_s(60)
    assert settle(watcher, clock) == 1
    assert held(database) == 2
    assert open_alarms(database) == []


class Unread:
    """An intake; while `error` stands, what it reads cannot be read."""

    def __init__(self, intake: Intake, error: Exception) -> None:
        self._intake = intake
        self.error: Exception | None = error
        self.inspect = intake.inspect

    def accept(self, *data: Any, **how: Any) -> Any:
        if self.error is not None:
            raise self.error
        return self._intake.accept(*data, **how)


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), MemoryError()], ids=["disk", "memory"]
)
def test_a_file_that_cannot_be_read_is_an_alarm_and_tried_at_each_scan_until_it_can(
    database: Database, intake: Intake, folder: Path, clock: Clock, error: Exception
) -> None:
    (folder / "a.dcm").write_bytes(to_bytes(make_dx()))
    door = Unread(intake, error)
    config = FoldersConfig(watch=(folder,), stable_s=5.0, rescan_s=60.0)
    watcher = FolderWatcher(door, database, config, maximum_object_mib=64, clock=clock)  # type: ignore[arg-type]
    try:
        for _ in range(3):
            assert settle(watcher, clock) == 0
            clock.pass_s(60)
        [(code, message)] = open_alarms(database)
        assert code == "folder_unreadable"
        assert "(1, first: " in message
        door.error = None
        assert settle(watcher, clock) == 1
        clock.pass_s(60)
        watcher.turn()
    finally:
        watcher.stop()
    assert held(database) == 1
    assert open_alarms(database) == []


@requirement("G6")
def test_a_folder_that_vanishes_is_an_alarm_until_it_is_back(
    database: Database, folder: Path, watch: Callable[..., FolderWatcher], clock: Clock
) -> None:
    watcher = watch()
    watcher.turn()
    shutil.rmtree(folder)
    clock.pass_s(60)
    watcher.turn()
    [(code, cleared)] = rows(database, "SELECT code, cleared_at FROM alarms")
    assert (code, cleared) == ("folder_missing", None)
    folder.mkdir()
    clock.pass_s(60)
    watcher.turn()
    assert rows(database, "SELECT count(*) FROM alarms WHERE cleared_at IS NULL") == [(0,)]


@requirement("G6")
def test_what_cannot_be_looked_at_is_an_alarm_until_it_can(
    database: Database, folder: Path, watch: Callable[..., FolderWatcher], clock: Clock
) -> None:
    deep = "d" * 250
    below = os.open(folder, os.O_RDONLY)
    for _ in range(20):  # a path longer than the kernel takes, for the superuser too
        os.mkdir(deep, dir_fd=below)
        above, below = below, os.open(deep, os.O_RDONLY, dir_fd=below)
        os.close(above)
    os.close(below)
    watcher = watch()
    watcher.turn()
    [(code, message)] = open_alarms(database)
    assert code == "folder_unreadable"
    assert message.endswith("has entries that cannot be read (1, first: File name too long)")
    shutil.rmtree(folder / deep)
    clock.pass_s(60)
    watcher.turn()
    assert open_alarms(database) == []


def test_names_that_are_no_text_are_taken_in(
    database: Database, folder: Path, watch: Callable[..., FolderWatcher], clock: Clock
) -> None:
    path = os.path.join(os.fsencode(folder), b"M\xfcller.dcm")  # noqa: PTH118  # bytes, not text
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(to_bytes(make_dx()))
    watcher = watch()
    assert settle(watcher, clock) == 1
    clock.pass_s(60)
    assert settle(watcher, clock) == 0


# --- with the kernel's events and real time


@pytest.fixture
def running(database: Database, intake: Intake, folder: Path) -> Iterator[None]:
    config = FoldersConfig(watch=(folder,), stable_s=0.5, rescan_s=3600)
    watcher = FolderWatcher(intake, database, config, maximum_object_mib=64)
    stop, turned = threading.Event(), threading.Event()
    thread = threading.Thread(target=watcher.run, args=(stop,), kwargs={"turned": turned.set})
    thread.start()
    assert turned.wait(10)
    yield
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def eventually(condition: Callable[[], bool], *, within_s: float = 30) -> bool:
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.usefixtures("running")
# watchdog's thread warns, and goes on, where a new directory is walked and told of at once.
@pytest.mark.filterwarnings("ignore:Callback with id:RuntimeWarning")
def test_new_renamed_and_deeply_nested_files_are_taken_in_without_a_rescan(
    database: Database, folder: Path, tmp_path: Path
) -> None:
    (folder / "a.dcm").write_bytes(to_bytes(make_dx()))
    elsewhere = tmp_path / "b.dcm"
    elsewhere.write_bytes(to_bytes(make_dx()))
    elsewhere.rename(folder / "b.dcm")
    (folder / "new" / "deep").mkdir(parents=True)
    (folder / "new" / "deep" / "c.dcm").write_bytes(to_bytes(make_dx()))
    assert eventually(lambda: held(database) == 3)


@requirement("G4")
@pytest.mark.usefixtures("running")
def test_a_file_closed_half_way_and_completed_later_is_one_object(
    database: Database, folder: Path
) -> None:
    data = to_bytes(make_dx())
    path = folder / "a.dcm"
    for start in range(0, len(data), len(data) // 4 + 1):
        with path.open("ab") as file:
            file.write(data[start : start + len(data) // 4 + 1])
        time.sleep(0.3)
    assert eventually(lambda: held(database) == 1)
    assert rows(database, "SELECT id FROM quarantine") == []


@requirement("G4")
@pytest.mark.usefixtures("running")
def test_a_file_closed_between_header_and_pixels_is_not_taken_for_an_object_without_any(
    database: Database, folder: Path
) -> None:
    data = to_bytes(make_dx())
    before_pixels = data.index(b"\xe0\x7f\x10\x00")
    path = folder / "a.dcm"
    for piece in (data[:before_pixels], data[before_pixels:]):
        with path.open("ab") as file:
            file.write(piece)
        time.sleep(0.3)
    assert eventually(lambda: held(database) == 1)
    assert rows(database, "SELECT count(*) FROM instances") == [(1,)]
