"""Restore: a whole backup becomes a house that goes on where the backup was taken.

Owns the order. Everything is verified before anything is touched; a damaged file ends the restore
unless what is whole is asked for; a database or store that holds data, or a living daemon, is
refused; then the database is marked as unfinished, the files come, and
the rows last, in one transaction. Broken off at any point, the daemon refuses to start on what is
there, and the same restore may be run again. What must not survive is `database.restoring`.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from triage.database.connection import (
    Database,
    current_revision,
    migrate,
    open_database,
    require_revision,
)
from triage.database.migrating import knows, upgrade_open
from triage.database.restoring import (
    fill,
    filled_tables,
    living_roles,
    mark_of,
    set_mark,
    settle,
)
from triage.database.revision import UNFINISHED
from triage.database.snapshot import fault_of, held_files, open_snapshot
from triage.errors import DatabaseUnavailable, RevisionError, StoreError
from triage.operations.audit_spool import Spool
from triage.operations.backup_directory import (
    MAKE_ANOTHER,
    STORE,
    STORE_SHARDS,
    BackupError,
    Manifest,
    Part,
    digest,
    read_listing,
    reading,
    sha256_of,
)
from triage.store import Staged, Store, open_store, read_pieces

COMMITTED_AT_ONCE = 64  # files whose directories are synced together
SHOWN = 3  # files that an error names

Progress = Callable[[str, int, int], None]  # what, done, of how many


def _silent(what: str, done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What came back."""

    manifest: Manifest
    with_objects: bool  # False: the store was left as it was
    lost: list[str]  # paths below the store: damaged in the backup, left out
    leases_returned: int
    migrations: list[str]  # applied on the way


def verify(directory: Path, *, progress: Progress = _silent) -> Manifest:
    """Read every byte of a backup. Raises BackupError, or RevisionError if it is too new."""
    with reading(directory) as manifest:
        bad = _verify(directory, manifest, progress, with_objects=True)
        if bad:
            raise _damaged(bad)
        return manifest


def restore(
    url: str,
    store_path: Path,
    directory: Path,
    *,
    minimum_free_mib: int,
    by: str,
    spool: Path | None = None,
    with_objects: bool = True,
    partial: bool = False,
    progress: Progress = _silent,
) -> Restored:
    """Verify a backup and put it into an empty database and an empty store.

    Without objects, or where the backup has none, the store stays as it is. `partial` leaves out
    damaged files: their rows come back, and the daemon tells that the images are missing. `spool`
    is the directory of the audit trail, which must be empty too. Raises BackupError, RevisionError,
    OutOfSpace, StoreError, DatabaseUnavailable.
    """
    if spool is not None:
        _require_told(spool)
    with reading(directory) as manifest:
        with_objects = with_objects and manifest.with_objects
        lost = _verify(directory, manifest, progress, with_objects=with_objects)
        if lost and not partial:
            raise _damaged(lost)
        empty = _empty_house(url, store_path, manifest, minimum_free_mib, with_objects=with_objects)
        with empty as (db, store):
            if with_objects:
                _bring_files(directory, manifest, store, progress, without=set(lost))
            progress("database", 0, 1)
            migrations, leases = _bring_rows(directory, manifest, store, db, by=by)
            progress("database", 1, 1)
    return Restored(
        manifest=manifest,
        with_objects=with_objects,
        lost=lost,
        leases_returned=leases,
        migrations=migrations,
    )


def _require_told(spool: Path) -> None:
    """Refuse while the former house's audit messages wait: the numbers they bear are given again.

    The trail would take rows of the restored house for those that a segment tells of.
    """
    if spool.is_dir() and (waiting := len(Spool(spool, maximum_mib=1).segments())):
        raise BackupError(
            f"the former house's audit trail waits in {spool}, segments: {waiting}",
            hint="Have them collected, or move them to a place of their own, then restore again.",
        )


# --- is it whole?


def _verify(
    directory: Path, manifest: Manifest, progress: Progress, *, with_objects: bool
) -> list[str]:
    """Return the files that are missing or damaged; raise for anything else that is not whole."""
    if not knows(manifest.revision):
        raise RevisionError(
            f"the backup was made at revision {manifest.revision}, which this program"
            f" does not know",
            hint=f"Install triage {manifest.program_version} or newer.",
        )
    for part in (manifest.database, manifest.listing):
        _verify_part(directory, part)
    try:
        with open_snapshot(directory / manifest.database.name) as snapshot:
            with snapshot.read() as connection:
                fault = fault_of(connection)
            wanted = with_objects and not fault
            bad = _bad_files(directory, manifest, snapshot, progress) if wanted else []
    except DatabaseUnavailable as error:
        raise BackupError(f"the backup's database cannot be read: {error}") from error
    if fault:
        raise BackupError(f"the backup's database is unsound: {fault}")
    return bad


def _damaged(bad: list[str]) -> BackupError:
    return BackupError(
        f"files of the backup that are missing or damaged: {len(bad)},"
        f" such as {', '.join(f'{STORE}/{path}' for path in bad[:SHOWN])}",
        hint="Use another backup, or restore what is whole with --partial. To mend this one while"
        " its house lives, delete those files (`sha256sum --check --quiet` names all) and run"
        " `triage backup` again.",
    )


