"""Received objects on disk: written once, durable before anyone is told, found by their digest.

Owns the directory of `[store] path`:

    incoming/<writer>/   files that are being written; one directory per running writer
    objects/<2 hex>/     <digest>.dcm, one per distinct object, never changed after the rename
    quarantine/<2 hex>/  <digest>.dcm, what was not taken in, kept for a person

Names come from digests alone, so no UID and no AE title can become a path. Durable means: file
synced, renamed within one file system, directory synced; the row is the database's part (DESIGN
section 3.3). A failed sync is never repeated, because the kernel may have dropped the pages it
could not write: the store turns unhealthy and refuses until the process is started again.

Does not know DICOM, SQL or the configuration file.
"""

import errno
import fcntl
import os
import re
import secrets
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType

from triage.errors import OutOfSpace, StoreError

MIB = 1024 * 1024
PIECE_BYTES = MIB
STEP_BYTES = 4 * MIB  # of one file, between two looks at the margin and two pushes to the disk
SHARDS = tuple(f"{number:02x}" for number in range(256))
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_RELATIVE = re.compile(r"(?:objects|quarantine)/([0-9a-f]{2})/(\1[0-9a-f]{62})\.dcm\Z")
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
# Refused before anything was written: no doubt is left about what the disk holds, so the next
# attempt may succeed. Every other error of a write, sync or rename leaves that doubt.
_MENDABLE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS, errno.EACCES, errno.EPERM}

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A complete, synced file that has no place yet."""

    temporary: Path
    path: str  # relative to the store, where `commit` puts it
    digest: str
    size_bytes: int


class Draft:
    """A file that is being written in the writer's own directory, until `stage` or the `with` ends.

    Of one thread. Raises OutOfSpace or StoreError as `Store.stage` does.
    """

    def __init__(self, store: "Store", *, offset: int) -> None:
        self._store = store
        self._end = offset
        self._step_bytes = 0
        self._staged = False
        self.temporary = store.incoming / f"{secrets.token_hex(16)}.part"
        with store.guarded():
            self._descriptor = os.open(self.temporary, _NEW, 0o600)

    def __enter__(self) -> "Draft":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            os.close(self._descriptor)
        finally:
            if not self._staged:
                _forget(self.temporary)

    @property
    def size_bytes(self) -> int:
        """Where the next chunk goes."""
        return self._end

    def append(self, chunk: Bytes) -> None:
        """Write a chunk at the end."""
        if self._step_bytes + len(chunk) > STEP_BYTES:
            self._step(len(chunk))
        with self._store.guarded():
            written = _write_all(self._descriptor, chunk, self._end)
        self._end += written
        self._step_bytes += written

    def write_at(self, offset: int, chunk: Bytes) -> None:
        """Write over what was left free at `offset`."""
        with self._store.guarded():
            _write_all(self._descriptor, chunk, offset)

    def read(self, length: int, offset: int) -> bytes:
        """Return what was written; fewer bytes at the end."""
        with self._store.guarded():
            return os.pread(self._descriptor, length, offset)

    def _step(self, coming_bytes: int) -> None:
        """Look at the margin, and have the disk begin with what was written since the last step.

        Else a large object meets the disk at its one sync, which everyone else's sync waits for.
        The kernel has begun to write when the advice returns; small objects stay in its cache.
        """
        self._store.check_space(coming_bytes)
        start, length = self._end - self._step_bytes, self._step_bytes
        with self._store.guarded():
            os.posix_fadvise(self._descriptor, start, length, os.POSIX_FADV_DONTNEED)
        self._step_bytes = 0

    def stage(self, digest: str, *, aside: bool = False) -> "Staged":
        """Sync the file and name its place: among the objects, or `aside` in the quarantine."""
        path = _relative("quarantine" if aside else "objects", digest)
        with self._store.guarded():
            os.fsync(self._descriptor)
        self._staged = True
        return Staged(temporary=self.temporary, path=path, digest=digest, size_bytes=self._end)


class Store:
    """One open store. Safe for threads; several processes may open the same path."""

    def __init__(self, root: Path, *, minimum_free_mib: int) -> None:
        self.root = root
        self.minimum_free_mib = minimum_free_mib
        self._fault = ""
        self._lock = threading.Lock()
        self.incoming, self._claim = _claim_incoming(root / "incoming")

    @property
    def fault(self) -> str:
        """Why nothing can be written any more, for a person; empty while the store is sound."""
        return self._fault

    def free_mib(self) -> int:
        """Space that this user may still fill, in whole MiB. Raises StoreError."""
        try:
            state = os.statvfs(self.root)
        except OSError as error:
            raise StoreError(f"the store cannot be read ({_words(error)})") from error
        if state.f_flag & os.ST_RDONLY:  # as the kernel leaves a disk that it does not trust
            raise StoreError("the store's file system is read-only")
        return state.f_bavail * state.f_frsize // MIB

    def check_space(self, size_bytes: int) -> None:
        """Raise OutOfSpace if `size_bytes` more would eat into the margin, StoreError if unsound.

        The margin is what keeps database, logs and the images already held safe from a full disk.
        """
        self._require_sound()
        free_mib = self.free_mib()
        if free_mib - size_bytes // MIB < self.minimum_free_mib:
            raise OutOfSpace(
                f"the store has {free_mib} MiB free, its margin is {self.minimum_free_mib} MiB"
            )

    def draft(self, *, offset: int = 0) -> Draft:
        """Begin a file whose name is not known yet, leaving `offset` bytes free at its beginning.

        Used in a `with` statement, at whose end it is gone unless it was staged.
        """
        self._require_sound()
        return Draft(self, offset=offset)

    def stage(self, chunks: Iterable[Bytes], *, digest: str) -> Staged:
        """Write `chunks` as one file and sync it. `commit` or `discard` must follow.

        `digest` is 64 lower-case hexadecimal digits and becomes the name. Raises OutOfSpace or
        StoreError, or what the iterator raises; nothing is left behind then.
        """
        return self._stage(chunks, digest, aside=False)

    def commit(self, staged: Sequence[Staged]) -> None:
        """Give every file its place, then sync each directory once. Raises OutOfSpace, StoreError.

        A file already there has the same digest and is replaced by itself.
        """
        self._require_sound()
        directories: dict[Path, None] = {}
        for item in staged:
            final = self.root / item.path
            with self.guarded():
                with suppress(FileExistsError):
                    final.parent.mkdir(mode=0o700)
                    directories[final.parent.parent] = None  # it was gone: its name is new too
                item.temporary.replace(final)
            directories[final.parent] = None
        for directory in directories:
            with self.guarded():
                sync_directory(directory)

    def discard(self, staged: Staged) -> None:
        """Remove a staged file that will not be committed."""
        _forget(staged.temporary)

    def stage_aside(self, chunks: Iterable[Bytes], *, digest: str) -> Staged:
        """Write and sync bytes whose place is the quarantine; otherwise as `stage`."""
        return self._stage(chunks, digest, aside=True)

    def resolve(self, relative: str) -> Path:
        """Return the absolute path of a stored or quarantined file, by the path in its row.

        Raises StoreError for anything that this store would not have written.
        """
        if not _RELATIVE.match(relative):
            raise StoreError("a row names a file outside the store")
        return self.root / relative

    def pieces(self, relative: str) -> Iterator[Bytes]:
        """Yield the bytes of one stored or quarantined file; each piece until the next one.

        Raises FileNotFoundError where it is gone, StoreError where it cannot be read.
        """
        path = self.resolve(relative)
        try:
            with path.open("rb", buffering=0) as file:
                yield from read_pieces(file)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"a stored file cannot be read ({_words(error)})") from error

    def delete(self, relative: str) -> None:
        """Remove one stored or quarantined file and sync its directory. Absent is not an error."""
        path = self.resolve(relative)
        with self.guarded():
            path.unlink(missing_ok=True)
            if path.parent.exists():
                sync_directory(path.parent)

    def object_paths(self, *, after: str = "") -> Iterator[str]:
        """Yield the relative path of every stored object in order, beginning after `after`."""
        return self._paths("objects", after)

    def quarantine_paths(self) -> Iterator[str]:
        """Yield the relative path of every file in quarantine in order."""
        return self._paths("quarantine", "")

    def sweep_leftovers(self) -> int:
        """Remove what dead writers left half written; return how many files that were.

        A living writer, of this host or another, holds the lock of its directory.
        """
        removed = 0
        for directory in sorted((self.root / "incoming").iterdir()):
            if directory == self.incoming or not directory.is_dir():
                continue
            with suppress(FileNotFoundError), _locked(directory) as free:
                if free:
                    removed += sum(1 for file in directory.iterdir() if file.suffix == ".part")
                    shutil.rmtree(directory, ignore_errors=True)
        return removed

    def close(self) -> None:
        """Give up the writer's directory; the store is not used afterwards."""
        shutil.rmtree(self.incoming, ignore_errors=True)
        os.close(self._claim)

    def _stage(self, chunks: Iterable[Bytes], digest: str, *, aside: bool) -> Staged:
        with self.draft() as draft:
            for chunk in chunks:
                draft.append(chunk)
            return draft.stage(digest, aside=aside)

    def _paths(self, place: str, after: str) -> Iterator[str]:
        for shard in SHARDS:
            directory = self.root / place / shard
            if f"{place}/{shard}/~" < after or not directory.is_dir():
                continue
            for name in sorted(entry.name for entry in os.scandir(directory)):
                relative = f"{place}/{shard}/{name}"
                if relative > after and _RELATIVE.match(relative):
                    yield relative

    def _require_sound(self) -> None:
        if self._fault:
            raise StoreError(f"the store is out of service since {self._fault}")

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Map OSError to OutOfSpace or StoreError; the latter may put the store out of service."""
        try:
            yield
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise OutOfSpace("the store's file system is full") from error
            reason = f"a write failed ({_words(error)})"
            if error.errno in _MENDABLE:
                raise StoreError(f"the store refused: {reason}") from error
            self._fail(reason)
            raise StoreError(f"the store is out of service since {reason}") from error

    def _fail(self, reason: str) -> None:
        with self._lock:
            self._fault = self._fault or reason


def open_store(path: Path, *, minimum_free_mib: int) -> Store:
    """Open the store at `path`, making its directories (0700). Raises StoreError."""
    try:
        missing = [each for each in (path, *path.parents) if not each.exists()]
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for made in missing:  # or a power cut takes the whole store with their names
            sync_directory(made.parent)
        for place in ("objects", "quarantine"):
            for shard in SHARDS:
                (path / place / shard).mkdir(mode=0o700, parents=True, exist_ok=True)
            (path / place).chmod(0o700)
            sync_directory(path / place)
        (path / "incoming").mkdir(mode=0o700, exist_ok=True)
        sync_directory(path)
        return Store(path, minimum_free_mib=minimum_free_mib)
    except OSError as error:
        raise StoreError(f"the store {path} cannot be opened ({_words(error)})") from error


def read_pieces(file: FileIO) -> Iterator[memoryview]:
    """Yield what is left of an unbuffered file; each piece is valid until the next is asked for."""
    buffer = memoryview(bytearray(PIECE_BYTES))
    while read := file.readinto(buffer):
        yield buffer[:read]


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, chunk: Bytes, offset: int) -> int:
    view = memoryview(chunk).cast("B")
    written = 0
    while written < len(view):
        written += os.pwrite(descriptor, view[written:], offset + written)
    return written


def _forget(temporary: Path) -> None:
    """Remove a half-written file. Where that fails, the error that led here is the one to tell.

    What stays is swept at the next start.
    """
    with suppress(OSError):
        temporary.unlink(missing_ok=True)


def _relative(place: str, digest: str) -> str:
    if not _DIGEST.match(digest):
        raise ValueError("a digest is 64 lower-case hexadecimal digits")
    return f"{place}/{digest[:2]}/{digest}.dcm"


def _claim_incoming(incoming: Path) -> tuple[Path, int]:
    """Make this writer's own directory and hold its lock for as long as the process lives."""
    while True:
        directory = incoming / secrets.token_hex(8)
        directory.mkdir(mode=0o700)
        with suppress(FileNotFoundError):  # another writer's sweep may come between
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if directory.exists():
                    return directory, descriptor
            os.close(descriptor)


@contextmanager
def _locked(directory: Path) -> Iterator[bool]:
    """Try to lock a writer's directory; gives False while its writer lives."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except BlockingIOError:
        free = False
    try:
        yield free
    finally:
        os.close(descriptor)


def _words(error: OSError) -> str:
    return error.strerror or type(error).__name__
