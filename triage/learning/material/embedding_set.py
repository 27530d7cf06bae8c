"""Embeddings of labelled subjects on disk: written as they come, found again after a kill.

Owns the directory of `triage embed --out`:

    shards/*.safetensors  vectors (N, D) with the cache key of each (DESIGN section 3.8), and which
                          of them make up which part; one per batch, joined at the end
    patches/<key>.safetensors  tokens (T, W) of one view, where they were asked for (`patches`)
    set.json              the finished set: its subjects in order, and the rows left out
    lock                  held by the one run that writes

Every file appears by rename after a sync, so what is there is whole. A directory belongs to one
cache scope: vectors of two encoders are never mixed. All of it is made from patients' images and
named by what the labels say: whoever may not see those may not see this.
"""

import errno
import fcntl
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_arrays

from triage.errors import OutOfSpace, PermanentError

SET: Final = "set.json"
SHARDS: Final = "shards"
FORMAT: Final = "triage-embeddings-1"
FEW_SHARDS: Final = 8  # not worth joining
SHARD_VECTORS: Final = 1 << 14  # of a joined one: 64 MiB at a width of 1024
MAXIMUM_SET_BYTES: Final = 1 << 30
Vector = NDArray[np.float32]
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A row without embedding, and why; quotes neither file nor patient."""

    line: int  # row of the labels
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingSet:
    """One entry per subject that could be read, in the order of the rows."""

    subjects: tuple[str, ...]
    vectors: tuple[NDArray[np.float32], ...]  # per subject (V, D), the views of all its parts
    # Per subject the number of views of each of its images or series: the daemon classifies each
    # by itself and the study shows the highest. They add up to V; one number for a file.
    parts: tuple[tuple[int, ...], ...]
    keys: tuple[tuple[str, ...], ...]  # per subject the cache key of each view
    scope: str  # what made them beside the views (DESIGN section 3.8)
    pooling: str = ""  # of `lens.POOLINGS`, or "" as there
    left_out: tuple[LeftOut, ...] = ()

    def of(self, subjects: Sequence[str]) -> "EmbeddingSet":
        """Return the entries of `subjects`, in that order; those without one are passed over."""
        place = {subject: number for number, subject in enumerate(self.subjects)}
        kept = [place[subject] for subject in subjects if subject in place]
        return replace(
            self,
            subjects=tuple(self.subjects[n] for n in kept),
            vectors=tuple(self.vectors[n] for n in kept),
            parts=tuple(self.parts[n] for n in kept),
            keys=tuple(self.keys[n] for n in kept),
        )

    def divided(self, number: int) -> list[NDArray[np.float32]]:
        """Return the vectors of one subject part by part, as the daemon would classify them."""
        ends = np.cumsum(self.parts[number])[:-1]
        return np.split(self.vectors[number], ends)

    def divided_keys(self, number: int) -> list[tuple[str, ...]]:
        """Return the cache keys of one subject part by part: equal keys are equal pixels."""
        ends = np.cumsum(self.parts[number])
        return [
            self.keys[number][end - count : end]
            for end, count in zip(ends, self.parts[number], strict=True)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What became of one part: the keys of its views, or why there are none."""

    keys: tuple[str, ...] = ()
    reason: str = ""


