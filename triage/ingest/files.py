"""The files of a watched folder: which count, how they are read, where they go afterwards.

Owns the handling of paths that others have named: links are never followed, and what is moved
stays inside its folder. Logs no names: they may be patients'.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


def files_below(root: Path, unreadable: dict[Path, str]) -> Iterator[tuple[Path, Stamp]]:
    """Yield regular files below a folder, without following links.

    Adds to `unreadable` what could not be looked at and why; what went away meanwhile could.
    """
    pending = [root]
    while pending:
        directory = pending.pop()
        entries: list[os.DirEntry[str]] = []
        with _noted(directory, unreadable):
            entries = list(os.scandir(directory))
        for entry in entries:
            if is_passed_over(entry.name):
                continue
            path = Path(entry.path)
            stamp: Stamp | None = None
            with _noted(path, unreadable):
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path)
                else:
                    stamp = _stamp_at(path)
            if stamp is not None:
                if not os.access(path, os.R_OK) and stamp_of(path) is not None:
                    unreadable[path] = "no permission to read a file"
                yield path, stamp


@contextmanager
def _noted(path: Path, unreadable: dict[Path, str]) -> Iterator[None]:
    """Note an error of looking at `path`; only what is not there is gone."""
    try:
        yield
    except FileNotFoundError:
        pass
    except OSError as error:
        unreadable[path] = str(error.strerror)


def is_passed_over(name: str) -> bool:
    return name.startswith(".") or name.lower().endswith(PARTIAL_SUFFIXES)


def stamp_of(path: Path) -> Stamp | None:
    """Return size and modification time of a regular file, None for what is not seen as one."""
    with suppress(OSError):
        return _stamp_at(path)
    return None


def _stamp_at(name: str | Path, place: int | None = None) -> Stamp | None:
    status = os.stat(name, dir_fd=place, follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):
        return None
    return Stamp(size_bytes=status.st_size, mtime_ns=status.st_mtime_ns)


class SourceChanged(Exception):
    """A file is not, or no longer, as it was when it was found."""


def open_source(candidate: Candidate, root: Path) -> FileIO:
    """Open a file below `root` for reading, links not followed. Raises OSError."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with _directory(candidate.path.parent, root) as place:
        return FileIO(os.open(candidate.path.name, flags, dir_fd=place), "rb")


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


def move_inside(candidate: Candidate, root: Path, name: str) -> bool:
    """Move a source to the directory `name` of its watched folder; an older namesake stays.

    False, and nothing is moved, where it is no longer the file that was read. Raises OSError.
    """
    path = candidate.path
    beside = root / name / path.parent.relative_to(root)
    with _directory(path.parent, root) as source, _directory(beside, root, make=True) as target:
        if _stamp_at(path.name, source) != candidate.stamp:
            return False
        number, final = 0, path.name
        while _is_taken(final, target):
            number += 1
            final = f"{path.name}.{number}"
        os.rename(path.name, final, src_dir_fd=source, dst_dir_fd=target)
    return True


def delete_inside(candidate: Candidate, root: Path) -> bool:
    """Delete a source; False, and nothing is deleted, where it is not the file that was read.

    Raises OSError.
    """
    path = candidate.path
    with _directory(path.parent, root) as source:
        if _stamp_at(path.name, source) != candidate.stamp:
            return False
        os.unlink(path.name, dir_fd=source)
    return True


@contextmanager
def _directory(path: Path, root: Path, *, make: bool = False) -> Iterator[int]:
    """Open a directory at or below `root` step by step: no link on the way leads out of it.

    With `make`, what is missing is made. Raises OSError.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    place = os.open(root, flags)
    try:
        for part in path.relative_to(root).parts:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=place)
            inner = os.open(part, flags, dir_fd=place)
            os.close(place)
            place = inner
        yield place
    finally:
        os.close(place)


def _is_taken(name: str, place: int) -> bool:
    try:
        os.stat(name, dir_fd=place, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def path_text(path: Path) -> str:
    """Return a path as text that a database takes, whatever bytes are in the name."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")
