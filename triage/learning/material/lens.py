"""What turns a view into a vector: the encoder of a bundle, or one that is in no bundle yet.

Encoder, rendering and arithmetic come from the code that serves, and so does the cache scope: an
embedding made here and one made by the daemon have one key and are one vector.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from triage.errors import BundleError, PermanentError, TriageError
from triage.records import ViewSpec
from triage.rules.eligibility import IntendedUse
from triage.worker.models import Encode

if TYPE_CHECKING:
    from triage.inference.bundle import Bundle
    from triage.inference.encoder import Encoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Lens:
    """How views are made and what they become. `encode` answers as that of a LoadedModel."""

    spec: ViewSpec
    scope: str  # DESIGN section 3.8, without the view's digest
    encode: Encode
    use: IntendedUse  # of the bundle; of an encoder: any image
    keeps_tokens: bool = False

    def token_shape(self) -> tuple[int, int]:
        """Return (tokens, width) of one view. Raises ValueError without `keeps_tokens`."""
        side = self.spec.size_px
        answer = self.encode([np.zeros((1, side, side), np.float32)])[0]
        if isinstance(answer, TriageError):
            raise answer
        shape: tuple[int, ...] = getattr(answer.features, "shape", ())
        if not self.keeps_tokens or len(shape) != 2:
            raise ValueError("this lens keeps no tokens")
        return int(shape[0]), int(shape[1])


def lens_of_bundle(
    bundle: "Bundle", *, device: str = "auto", dtype: str = "auto", tokens: bool = False
) -> Lens:
    """Load the encoder of a bundle. Raises BundleError, KnownAnswerError, ConfigError.

    The known answer is held against the encoder where the bundle has one for this hardware.
    """
    from triage.inference.bundle import known_vector
    from triage.inference.encoder import check_known_answer, load_encoder
    from triage.worker.serving import cache_scope

    encoder = load_encoder(bundle, device=device, dtype=dtype)
    if known_vector(bundle, encoder.answer_key, None) is not None:
        check_known_answer(bundle, encoder)
    return _lens(
        encoder,
        spec=bundle.view_spec,
        scope=cache_scope(bundle, encoder),
        use=bundle.intended_use,
        tokens=tokens,
    )


def lens_of_encoder(
    directory: Path,
    *,
    rendering: str = "dicom",
    size_px: int | None = None,
    crops: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    tokens: bool = False,
) -> Lens:
    """Load an encoder directory as `triage bundle init --encoder` would take it.

    `size_px` defaults to the size that the encoder was trained at. Raises BundleError, ConfigError,
    or PermanentError for a rendering that no bundle could name.
    """
    from triage.imaging.views import PREPROCESSING_VERSION
    from triage.inference.bundle import (
        digest_of,
        digest_of_file,
        embedding_scope,
        encoder_files,
    )
    from triage.inference.encoder import open_encoder

    digests = {name: digest_of_file(path) for name, path in encoder_files(directory).items()}
    architecture, trained_px = _described(directory)
    spec = ViewSpec(rendering=rendering, size_px=size_px or trained_px)
    spec = _possible(replace(spec, crops=crops))
    encoder = open_encoder(
        directory, architecture=architecture, size_px=spec.size_px, device=device, dtype=dtype
    )
    return _lens(
        encoder,
        spec=spec,
        scope=embedding_scope(
            encoder_digest=digest_of(digests),
            preprocessing_version=PREPROCESSING_VERSION,
            answer_key=encoder.answer_key,
        ),
        use=IntendedUse(),
        tokens=tokens,
    )


def _lens(
    encoder: "Encoder", *, spec: ViewSpec, scope: str, use: IntendedUse, tokens: bool
) -> Lens:
    from triage.worker.serving import encode_with

    return Lens(
        spec=spec,
        scope=scope,
        encode=encode_with(encoder, keep_features=tokens),
        use=use,
        keeps_tokens=tokens,
    )


def _possible(spec: ViewSpec) -> ViewSpec:
    """The bounds of a bundle's view."""
    from triage.inference.bundle_fields import MAXIMUM_CROPS, RENDERINGS, VOLUMES

    if spec.rendering not in RENDERINGS:
        raise PermanentError(
            f"there is no rendering {spec.rendering!r}", hint=f"There are {_listed(RENDERINGS)}."
        )
    if not 8 <= spec.size_px <= 4096:
        raise PermanentError("a view has a side of 8 to 4096 px", hint="Correct --size-px.")
    if not 0 <= spec.crops <= MAXIMUM_CROPS or (spec.crops and spec.rendering in VOLUMES):
        raise PermanentError(
            f"crops are 0 to {MAXIMUM_CROPS}, and 0 for volumes", hint="Correct --crops."
        )
    return spec


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _described(directory: Path) -> tuple[str, int]:
    """Architecture and trained size, by the encoder's own config.json."""
    from triage.inference.bundle_fields import ARCHITECTURES
    from triage.inference.weights import read_json

    settings = read_json(directory / "config.json")
    named = settings.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else None
    if architecture not in ARCHITECTURES:
        raise BundleError(
            f"{directory} holds no encoder that is supported",
            hint=f"Supported are {_listed(ARCHITECTURES)}.",
        )
    vision = settings.get("vision_config")
    size_px = vision.get("image_size") if isinstance(vision, dict) else None
    if not isinstance(size_px, int):
        raise BundleError(f"{directory / 'config.json'} names no vision_config.image_size")
    return architecture, size_px
