"""Backup and restore: what comes back is what was there, and nothing is ever written over."""

import json
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from tests.assurance import requirement
from tests.builders import make_policies
from tests.dicom_files import make_dx, to_bytes
from triage.database import queue
from triage.database.arrivals import ArrivalOutcome
from triage.database.connection import Database, current_revision, migrate, open_database
from triage.database.house import record_role
from triage.database.snapshot import METADATA
from triage.database.tables import Instance, Study
from triage.database.tables_house import Event, JobEvent, JobRow, RoleRow
from triage.database.worklist import acknowledge
from triage.errors import ObjectRefused, OutOfSpace, RevisionError, StaleLease, StoreError
from triage.ingest.intake import Intake
from triage.operations.backup import ROUND_DAYS, Backup, back_up
from triage.operations.backup_directory import BackupError
from triage.operations.restore import Restored, restore, verify
from triage.operations.retention import expire_due
from triage.records import JobKind, Source
from triage.store import Store, open_store

POLICIES = make_policies()


@dataclass
class House:
    """A database, a store and a door, and where its backup goes."""

    url: str
    db: Database
    store: Store
    intake: Intake
    directory: Path

    def receive(self, **elements: Any) -> ArrivalOutcome:
        ds = make_dx(rows_of(16), **elements)
        return self.intake.accept(to_bytes(ds), source=Source.C_STORE, sender_ae_title="SENDER")

    def back_up(self, **changes: Any) -> Backup:
        return back_up(
            self.url, self.store.root, self.directory, **{"minimum_free_mib": 0} | changes
        )

    def restore(self, url: str, store: Path, **changes: Any) -> Restored:
        values = {"minimum_free_mib": 0, "by": "operator"} | changes
        return restore(url, store, self.directory, **values)


def rows_of(side: int) -> Any:
    import numpy as np

    return np.arange(side * side, dtype=np.uint16).reshape(side, side)


@pytest.fixture
def house(
    database_url: str, database: Database, store: Store, intake: Intake, tmp_path: Path
) -> House:
    return House(
        url=database_url, db=database, store=store, intake=intake, directory=tmp_path / "backup"
    )


@pytest.fixture
def sqlite_house(sqlite_url: str, store: Store, tmp_path: Path) -> Iterator[House]:
    """For what the kind of database has no part in."""
    db = open_database(sqlite_url)
    door = Intake(db, store, policies=POLICIES)
    door.start()
    yield House(url=sqlite_url, db=db, store=store, intake=door, directory=tmp_path / "backup")
    door.stop()
    db.dispose()


