"""`triage backup` and `triage restore`: database and images, kept elsewhere and brought back."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from triage.cli.text import clean, instant, size
from triage.cli.verbs import (
    DONE,
    FAILED,
    UsageError,
    Verbs,
    add_verb,
    configuration,
    operator,
    print_json,
)

if TYPE_CHECKING:
    from triage.operations.backup import Backup
    from triage.operations.backup_directory import Manifest
    from triage.operations.restore import Restored

SHOWN = 5  # paths named one by one; --json names all
NEXT_STEPS = "next: `triage check`, `systemctl start triage.target`, then `triage status`."

Progress = Callable[[str, int, int], None]


def declare(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    parser = add_verb(
        verbs,
        "backup",
        backup,
        says="copy database and images to a directory while the daemon runs",
        example="triage backup /mnt/backup/triage",
        json_document=True,
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="new, empty, or a backup")
    parser.add_argument("--no-objects", action="store_true", help="the database alone")
    parser = add_verb(
        verbs,
        "restore",
        restore,
        says="bring a backup back into an empty database and an empty store",
        example="triage restore /mnt/backup/triage --verify-only",
        json_document=True,
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="made by `triage backup`")
    parser.add_argument(
        "--no-objects", action="store_true", help="the database alone; the store stays as it is"
    )
    parser.add_argument(
        "--verify-only", action="store_true", help="read every byte of the backup, change nothing"
    )


def backup(arguments: argparse.Namespace) -> int:
    from triage.operations.backup import back_up

    config = configuration(arguments)
    with _progress() as progress:
        made = back_up(
            config.database.url,
            config.store.path,
            arguments.directory,
            minimum_free_mib=config.store.minimum_free_mib,
            with_objects=not arguments.no_objects,
            progress=progress,
        )
    if arguments.json:
        print_json(_backup_document(made))
    else:
        _tell_backup(made, arguments.directory)
    return FAILED if made.manifest.missing or made.manifest.damaged else DONE


def restore(arguments: argparse.Namespace) -> int:
    from triage.operations.restore import restore as bring_back
    from triage.operations.restore import verify

    if arguments.verify_only:
        with _progress() as progress:
            manifest = verify(arguments.directory, progress=progress)
        if arguments.json:
            print_json({"verified": True, "manifest": asdict(manifest)})
        else:
            print(f"The backup is whole: {_contents(manifest)}.")
            _tell_losses(manifest)
        return DONE
    if not arguments.directory.is_dir():
        raise UsageError(f"{arguments.directory} is no directory", hint="Name that of a backup.")
    config, by = configuration(arguments), operator()
    with _progress() as progress:
        restored = bring_back(
            config.database.url,
            config.store.path,
            arguments.directory,
            minimum_free_mib=config.store.minimum_free_mib,
            by=by,
            with_objects=not arguments.no_objects,
            progress=progress,
        )
    if arguments.json:
        print_json(_restore_document(restored))
    else:
        _tell_restored(restored)
    return DONE


# --- what is told


def _backup_document(made: "Backup") -> dict[str, object]:
    return {
        "complete": not (made.manifest.missing or made.manifest.damaged),
        "copied_bytes": made.copied_bytes,
        "removed_files": made.removed_files,
        "manifest": asdict(made.manifest),
    }


def _restore_document(restored: "Restored") -> dict[str, object]:
    return {
        "with_objects": restored.with_objects,
        "leases_returned": restored.leases_returned,
        "migrations": restored.migrations,
        "manifest": asdict(restored.manifest),
    }


def _tell_backup(made: "Backup", directory: Path) -> None:
    print(f"Backup made in {clean(directory)}: {_contents(made.manifest)}.")
    if made.manifest.with_objects:
        print(f"{size(made.copied_bytes)} were new; {made.removed_files} old files were removed.")
    _tell_losses(made.manifest)


def _tell_restored(restored: "Restored") -> None:
    print(f"Restored: {_contents(restored.manifest)}.")
    if restored.with_objects:
        print("Images that came after the backup must be sent again.")
    else:
        print("The store was left as it is: images that came since are taken in at the next start.")
    if restored.leases_returned:
        print(f"{restored.leases_returned} jobs that were being worked on wait again.")
    if restored.migrations:
        print(f"Migrated on the way: {', '.join(restored.migrations)}.")
    _tell_losses(restored.manifest)
    print(NEXT_STEPS)


def _contents(manifest: "Manifest") -> str:
    rows = manifest.rows
    counted = f"{rows['studies']} studies, {rows['instances']} objects"
    files = f"{manifest.files} files, {size(manifest.size_bytes)}"
    held = files if manifest.with_objects else "without images"
    return f"{counted} as of {instant(manifest.taken_at)}, {held}"


def _tell_losses(manifest: "Manifest") -> None:
    if manifest.expired:
        print(f"{len(manifest.expired)} files expired while the backup was made.")
    for paths, what in (
        (manifest.missing, "in the database, but not in the store"),
        (manifest.damaged, "in the store with other bytes than were received"),
    ):
        if paths:
            more = ", …" if len(paths) > SHOWN else ""
            print(f"NOT IN THE BACKUP: {len(paths)} files {what}: {', '.join(paths[:SHOWN])}{more}")
    if manifest.missing or manifest.damaged:
        print("next: find these files in an older backup, or ask the senders to send again.")


@contextmanager
def _progress() -> Iterator[Progress]:
    """Show how far the work is on a terminal, in one line that is gone at the end."""
    shown = sys.stderr.isatty()
    last = ""

    def tell(what: str, done: int, total: int) -> None:
        nonlocal last
        line = f"{what}: {100 * done // total} %"
        if shown and line != last:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
            last = line

    try:
        yield tell
    finally:
        if shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
