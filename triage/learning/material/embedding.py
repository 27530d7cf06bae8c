"""Embed labelled subjects: each view once, kept as soon as it is computed, in any number of runs.

Reads ahead while the encoder works, by few rows at a time, so that memory holds one batch of views
and the series that are being decoded. A view that fails takes its row along and no other; what a
row is left out for stands in the set. A device that fails ends the run: nothing computed is lost.
"""

import hashlib
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from triage.errors import TriageError
from triage.learning.material.embedding_set import (
    Cache,
    EmbeddingSet,
    Entry,
    LeftOut,
    Vector,
    open_cache,
)
from triage.learning.material.images import (
    UNREADABLE,
    Decoder,
    Drawn,
    Images,
    Part,
    images_at,
)
from triage.learning.material.labels import LabelRow
from triage.learning.material.lens import Lens
from triage.learning.material.patches import Patches
from triage.learning.progress import Progress
from triage.records import ViewSpec
from triage.worker.batching import cache_key
from triage.worker.models import Encoded, View

BATCH_SIZE: Final = 16  # views
DECODE_PROCESSES: Final = 2


def embed_rows(
    rows: Sequence[LabelRow],
    images: Images | Path,
    lens: Lens,
    out: Path,
    *,
    batch_size: int = BATCH_SIZE,
    decode_processes: int = DECODE_PROCESSES,
    patch_mib: int | None = None,
    skip_unreadable: bool = False,
    progress: Progress | None = None,
) -> EmbeddingSet:
    """Embed the subjects of `rows` into the directory `out`, going on where a run has stopped.

    `images` is a directory that files are relative to, or where studies are found. With
    `patch_mib` the tokens of every view are kept too; then `lens` keeps tokens. Rows whose images
    cannot be read are in `left_out`; one that names what is not there raises LabelError first,
    unless `skip_unreadable`. Raises PermanentError, OutOfSpace, DeviceFault, DatabaseUnavailable.
    """
    places = images_at(images)
    if not skip_unreadable:
        places.require(rows)
    with (
        open_cache(out, lens.scope, pooling=lens.pooling) as cache,
        Decoder(decode_processes) as decoder,
    ):
        patches = None
        if patch_mib is not None:
            patches = Patches(out, patch_mib)
            tokens, width = lens.token_shape()
            patches.require_room(len(rows), tokens=tokens, width=width)
        run = _Run(
            lens=lens,
            images=places,
            cache=cache,
            decoder=decoder,
            patches=patches,
            batch_size=batch_size,
            progress=progress,
        )
        ahead: deque[_Begun] = deque()
        for row in rows:
            ahead.append(run.begin(row))
            if len(ahead) > 2 * decode_processes:
                run.take(ahead.popleft())
        while ahead:
            run.take(ahead.popleft())
        run.flush()
        return run.finish(rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begun:
    """A row whose images are being decoded: those parts that nothing is known of yet."""

    row: LabelRow
    drawing: Mapping[str, tuple[Part, Callable[[], Drawn]]]  # by name of the part


class _Run:
    """One run over the rows; of one thread."""

    def __init__(
        self,
        *,
        lens: Lens,
        images: Images,
        cache: Cache,
        decoder: Decoder,
        patches: Patches | None,
        batch_size: int,
        progress: Progress | None,
    ) -> None:
        self._lens, self._images, self._cache = lens, images, cache
        self._decoder, self._patches = decoder, patches
        self._batch_size, self._progress = batch_size, progress
        self._parts: dict[int, list[str]] = {}  # names of the parts of each row, by its line
        self._failed: dict[str, str] = {}  # part or row (by its line): why
        # What waits for the next batch.
        self._entries: dict[str, Entry] = {}
        self._views: dict[str, View] = {}  # by cache key
        self._studies: dict[str, int] = {}  # cache key: its study
        self._waiting = 0  # rows

    def begin(self, row: LabelRow) -> _Begun:
        """Have decoded what is not known of a row."""
        drawing: dict[str, tuple[Part, Callable[[], Drawn]]] = {}
        try:
            parts = self._images.parts(row)
            named = {name_of(part, self._lens.spec): part for part in parts}
            self._parts[row.line] = list(named)
            for name, part in named.items():
                if not self._is_known(name):
                    drawing[name] = (part, self._decoder.draw(part, self._lens.spec))
        except UNREADABLE as error:
            self._failed[str(row.line)] = str(error)
        return _Begun(row=row, drawing=drawing)

    def take(self, begun: _Begun) -> None:
        """Wait for the views of a row and put them to the batch; a full one is computed."""
        for name, (part, drawn) in begun.drawing.items():
            try:
                self._note(name, part, drawn())
            except UNREADABLE as error:
                self._failed[name] = str(error)
        if begun.drawing:
            self._waiting += 1
        elif self._progress:
            self._progress.advance(free=True)
        if len(self._views) >= self._batch_size:
            self.flush()

    def flush(self) -> None:
        """Compute what waits, and keep it: first where the images are, then in the directory."""
        views, self._views = self._views, {}
        entries, self._entries = self._entries, {}
        known = self._images.known([key for key in views if key not in self._cache.vectors])
        unknown = [key for key in views if key not in known or self._lacks_tokens(key)]
        vectors, failed = self._encode({key: views[key] for key in unknown})
        self._give({key: vector for key, vector in vectors.items() if key not in known})
        for name, entry in list(entries.items()):
            if bad := next((failed[key] for key in entry.keys if key in failed), None):
                self._failed[name] = bad
                del entries[name]
        fresh = vectors | known
        self._cache.add(
            {key: v for key, v in fresh.items() if key not in self._cache.vectors}, entries
        )
        if self._progress and self._waiting:
            self._progress.advance(self._waiting)
        self._waiting = 0

    def finish(self, rows: Sequence[LabelRow]) -> EmbeddingSet:
        """Write the set."""
        subjects: dict[str, list[Entry]] = {}
        left_out: list[LeftOut] = []
        for row in rows:
            entries, reason = self._entries_of(row)
            if reason:
                left_out.append(LeftOut(line=row.line, reason=reason))
            else:
                subjects[row.subject] = entries
        return self._cache.finish(subjects, left_out)

    def _entries_of(self, row: LabelRow) -> tuple[list[Entry], str]:
        """The parts of a row that have views; where none has, or one has failed, why."""
        names = self._parts.get(row.line, [])
        for failed in (str(row.line), *names):
            if failed in self._failed:
                return [], self._failed[failed]
        entries = [self._cache.entries[name] for name in names]
        seen = [entry for entry in entries if entry.keys]
        return seen, "" if seen else next((entry.reason for entry in entries), "no images")

    def _is_known(self, name: str) -> bool:
        entry = self._cache.entries.get(name)
        return entry is not None and not any(
            key not in self._cache.vectors or self._lacks_tokens(key) for key in entry.keys
        )

    def _lacks_tokens(self, key: str) -> bool:
        return self._patches is not None and key not in self._patches

    def _note(self, name: str, part: Part, drawn: Drawn) -> None:
        if drawn.reason:
            self._entries[name] = Entry(reason=drawn.reason)
            return
        keys = tuple(cache_key(digest, self._lens.scope) for digest in drawn.digests)
        self._entries[name] = Entry(keys=keys)
        for key, view in zip(keys, drawn.views, strict=True):
            if key not in self._cache.vectors or self._lacks_tokens(key):
                self._views[key] = view
            if part.study_id is not None:
                self._studies[key] = part.study_id

    def _encode(self, views: Mapping[str, View]) -> tuple[dict[str, Vector], dict[str, str]]:
        """Vectors by key, and why there is none; tokens are kept on the way."""
        vectors: dict[str, Vector] = {}
        failed: dict[str, str] = {}
        keys = list(views)
        for first in range(0, len(keys), self._batch_size):
            some = keys[first : first + self._batch_size]
            answers = self._lens.encode([views[key] for key in some])
            for key, answer in zip(some, answers, strict=True):
                if isinstance(answer, TriageError):
                    failed[key] = str(answer)
                    continue
                if self._patches is not None and self._lacks_tokens(key):
                    self._patches.add(key, _tokens(answer))
                vectors[key] = np.ascontiguousarray(answer.vector, np.float32)
        return vectors, failed

    def _give(self, vectors: Mapping[str, Vector]) -> None:
        by_study: dict[int, dict[str, Vector]] = defaultdict(dict)
        for key, vector in vectors.items():
            if key in self._studies:
                by_study[self._studies[key]][key] = vector
        self._studies.clear()
        if by_study:
            self._images.give(by_study)


def name_of(part: Part, spec: ViewSpec) -> str:
    """Return what a part's entry is kept under: its files and all that is made of them."""
    return hashlib.sha256(f"{part.digest}|{astuple(spec)}".encode()).hexdigest()


def _tokens(answer: Encoded) -> Any:
    features: Any = answer.features
    return features.float().cpu().numpy()
