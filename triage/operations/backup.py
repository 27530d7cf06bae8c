"""Online backup: the house goes on receiving and working while it is copied (D6).

Owns the order, on which consistency rests: first the files that rows name now, which takes long;
then one moment of the database; then the files that came in between, which takes moments. So every
file that the moment names was there to be copied, but for what retention or a person removed within
the last step: that is looked up, counted and no error. The manifest comes last and at once. Until
then the former backup in the directory, if there is one, stays whole; what it alone needed goes
afterwards. How it lies on disk is `backup_directory`, how a file is copied `backup_files`.
"""

import os
import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from triage.database.connection import Database, open_database, require_revision
from triage.database.revision import HEAD
from triage.database.snapshot import (
    held_files,
    make_list,
    make_snapshot,
    no_longer_held,
    open_snapshot,
    row_counts,
    size_bytes,
)
from triage.database.types import time_text
from triage.database.url import SqliteTarget, parse_url
from triage.errors import DatabaseUnavailable, OutOfSpace, StoreError, TransientError
from triage.operations.backup_directory import (
    FORMAT,
    STORE,
    STORE_SHARDS,
    BackupError,
    Manifest,
    listing_lines,
    new_file,
    part_of,
    read_listing,
    read_manifest,
    write_manifest,
    writing,
)
from triage.operations.backup_files import bring
from triage.store import MIB, Store, open_store, sync_directory

FIRST = "first.part"  # listing of the first pass
ROWS = "rows.part"  # and the rows that it went by
MARGIN_MIB = 64  # left free on the backup's own disk
MOST_LOOKED_UP = 500  # parameters of one statement
# What the backup has is read again by turns, some shards a day: a disk forgets without an error.
ROUND_DAYS = 32

