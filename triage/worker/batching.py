"""Views of many subjects become batches, and batches become one vector per view.

Owns which views are computed at all: one that is in the embedding cache is not, and one that
occurs twice is once (DESIGN section 3.8). A view that fails takes its own subject along and no
other. Knows no SQL.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from triage.errors import TriageError
from triage.worker.models import Encoded, LoadedModel, Vector, View

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """The views of one subject as one model wants them, with the digest of each."""

    views: NDArray[np.float32]  # (V, C, S, S)
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """The vectors of one subject. `features` are None for views that came from the cache."""

    keys: tuple[str, ...]
    vectors: NDArray[np.float32]  # (V, D)
    features: tuple[object | None, ...]


def cache_key(view_digest: str, cache_scope: str) -> str:
    """Return the key under which the embedding of a view is kept."""
    return hashlib.sha256(f"{view_digest}|{cache_scope}".encode()).hexdigest()


def embed_subjects(
    model: LoadedModel,
    subjects: Sequence[Views],
    *,
    cached: Mapping[str, Vector],
    batch_size: int,
) -> list[Embedded | TriageError]:
    """Embed all subjects in common batches; each view is computed once, however often it occurs.

    A subject with a view that fails gets that view's error. Raises DeviceFault.
    """
    missing: dict[str, View] = {}
    for subject in subjects:
        for digest, view in zip(subject.digests, subject.views, strict=True):
            key = cache_key(digest, model.cache_scope)
            if key not in cached:
                missing.setdefault(key, view)
    if missing:
        log.debug("views_encoded", keys=list(missing))
    answers = encode_all(model, list(missing.values()), batch_size=batch_size)
    fresh = dict(zip(missing, answers, strict=True))
    return [_gather(subject, model.cache_scope, cached, fresh) for subject in subjects]


def encode_all(
    model: LoadedModel, views: Sequence[View], *, batch_size: int
) -> list[Encoded | TriageError]:
    """Encode any number of views, `batch_size` at a time; one answer for each, in order."""
    answers: list[Encoded | TriageError] = []
    for first in range(0, len(views), batch_size):
        answers.extend(model.encode(views[first : first + batch_size]))
    return answers


def _gather(
    subject: Views,
    cache_scope: str,
    cached: Mapping[str, Vector],
    fresh: Mapping[str, Encoded | TriageError],
) -> Embedded | TriageError:
    keys = tuple(cache_key(digest, cache_scope) for digest in subject.digests)
    vectors: list[Vector] = []
    features: list[object | None] = []
    for key in keys:
        if key in cached:
            vectors.append(cached[key])
            features.append(None)
            continue
        answer = fresh[key]
        if isinstance(answer, TriageError):
            return answer
        vectors.append(answer.vector)
        features.append(answer.features)
    return Embedded(keys=keys, vectors=np.stack(vectors), features=tuple(features))
