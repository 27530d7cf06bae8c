"""Make bundles: from an encoder directory alone, or with head and bank; record known answers.

The one writer of the format that `bundle` reads. Files are written first and `bundle.json` last,
so a directory without it is no bundle yet. Loads the encoder, hence torch, only where an answer
has to be computed.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as save_arrays

from triage.errors import BundleError
from triage.inference.bundle import (
    BANK,
    CARD,
    HEAD,
    KNOWN_ANSWER,
    KNOWN_ANSWERS,
    MANIFEST,
    Bundle,
    Head,
    answer_file,
    digest_of_file,
    encoder_files,
    load_bundle,
)
from triage.inference.bundle_fields import (
    ARCHITECTURES,
    EncoderReference,
    FindingSpec,
    Gate,
    Manifest,
    write_manifest,
)
from triage.records import ViewSpec
from triage.rules.eligibility import IntendedUse

# Largest |difference| of an embedding as a share of its rms. Kernels differ between processors
# of one kind in the order of their sums: about 1e-5 in float32, a few units of 2^-8 in bfloat16.
TOLERANCE: Final[Mapping[str, float]] = {"float32": 2e-3, "bfloat16": 8e-2}
CARD_WITHOUT_HEAD: Final = """\
# {name} {version}

Encoder only: images are embedded, and no classifier has been fitted on the embeddings. Studies
are shown as not analysed, with the reason "no classifier for this encoder".
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What stands on an encoder: a head with its findings, and a bank with its gate."""

    head: Head
    findings: tuple[FindingSpec, ...]
    bank_vectors: NDArray[np.float32]  # (N, D) embeddings of images of the intended kind
    gate: Gate


def init_bundle(
    encoder_directory: Path | str,
    out_directory: Path | str,
    *,
    name: str,
    version: str = "1",
    view: ViewSpec | None = None,
    intended_use: IntendedUse | None = None,
    captions: bool | None = None,
    card: str | None = None,
    not_for_clinical_use: bool = False,
    fitted: Fitted | None = None,
    figures: Mapping[str, Any] | None = None,
    device: str = "auto",
    dtypes: tuple[str, ...] = ("auto",),
) -> Bundle:
    """Write a bundle for a local encoder and record its known answer on this machine.

    An encoder directory inside `out_directory` is referred to by its relative path, any other
    by its absolute one. Without `fitted` the bundle has no head. Captions default to what the
    architecture can do. Raises BundleError; nothing is downloaded.
    """
    from triage.imaging.views import PREPROCESSING_VERSION

    out, source = Path(out_directory).resolve(), Path(encoder_directory).resolve()
    if (out / MANIFEST).exists():
        raise BundleError(f"{out} is a bundle already", hint="Choose an empty directory.")
    reference, settings = _refer(source, out)
    view = view or _default_view(settings)
    out.mkdir(parents=True, exist_ok=True)
    parts: dict[str, bytes] = {
        CARD: (card or CARD_WITHOUT_HEAD.format(name=name, version=version)).encode()
    }
    if fitted:
        parts[HEAD], parts[BANK] = _head_bytes(fitted.head), _bank_bytes(fitted)
    parts[KNOWN_ANSWER] = _answer_bytes(source, reference, view, device, dtypes)
    for file_name, data in parts.items():
        (out / file_name).write_bytes(data)
    manifest = Manifest(
        name=name,
        version=version,
        encoder=reference,
        view=view,
        preprocessing_version=PREPROCESSING_VERSION,
        captions=_can_caption(reference) if captions is None else captions,
        findings=fitted.findings if fitted else (),
        gate=fitted.gate if fitted else None,
        tolerance=dict(TOLERANCE),
        intended_use=intended_use or IntendedUse(),
        not_for_clinical_use=not_for_clinical_use,
        figures=dict(figures or {}),
        files={file: hashlib.sha256(data).hexdigest() for file, data in sorted(parts.items())},
    )
    text = json.dumps(write_manifest(manifest), indent=1, ensure_ascii=False)
    (out / MANIFEST).write_text(text + "\n", "utf-8")
    return load_bundle(out)


def record_known_answer(
    bundle: Bundle, *, device: str = "auto", dtype: str = "auto", directory: Path | None = None
) -> Path:
    """Store what the encoder answers here, for `check_known_answer`; gives the file's path.

    Written into `directory`, or beside the bundle. A person decides to trust this hardware.
    An answer that the bundle itself holds cannot be replaced: BundleError.
    """
    from triage.inference.encoder import load_encoder

    encoder = load_encoder(bundle, device=device, dtype=dtype)
    key = encoder.answer_key
    if key in bundle.known_answer.vectors:
        raise BundleError(f"bundle {bundle.identity.name} holds a known answer for {key} already")
    vector = _finite(encoder.embed(bundle.known_answer.image[None]).vectors[0])
    folder = directory or bundle.directory / KNOWN_ANSWERS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / answer_file(bundle, key)
    path.write_bytes(save_arrays({key: vector}))
    return path


def known_image(size_px: int) -> NDArray[np.uint8]:
    """A picture (1, S, S) with edges, slopes and fine texture in every region; no one's body."""
    grid = np.arange(size_px, dtype=np.float64) / size_px
    x, y = np.meshgrid(grid, grid)
    waves = 0.25 * np.sin(40 * x * (0.3 + y)) + 0.15 * np.sin(90 * y + 20 * x**2)
    disc = 0.3 * (np.hypot(x - 0.6, y - 0.4) < 0.22)
    return np.asarray(np.rint(255 * np.clip(0.35 + 0.3 * x + waves + disc, 0, 1)), np.uint8)[None]