@pytest.fixture
def new_url(tmp_path: Path) -> str:
    """Where a restored database goes: a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'new' / 'triage.sqlite'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def target_url(request: pytest.FixtureRequest, new_url: str) -> Iterator[str]:
    """Both kinds of database to restore into, never migrated."""
    if request.param == "sqlite":
        yield new_url
        return
    from tests.conftest import run_on_server

    uri: str = request.getfixturevalue("postgres_uri")
    run_on_server(uri.format("postgres"), "CREATE DATABASE restored")
    yield uri.format("restored")
    run_on_server(uri.format("postgres"), "DROP DATABASE restored WITH (FORCE)")


@pytest.fixture
def new_store(tmp_path: Path) -> Path:
    return tmp_path / "new-store"


def everything(db: Database) -> dict[str, list[dict[str, Any]]]:
    """Return all rows of all tables."""
    with db.read() as connection:
        return {
            table.name: [
                dict(row)
                for row in connection.execute(select(table).order_by(*table.primary_key)).mappings()
            ]
            for table in METADATA.sorted_tables
        }


def rows(url: str, statement: Any) -> list[Any]:
    db = open_database(url)
    try:
        with db.read() as connection:
            return list(connection.execute(statement))
    finally:
        db.dispose()


def claim(house: House) -> Any:
    (job,) = queue.claim(house.db, kinds=[JobKind.ANALYSE], owner="old", lease_s=60, limit=1)
    return job


# --- what comes back


@requirement("D6")
def test_a_restored_house_has_every_row_and_every_byte(
    house: House, target_url: str, new_store: Path
) -> None:
    for number in range(5):
        house.receive(PatientName=f"Müller^{number}")
    with pytest.raises(ObjectRefused):
        house.intake.accept(b"no DICOM at all" * 9, source=Source.FOLDER)
    made = house.back_up()
    assert (made.manifest.files, made.manifest.missing, made.manifest.damaged) == (6, [], [])
    house.restore(target_url, new_store)
    db = open_database(target_url)
    before, after = everything(house.db), everything(db)
    db.dispose()
    (told,) = after.pop("events")
    assert (told["what"], told["by"]) == ("restored", "operator")
    before.pop("events")
    for job in before["jobs"]:
        job["fence"] += 1000
    assert after == before
    for kept in (*house.store.object_paths(), *house.store.quarantine_paths()):
        assert (new_store / kept).read_bytes() == house.store.resolve(kept).read_bytes()


def test_a_restored_house_goes_on_receiving(house: House, target_url: str, new_store: Path) -> None:
    first = house.receive()
    house.back_up()
    house.restore(target_url, new_store)
    db, store = open_database(target_url), open_store(new_store, minimum_free_mib=0)
    door = Intake(db, store, policies=POLICIES)
    door.start()
    try:
        second = door.accept(
            to_bytes(make_dx(rows_of(16))), source=Source.C_STORE, sender_ae_title="SENDER"
        )
    finally:
        door.stop()
        store.close()
        db.dispose()
    assert second.study_id > first.study_id
    assert second.instance_id is not None
    assert first.instance_id is not None
    assert second.instance_id > first.instance_id


def test_what_was_leased_waits_again_and_what_was_done_stays_done(
    house: House, new_url: str, new_store: Path
) -> None:
    house.receive()
    house.receive()
    done, held = claim(house), claim(house)
    with house.db.write() as connection:
        queue.finish(connection, done, now=house.db.now(connection))
    house.back_up()
    assert house.restore(new_url, new_store).leases_returned == 1
    states = rows(new_url, select(JobRow.id, JobRow.state, JobRow.attempts).order_by(JobRow.id))
    assert [tuple(each) for each in states] == sorted(
        [(done.id, "done", 1), (held.id, "queued", 0)]
    )
    last = select(JobEvent.from_state, JobEvent.to_state).where(JobEvent.job_id == held.id)
    assert tuple(rows(new_url, last.order_by(JobEvent.id.desc()))[0]) == ("leased", "queued")


@requirement("D6")
def test_a_worker_of_the_former_house_is_refused(
    sqlite_house: House, new_url: str, new_store: Path
) -> None:
    sqlite_house.receive()
    sqlite_house.back_up()
    stale = claim(sqlite_house)
    sqlite_house.restore(new_url, new_store)
    db = open_database(new_url)
    try:
        (job,) = queue.claim(db, kinds=[JobKind.ANALYSE], owner="old", lease_s=60, limit=1)
        assert job.fence > stale.fence
        with pytest.raises(StaleLease), db.write() as connection:
            queue.finish(connection, stale, now=db.now(connection))
    finally:
        db.dispose()


def test_heartbeats_do_not_come_back(sqlite_house: House, new_url: str, new_store: Path) -> None:
    sqlite_house.receive()
    beat(sqlite_house.db)
    sqlite_house.back_up()
    sqlite_house.restore(new_url, new_store)
    assert rows(new_url, select(RoleRow)) == []


def test_an_older_backup_is_migrated_on_the_way(
    sqlite_house: House, new_url: str, new_store: Path
) -> None:
    sqlite_house.receive()
    made = sqlite_house.back_up()
    database = sqlite_house.directory / made.manifest.database.name
    from triage.database.migrating import downgrade

    downgrade(f"sqlite:///{database}", to="0001")
    (sqlite_house.directory / f"{database.name}.lock").unlink()
    forge(sqlite_house, revision="0001")
    assert sqlite_house.restore(new_url, new_store).migrations[0] == "0002"
    assert len(rows(new_url, select(Study))) == 1


def test_images_that_expired_while_the_backup_was_made_are_counted_and_expired_when_restored(
    house: House, new_url: str, new_store: Path
) -> None:
    kept, gone = house.receive(), house.receive()
    expire_between(house, gone)
    made = house.back_up(progress=after_the_snapshot(house, gone))
    assert len(made.manifest.expired) == 1
    assert made.manifest.missing == []
    house.restore(new_url, new_store)
    states = dict(tuple(row) for row in rows(new_url, select(Study.id, Study.state)))
    assert states[gone.study_id] == "expired"
    assert states[kept.study_id] == "arriving"


# --- one after another


def test_a_second_backup_copies_only_what_is_new_and_drops_what_has_gone(house: House) -> None:
    first = house.receive()
    house.receive()
    made = house.back_up()
    house.receive()
    acknowledge_and_expire(house, first)
    again = house.back_up()
    assert 0 < again.copied_bytes < made.copied_bytes
    assert (again.manifest.files, again.removed_files) == (2, 1)
    assert again.manifest.id != made.manifest.id
    verify(house.directory)
    assert len(list(house.directory.glob("database-*"))) == 1


def test_a_file_of_a_backup_that_was_broken_off_is_not_copied_again(sqlite_house: House) -> None:
    sqlite_house.receive()
    sqlite_house.back_up()
    (sqlite_house.directory / "manifest.json").unlink()
    with pytest.raises(BackupError, match="broken off"):
        verify(sqlite_house.directory)
    assert sqlite_house.back_up().copied_bytes == 0
    verify(sqlite_house.directory)


def test_a_backup_on_the_stores_own_disk_takes_no_second_copy(sqlite_house: House) -> None:
    outcome = sqlite_house.receive()
    sqlite_house.back_up()
    path = path_of(sqlite_house, outcome)
    assert sqlite_house.store.resolve(path).samefile(sqlite_house.directory / "store" / path)


def test_a_backup_on_another_disk_is_a_copy(
    sqlite_house: House, new_url: str, new_store: Path
) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == sqlite_house.store.root.stat().st_dev:
        pytest.skip("there is no other file system to write to")
    path = path_of(sqlite_house, sqlite_house.receive())
    with tempfile.TemporaryDirectory(dir=memory) as elsewhere:
        sqlite_house.directory = Path(elsewhere)
        assert sqlite_house.back_up().copied_bytes > 0
        assert sqlite_house.back_up().copied_bytes == 0
        sqlite_house.restore(new_url, new_store)
    assert (new_store / path).read_bytes() == sqlite_house.store.resolve(path).read_bytes()


def test_everything_in_a_backup_is_its_owners_alone(sqlite_house: House) -> None:
    sqlite_house.receive()
    sqlite_house.back_up()
    for path in (sqlite_house.directory, *sqlite_house.directory.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_the_listing_is_read_by_the_systems_own_tool(sqlite_house: House) -> None:
    sqlite_house.receive()
    listing = sqlite_house.directory / sqlite_house.back_up().manifest.listing.name
    import subprocess

    subprocess.run(
        ["sha256sum", "--check", "--quiet", listing], cwd=sqlite_house.directory, check=True
    )


def test_the_backup_of_an_emptied_house_does_not_replace_that_of_the_full_one(
    sqlite_house: House,
) -> None:
    sqlite_house.receive()
    made = sqlite_house.back_up()
    with sqlite_house.db.write() as connection:
        for table in reversed(METADATA.sorted_tables):
            connection.execute(table.delete())
    with pytest.raises(BackupError, match="emptied or set back"):
        sqlite_house.back_up()
    assert verify(sqlite_house.directory).id == made.manifest.id


def test_another_house_does_not_write_into_the_same_directory(
    sqlite_house: House, new_url: str, new_store: Path
) -> None:
    sqlite_house.receive()
    sqlite_house.back_up()
    migrate(new_url)
    open_store(new_store, minimum_free_mib=0).close()
    with pytest.raises(BackupError, match="another house"):
        back_up(new_url, new_store, sqlite_house.directory, minimum_free_mib=0)


# --- what a backup says of its house


def test_a_file_that_the_store_has_lost_is_named_and_the_rest_is_kept(sqlite_house: House) -> None:
    lost = path_of(sqlite_house, sqlite_house.receive())
    sqlite_house.receive()
    sqlite_house.store.delete(lost)
    made = sqlite_house.back_up()
    assert made.manifest.missing == [lost]
    assert made.manifest.files == 1
    verify(sqlite_house.directory)


def test_a_file_whose_bytes_have_changed_is_named_and_not_kept(sqlite_house: House) -> None:
    bad = path_of(sqlite_house, sqlite_house.receive())
    with sqlite_house.store.resolve(bad).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    made = sqlite_house.back_up()
    assert made.manifest.damaged == [bad]
    assert not (sqlite_house.directory / "store" / bad).exists()


def test_a_file_that_rots_in_the_backup_is_found_within_a_round_and_brought_anew(
    sqlite_house: House,
) -> None:
    path = path_of(sqlite_house, sqlite_house.receive())
    sqlite_house.back_up()
    kept = sqlite_house.directory / "store" / path
    shutil.copy(kept, kept.with_suffix(".copy"))  # as on another disk: bytes of its own
    kept.with_suffix(".copy").replace(kept)
    damage(kept)
    today = datetime(2026, 1, 2, tzinfo=UTC)
    again = [
        sqlite_house.back_up(clock=lambda day=day: today + timedelta(days=day)).copied_bytes > 0
        for day in range(ROUND_DAYS)
    ]
    assert again.count(True) == 1
    verify(sqlite_house.directory)


def test_a_damaged_copy_stays_where_the_store_has_none(sqlite_house: House) -> None:
    path = path_of(sqlite_house, sqlite_house.receive())
    sqlite_house.back_up()
    kept = sqlite_house.directory / "store" / path
    damage(kept)
    sqlite_house.store.delete(path)
    (sqlite_house.directory / "manifest.json").unlink()  # so that everything is read again
    assert sqlite_house.back_up().manifest.missing == [path]
    assert kept.exists()


def test_a_link_in_the_backup_that_leads_into_the_store_deletes_nothing_there(
    sqlite_house: House,
) -> None:
    sqlite_house.receive()
    sqlite_house.back_up()
    shutil.rmtree(sqlite_house.directory / "store")
    (sqlite_house.directory / "store").symlink_to(sqlite_house.store.root)
    # As an image that comes while the backup is made: it has no row at the backup's moment.
    newcomer = sqlite_house.store.root / "objects" / "00" / f"00{62 * 'a'}.dcm"
    newcomer.write_bytes(b"image")
    with pytest.raises(BackupError, match="leads into the store"):
        sqlite_house.back_up()
    assert newcomer.exists()


def test_a_folder_among_the_files_of_a_backup_is_left_alone(sqlite_house: House) -> None:
    sqlite_house.receive()
    sqlite_house.back_up()
    (sqlite_house.directory / "store" / "objects" / "00" / "lost+found").mkdir()
    sqlite_house.back_up()
    verify(sqlite_house.directory)


def test_a_file_that_a_link_stands_for_is_not_written_over(
    sqlite_house: House, tmp_path: Path
) -> None:
    sqlite_house.receive()
    sqlite_house.back_up()
    other = tmp_path / "other"
    other.write_text("theirs")
    (sqlite_house.directory / "manifest.json.part").symlink_to(other)
    sqlite_house.back_up()
    assert other.read_text() == "theirs"
    assert not (sqlite_house.directory / "manifest.json").is_symlink()
    verify(sqlite_house.directory)


def test_a_full_disk_is_seen_before_anything_is_copied(sqlite_house: House) -> None:
    sqlite_house.receive()
    with pytest.raises(OutOfSpace, match="are to stay free"):
        sqlite_house.back_up(minimum_free_mib=1 << 40)
    assert list((sqlite_house.directory / "store" / "objects").rglob("*.dcm")) == []


def test_a_backup_does_not_go_into_the_store(sqlite_house: House) -> None:
    sqlite_house.directory = sqlite_house.store.root / "backup"
    with pytest.raises(BackupError, match="lie in each other"):
        sqlite_house.back_up()


def test_a_directory_with_other_files_is_left_alone(sqlite_house: House) -> None:
    sqlite_house.directory.mkdir()
    (sqlite_house.directory / "letters.txt").write_text("mine", "utf-8")
    with pytest.raises(BackupError, match="other files"):
        sqlite_house.back_up()
    assert [path.name for path in sqlite_house.directory.iterdir()] == ["letters.txt"]


def test_a_store_that_is_not_mounted_is_no_reason_to_forget_the_images(
    sqlite_house: House, tmp_path: Path
) -> None:
    sqlite_house.receive()
    with pytest.raises(StoreError, match="no store"):
        back_up(
            sqlite_house.url, tmp_path / "unmounted", sqlite_house.directory, minimum_free_mib=0
        )


# --- what is refused


@pytest.mark.parametrize("damage", ["changed", "cut", "deleted"])
@pytest.mark.parametrize("part", ["database", "listing", "image", "manifest"])
def test_a_damaged_backup_is_refused_and_nothing_is_touched(
    sqlite_house: House, new_url: str, new_store: Path, part: str, damage: str
) -> None:
    outcome = sqlite_house.receive()
    manifest = sqlite_house.back_up().manifest
    path = {
        "database": sqlite_house.directory / manifest.database.name,
        "listing": sqlite_house.directory / manifest.listing.name,
        "image": sqlite_house.directory / "store" / path_of(sqlite_house, outcome),
        "manifest": sqlite_house.directory / "manifest.json",
    }[part]
    content = path.read_bytes()
    path.unlink()  # a hard link of the sqlite_house's own file otherwise
    if damage == "changed":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 128]) + content[middle + 1 :])
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BackupError):
        sqlite_house.restore(new_url, new_store)
    assert not new_store.exists()
    assert not Path(new_url.removeprefix("sqlite:///")).exists()


@requirement("D6")
def test_what_is_whole_of_a_damaged_backup_comes_back_and_what_is_not_is_named(
    sqlite_house: House, new_url: str, new_store: Path
) -> None:
    paths = [path_of(sqlite_house, sqlite_house.receive()) for _ in range(3)]
    sqlite_house.back_up()
    damage(sqlite_house.directory / "store" / paths[0])
    (sqlite_house.directory / "store" / paths[1]).unlink()
    with pytest.raises(BackupError, match="missing or damaged: 2, such as"):
        sqlite_house.restore(new_url, new_store)
    restored = sqlite_house.restore(new_url, new_store, partial=True)
    assert restored.lost == sorted(paths[:2])
    assert [path for path in paths if (new_store / path).exists()] == paths[2:]
    assert len(rows(new_url, select(Instance))) == 3


def test_the_database_alone_comes_back_though_files_are_damaged(
    sqlite_house: House, new_url: str, new_store: Path
) -> None:
    path = path_of(sqlite_house, sqlite_house.receive())
    sqlite_house.back_up()
    (sqlite_house.directory / "store" / path).unlink()
    sqlite_house.restore(new_url, new_store, with_objects=False)
    assert len(rows(new_url, select(Instance))) == 1


def test_a_backup_of_a_newer_program_is_refused(
    sqlite_house: House, new_url: str, new_store: Path
) -> None:
    sqlite_house.receive()
    sqlite_house.back_up()
    forge(sqlite_house, revision="9999")
    with pytest.raises(RevisionError, match="9999"):
        sqlite_house.restore(new_url, new_store)
    assert not new_store.exists()


def test_a_database_at_another_revision_is_not_backed_up(sqlite_house: House) -> None:
    with sqlite_house.db.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    with pytest.raises(RevisionError):
        sqlite_house.back_up()
    assert not sqlite_house.directory.exists()


def test_nothing_is_restored_over_data(house: House, new_url: str, new_store: Path) -> None:
    house.receive()
    house.back_up()
    before = everything(house.db)
    with pytest.raises(BackupError, match="the database holds data"):
        house.restore(house.url, new_store)
    shutil.copytree(house.store.root / "objects", new_store / "objects")
    with pytest.raises(BackupError, match="holds images"):
        house.restore(new_url, new_store)
    assert everything(house.db) == before


def test_nothing_is_restored_under_a_living_daemon(
    sqlite_house: House, new_url: str, new_store: Path
) -> None:
    sqlite_house.receive()
    sqlite_house.back_up()
    migrate(new_url)
    db = open_database(new_url)
    beat(db)
    with pytest.raises(BackupError, match="running"):
        sqlite_house.restore(new_url, new_store)
    with db.write() as connection:
        connection.execute(update(RoleRow).values(last_turn_at=RoleRow.started_at))
    writer = open_store(new_store, minimum_free_mib=0)
    with pytest.raises(BackupError, match="running"):
        sqlite_house.restore(new_url, new_store)
    writer.close()
    sqlite_house.restore(new_url, new_store)
    db.dispose()


def test_the_database_alone_comes_back_beside_its_store(
    sqlite_house: House, new_url: str, new_store: Path
) -> None:
    sqlite_house.receive()
    sqlite_house.back_up()
    sqlite_house.receive()
    shutil.copytree(sqlite_house.store.root / "objects", new_store / "objects")
    sqlite_house.restore(new_url, new_store, with_objects=False)
    assert len(rows(new_url, select(Instance))) == 1
    assert len(list(new_store.rglob("*.dcm"))) == 2


def test_a_backup_without_images_restores_beside_a_store(
    sqlite_house: House, new_url: str, new_store: Path
) -> None:
    sqlite_house.receive()
    made = sqlite_house.back_up(with_objects=False)
    assert (made.manifest.files, made.manifest.rows["instances"]) == (0, 1)
    sqlite_house.restore(new_url, new_store)
    assert len(rows(new_url, select(Instance))) == 1


# --- a restore that was broken off


class PowerCut(Exception):
    """The program ends here."""


def cut_at(what: str) -> Any:
    def progress(now: str, done: int, total: int) -> None:
        if now == what and done in (0, 128):
            raise PowerCut

    return progress


@requirement("D6")
@pytest.mark.parametrize("where", ["images", "database"])
def test_a_restore_that_was_broken_off_is_seen_and_can_be_repeated(
    sqlite_house: House, target_url: str, new_store: Path, where: str
) -> None:
    for _ in range(4):
        sqlite_house.receive()
    sqlite_house.back_up()
    with pytest.raises(PowerCut):
        sqlite_house.restore(target_url, new_store, progress=cut_at(where))
    db = open_database(target_url)
    assert (current_revision(db) or "").startswith("unfinished-restore-")
    db.dispose()
    with pytest.raises(RevisionError) as refused:
        migrate(target_url)  # as a unit does before it starts the daemon
    assert "same `triage restore` again" in refused.value.hint
    killed = new_store / "incoming" / "dead"  # as SIGKILL leaves it
    killed.mkdir()
    (killed / "database.sqlite").write_bytes(b"rows")
    sqlite_house.restore(target_url, new_store)
    assert rows(target_url, select(func.count()).select_from(Instance))[0][0] == 4
    assert len(rows(target_url, select(Event).where(Event.what == "restored"))) == 1
    assert not killed.exists()


def test_another_backup_does_not_take_up_where_a_restore_was_broken_off(
    sqlite_house: House, new_url: str, new_store: Path
) -> None:
    sqlite_house.receive()
    sqlite_house.back_up()
    with pytest.raises(PowerCut):
        sqlite_house.restore(new_url, new_store, progress=cut_at("images"))
    sqlite_house.back_up()
    with pytest.raises(BackupError, match="another backup was broken off"):
        sqlite_house.restore(new_url, new_store)


# --- shorthand


def beat(db: Database) -> None:
    with db.write() as connection:
        now = db.now(connection)
        record_role(
            connection, role="receive", host="h", pid=1, state="running", detail={}, now=now,
            started_at=now - timedelta(days=1),
        )  # fmt: skip


def damage(path: Path) -> None:
    """Change one bit in the file itself, as a disk does."""
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))


def path_of(house: House, outcome: ArrivalOutcome) -> str:
    with house.db.read() as connection:
        found = select(Instance.path).where(Instance.id == outcome.instance_id)
        return str(connection.execute(found).scalar_one())


def acknowledge_and_expire(house: House, outcome: ArrivalOutcome) -> None:
    with house.db.write() as connection:
        now = house.db.now(connection)
        acknowledge(connection, outcome.study_id, by="reader", policies=POLICIES, now=now)
        past = now - timedelta(days=9)
        old = update(Study).where(Study.id == outcome.study_id)
        connection.execute(old.values(received_at=past, last_instance_at=past))
    assert expire_due(house.db, house.store, retention_days=1) == 1


def expire_between(house: House, outcome: ArrivalOutcome) -> None:
    """Let a study be old and read, so that retention may take it at any moment."""
    with house.db.write() as connection:
        now = house.db.now(connection)
        acknowledge(connection, outcome.study_id, by="reader", policies=POLICIES, now=now)
        past = now - timedelta(days=9)
        old = update(Study).where(Study.id == outcome.study_id)
        connection.execute(old.values(received_at=past, last_instance_at=past))


def after_the_snapshot(house: House, outcome: ArrivalOutcome) -> Any:
    """Return a progress that loses the first pass's copy and expires the study after the moment.

    That is how an image stands that came, was read and expired within the backup's last step.
    """
    path = path_of(house, outcome)

    def progress(what: str, done: int, total: int) -> None:
        if (what, done) == ("database", 1):
            (house.directory / "store" / path).unlink()
            assert expire_due(house.db, house.store, retention_days=1) == 1

    return progress


def forge(house: House, *, revision: str) -> None:
    """Let the backup say that it was made at another revision, all sums right."""
    manifest = house.directory / "manifest.json"
    document = json.loads(manifest.read_text("ascii"))
    database = house.directory / document["database"]["name"]
    connection = sqlite3.connect(database)
    connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    connection.commit()
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    from triage.operations.backup_directory import part_of

    part = part_of(database)
    document["database"] |= {"size_bytes": part.size_bytes, "sha256": part.sha256}
    document["revision"] = revision
    manifest.write_text(json.dumps(document), "ascii")
