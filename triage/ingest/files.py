"""The files of a watched folder: which count, how they are read, where they go afterwards.

Owns the handling of paths that others have named: links are never followed, and what is moved
stays inside its folder. Logs no names: they may be patients'.
"""

import os
import stat
from collections.abc import Iterator
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Final

import structlog

from triage.ingest.span import FileSpan
from triage.ingest.stability import Candidate, Stamp
from triage.store import Bytes, read_pieces

log = structlog.get_logger(__name__)

PARTIAL_SUFFIXES: Final = (".part", ".partial", ".filepart", ".crdownload", ".tmp", ".temp", ".swp")


def files_below(root: Path, unreadable: list[str]) -> Iterator[tuple[Path, Stamp]]:
    """Yield regular files below a folder, without following links.

    Adds to `unreadable` why something could not be looked at; what went away meanwhile could.
    """
    pending = [root]
    while pending:
        directory = pending.pop()
        try:
            entries = list(os.scandir(directory))
        except FileNotFoundError:
            continue
        except OSError as error:
            unreadable.append(str(error.strerror))
            continue
        for entry in entries:
            if is_passed_over(entry.name):
                continue
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                pending.append(path)
            elif (stamp := stamp_of(path)) is not None:
                if not os.access(path, os.R_OK) and path.exists():
                    unreadable.append("no permission to read a file")
                yield path, stamp


def is_passed_over(name: str) -> bool:
    return name.startswith(".") or name.lower().endswith(PARTIAL_SUFFIXES)


def stamp_of(path: Path) -> Stamp | None:
    """Return size and modification time of a regular file, None for anything else."""
    try:
        status = path.lstat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return Stamp(size_bytes=status.st_size, mtime_ns=status.st_mtime_ns)


class SourceChanged(Exception):
    """A file is not, or no longer, as it was when it was found."""


def open_source(candidate: Candidate) -> FileIO:
    """Open a file for reading, links not followed. Raises OSError."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return FileIO(os.open(candidate.path, flags), "rb")


def span_of(source: FileIO, candidate: Candidate) -> FileSpan:
    """Return the bytes of an open file, as many as it had when it was found."""
    read = partial(os.pread, source.fileno())
    return FileSpan(read=read, start=0, size=candidate.stamp.size_bytes)


def chunks_of(source: FileIO, candidate: Candidate) -> Iterator[Bytes]:
    """Yield the bytes of an open file, each chunk until the next one is asked for.

    Raises SourceChanged, before the last chunk is known to be the last, if size or modification
    time are not those that were found; OSError if it cannot be read.
    """
    size = 0
    for chunk in read_pieces(source):
        size += len(chunk)
        if size > candidate.stamp.size_bytes:
            break
        yield chunk
    mtime_ns = os.fstat(source.fileno()).st_mtime_ns
    if Stamp(size_bytes=size, mtime_ns=mtime_ns) != candidate.stamp:
        raise SourceChanged


def move_inside(path: Path, root: Path, place: str) -> None:
    """Move a source to `place` inside its watched folder; an older namesake stays."""
    target = root / place / path.relative_to(root)
    target.parent.mkdir(parents=True, exist_ok=True)
    number = 0
    final = target
    while final.exists():
        number += 1
        final = target.with_name(f"{target.name}.{number}")
    path.rename(final)


def path_text(path: Path) -> str:
    """Return a path as text that a database takes, whatever bytes are in the name."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")
