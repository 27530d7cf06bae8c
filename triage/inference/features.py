"""What turns the tokens of a tower into a bundle's vector: learned queries and caption terms.

Owns the arrays of `pooling.safetensors`, the words of `terms.json`, and the arithmetic on text;
the arithmetic on tokens runs beside the tower in `encoder`. Numpy only. Sources: queries on a
frozen middle layer as in MedBridge (arXiv 2505.21698); TF-IDF as in Salton and Buckley (1988).
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triage.errors import BundleError

NORM_EPSILON: Final = 1e-6  # of the layer norm before the queries
WORD: Final = re.compile(r"[a-z]{2,}")
MAXIMUM_TERMS: Final = 20_000
MAXIMUM_CAPTION_TOKENS: Final = 1024
TERM_KEYS: Final = frozenset({"terms", "idf", "maximum_new_tokens", "prompt_digest"})


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryPooling:
    """Q learned queries over tokens of width W; the vector is Q * P values, query after query.

    softmax(queries @ (norm(tokens) @ key)^T / sqrt(W)) @ (norm(tokens) @ value), the layer norm
    with NORM_EPSILON.
    """

    queries: NDArray[np.float32]  # (Q, W)
    key: NDArray[np.float32]  # (W, W)
    value: NDArray[np.float32]  # (W, P)
    norm_weight: NDArray[np.float32]  # (W,)
    norm_bias: NDArray[np.float32]  # (W,)

    @property
    def width(self) -> int:
        """Q * P."""
        return int(len(self.queries) * self.value.shape[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Words and pairs of words that captions are counted by, and how the captions are made."""

    terms: tuple[str, ...]  # lower case; a pair has one space
    idf: tuple[float, ...]  # one per term
    maximum_new_tokens: int  # of the captions
    prompt_digest: str  # captioner.prompt_digest(maximum_new_tokens) at the time of fitting


# --- queries


def pooling_arrays(pooling: QueryPooling) -> dict[str, NDArray[np.float32]]:
    """The arrays of `pooling.safetensors`."""
    return {
        field.name: np.ascontiguousarray(getattr(pooling, field.name), np.float32)
        for field in fields(pooling)
    }


def read_pooling(arrays: Mapping[str, NDArray[Any]]) -> QueryPooling:
    """Make the pooling from the arrays of its file; raises BundleError."""
    wanted = {field.name for field in fields(QueryPooling)}
    if odd := wanted ^ set(arrays):
        raise BundleError(
            f"the pooling does not consist of {', '.join(sorted(wanted))}: {min(odd)}"
        )
    pooling = QueryPooling(**{name: np.asarray(arrays[name], np.float32) for name in wanted})
    check_pooling(pooling)
    return pooling


def check_pooling(pooling: QueryPooling) -> None:
    """Raise BundleError unless all arrays are finite and of shapes that fit."""
    if pooling.queries.ndim != 2 or pooling.value.ndim != 2 or not pooling.width:
        raise BundleError("the pooling has queries or values of unfitting shape")
    size = pooling.queries.shape[1]
    fitting = {
        "key": (size, size),
        "value": (size, pooling.value.shape[1]),
        "norm_weight": (size,),
        "norm_bias": (size,),
    }
    for name, shape in fitting.items():
        if getattr(pooling, name).shape != shape:
            raise BundleError(f"the pooling has a {name} of unfitting shape")
    for field in fields(pooling):
        if not np.isfinite(getattr(pooling, field.name)).all():
            raise BundleError(f"the pooling holds values that are not finite in {field.name}")


# --- terms of captions


def terms_of(text: str) -> list[str]:
    """Words of two letters and more, lower case, and pairs of neighbours, in order."""
    words = WORD.findall(text.lower())
    return [*words, *(f"{a} {b}" for a, b in pairwise(words))]


def fit_terms(
    captions: Sequence[str],
    *,
    maximum_new_tokens: int,
    prompt_digest: str,
    least_captions: int = 2,
    maximum_terms: int = 300,
) -> Terms:
    """Choose the terms of most captions (least_captions at least) and weigh them.

    idf = ln((1 + captions) / (1 + captions with the term)) + 1. Fit on training captions only.
    """
    seen = Counter(term for caption in captions for term in set(terms_of(caption)))
    usual = [(term, count) for term, count in seen.items() if count >= least_captions]
    kept = sorted(sorted(usual, key=lambda entry: (-entry[1], entry[0]))[:maximum_terms])
    return Terms(
        terms=tuple(term for term, _ in kept),
        idf=tuple(math.log((1 + len(captions)) / (1 + count)) + 1.0 for _, count in kept),
        maximum_new_tokens=maximum_new_tokens,
        prompt_digest=prompt_digest,
    )


def tfidf(terms: Terms, captions: Iterable[str]) -> NDArray[np.float32]:
    """Counts times idf (B, T), each row of length one; zeros where no term occurs."""
    rows = []
    for caption in captions:
        counts = Counter(terms_of(caption))
        row = np.array([counts[term] for term in terms.terms]) * np.array(terms.idf)
        rows.append(row / max(float(np.linalg.norm(row)), 1e-12))
    return np.asarray(rows, np.float32).reshape(len(rows), len(terms.terms))


def terms_text(terms: Terms) -> str:
    """The text of `terms.json`."""
    document = {key: getattr(terms, key) for key in sorted(TERM_KEYS)}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def read_terms(data: bytes) -> Terms:
    """Read `terms.json`; raises BundleError."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleError("terms.json is no JSON") from error
    if not isinstance(document, dict) or set(document) != TERM_KEYS:
        raise BundleError(f"terms.json does not consist of {', '.join(sorted(TERM_KEYS))}")
    words, idf = document["terms"], document["idf"]
    if not isinstance(words, list) or not isinstance(idf, list) or len(words) != len(idf):
        raise BundleError("terms.json has not one idf for each term")
    if not all(isinstance(word, str) and terms_of(word)[-1:] == [word] for word in words):
        raise BundleError("terms.json holds a term that no caption can have")
    if not all(type(weight) in (int, float) and math.isfinite(weight) for weight in idf):
        raise BundleError("terms.json holds an idf that is no number")
    if not 1 <= len(set(words)) <= MAXIMUM_TERMS or len(set(words)) != len(words):
        raise BundleError(f"terms.json holds not 1 to {MAXIMUM_TERMS} different terms")
    longest, digest = document["maximum_new_tokens"], document["prompt_digest"]
    if type(longest) is not int or not 1 <= longest <= MAXIMUM_CAPTION_TOKENS:
        raise BundleError("terms.json has a maximum_new_tokens out of range")
    if not isinstance(digest, str):
        raise BundleError("terms.json has no prompt_digest")
    return Terms(
        terms=tuple(words),
        idf=tuple(float(weight) for weight in idf),
        maximum_new_tokens=longest,
        prompt_digest=digest,
    )