def _refer(source: Path, out: Path) -> tuple[EncoderReference, dict[str, Any]]:
    files = encoder_files(source)
    try:
        settings = json.loads(files["config.json"].read_bytes())
        architecture = settings["architectures"][0]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise BundleError(f"{files['config.json']} names no architecture") from error
    if architecture not in ARCHITECTURES:
        raise BundleError(
            f"{source} holds a {architecture}, which is not supported",
            hint=f"Supported are {', '.join(sorted(ARCHITECTURES))}.",
        )
    path = source.relative_to(out).as_posix() if source.is_relative_to(out) else str(source)
    digests = {name: digest_of_file(file) for name, file in files.items()}
    return EncoderReference(path=path, architecture=architecture, files=digests), settings


def _default_view(settings: Mapping[str, Any]) -> ViewSpec:
    """The size the tower was trained at, in the full DICOM rendering."""
    size_px = settings.get("vision_config", {}).get("image_size")
    if not isinstance(size_px, int):
        raise BundleError("config.json of the encoder names no vision_config.image_size")
    return ViewSpec(rendering="dicom", size_px=size_px)


def _can_caption(reference: EncoderReference) -> bool:
    return reference.architecture == "Gemma3ForConditionalGeneration"


def _head_bytes(head: Head) -> bytes:
    names = ("mean", "scale", "weights", "intercept", "platt_slope", "platt_intercept")
    return save_arrays({name: getattr(head, name).astype(np.float32) for name in names})


def _bank_bytes(fitted: Fitted) -> bytes:
    return save_arrays(
        {
            "mean": fitted.head.mean.astype(np.float32),
            "scale": fitted.head.scale.astype(np.float32),
            "vectors": fitted.bank_vectors.astype(np.float16),
        }
    )


def _answer_bytes(
    source: Path, reference: EncoderReference, view: ViewSpec, device: str, dtypes: tuple[str, ...]
) -> bytes:
    from triage.inference.encoder import open_encoder

    image = known_image(view.size_px)
    arrays: dict[str, NDArray[Any]] = {"image": image}
    for dtype in dtypes:
        encoder = open_encoder(
            source,
            architecture=reference.architecture,
            size_px=view.size_px,
            device=device,
            dtype=dtype,
        )
        vectors = encoder.embed(image[None].astype(np.float32) / 255.0).vectors
        arrays[encoder.answer_key] = _finite(vectors[0])
    return save_arrays(arrays)


def _finite(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(vector).all():
        raise BundleError("the encoder's known answer is not finite on this hardware")
    return vector