@dataclass(kw_only=True)
class Cache:
    """What a directory holds so far; `add` makes it durable."""

    directory: Path
    scope: str
    pooling: str = ""
    vectors: dict[str, Vector] = field(default_factory=dict)  # by cache key
    entries: dict[str, Entry] = field(default_factory=dict)  # by part

    def add(self, vectors: Mapping[str, Vector], entries: Mapping[str, Entry]) -> None:
        """Keep one batch, in a file of its own. Raises OutOfSpace or PermanentError."""
        if not vectors and not entries:
            return
        self._write_shard(vectors, entries)
        self.vectors.update(vectors)
        self.entries.update(entries)

    def finish(
        self,
        subjects: Mapping[str, Sequence[Entry]],
        left_out: Iterable[LeftOut],
    ) -> EmbeddingSet:
        """Write the set of these subjects, each with its parts in order, and return it."""
        self._join()
        document = {
            "format": FORMAT,
            "scope": self.scope,
            "pooling": self.pooling,
            "subjects": {
                subject: [list(entry.keys) for entry in parts]
                for subject, parts in subjects.items()
            },
            "left_out": [[each.line, each.reason] for each in left_out],
        }
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        _write(self.directory / SET, text.encode())
        return _assembled(document, self.vectors)

    def _join(self) -> None:
        """Few large files are read faster than one per batch; the old ones go last."""
        old = _shards(self.directory)
        if len(old) <= FEW_SHARDS:
            return
        keys = list(self.vectors)
        for first in range(0, max(1, len(keys)), SHARD_VECTORS):
            some = {key: self.vectors[key] for key in keys[first : first + SHARD_VECTORS]}
            entries = self.entries if first == 0 else {}
            self._write_shard(some, entries)
        for path in old:
            path.unlink()

    def _write_shard(self, vectors: Mapping[str, Vector], entries: Mapping[str, Entry]) -> None:
        stacked = np.stack(list(vectors.values())) if vectors else np.zeros((0, 0), np.float32)
        told = {
            "format": FORMAT,
            "scope": self.scope,
            "pooling": self.pooling,
            "keys": json.dumps(list(vectors)),
            "entries": json.dumps({p: [list(e.keys), e.reason] for p, e in entries.items()}),
        }
        data = save_arrays({"vectors": np.ascontiguousarray(stacked, np.float32)}, metadata=told)
        _write(self.directory / SHARDS / f"{secrets.token_hex(12)}.safetensors", data)


@contextmanager
def open_cache(directory: Path, scope: str, *, pooling: str = "") -> Iterator[Cache]:
    """Make or reopen a directory for one run; what an earlier run has kept is in it.

    Raises PermanentError where it belongs to another scope, another run writes to it, a file of it
    is damaged, or it holds something else.
    """
    _make(directory)
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermanentError(
                f"another run is writing to {directory}", hint="Wait for it, or name another --out."
            ) from None
        for left in (*directory.glob("*.part"), *directory.glob("*/*.part")):
            left.unlink()
        vectors, entries = _read_shards(directory, scope, pooling)
        yield Cache(
            directory=directory, scope=scope, pooling=pooling, vectors=vectors, entries=entries
        )
    finally:
        os.close(descriptor)


def load_embedding_set(directory: Path) -> EmbeddingSet:
    """Read what `triage embed --out` has finished. Raises PermanentError."""
    path = directory / SET
    if not path.is_file():
        raise PermanentError(
            f"{directory} holds no finished set of embeddings",
            hint="Run `triage embed` with the same --out; it goes on where it stopped.",
        )
    try:
        if path.stat().st_size > MAXIMUM_SET_BYTES:
            raise _damaged(path)
        document = json.loads(path.read_bytes())
        if document["format"] != FORMAT:
            raise _damaged(path)
        vectors, _ = _read_shards(directory, str(document["scope"]), str(document["pooling"]))
        return _assembled(document, vectors)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path) from error
    except OSError as error:
        raise PermanentError(f"{path} cannot be read: {error.strerror}") from error


def known_entries(directory: Path) -> tuple[str, dict[str, Entry]]:
    """Return the scope of a directory and the entry of each part that is embedded there.

    Both empty where nothing is. Raises PermanentError where a file of it is damaged.
    """
    scope, entries = "", dict[str, Entry]()
    for path in _shards(directory):
        told, _ = _open_shard(path)
        scope = told["scope"]
        entries |= told["entries"]
    return scope, entries


def write_durably(path: Path, data: bytes) -> None:
    """Write a file that is whole or absent, whatever happens. Raises OutOfSpace, PermanentError."""
    _write(path, data)


# --- shards


