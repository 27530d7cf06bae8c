"""D6: a backup taken under load restores to a consistent queue; the restored node repeats nothing.

While the backup runs, three senders store as fast as they are answered, two workers analyse and
one object in seven is refused into the quarantine. Bounds: of what was answered before the moment
of the backup, nothing is lost; of what is restored, every file is there byte for byte, no job is
both done and waiting, no job that was done is worked on again. A backup that is killed never counts
as one, and neither does one whose disk ran full. Short form: six kills, else 40.
"""

import hashlib
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from tests.assurance import Evidence, requirement
from tests.builders import make_policies
from tests.cli.site import ROOT, Site, make_site
from tests.database.conftest import analysed
from tests.dicom_files import make_dx, to_bytes
from tests.faults.injection import SmallDisk, needs_mounts, small_disk
from tests.faults.moulds import DX, Mould
from tests.faults.retrying import lost, retrying
from tests.flows.program import Program, until
from triage.database import queue, results
from triage.database.connection import Database, open_database
from triage.database.tables import Instance, ResultRow, Study
from triage.database.tables_house import JobRow, Quarantined
from triage.errors import ObjectRefused, StaleLease, TransientError
from triage.ingest.intake import Intake
from triage.operations.backup import back_up
from triage.operations.backup_directory import BackupError
from triage.operations.restore import restore, verify
from triage.records import Job, JobKind, Source
from triage.store import Store, open_store

POLICIES = make_policies()
PIXELS = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
BEFORE = 40  # objects that are there when the backup begins
DURING = 40  # and at least so many more that come while it runs
ANSWERED = 200  # objects, before the command is given to a daemon at work
KILLS, LONG_KILLS = 3, 40
SEED = 20260102


@dataclass
class Load:
    """Senders and workers on one house, and what they were promised and have done."""

    db: Database
    store: Store
    intake: Intake
    stop: threading.Event = field(default_factory=threading.Event)
    answered: dict[str, tuple[float, bytes]] = field(default_factory=dict)  # digest: when, bytes
    done: set[int] = field(default_factory=set)  # jobs

    def send_one(self) -> None:
        data = to_bytes(make_dx(PIXELS))
        outcome = self.intake.accept(data, source=Source.C_STORE, sender_ae_title="SENDER")
        with self.db.read() as connection:
            digest = select(Instance.digest).where(Instance.id == outcome.instance_id)
            name = connection.execute(digest).scalar_one()
        self.answered[name] = (time.time(), data)

    def send(self) -> None:
        number = 0
        while not self.stop.is_set():
            number += 1
            self.send_one()
            if number % 7 == 0:
                with suppress(ObjectRefused):
                    junk = random.randbytes(400)
                    self.intake.accept(junk, source=Source.FOLDER)

    def work(self) -> None:
        owner = threading.current_thread().name
        while not self.stop.is_set():
            for job in claim(self.db, owner):
                commit(self.db, job)
                self.done.add(job.id)


@contextmanager
def load(db: Database, store: Store, intake: Intake) -> Iterator[Load]:
    running = Load(db, store, intake)
    for _ in range(BEFORE):
        running.send_one()
    with ThreadPoolExecutor(5) as threads:
        each = [threads.submit(what) for what in (*[running.send] * 3, *[running.work] * 2)]
        try:
            yield running
        finally:
            running.stop.set()
    for one in each:
        one.result()


def claim(db: Database, owner: str, limit: int = 2) -> list[Job]:
    return queue.claim(db, kinds=[JobKind.ANALYSE], owner=owner, lease_s=60, limit=limit)


def commit(db: Database, job: Job) -> None:
    results.commit_analysis(
        db,
        job,
        [analysed(0.1, flagged=False)],
        pixel_digests={},
        embeddings={},
        policies=POLICIES,
        caption_due=False,
    )


def rows(db: Database, statement: Any) -> list[Any]:
    with db.read() as connection:
        return list(connection.execute(statement))


def assert_consistent(db: Database, store: Path) -> None:
    """Every file is there as its name says, and no subject has two jobs or two results."""
    held = rows(db, select(Instance.path, Instance.size_bytes, Instance.digest,
                           Instance.transfer_syntax_uid))  # fmt: skip
    for path, size, digest, syntax in held:
        data = (store / path).read_bytes()
        assert len(data) == size
        assert hashlib.sha256(syntax.encode() + data[512:]).hexdigest() == digest
    for (path,) in rows(db, select(Quarantined.path).where(Quarantined.state == "held")):
        assert hashlib.sha256((store / path).read_bytes()).hexdigest() == Path(path).stem
    jobs = rows(db, select(JobRow.subject, JobRow.subject_id, JobRow.kind, JobRow.generation))
    assert set(Counter(tuple(job) for job in jobs).values()) <= {1}
    assert len(jobs) == len(held)  # one image each
    assert {state for (state,) in rows(db, select(JobRow.state))} <= {"done", "queued"}
    finished = {job for (job,) in rows(db, select(JobRow.id).where(JobRow.state == "done"))}
    counted = [job for (job,) in rows(db, select(ResultRow.job_id))]
    assert sorted(counted) == sorted(finished)


