"""What an encoder directory says of itself, and which features a pooling means for it."""

from pathlib import Path
from typing import Any

from triage.errors import BundleError, PermanentError
from triage.inference.bundle import digest_of_file, encoder_files
from triage.inference.bundle_fields import ARCHITECTURES, EncoderReference, Features
from triage.inference.bundle_parts import MANIFEST
from triage.inference.encoder import HEADED
from triage.inference.weights import read_json
from triage.learning.material.lens import POOLINGS


def require_encoder(directory: Path) -> None:
    """Raise PermanentError where `directory` is none of an encoder."""
    if (directory / "config.json").is_file():
        return
    hint = "Weights are never fetched: name the directory with their config.json."
    if (directory / MANIFEST).is_file():
        hint = "It is a bundle: its encoder's directory is needed here, or --bundle of `embed`."
    raise PermanentError(f"{directory} holds no encoder", hint=hint)


def architecture_of(directory: Path) -> str:
    """What config.json of an encoder directory names. Raises BundleError."""
    named = read_json(directory / "config.json").get("architectures")
    architecture = named[0] if isinstance(named, list) and named else None
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise BundleError(
            f"{directory} holds no encoder that is supported",
            hint=f"Supported are {', '.join(sorted(ARCHITECTURES))}.",
        )
    return architecture


def vision_settings(directory: Path) -> dict[str, Any]:
    """The vision_config of an encoder directory. Raises BundleError."""
    settings = read_json(directory / "config.json").get("vision_config")
    if not isinstance(settings, dict):
        raise BundleError(f"{directory / 'config.json'} names no vision_config")
    return settings


def width_of(directory: Path) -> int:
    """Features of one token of an encoder directory, hence of its vector by default."""
    return int(vision_settings(directory).get("hidden_size", 768))  # 768: default of its config


def trained_px(directory: Path) -> int:
    """Side of the views that an encoder was trained on. Raises BundleError."""
    size_px = vision_settings(directory).get("image_size")
    if not isinstance(size_px, int):
        raise BundleError(
            f"{directory / 'config.json'} names no vision_config.image_size",
            hint="Say the side of a view by --size-px.",
        )
    return size_px


def reference_of(directory: Path) -> EncoderReference:
    """An encoder directory with the digests of its files. Raises BundleError."""
    files = {name: digest_of_file(path) for name, path in encoder_files(directory).items()}
    return EncoderReference(
        path=str(directory.resolve()), architecture=architecture_of(directory), files=files
    )


def pooled(directory: Path, pooling: str) -> Features:
    """The features of a pooling, said the plain way where it is the encoder's default.

    The daemon's embeddings of an encoder without classifier can then be used again as they are.
    """
    if pooling == "mean" and architecture_of(directory) == HEADED:
        return Features(pooling="mean")
    return Features()


def pooling_of(architecture: str, features: Features) -> str:
    """Which of POOLINGS the features are; empty where more is done than to pool."""
    if features.pooling not in POOLINGS or features != Features(pooling=features.pooling):
        return ""
    return features.pooling if architecture == HEADED else "mean"
