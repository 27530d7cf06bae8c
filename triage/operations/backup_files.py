"""The files of a backup: each is read once, found to be what was received, and kept for good.

Owns how one file of the house's store comes into the store of the backup. On one file system it is
a second name for the same bytes, else a copy; either is synced before it gets its name. A file that
the backup has already is read again only where its sum is not given. What a file must be, its row
says: its name is the SHA-256 of transfer syntax and data set (an object) or of all its bytes (a
file of the quarantine).
"""

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from triage.database.snapshot import HeldFile
from triage.errors import StoreError
from triage.ingest.part10 import META_BYTES, begin_digest
from triage.store import Bytes, Staged, Store, read_pieces

COMMITTED_AT_ONCE = 64  # files whose directories are synced together


class _Unreadable(Exception):
    """The house's own file could not be read; the backup's disk is not to blame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """What became of the files of one shard."""

    sums: dict[str, str]  # SHA-256 of all bytes, by path; of those that the backup has
    gone: list[str]  # not in the store
    damaged: list[str]  # unreadable, or not what was received
    copied: int  # bytes that were written or linked now


class Reading:
    """The sums of one file, taken while its pieces pass."""

    def __init__(self, file: HeldFile) -> None:
        self._file = file
        self._whole = hashlib.sha256()
        self._object = begin_digest(file.transfer_syntax_uid)
        self.size_bytes = 0

    def watch(self, pieces: Iterable[Bytes]) -> Iterator[Bytes]:
        """Pass the pieces on."""
        for piece in pieces:
            view = memoryview(piece)
            self._whole.update(view)
            if self._file.transfer_syntax_uid:
                self._object.update(view[max(0, META_BYTES - self.size_bytes) :])
            self.size_bytes += len(view)
            yield piece

    @property
    def sha256(self) -> str:
        return self._whole.hexdigest()

    @property
    def sound(self) -> bool:
        """Whether the bytes that passed are those that the file's name stands for."""
        of_object = self._file.transfer_syntax_uid
        found = self._object.hexdigest() if of_object else self.sha256
        right_size = not of_object or self.size_bytes == self._file.size_bytes
        return right_size and found == Path(self._file.path).stem


def bring(house: Store, kept: Store, files: list[HeldFile], known: Mapping[str, str]) -> Brought:
    """Bring the files of one shard into the backup; `known` are sums of files that it has.

    Raises OutOfSpace or StoreError where the backup's own disk refuses.
    """
    sums: dict[str, str] = {}
    gone: list[str] = []
    damaged: list[str] = []
    waiting: list[Staged] = []
    copied = 0
    for file in files:
        held = _held(kept, file, known.get(file.path))
        if held:
            sums[file.path] = held
            continue
        reading = Reading(file)
        try:
            staged = _stage(house, kept, file, reading)
        except FileNotFoundError:
            gone.append(file.path)
            continue
        except _Unreadable:
            damaged.append(file.path)
            continue
        if not reading.sound:
            kept.discard(staged)
            damaged.append(file.path)
            continue
        waiting.append(staged)
        sums[file.path] = reading.sha256
        copied += reading.size_bytes
        if len(waiting) == COMMITTED_AT_ONCE:
            kept.commit(waiting)
            waiting.clear()
    kept.commit(waiting)
    return Brought(sums=sums, gone=gone, damaged=damaged, copied=copied)


def _held(kept: Store, file: HeldFile, known: str | None) -> str | None:
    """Return the sum of a file that the backup has and that is good, else None."""
    path = kept.resolve(file.path)
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return None
    if file.transfer_syntax_uid and size != file.size_bytes:
        return None
    if known is not None:
        return known
    reading = Reading(file)
    try:
        for _ in reading.watch(kept.pieces(file.path)):
            pass
    except StoreError:  # the backup's disk does not give it back: the house's file replaces it
        return None
    return reading.sha256 if reading.sound else None


def _stage(house: Store, kept: Store, file: HeldFile, reading: Reading) -> Staged:
    linked = _link(house, kept, file)
    if linked is None:
        pieces = reading.watch(_pieces(house, file))
        stage = kept.stage if file.transfer_syntax_uid else kept.stage_aside
        return stage(pieces, digest=Path(file.path).stem)
    try:
        with linked.temporary.open("rb", buffering=0) as opened:
            for _ in reading.watch(read_pieces(opened)):
                pass
    except OSError as error:
        kept.discard(linked)
        raise _Unreadable from error
    return linked


def _link(house: Store, kept: Store, file: HeldFile) -> Staged | None:
    """Give the house's file a second name in the backup; None where that cannot be."""
    temporary = kept.incoming / f"{secrets.token_hex(16)}.part"
    try:
        os.link(house.resolve(file.path), temporary)
    except FileNotFoundError:
        raise
    except OSError:
        return None  # another file system, one without links, or too many of them: a copy is made
    return Staged(
        temporary=temporary,
        path=file.path,
        digest=Path(file.path).stem,
        size_bytes=file.size_bytes,
    )


def _pieces(house: Store, file: HeldFile) -> Iterator[Bytes]:
    try:
        yield from house.pieces(file.path)
    except StoreError as error:
        raise _Unreadable from error
