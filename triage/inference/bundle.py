"""A model bundle on disk: read it, check it, hand out its parts.

A bundle is a directory (DESIGN section 3.10): `bundle.json` lists every other file with its
SHA-256, names the encoder directory with the digests of its files, and says how images are
rendered, what the findings are, when they are flagged, and for which images the model was made.
Arrays are safetensors; pickles are refused, and so is any file that the list does not name.
The identity of a bundle is the SHA-256 of its canonical `bundle.json`, which holds all others.

Known answers of hardware met later stand in `known_answers/`, outside the digest: they belong
to a machine, not to the model. Nothing here imports torch; `bundle_making` writes bundles.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from triage.errors import BundleError
from triage.inference.bundle_fields import Manifest, read_manifest
from triage.records import ModelIdentity, ViewSpec
from triage.rules.eligibility import IntendedUse

MANIFEST: Final = "bundle.json"
CARD: Final = "card.md"
HEAD: Final = "head.safetensors"
BANK: Final = "bank.safetensors"
KNOWN_ANSWER: Final = "known_answer.safetensors"
KNOWN_ANSWERS: Final = "known_answers"  # directory of later recordings
MAXIMUM_MANIFEST_BYTES: Final = 1 << 20
MAXIMUM_FILE_BYTES: Final = 256 << 20  # of head, bank, known answer and card
BUNDLED: Final = frozenset({CARD, HEAD, BANK, KNOWN_ANSWER})
WEIGHT_SUFFIXES: Final = frozenset({".safetensors"})
TEXT_SUFFIXES: Final = frozenset({".json", ".jinja", ".model", ".txt"})
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Standardised linear head, Platt-calibrated: F findings over D features, all float64."""

    mean: NDArray[np.float64]  # (D,)
    scale: NDArray[np.float64]  # (D,)
    weights: NDArray[np.float64]  # (F, D)
    intercept: NDArray[np.float64]  # (F,)
    platt_slope: NDArray[np.float64]  # (F,)
    platt_intercept: NDArray[np.float64]  # (F,)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle whose files were all as listed when it was read."""

    directory: Path
    identity: ModelIdentity
    manifest: Manifest
    head: Head | None  # None: no classifier for this encoder
    bank: Bank | None
    known_answer: KnownAnswer
    card: str

    @property
    def view_spec(self) -> ViewSpec:
        return self.manifest.view

    @property
    def intended_use(self) -> IntendedUse:
        return self.manifest.intended_use

    @property
    def not_for_clinical_use(self) -> bool:
        return self.manifest.not_for_clinical_use

    @property
    def width(self) -> int | None:
        """Features of an embedding; None where no answer and no head say it."""
        if self.head is not None:
            return self.head.mean.size
        return next((vector.size for vector in self.known_answer.vectors.values()), None)

    @property
    def encoder_directory(self) -> Path:
        return self.directory / self.manifest.encoder.path  # an absolute path stands alone

    @property
    def encoder_digest(self) -> str:
        """SHA-256 over names and digests of the encoder's files."""
        return digest_of(self.manifest.encoder.files)


def load_bundle(directory: Path | str, *, check_encoder: bool = True) -> Bundle:
    """Read the bundle in `directory`; raises BundleError unless every file is as listed.

    `check_encoder` also reads the encoder's weights, which takes seconds for gigabytes.
    """
    directory = Path(directory)
    raw = _read(directory / MANIFEST, MAXIMUM_MANIFEST_BYTES)
    manifest = read_manifest(_json_object(raw, directory))
    _refuse_strangers(directory, manifest)
    files = {name: _checked(directory / name, digest) for name, digest in manifest.files.items()}
    bundle = Bundle(
        directory=directory,
        identity=ModelIdentity(
            name=manifest.name, version=manifest.version, digest=digest_of(json.loads(raw))
        ),
        manifest=manifest,
        head=_head(files.get(HEAD), manifest),
        bank=_bank(files.get(BANK), manifest),
        known_answer=_known_answer(files[KNOWN_ANSWER], manifest),
        card=files[CARD].decode("utf-8", errors="replace"),
    )
    check_widths(bundle)
    if check_encoder:
        verify_encoder(bundle)
    return bundle


def verify_bundle(directory: Path | str) -> Bundle:
    """Check every file of bundle and encoder; the same as loading with all checks."""
    return load_bundle(directory, check_encoder=True)


def verify_encoder(bundle: Bundle) -> None:
    """Raise BundleError unless the encoder directory holds exactly the files listed."""
    listed = bundle.manifest.encoder.files
    found = encoder_files(bundle.encoder_directory)
    if set(found) != set(listed):
        odd = sorted(set(found) ^ set(listed))
        raise BundleError(
            f"the encoder of bundle {bundle.identity.name} has other files than listed: {odd[0]}"
        )
    for name, path in found.items():
        if digest_of_file(path) != listed[name]:
            raise BundleError(f"{path} has changed since the bundle was made")


def encoder_files(directory: Path) -> dict[str, Path]:
    """Files of an encoder directory that are read or digested, by name; BundleError if none.

    Pickled weights (.bin, .pt, ...) and folders are passed over: they are never opened.
    """
    if not directory.is_dir():
        raise BundleError(f"the encoder directory {directory} does not exist")
    found = {
        path.name: path
        for path in sorted(directory.iterdir())
        if path.is_file() and path.suffix in WEIGHT_SUFFIXES | TEXT_SUFFIXES
    }
    if "config.json" not in found or not any(
        path.suffix in WEIGHT_SUFFIXES for path in found.values()
    ):
        raise BundleError(f"{directory} holds no config.json with safetensors weights")
    return found


