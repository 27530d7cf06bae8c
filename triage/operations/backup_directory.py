"""A backup as it lies in its directory; knows neither database nor daemon.

    backup.lock             held by the program that writes the backup, shared by those that read
    manifest.json           put in place last and at once: a directory without it is no backup
    database-<id>.sqlite    one moment of the database (`database.snapshot`)
    files-<id>.sha256       a line for each file, as `sha256sum --check` reads it
    store/                  the files, laid out as in the store (`triage.store`)

Everything is its owner's alone. No file is changed after it has its name, so a copy made of hard
links (`cp -al`) keeps a backup while the next one is written.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

from triage.errors import PermanentError
from triage.store import SHARDS, Bytes, read_pieces, sync_directory

FORMAT = 1
MANIFEST = "manifest.json"
LOCK = "backup.lock"
STORE = "store"
# In the order of their names, as the lines of a listing are.
STORE_SHARDS = tuple(f"{place}/{shard}" for place in ("objects", "quarantine") for shard in SHARDS)
_LINE = re.compile(
    r"([0-9a-f]{64})  store/((?:objects|quarantine)/([0-9a-f]{2})/\3[0-9a-f]{62}\.dcm)\n"
)
_PART = re.compile(r"(?:database-[0-9a-f]{32}\.sqlite|files-[0-9a-f]{32}\.sha256)\Z")
LARGEST_MANIFEST = 64 << 20
MAKE_ANOTHER = "Make another backup; if the directory holds nothing else of worth, empty it first."


class BackupError(PermanentError):
    """A backup cannot be made there, or what is there is no whole backup."""

    hint = "Name another directory, or one that holds a whole backup."


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file of the backup beside its manifest."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a backup holds. `expired`, `missing` and `damaged` are paths below the store."""

    format: int
    id: str  # 32 hexadecimal digits
    program_version: str
    revision: str
    source: str  # which database of which store; no password
    taken_at: str  # the moment of the database, ISO 8601 UTC
    with_objects: bool
    database: Part
    listing: Part
    files: int
    size_bytes: int  # of the files
    rows: Mapping[str, int]  # by table
    expired: list[str]  # deleted in good order while the backup was made
    missing: list[str]  # the store had lost them
    damaged: list[str]  # the store had other bytes than were received


def read_manifest(directory: Path) -> Manifest | None:
    """Return the manifest, None where there is none. Raises BackupError for one of another make."""
    try:
        with (directory / MANIFEST).open("rb") as file:
            document = json.loads(file.read(LARGEST_MANIFEST))
        if document["format"] != FORMAT:
            raise BackupError(
                f"the backup has format {document['format']}, this program reads {FORMAT}",
                hint=f"Use triage {document['program_version']}, which made it, or a newer one.",
            )
        parts = {key: Part(**document[key]) for key in ("database", "listing")}
        manifest = Manifest(**{each.name: document[each.name] for each in fields(Manifest)} | parts)
        if not all(_PART.match(part.name) for part in parts.values()):
            raise ValueError
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackupError(f"{directory / MANIFEST} is damaged", hint=MAKE_ANOTHER) from error
    return manifest


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Put the manifest in place: from now on there is a backup, this one."""
    with new_file(directory / f"{MANIFEST}.part") as file:
        file.write(json.dumps(asdict(manifest), indent=1).encode("ascii") + b"\n")
    (directory / f"{MANIFEST}.part").replace(directory / MANIFEST)
    sync_directory(directory)


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Hold a directory for a backup; it is made, empty, or one that held a backup before."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (directory / LOCK).exists() and any(directory.iterdir()):
        raise BackupError(
            f"{directory} holds other files than a backup",
            hint="Name a directory that is empty or does not exist yet.",
        )
    with _locked(directory, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX):
        directory.chmod(0o700)
        yield


@contextmanager
def reading(directory: Path) -> Iterator[Manifest]:
    """Hold a directory against the next backup and yield its manifest. Raises BackupError."""
    if not (directory / LOCK).exists():
        raise BackupError(f"{directory} holds no backup")
    with _locked(directory, os.O_RDONLY, fcntl.LOCK_SH):
        manifest = read_manifest(directory)
        if manifest is None:
            raise BackupError(
                f"{directory} holds no finished backup: the first one failed or was broken off",
                hint="Nothing can be restored from it. Run `triage backup` again while its house"
                " lives: what was copied already counts.",
            )
        yield manifest


@contextmanager
def _locked(directory: Path, flags: int, lock: int) -> Iterator[None]:
    descriptor = os.open(directory / LOCK, flags | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, lock | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BackupError(
            f"another backup or restore is at work in {directory}", hint="Wait until it has ended."
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


# --- the listing


def read_listing(path: Path | None) -> Iterator[dict[str, str]]:
    """Yield SHA-256 by path of each of STORE_SHARDS in turn. Raises BackupError."""
    groups = groupby(_lines(path) if path else (), key=lambda line: line[0].rsplit("/", 1)[0])
    coming = next(groups, None)
    for shard in STORE_SHARDS:
        if coming is not None and coming[0] == shard:
            yield dict(coming[1])
            coming = next(groups, None)
        else:
            yield {}
    if coming is not None:
        raise BackupError("the listing of the backup is out of order", hint=MAKE_ANOTHER)


def listing_lines(sums: Mapping[str, str]) -> bytes:
    """Return the lines of one shard."""
    return "".join(f"{sums[path]}  store/{path}\n" for path in sorted(sums)).encode("ascii")


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    with path.open("r", encoding="ascii", errors="replace", newline="\n") as file:
        for line in file:
            found = _LINE.fullmatch(line)
            if found is None:
                raise BackupError("the listing of the backup is damaged", hint=MAKE_ANOTHER)
            yield found[2], found[1]


# --- files


def part_of(path: Path) -> Part:
    """Return the entry of a finished file."""
    return Part(name=path.name, size_bytes=path.stat().st_size, sha256=sha256_of(path))


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        return digest(read_pieces(file))


def digest(pieces: Iterable[Bytes]) -> str:
    """Return the SHA-256 of pieces."""
    whole = hashlib.sha256()
    for piece in pieces:
        whole.update(piece)
    return whole.hexdigest()


@contextmanager
def new_file(path: Path) -> Iterator[Any]:
    """Write a private file from its beginning; synced at the end of the block."""
    path.unlink(missing_ok=True)  # of a broken-off try, or a link to elsewhere
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(descriptor)
