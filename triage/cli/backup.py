"""`triage backup` and `triage restore`: database and images, kept elsewhere and brought back."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from triage.cli.text import clean, counted, instant, size
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
        "--partial", action="store_true", help="of a damaged backup, bring back what is whole"
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--no-objects", action="store_true", help="the database alone; the store stays as it is"
    )
    either.add_argument(
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

    if not arguments.directory.is_dir():
        raise UsageError(f"{arguments.directory} is no directory", hint="Name that of a backup.")
    if arguments.partial and arguments.verify_only:
        raise UsageError(
            "--verify-only brings nothing back, so that --partial has no meaning with it",
            hint="Give --verify-only to see what is damaged, then --partial to restore the rest.",
        )
    if arguments.verify_only:
        with _progress() as progress:
            manifest = verify(arguments.directory, progress=progress)
        if arguments.json:
            print_json({"verified": True, "manifest": asdict(manifest)})
        else:
            print(f"The backup is {_soundness(manifest)}: {_contents(manifest)}.")
            _tell_losses(manifest)
        return DONE
    config, by = configuration(arguments), operator()
    with _progress() as progress:
        restored = bring_back(
            config.database.url,
            config.store.path,
            arguments.directory,
            minimum_free_mib=config.store.minimum_free_mib,
            by=by,
            spool=config.audit.spool if config.audit.enabled else None,
            with_objects=not arguments.no_objects,
            partial=arguments.partial,
            progress=progress,
        )
    if arguments.json:
        print_json(_restore_document(restored))
    else:
        _tell_restored(restored)
    return FAILED if restored.lost else DONE


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
        "lost": restored.lost,
        "leases_returned": restored.leases_returned,
        "migrations": restored.migrations,
        "manifest": asdict(restored.manifest),
    }


def _tell_backup(made: "Backup", directory: Path) -> None:
    print(f"Backup made in {clean(directory)}: {_contents(made.manifest)}.")
    if made.manifest.with_objects:
        removed = counted(made.removed_files, "old file was", "old files were")
        print(f"{size(made.copied_bytes)} new; {removed} removed.")
    _tell_losses(made.manifest)


def _tell_restored(restored: "Restored") -> None:
    print(f"Restored: {_contents(restored.manifest)}.")
    if restored.with_objects:
        print("Images that came after the backup must be sent again.")
    else:
        print("The store was left as it is: images that came since are taken in at the next start.")
    if restored.leases_returned:
        returned = counted(restored.leases_returned, "job that was", "jobs that were")
        print(f"{returned} being worked on: waiting again.")
    if restored.migrations:
        print(f"Migrated on the way: {', '.join(restored.migrations)}.")
    _tell_losses(restored.manifest)
    _name(restored.lost, "NOT RESTORED", "damaged in the backup")
    print(NEXT_STEPS)


def _contents(manifest: "Manifest") -> str:
    rows = manifest.rows
    studies = counted(rows["studies"], "study", "studies")
    objects = counted(rows["instances"], "object", "objects")
    files = f"{counted(manifest.files, 'file', 'files')}, {size(manifest.size_bytes)}"
    held = files if manifest.with_objects else "without images"
    return f"{studies}, {objects} as of {instant(manifest.taken_at)}, {held}"


def _soundness(manifest: "Manifest") -> str:
    lossless = not (manifest.missing or manifest.damaged)
    return "whole" if lossless else "as it was made, which is not whole"


def _tell_losses(manifest: "Manifest") -> None:
    if manifest.expired:
        print(f"{counted(len(manifest.expired), 'file', 'files')} expired while it was made.")
    for paths, what in (
        (manifest.missing, "in the database, but not in the store"),
        (manifest.damaged, "in the store with other bytes than were received"),
    ):
        _name(paths, "NOT IN THE BACKUP", what)
    if manifest.missing or manifest.damaged:
        print("next: find what is named in an older backup, or ask the senders to send again.")


def _name(paths: list[str], label: str, what: str) -> None:
    if paths:
        more = ", …" if len(paths) > SHOWN else ""
        files = counted(len(paths), "file", "files")
        print(f"{label}: {files} {what}: {', '.join(paths[:SHOWN])}{more}")


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