def _bad_files(
    directory: Path, manifest: Manifest, snapshot: Database, progress: Progress
) -> list[str]:
    """Return what rows promise and the listing lacks, and what is not as the listing says."""
    excused = {*manifest.expired, *manifest.missing, *manifest.damaged}
    bad: list[str] = []
    listing = read_listing(directory / manifest.listing.name)
    for done, (shard, sums) in enumerate(zip(STORE_SHARDS, listing, strict=True), start=1):
        if manifest.with_objects:
            with snapshot.read() as connection:
                held = {file.path for file in held_files(connection, shard)}
            bad += sorted(held - sums.keys() - excused)
        bad += [path for path in sums if not _is_good(directory, path, sums[path])]
        progress("verified", done, len(STORE_SHARDS))
    return bad


def _verify_part(directory: Path, part: Part) -> None:
    path = directory / part.name
    try:
        sound = path.stat().st_size == part.size_bytes and sha256_of(path) == part.sha256
    except OSError as error:
        raise BackupError(f"{path} cannot be read ({error.strerror})") from error
    if not sound:
        raise BackupError(f"{path} is damaged", hint=MAKE_ANOTHER)


def _is_good(directory: Path, path: str, sha256: str) -> bool:
    try:
        return sha256_of(directory / STORE / path) == sha256
    except OSError:
        return False


# --- is there room for it?


@contextmanager
def _empty_house(
    url: str, store_path: Path, manifest: Manifest, minimum_free_mib: int, *, with_objects: bool
) -> Iterator[tuple[Database, Store]]:
    """Open database and store where a restore may come in; the database is marked from now on."""
    db = open_database(url)
    try:
        again = _require_room(db, store_path, manifest, with_objects=with_objects)
        with closing(open_store(store_path, minimum_free_mib=minimum_free_mib)) as store:
            store.sweep_leftovers()  # of a restore that was broken off
            files = manifest.size_bytes if with_objects and not again else 0
            store.check_space(files + 2 * manifest.database.size_bytes)
            if not again:
                migrate(url)
                set_mark(db, manifest.id)
            yield db, store
    finally:
        db.dispose()


def _require_room(
    db: Database, store_path: Path, manifest: Manifest, *, with_objects: bool
) -> bool:
    """Raise where a restore would harm; True where this backup's own restore was broken off."""
    revision = current_revision(db) or ""
    if revision.startswith(UNFINISHED) and revision != mark_of(manifest.id):
        raise BackupError(
            "a restore of another backup was broken off here",
            hint="Restore that one, or empty database and store first.",
        )
    roles = living_roles(db)
    if roles or _has_living_writer(store_path):
        raise BackupError(
            f"the daemon is running ({', '.join(roles) or 'it writes to the store'})",
            hint="Stop it, on every host: `systemctl stop triage.target 'triage*'`.",
        )
    filled = filled_tables(db)
    if filled:
        raise BackupError(
            f"the database holds data ({', '.join(filled)}): nothing is ever restored over it",
            hint="Move it away, or name another in [database] url.",
        )
    again = revision == mark_of(manifest.id)
    if with_objects and not again and _holds_files(store_path):
        raise BackupError(
            f"the store {store_path} holds images: nothing is ever restored over them",
            hint="Name an empty [store] path; or, if it is the database alone that was lost,"
            " keep the store and use --no-objects.",
        )
    return again


def _holds_files(store_path: Path) -> bool:
    return any(
        path.is_file()
        for shard in STORE_SHARDS
        if (store_path / shard).is_dir()
        for path in (store_path / shard).iterdir()
    )


def _has_living_writer(store_path: Path) -> bool:
    """Whether a process holds the lock of its directory in the store, on this host or another."""
    incoming = store_path / "incoming"
    for directory in incoming.iterdir() if incoming.is_dir() else ():
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False


# --- bring it


def _bring_files(
    directory: Path,
    manifest: Manifest,
    store: Store,
    progress: Progress,
    *,
    without: set[str],
) -> None:
    """Copy every file, its bytes checked once more on the way; those of a broken-off try count."""
    listing = read_listing(directory / manifest.listing.name)
    for done, sums in enumerate(listing, start=1):
        waiting: list[Staged] = []
        for path in sorted(sums.keys() - without):
            there = store.resolve(path)
            if there.exists() and sha256_of(there) == sums[path]:
                continue
            waiting.append(_stage(directory, path, sums[path], store))
            if len(waiting) == COMMITTED_AT_ONCE:
                store.commit(waiting)
                waiting.clear()
        store.commit(waiting)
        progress("images", done, len(STORE_SHARDS))


def _stage(directory: Path, path: str, sha256: str, store: Store) -> Staged:
    source = directory / STORE / path
    stage = store.stage if path.startswith("objects/") else store.stage_aside
    with source.open("rb", buffering=0) as file:
        staged = stage(read_pieces(file), digest=source.stem)
    with staged.temporary.open("rb", buffering=0) as file:
        if digest(read_pieces(file)) != sha256:
            store.discard(staged)
            raise StoreError(f"{source} was copied with other bytes than it has")
    return staged


def _bring_rows(
    directory: Path, manifest: Manifest, store: Store, db: Database, *, by: str
) -> tuple[list[str], int]:
    """Bring the rows by way of a copy, which is migrated and settled first."""
    copy = store.incoming / manifest.database.name
    with (directory / manifest.database.name).open("rb", buffering=0) as file, store.guarded():
        descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as target:
            for piece in read_pieces(file):
                target.write(piece)
    with open_snapshot(copy, writable=True) as snapshot:
        migrations = upgrade_open(snapshot)
        leases = settle(snapshot, backup_id=manifest.id, gone=manifest.expired, by=by)
        fill(db, snapshot, backup_id=manifest.id)
    require_revision(db)
    return migrations, leases
