"""The files of a bundle beside `bundle.json`: their names, their arrays, and what must fit what.

Each reader takes the bytes of a file whose digest was as listed, and raises BundleError where
they do not fit the manifest. Which files there are, and whether they are listed, is `bundle`'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from triage.errors import BundleError
from triage.inference.bundle_fields import Manifest
from triage.inference.calibration import Calibration, read_calibration
from triage.inference.features import QueryPooling, Terms, read_pooling, read_terms
from triage.inference.heads import Head, LinearHead, check_head, finding_count, read_head
from triage.inference.patients import Patients, read_patients

MANIFEST: Final = "bundle.json"
CARD: Final = "card.md"
HEAD: Final = "head.safetensors"
CALIBRATION: Final = "calibration.safetensors"
POOLING: Final = "pooling.safetensors"
TERMS: Final = "terms.json"
PATIENTS: Final = "patients.safetensors"  # may be missing: then it is not known whom it has seen
BANK: Final = "bank.safetensors"
KNOWN_ANSWER: Final = "known_answer.safetensors"
KNOWN_ANSWERS: Final = "known_answers"  # directory of later recordings
BUNDLED: Final = frozenset({CARD, HEAD, CALIBRATION, POOLING, TERMS, PATIENTS, BANK, KNOWN_ANSWER})
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bank:
    """In-distribution embeddings that a new one is held against."""

    mean: NDArray[np.float32]  # (D,)
    scale: NDArray[np.float32]  # (D,)
    units: NDArray[np.float32]  # (N, D) standardised, of length one


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownAnswer:
    """An image and the embedding that each kind of hardware gave for it."""

    image: NDArray[np.float32]  # (C, S, S) in 0..1
    vectors: Mapping[str, NDArray[np.float32]]  # by `answer_key`, (D,)


def check_list(manifest: Manifest) -> None:
    """Raise BundleError unless exactly the files are listed that the manifest speaks of."""
    wanted = {CARD, KNOWN_ANSWER}
    wanted |= {HEAD} if manifest.head_kind else set()
    wanted |= {CALIBRATION} if manifest.calibration else set()
    wanted |= {BANK} if manifest.gate else set()
    wanted |= {POOLING} if manifest.features.pooling == "queries" else set()
    wanted |= {TERMS} if manifest.features.captions else set()
    listed = set(manifest.files)
    if odd := listed - BUNDLED:
        raise BundleError(f"{MANIFEST} lists {min(odd)}, which is no part of a bundle")
    if missing := wanted - listed:
        raise BundleError(f"{MANIFEST} does not list {min(missing)}, of which it speaks")
    optional = {PATIENTS} if manifest.schema_version > 1 else set()
    if odd := listed - wanted - optional:
        raise BundleError(f"{MANIFEST} lists {min(odd)}, of which it does not speak")
    if manifest.schema_version > 1 and bool(manifest.calibration) != bool(manifest.head_kind):
        raise BundleError(f"{MANIFEST} has a head without a calibration, or the reverse")


def head_of(files: Mapping[str, bytes], manifest: Manifest) -> tuple[Head, Calibration] | None:
    """Head and calibration; None for a bundle without."""
    if manifest.head_kind is None:
        return None
    count = len(manifest.findings)
    arrays = arrays_of(files[HEAD], HEAD)
    if manifest.calibration is None:
        return _with_platt(arrays, count)
    head = read_head(manifest.head_kind, arrays)
    if finding_count(head) != count:
        raise BundleError(f"{HEAD} does not fit the {count} findings of {MANIFEST}")
    kind = manifest.calibration.kind
    return head, read_calibration(kind, arrays_of(files[CALIBRATION], CALIBRATION), count)


def _with_platt(arrays: Arrays, count: int) -> tuple[LinearHead, Calibration]:
    """Version 1: one file with a linear head and Platt's parameters.

    The highest probability of all views counted. A finding with a negative slope has its scores
    turned round, exactly, so that it has the highest logit in the same view.
    """
    names = ("mean", "scale", "weights", "intercept", "platt_slope", "platt_intercept")
    mean, scale, weights, intercept, slope, shift = (
        floats(arrays, name, HEAD).astype(np.float64) for name in names
    )
    if {slope.shape, shift.shape, intercept.shape, weights.shape[:1]} != {(count,)}:
        raise BundleError(f"{HEAD} does not fit the {count} findings of {MANIFEST}")
    sign = np.where(slope < 0, -1.0, 1.0)
    head = LinearHead(
        mean=mean, scale=scale, weights=weights * sign[:, None], intercept=intercept * sign
    )
    check_head(head)
    calibration = Calibration(
        kind="platt", slope=slope * sign, intercept=shift, shift=np.zeros(count)
    )
    return head, calibration


def bank_of_file(data: bytes | None, manifest: Manifest) -> Bank | None:
    """The bank; None for a bundle without a gate."""
    if data is None or manifest.gate is None:
        return None
    arrays = arrays_of(data, BANK)
    mean, scale = floats(arrays, "mean", BANK), floats(arrays, "scale", BANK)
    vectors = floats(arrays, "vectors", BANK)
    if (
        vectors.ndim != 2
        or mean.shape != scale.shape
        or vectors.shape[1:] != mean.shape
        or len(vectors) < manifest.gate.neighbours
        or not (scale > 0).all()
    ):
        raise BundleError(f"{BANK} has arrays of unfitting shape")
    return Bank(mean=mean, scale=scale, units=unit_rows((vectors - mean) / scale))


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length one; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


def known_answer_of(data: bytes, manifest: Manifest) -> KnownAnswer:
    """The known image with its answers."""
    arrays = arrays_of(data, KNOWN_ANSWER)
    image = arrays.get("image")
    side = manifest.view.size_px
    if (
        image is None
        or image.dtype != np.uint8
        or image.shape not in {(c, side, side) for c in (1, 3)}
    ):
        raise BundleError(f"{KNOWN_ANSWER} needs an 8-bit image of {side} px")
    return KnownAnswer(
        image=image.astype(np.float32) / 255.0,
        vectors={key: floats(arrays, key, KNOWN_ANSWER) for key in arrays if key != "image"},
    )


def pooling_of(data: bytes | None) -> QueryPooling | None:
    """The learned queries; None for a bundle without."""
    return None if data is None else read_pooling(arrays_of(data, POOLING))


def terms_of_file(data: bytes | None) -> Terms | None:
    """The terms of captions; None for a bundle without."""
    return None if data is None else read_terms(data)


def patients_of(data: bytes | None) -> Patients | None:
    """Whom the bundle has seen; None for a bundle that does not record it."""
    return None if data is None else read_patients(arrays_of(data, PATIENTS))


def arrays_of(data: bytes, name: str) -> Arrays:
    """All arrays of a safetensors file, finite where they are floating point."""
    try:
        arrays = load_arrays(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise BundleError(f"{name} is no safetensors file") from error
    for key, array in arrays.items():
        if not np.isfinite(array).all():
            raise BundleError(f"{name} holds values that are not finite in {key}")
    return arrays


def floats(arrays: Arrays, key: str, name: str) -> NDArray[np.float32]:
    """One floating point array as float32."""
    array = arrays.get(key)
    if array is None or array.dtype not in (np.float16, np.float32):
        raise BundleError(f"{name} lacks the floating point array {key}")
    return array.astype(np.float32)
