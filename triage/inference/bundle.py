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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triage.errors import BundleError
from triage.inference.bundle_fields import EncoderReference, Features, Manifest, read_manifest
from triage.inference.bundle_parts import (
    BANK,
    CARD,
    KNOWN_ANSWER,
    KNOWN_ANSWERS,
    MANIFEST,
    PATIENTS,
    POOLING,
    TERMS,
    Bank,
    KnownAnswer,
    arrays_of,
    bank_of_file,
    check_list,
    floats,
    head_of,
    known_answer_of,
    patients_of,
    pooling_of,
    terms_of_file,
)
from triage.inference.calibration import Calibration
from triage.inference.features import QueryPooling, Terms
from triage.inference.heads import Head, width
from triage.inference.patients import Patients
from triage.records import ModelIdentity, ViewSpec
from triage.rules.eligibility import IntendedUse

MAXIMUM_MANIFEST_BYTES: Final = 4 << 20
MAXIMUM_FILE_BYTES: Final = 256 << 20  # of each file beside it
WEIGHT_SUFFIXES: Final = frozenset({".safetensors"})
TEXT_SUFFIXES: Final = frozenset({".json", ".jinja", ".model", ".txt"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle whose files were all as listed when it was read."""

    directory: Path
    identity: ModelIdentity
    manifest: Manifest
    head: Head | None  # None: no classifier for this encoder
    calibration: Calibration | None  # where there is a head
    pooling: QueryPooling | None
    terms: Terms | None
    patients: Patients | None  # None: it does not record whom it has seen
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
            return width(self.head)
        return next((vector.size for vector in self.known_answer.vectors.values()), None)

    @property
    def locally_calibrated(self) -> bool:
        """Whether its calibration was fitted on studies of the site that uses it."""
        record = self.manifest.calibration
        return record is not None and record.local

    @property
    def encoder_directory(self) -> Path:
        return self.encoder_place(self.manifest.encoder)

    def encoder_place(self, reference: EncoderReference) -> Path:
        """Where one of its encoders lies."""
        return self.directory / reference.path  # an absolute path stands alone

    @property
    def encoder_digest(self) -> str:
        """SHA-256 over names and digests of the encoder's files."""
        return digest_of(self.manifest.encoder.files)

    @property
    def features_digest(self) -> str:
        """SHA-256 of all that changes the vector beside the encoder; empty for plain features."""
        files = self.manifest.files
        return features_digest(
            self.manifest.features, pooling=files.get(POOLING, ""), terms=files.get(TERMS, "")
        )


def load_bundle(directory: Path | str, *, check_encoder: bool = True) -> Bundle:
    """Read the bundle in `directory`; raises BundleError unless every file is as listed.

    `check_encoder` also reads the encoder's weights, which takes seconds for gigabytes.
    """
    directory = Path(directory)
    raw = _read(directory / MANIFEST, MAXIMUM_MANIFEST_BYTES)
    manifest = read_manifest(_json_object(raw, directory))
    check_list(manifest)
    _refuse_strangers(directory, manifest)
    files = {name: _checked(directory / name, digest) for name, digest in manifest.files.items()}
    head, calibration = head_of(files, manifest) or (None, None)
    bundle = Bundle(
        directory=directory,
        identity=ModelIdentity(
            name=manifest.name, version=manifest.version, digest=digest_of(json.loads(raw))
        ),
        manifest=manifest,
        head=head,
        calibration=calibration,
        pooling=pooling_of(files.get(POOLING)),
        terms=terms_of_file(files.get(TERMS)),
        patients=patients_of(files.get(PATIENTS)),
        bank=bank_of_file(files.get(BANK), manifest),
        known_answer=known_answer_of(files[KNOWN_ANSWER], manifest),
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
    """Raise BundleError unless each encoder directory holds exactly the files listed."""
    for reference in (bundle.manifest.encoder, *bundle.manifest.features.experts):
        _verify_directory(bundle, reference)


def _verify_directory(bundle: Bundle, reference: EncoderReference) -> None:
    found, listed = encoder_files(bundle.encoder_place(reference)), reference.files
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
        raise BundleError(
            f"the encoder directory {directory} does not exist",
            hint="Mount or copy the encoder to this path, or name the one that is there.",
        )
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
            arrays = arrays_of(_read(path, MAXIMUM_FILE_BYTES), path.name)
            return floats(arrays, key, path.name)
    return None


def answer_file(bundle: Bundle, key: str) -> str:
    """File name of a recording: it holds for one encoder, its features and kind of hardware."""
    features = f"-{bundle.features_digest[:16]}" if bundle.features_digest else ""
    return f"{bundle.encoder_digest[:16]}{features}-{key}.safetensors"


def features_digest(features: Features, *, pooling: str, terms: str) -> str:
    """SHA-256 of features with the digests of pooling.safetensors and terms.json, or of neither.

    Empty for features that say nothing: what version 1 has embedded stays known.
    """
    if features == Features():
        return ""
    said = {
        "pooling": features.pooling,
        "layer": features.layer,
        "unit_length": features.unit_length,
        "experts": [digest_of(expert.files) for expert in features.experts],
        "captions": features.captions,
    }
    return digest_of({"features": said, "pooling": pooling, "terms": terms})


def embedding_scope(
    *, encoder_digest: str, preprocessing_version: int, answer_key: str, features_digest: str = ""
) -> str:
    """What an embedding depends on beside the view (DESIGN section 3.8)."""
    scope = f"{encoder_digest}|{preprocessing_version}|{answer_key}"
    return f"{scope}|{features_digest}" if features_digest else scope


def hardware_of(scope: str) -> tuple[str, str]:
    """(dtype, device class) of an `embedding_scope`."""
    dtype, _, device_class = scope.split("|")[2].partition("-")
    return dtype, device_class


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
    """A file beside the list that it does not name is an error."""
    present = {path.name for path in directory.iterdir() if path.is_file()}
    if odd := present - set(manifest.files) - {MANIFEST}:
        raise BundleError(f"{directory / min(odd)} is not listed in {MANIFEST}")


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
    except (ValueError, RecursionError) as error:  # the latter: brackets within brackets
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