def answer_key(dtype: str, device_class: str) -> str:
    """Name of the kind of hardware that a known answer belongs to."""
    return f"{dtype}-{device_class}"


def known_vector(bundle: Bundle, key: str, recorded: Path | None) -> NDArray[np.float32] | None:
    """The embedding that hardware `key` must give, from the bundle or a later recording.

    `recorded` is a directory of recordings outside the bundle, for a bundle that is read-only.
    """
    if key in bundle.known_answer.vectors:
        return bundle.known_answer.vectors[key]
    for folder in (recorded, bundle.directory / KNOWN_ANSWERS):
        path = folder and folder / answer_file(bundle, key)
        if path and path.is_file():
            arrays = _arrays(_read(path, MAXIMUM_FILE_BYTES), path.name)
            return _float32(arrays, key, path.name)
    return None


def answer_file(bundle: Bundle, key: str) -> str:
    """File name of a recording: it holds for one encoder on one kind of hardware."""
    return f"{bundle.encoder_digest[:16]}-{key}.safetensors"


def digest_of(value: object) -> str:
    """SHA-256 hex of the canonical JSON of `value`."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def digest_of_file(path: Path) -> str:
    """SHA-256 hex of the bytes of a file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error


# --- parts


def _refuse_strangers(directory: Path, manifest: Manifest) -> None:
    """Files that the list does not name, or names outside the known ones, are an error."""
    if odd := set(manifest.files) - BUNDLED:
        raise BundleError(f"{directory} lists {min(odd)}, which is no part of a bundle")
    if missing := {CARD, KNOWN_ANSWER} - set(manifest.files):
        raise BundleError(f"{directory} does not list {min(missing)}")
    present = {path.name for path in directory.iterdir() if path.is_file()}
    if odd := present - set(manifest.files) - {MANIFEST}:
        raise BundleError(f"{directory / min(odd)} is not listed in {MANIFEST}")


def _head(data: bytes | None, manifest: Manifest) -> Head | None:
    if data is None:
        if manifest.findings:
            raise BundleError(f"bundle {manifest.name} names findings but has no {HEAD}")
        return None
    arrays = _arrays(data, HEAD)
    names = ("mean", "scale", "weights", "intercept", "platt_slope", "platt_intercept")
    head = Head(**{name: _float32(arrays, name, HEAD).astype(np.float64) for name in names})
    count, width = len(manifest.findings), head.mean.size
    shapes = {name: getattr(head, name).shape for name in names}
    expected: dict[str, tuple[int, ...]] = dict.fromkeys(names, (count,)) | {
        "mean": (width,),
        "scale": (width,),
        "weights": (count, width),
    }
    if shapes != expected or not count or not (head.scale > 0).all():
        raise BundleError(f"{HEAD} does not fit the {count} findings of {MANIFEST}")
    return head


def _bank(data: bytes | None, manifest: Manifest) -> Bank | None:
    if (data is None) != (manifest.gate is None):
        raise BundleError(f"bundle {manifest.name} has a gate without {BANK}, or the reverse")
    if data is None or manifest.gate is None:
        return None
    arrays = _arrays(data, BANK)
    mean, scale = _float32(arrays, "mean", BANK), _float32(arrays, "scale", BANK)
    vectors = _float32(arrays, "vectors", BANK)
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


def _known_answer(data: bytes, manifest: Manifest) -> KnownAnswer:
    arrays = _arrays(data, KNOWN_ANSWER)
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
        vectors={key: _float32(arrays, key, KNOWN_ANSWER) for key in arrays if key != "image"},
    )


def check_widths(bundle: Bundle) -> None:
    """Raise BundleError if head, bank and known answers are of different widths."""
    widths = {vector.shape for vector in bundle.known_answer.vectors.values()}
    widths |= {bundle.head.mean.shape} if bundle.head else set()
    widths |= {bundle.bank.mean.shape} if bundle.bank else set()
    if len(widths) > 1:
        raise BundleError(f"bundle {bundle.identity.name} mixes embeddings of different widths")


# --- bytes


def _json_object(raw: bytes, directory: Path) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise BundleError(f"{directory / MANIFEST} is no JSON") from error
    if not isinstance(value, dict):
        raise BundleError(f"{directory / MANIFEST} holds no JSON object")
    return value


def _read(path: Path, maximum_bytes: int) -> bytes:
    try:
        if path.stat().st_size > maximum_bytes:
            raise BundleError(f"{path} is larger than {maximum_bytes} bytes")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error


def _checked(path: Path, digest: str) -> bytes:
    data = _read(path, MAXIMUM_FILE_BYTES)
    if hashlib.sha256(data).hexdigest() != digest:
        raise BundleError(f"{path} has changed since the bundle was made")
    return data


def _arrays(data: bytes, name: str) -> Arrays:
    try:
        return load_arrays(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise BundleError(f"{name} is no safetensors file") from error


def _float32(arrays: Arrays, key: str, name: str) -> NDArray[np.float32]:
    array = arrays.get(key)
    if array is None or array.dtype not in (np.float16, np.float32):
        raise BundleError(f"{name} lacks the floating point array {key}")
    if not np.isfinite(array).all():
        raise BundleError(f"{name} holds values that are not finite in {key}")
    return array.astype(np.float32)