@requirement("D6", bound="under load: nothing answered before the backup lost, no job done twice")
@pytest.mark.parametrize("into", ["sqlite", "postgresql"])
def test_d6_a_backup_under_load_restores_to_a_house_that_lost_and_repeats_nothing(
    into: str,
    database_url: str,
    intake: Intake,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    directory, new_store = tmp_path / "backup", tmp_path / "new-store"
    database: Database = request.getfixturevalue("database")
    store: Store = request.getfixturevalue("store")
    evidence: Evidence = request.getfixturevalue("evidence")
    with load(database, store, intake) as running:
        while len(running.done) < 5:
            time.sleep(0.01)
        begun = len(running.answered)

        def wait_for_more(what: str, done: int, total: int) -> None:
            # The copy of a few small files would be over before anything could come between.
            ends = time.monotonic() + 20
            while what == "images" and done == 128 and time.monotonic() < ends:
                if len(running.answered) >= begun + DURING:
                    break
                time.sleep(0.01)

        made = back_up(
            database_url, store.root, directory, minimum_free_mib=0, progress=wait_for_more
        )
        assert len(running.answered) >= begun + DURING
    assert (made.manifest.missing, made.manifest.damaged) == ([], [])
    new_url = fresh_database(into, tmp_path, request)
    restore(new_url, new_store, directory, minimum_free_mib=0, by="operator")
    db = open_database(new_url)
    try:
        assert_consistent(db, new_store)
        taken_at = datetime.fromisoformat(made.manifest.taken_at).timestamp()
        restored = {digest for (digest,) in rows(db, select(Instance.digest))}
        promised = {digest for digest, (at, _) in running.answered.items() if at < taken_at}
        evidence.record(trials=len(promised), losses=len(promised - restored))
        assert len(promised) >= BEFORE
        assert promised <= restored
        again = go_on(db)
        evidence.record(trials=again[0], losses=again[1])
        assert again[1] == 0
        assert_consistent(db, new_store)
    finally:
        db.dispose()


def go_on(db: Database) -> tuple[int, int]:
    """Work on until nothing waits; return how many jobs were done before, and came up again."""
    done = {job for (job,) in rows(db, select(JobRow.id).where(JobRow.state == "done"))}
    assert done
    again: set[int] = set()
    while jobs := claim(db, "new", limit=50):
        again |= done & {job.id for job in jobs}
        for job in jobs:
            with pytest.raises(StaleLease):  # the former house's worker comes back to life
                commit(db, Job(**{name: getattr(job, name) for name in Job.__slots__}
                               | {"fence": job.fence - 1000}))  # fmt: skip
            commit(db, job)
    assert {state for (state,) in rows(db, select(JobRow.state))} == {"done"}
    assert {state for (state,) in rows(db, select(Study.analysis))} == {"analysed"}
    return len(done), len(again)


def fresh_database(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if kind == "sqlite":
        return f"sqlite:///{tmp_path / 'new' / 'triage.sqlite'}"
    from tests.conftest import run_on_server

    uri: str = request.getfixturevalue("postgres_uri")
    name = f"d6_{random.randrange(1 << 40):x}"
    run_on_server(uri.format("postgres"), f"CREATE DATABASE {name}")
    drop = f"DROP DATABASE {name} WITH (FORCE)"
    request.addfinalizer(lambda: run_on_server(uri.format("postgres"), drop))
    return uri.format(name)


# --- the commands, beside a whole daemon


@pytest.mark.long_only
@requirement("D6", bound="the commands beside a daemon at work: what was answered before is kept")
def test_d6_a_backup_of_a_daemon_at_work_becomes_a_daemon_that_goes_on(
    database_url: str, tmp_path: Path, request: pytest.FixtureRequest, evidence: Evidence
) -> None:
    mould, backup = Mould(DX, 64), str(tmp_path / "backup")
    old = Program(make_directory(tmp_path / "old"), database_url, caption="never")
    try:
        with retrying(old.start().port(), mould, senders=3) as told:
            until(lambda: len(told.held) >= ANSWERED)
            promised = set(told.held)
            made = old.call("backup", backup)
            during = len(told.held) - len(promised)
    finally:
        old.stop()
    assert made.returncode == 0, made.stderr
    kind = database_url.partition("+")[0].partition(":")[0]
    new_url = fresh_database(kind, tmp_path, request)
    new = Program(make_directory(tmp_path / "new"), new_url, caption="never")
    restored = new.call("restore", backup)
    assert restored.returncode == 0, restored.stderr
    missing = lost(new, mould, promised)
    evidence.record(
        trials=len(promised), losses=len(missing), worst=f"{during} more answered meanwhile"
    )
    assert missing == []
    assert during > 0
    db = open_database(new_url)
    try:
        new.start()
        until(lambda: {row.state for row in rows(db, select(JobRow.state))} <= {"done"})
        assert_consistent(db, new.store)
    finally:
        new.stop()
        db.dispose()


def make_directory(path: Path) -> Path:
    path.mkdir()
    return path


# --- killed


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Site:
    return make_site(tmp_path, database_url)


def start_backup(site: Site, directory: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "triage", "backup", str(directory)],
        cwd=site.directory,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@requirement("D6", bound="a backup killed at a random moment never counts as a whole one")
def test_d6_a_backup_that_is_killed_never_counts_and_the_next_one_goes_on(
    site: Site, evidence: Evidence, long: bool
) -> None:
    chance = random.Random(SEED)
    url, directory = site.config.database.url, site.directory / "backup"
    db = open_database(url)
    store = open_store(site.config.store.path, minimum_free_mib=0)
    door = Intake(db, store, policies=POLICIES)
    door.start()
    try:
        running = Load(db, store, door)
        for _ in range(BEFORE):
            running.send_one()
        refusals = []
        whole = set()  # backups that were complete at some time
        kills = LONG_KILLS if long else KILLS
        for _ in range(kills):
            process = start_backup(site, directory)
            wait_until_begun(directory, process)
            time.sleep(chance.uniform(0, 0.4))
            process.send_signal(signal.SIGKILL)
            process.wait()
            try:
                whole.add(verify(directory).id)
            except BackupError as refusal:
                assert not whole  # a former backup stays whole until the next one is
                refusals.append(str(refusal))
            running.send_one()
        wrong = [r for r in refusals if "broken off" not in r and "holds no backup" not in r]
        evidence.record(trials=kills, losses=len(wrong))
        assert wrong == []
        assert start_backup(site, directory).wait() == 0
        manifest = verify(directory)
        assert manifest.files == BEFORE + kills
        assert sorted(path.name for path in directory.iterdir()) == sorted(
            ["backup.lock", "manifest.json", "store", manifest.database.name, manifest.listing.name]
        )
        assert list((directory / "store" / "incoming").iterdir()) == []
    finally:
        door.stop()
        store.close()
        db.dispose()


def wait_until_begun(directory: Path, process: "subprocess.Popen[bytes]") -> None:
    """Return as soon as the process holds the directory."""
    from triage.operations.backup_directory import writing

    ends = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < ends:
        try:
            if directory.exists() and any(directory.iterdir()):
                with writing(directory):
                    pass
        except (BackupError, TransientError):
            return
        time.sleep(0.005)


FILLING = """
import sys
from pathlib import Path
from triage.errors import OutOfSpace
from triage.operations.backup import back_up
from triage.operations.restore import verify

url, store, directory, stage = sys.argv[1:]

def fill(what: str, done: int, total: int) -> None:
    if what == stage and done < 2:
        with open(Path(directory).parent / "ballast", "ab", buffering=0) as ballast:
            try:
                while ballast.write(bytes(4096)):
                    pass
            except OSError:
                pass

try:
    back_up(url, Path(store), Path(directory), minimum_free_mib=0, progress=fill)
except OutOfSpace as full:
    print(full)
print(verify(Path(directory)).files, "files")
"""


@needs_mounts
@requirement("D6", bound="a disk that runs full while the backup is made: the former one is whole")
@pytest.mark.parametrize("stage", ["images", "database", "new images"])
def test_d6_a_backup_whose_disk_runs_full_leaves_the_former_one_whole(
    stage: str, site: Site, evidence: Evidence, long: bool, tmp_path: Path
) -> None:
    if not long and (site.config.database.url.startswith("postgresql") or stage != "database"):
        pytest.skip("one moment on one database in the short form")

    def back_up_on(disk: SmallDisk, stage: str) -> str:
        words = [site.config.database.url, site.config.store.path, tmp_path / "disk" / "b", stage]
        command = [*disk.enter, sys.executable, "-c", FILLING, *map(str, words)]
        return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout.decode()

    db = open_database(site.config.database.url)
    store = open_store(site.config.store.path, minimum_free_mib=1)
    door = Intake(db, store, policies=POLICIES)
    door.start()
    running = Load(db, store, door)
    try:
        with small_disk(tmp_path / "disk", size_mib=80) as disk:
            running.send_one()
            assert back_up_on(disk, "never") == "1 files\n"
            running.send_one()
            said = back_up_on(disk, stage)
            (disk.path / "ballast").unlink()
            mended = back_up_on(disk, "never")
    finally:
        door.stop()
        store.close()
        db.dispose()
    whole = said.endswith("\n1 files\n") and mended == "2 files\n"
    evidence.record(trials=1, losses=int(not whole))
    assert whole
    assert "is full: the backup is incomplete" in said