Progress = Callable[[str, int, int], None]  # what, done, of how many


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What was made. `copied_bytes` are those of files that the directory did not have before."""

    manifest: Manifest
    copied_bytes: int
    removed_files: int  # of the former backup, not named any more


@dataclass
class _Sums:
    """What the passes over the files have found so far."""

    files: int = 0
    size_bytes: int = 0
    copied: int = 0
    gone: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def back_up(
    url: str,
    store_path: Path,
    directory: Path,
    *,
    minimum_free_mib: int,
    with_objects: bool = True,
    progress: Progress = lambda what, done, total: None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Backup:
    """Make a backup of database and store in `directory`, or bring the one there up to date.

    `minimum_free_mib` is the store's margin, kept where the backup lies on the store's disk.
    Raises BackupError, RevisionError, OutOfSpace, StoreError, DatabaseUnavailable; the former
    backup in the directory is whole then.
    """
    _keep_apart(store_path, directory)
    db = open_database(url)
    try:
        require_revision(db)
        source = _source(url, store_path)
        with writing(directory):
            former = _former(directory, source, with_objects=with_objects)
            run = _Run(db, store_path, directory, minimum_free_mib, progress, clock=clock)
            with run.opened(with_objects=with_objects), _own_words(directory):
                manifest = run.make(former, source)
                write_manifest(directory, manifest)
                removed = _remove_unneeded(directory, manifest)
    finally:
        db.dispose()
    return Backup(manifest=manifest, copied_bytes=run.sums.copied, removed_files=removed)


class _Run:
    """One backup on its way."""

    def __init__(
        self,
        db: Database,
        store_path: Path,
        directory: Path,
        margin_mib: int,
        progress: Progress,
        *,
        clock: Callable[[], datetime],
    ) -> None:
        self.id = secrets.token_hex(16)
        self.sums = _Sums()
        self.stores: tuple[Store, Store] | None = None  # the house's, the backup's
        self._db = db
        self._store_path = store_path
        self._directory = directory
        self._margin_mib = margin_mib
        self._progress = progress
        self._clock = clock

    @contextmanager
    def opened(self, *, with_objects: bool) -> Iterator[None]:
        """Open both stores where files are to be copied."""
        if not with_objects:
            yield
            return
        if not (self._store_path / "objects").is_dir():
            raise StoreError(f"there is no store at {self._store_path}")
        with ExitStack() as stack:
            house = open_store(self._store_path, minimum_free_mib=0)
            stack.callback(house.close)
            kept = open_store(self._directory / STORE, minimum_free_mib=0)
            stack.callback(kept.close)
            _require_own_places(house, kept)
            kept.sweep_leftovers()
            self.stores = house, kept
            yield

    def make(self, former: Manifest | None, source: str) -> Manifest:
        """Copy everything; nothing but the manifest is left to be written."""
        _remove_scratch(self._directory)
        listing = self._directory / f"files-{self.id}.sha256"
        database = self._directory / f"database-{self.id}.sqlite"
        first = self._directory / FIRST
        self._bring_most(former, first)
        self._progress("database", 0, 1)
        taken_at = self._clock()
        make_snapshot(self._db, database)
        self._progress("database", 1, 1)
        with open_snapshot(database) as moment:
            if self.stores is None:
                with new_file(listing):
                    pass
            else:
                self._pass(self.stores, moment, first, listing, "new images")
            with moment.read() as connection:
                rows = row_counts(connection)
        _never_fewer(self._directory, former, rows)
        expired = self._no_longer_held()
        sync_directory(self._directory)
        return Manifest(
            format=FORMAT,
            id=self.id,
            program_version=_version(),
            revision=HEAD,
            source=source,
            taken_at=time_text(taken_at),
            with_objects=self.stores is not None,
            database=part_of(database),
            listing=part_of(listing),
            files=self.sums.files,
            size_bytes=self.sums.size_bytes,
            rows=rows,
            expired=expired,
            missing=sorted(set(self.sums.gone) - set(expired)),
            damaged=self.sums.damaged,
        )

    def _bring_most(self, former: Manifest | None, first: Path) -> None:
        """Bring what rows name now: nearly all that the moment of the backup will name."""
        if self.stores is None:
            self._check_space(None)
            return
        rows = self._directory / ROWS
        make_list(self._db, rows)
        with open_snapshot(rows) as now:
            self._check_space(now)
            known = self._directory / former.listing.name if former else None
            self._pass(self.stores, now, known, first, "images", doubted=self._doubted())
        rows.unlink()

    def _doubted(self) -> set[str]:
        """Return the shards whose files are read again today, though the backup has them."""
        return set(STORE_SHARDS[self._clock().toordinal() % ROUND_DAYS :: ROUND_DAYS])

    def _pass(
        self,
        stores: tuple[Store, Store],
        rows: Database,
        known: Path | None,
        listing: Path,
        what: str,
        *,
        doubted: Collection[str] = (),
    ) -> None:
        """Bring what `rows` name and write a new listing; `known` is the listing before it.

        What the first pass misses, the second, whose rows are those of the backup, looks for again.
        """
        found = _Sums(copied=self.sums.copied)
        with new_file(listing) as file, rows.read() as connection:
            shards = zip(STORE_SHARDS, read_listing(known), strict=True)
            for done, (shard, sums) in enumerate(shards, start=1):
                files = held_files(connection, shard)
                brought = bring(*stores, files, {} if shard in doubted else sums)
                file.write(listing_lines(brought.sums))
                found.files += len(brought.sums)
                found.size_bytes += sum(f.size_bytes for f in files if f.path in brought.sums)
                found.copied += brought.copied
                found.gone += brought.gone
                found.damaged += brought.damaged
                self._progress(what, done, len(STORE_SHARDS))
        self.sums = found

    def _check_space(self, rows: Database | None) -> None:
        """Raise OutOfSpace where what is still to be copied does not fit."""
        free_mib = _free_mib(self._directory)
        same_disk = (
            self._store_path.exists()
            and self._store_path.stat().st_dev == self._directory.stat().st_dev
        )
        need = size_bytes(self._db)
        if rows is not None and self.stores is not None and not same_disk:
            with rows.read() as connection:
                for shard in STORE_SHARDS:
                    need += sum(
                        file.size_bytes
                        for file in held_files(connection, shard)
                        if not self.stores[1].resolve(file.path).exists()
                    )
        margin_mib = self._margin_mib if same_disk else MARGIN_MIB
        if free_mib - need // MIB < margin_mib:
            raise OutOfSpace(
                f"the backup needs {need // MIB + 1} MiB and {margin_mib} MiB are to stay free;"
                f" {free_mib} MiB are free in {self._directory}",
                hint="Free space there, or name a directory on a larger disk.",
            )

    def _no_longer_held(self) -> list[str]:
        """Return which of the files that were not found are rightly gone by now."""
        found: set[str] = set()
        for start in range(0, len(self.sums.gone), MOST_LOOKED_UP):
            with self._db.read() as connection:
                found |= no_longer_held(connection, self.sums.gone[start : start + MOST_LOOKED_UP])
        return sorted(found)


# --- the directory


def _keep_apart(store_path: Path, directory: Path) -> None:
    store, backup = store_path.absolute().resolve(), directory.absolute().resolve()
    if backup.is_relative_to(store) or store.is_relative_to(backup):
        raise BackupError(
            f"{directory} and the store {store_path} lie in each other",
            hint="Name a directory outside [store] path, best on another disk.",
        )


def _require_own_places(house: Store, kept: Store) -> None:
    """Refuse a backup that a link leads into the store: what it needs no more would be deleted."""
    if any((house.root / shard).samefile(kept.root / shard) for shard in STORE_SHARDS):
        raise BackupError(
            f"{kept.root} leads into the store {house.root}",
            hint="Name another directory, in which no link leads into the store.",
        )


def _source(url: str, store_path: Path) -> str:
    """Return which house this is, without a password."""
    target = parse_url(url)
    if isinstance(target, SqliteTarget):
        database = f"sqlite {target.path.absolute()}"
    else:
        database = f"postgresql {target.host}:{target.port}/{target.database}"
    return f"{database}, store {store_path.absolute()}"


def _former(directory: Path, source: str, *, with_objects: bool) -> Manifest | None:
    """Return the backup that the directory holds; it must be one of this house."""
    former = read_manifest(directory)
    if former is None:
        return None
    if former.source != source:
        raise BackupError(f"{directory} holds the backup of another house: {former.source}")
    if former.with_objects != with_objects:
        raise BackupError(
            f"{directory} holds a backup {'with' if former.with_objects else 'without'} images",
            hint="Name another directory for the other kind.",
        )
    return former


def _never_fewer(directory: Path, former: Manifest | None, rows: dict[str, int]) -> None:
    """Refuse to replace the backup of a house by that of an emptier one: no study is ever deleted.

    Else the backup that runs by itself on the night after a loss destroys what it was made for.
    """
    if former is not None and rows["studies"] < former.rows["studies"]:
        raise BackupError(
            f"the database has fewer studies ({rows['studies']}) than the backup in {directory}"
            f" ({former.rows['studies']}): it was emptied or set back",
            hint="Restore that backup, or name another directory for what there is now.",
        )


def _remove_scratch(directory: Path) -> None:
    for name in (FIRST, ROWS):
        (directory / name).unlink(missing_ok=True)


def _remove_unneeded(directory: Path, manifest: Manifest) -> int:
    """Remove what only former or broken-off backups needed; return how many images that were.

    A damaged copy of what the store has lost stays: there may be no better one.
    """
    needed = {manifest.database.name, manifest.listing.name}
    _remove_scratch(directory)
    for pattern in ("database-*", "files-*"):
        for path in directory.glob(pattern):
            if path.name not in needed:
                path.unlink()
    if not manifest.with_objects:
        return 0
    removed = 0
    lost = {*manifest.missing, *manifest.damaged}
    listing = read_listing(directory / manifest.listing.name)
    for shard, sums in zip(STORE_SHARDS, listing, strict=True):
        for path in list((directory / STORE / shard).iterdir()):
            if f"{shard}/{path.name}" not in sums.keys() | lost and not path.is_dir():
                path.unlink()
                removed += 1
    return removed


@contextmanager
def _own_words(directory: Path) -> Iterator[None]:
    """Name the backup's disk in what the code of the store says of its own."""
    full = OutOfSpace(
        f"the file system of {directory} is full: the backup is incomplete",
        hint="Free space there and run `triage backup` again: it goes on where it stopped.",
    )
    try:
        yield
    except OutOfSpace as error:
        if error.hint != OutOfSpace.hint:
            raise
        raise full from error
    except (OSError, DatabaseUnavailable) as error:  # of a listing, of a snapshot
        if _free_mib(directory) == 0:
            raise full from error
        raise
    except StoreError as error:
        raise TransientError(
            f"the backup in {directory} is incomplete: {error}",
            hint="Check that disk and its mount, then run `triage backup` again.",
        ) from error


def _free_mib(directory: Path) -> int:
    state = os.statvfs(directory)
    return state.f_bavail * state.f_frsize // MIB


def _version() -> str:
    try:
        return version("triage")
    except PackageNotFoundError:
        return "from a checkout"