def _make(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        known = {SET, SHARDS, "patches", "lock"}
        strange = [each.name for each in directory.iterdir() if each.name not in known]
        if any(not name.endswith(".part") for name in strange):
            raise PermanentError(
                f"{directory} holds something else than embeddings",
                hint="Name a new directory by --out.",
            )
        (directory / SHARDS).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise PermanentError(
            f"{directory} cannot be used: {error.strerror}",
            hint="Name a directory of your own.",
        ) from error


def _shards(directory: Path) -> list[Path]:
    return sorted((directory / SHARDS).glob("*.safetensors"))


def _read_shards(
    directory: Path, scope: str, pooling: str
) -> tuple[dict[str, Vector], dict[str, Entry]]:
    vectors: dict[str, Vector] = {}
    entries: dict[str, Entry] = {}
    for path in _shards(directory):
        told, stacked = _open_shard(path)
        if told["scope"] != scope:
            raise _of_another(directory, told, scope, pooling)
        vectors.update(zip(told["keys"], stacked, strict=True))
        entries |= told["entries"]
    return vectors, entries


def _of_another(
    directory: Path, told: Mapping[str, Any], scope: str, pooling: str
) -> PermanentError:
    """What is wrong with a directory whose vectors were made otherwise than they are wanted."""
    # All of a scope (`inference.bundle.embedding_scope`) but the features is alike.
    alike = told["scope"].split("|")[:3] == scope.split("|")[:3]
    if alike and pooling and told["pooling"] and pooling != told["pooling"]:
        return PermanentError(
            f"{directory} holds embeddings of the pooling {told['pooling']!r}; those of the pooling"
            f" {pooling!r} are asked for",
            hint=f"Make those with `triage embed --pooling {pooling}` in another directory, or"
            f" train with --pooling {told['pooling']}.",
        )
    return PermanentError(
        f"{directory} holds embeddings of another encoder, rendering or arithmetic",
        hint="Name another directory.",
    )


def _open_shard(path: Path) -> tuple[dict[str, Any], NDArray[np.float32]]:
    try:
        with safe_open(path, framework="numpy") as file:
            told = file.metadata() or {}
            stacked = file.get_tensor("vectors")
        read = {
            "scope": told["scope"],
            "pooling": told["pooling"],
            "keys": json.loads(told["keys"]),
            "entries": {
                part: Entry(keys=tuple(keys), reason=reason)
                for part, (keys, reason) in json.loads(told["entries"]).items()
            },
        }
        sound = (
            told["format"] == FORMAT
            and stacked.dtype == np.float32
            and stacked.ndim == 2
            and len(stacked) == len(read["keys"])
            and bool(np.isfinite(stacked).all())
        )
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise _damaged(path) from error
    if not sound:
        raise _damaged(path)
    return read, stacked


def _assembled(document: Mapping[str, Any], vectors: Mapping[str, Vector]) -> EmbeddingSet:
    """KeyError where a vector is missing."""
    keys = {
        subject: tuple(key for part in parts for key in part)
        for subject, parts in document["subjects"].items()
    }
    return EmbeddingSet(
        subjects=tuple(keys),
        vectors=tuple(np.stack([vectors[key] for key in some]) for some in keys.values()),
        parts=tuple(tuple(map(len, parts)) for parts in document["subjects"].values()),
        keys=tuple(keys.values()),
        scope=document["scope"],
        pooling=document["pooling"],
        left_out=tuple(LeftOut(line=line, reason=why) for line, why in document["left_out"]),
    )


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        part.unlink(missing_ok=True)
        reason = f"{path.parent} cannot be written to: {error.strerror}"
        if error.errno in _NO_SPACE:
            raise OutOfSpace(reason, hint="Free space there, then run again.") from error
        raise PermanentError(reason, hint="Check the directory named by --out.") from error


def _damaged(path: Path) -> PermanentError:
    return PermanentError(
        f"{path} is damaged or of another version",
        hint="Delete that file and run `triage embed` again: what it held is computed anew.",
    )
