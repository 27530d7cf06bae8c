"""Whom a bundle has seen, as keyed hashes: so that it is not judged on them unawares.

Owns the arrays of `patients.safetensors`; what names a patient belongs to `learning`. The key is
drawn for each training and goes with the hashes, so no identifier stands in the file and the files
of two trainings cannot be held against each other. It is no secret: who has the bundle can try
identifiers that he knows. Guard it as a list of pseudonyms.
"""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triage.errors import BundleError

USES: Final = ("train", "val", "test", "calibration")
KEY: Final = "key"
KEY_BYTES: Final = 32
# Of a hash: among 100,000 patients a stranger is taken for one of them once in 1e14.
HASH_BYTES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Patients:
    """Hashes (N,) by use, rising, none twice. A use that is missing was not recorded."""

    key: bytes
    seen: Mapping[str, NDArray[np.uint64]] = field(default_factory=dict)


def new_patients(seen: Mapping[str, Sequence[str]]) -> Patients:
    """Hash the names of each use with a key of their own."""
    patients = Patients(key=secrets.token_bytes(KEY_BYTES))
    for use, names in seen.items():
        patients = with_seen(patients, use, names)
    return patients


def with_seen(patients: Patients, use: str, names: Sequence[str]) -> Patients:
    """Add names to those of a use."""
    old = patients.seen.get(use, np.empty(0, np.uint64))
    return replace(
        patients, seen={**patients.seen, use: np.union1d(old, _hashes(patients.key, names))}
    )


def seen_among(patients: Patients, names: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    """For each recorded use, which of the names (N,) it has seen."""
    hashes = _hashes(patients.key, names)
    return {use: np.isin(hashes, held) for use, held in patients.seen.items()}


def patients_arrays(patients: Patients) -> dict[str, NDArray[Any]]:
    """The arrays of `patients.safetensors`."""
    return {KEY: np.frombuffer(patients.key, np.uint8), **patients.seen}


def read_patients(arrays: Mapping[str, NDArray[Any]]) -> Patients:
    """Make the record from the arrays of its file; raises BundleError."""
    if odd := set(arrays) - {KEY, *USES}:
        raise BundleError(f"the record of patients has no use for the array {min(odd)}")
    key = arrays.get(KEY)
    if key is None or key.dtype != np.uint8 or key.shape != (KEY_BYTES,):
        raise BundleError("the record of patients has no key")
    seen = {use: arrays[use] for use in USES if use in arrays}
    if any(array.dtype != np.uint64 or array.ndim != 1 for array in seen.values()):
        raise BundleError("the record of patients holds something else than hashes")
    return Patients(key=key.tobytes(), seen=seen)


def _hashes(key: bytes, names: Sequence[str]) -> NDArray[np.uint64]:
    hashes = (hashlib.blake2b(name.encode(), digest_size=HASH_BYTES, key=key) for name in names)
    return np.array([int.from_bytes(each.digest(), "little") for each in hashes], np.uint64)
