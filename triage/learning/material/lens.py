"""What turns a view into a vector: the encoder of a bundle, or one that is in no bundle yet.

Encoder, rendering and arithmetic come from the code that serves, and so does the cache scope: an
embedding made here and one made by the daemon have one key and are one vector.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from triage.errors import PermanentError, TriageError
from triage.records import ViewSpec
from triage.rules.eligibility import IntendedUse
from triage.worker.models import Encode

if TYPE_CHECKING:
    from triage.inference.bundle import Bundle
    from triage.inference.bundle_fields import Features

POOLINGS: Final = ("mean", "default")  # of tokens; "default" is MedSigLIP's own pooling head


@dataclass(frozen=True, slots=True, kw_only=True)
class Lens:
    """How views are made and what they become. `encode` answers as that of a LoadedModel."""

    spec: ViewSpec
    scope: str  # DESIGN section 3.8, without the view's digest
    encode: Encode
    use: IntendedUse  # of the bundle; of an encoder: any image
    pooling: str = ""  # of POOLINGS; "" where more is done than to pool the tokens of one encoder
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
    from triage.learning.material.encoders import pooling_of
    from triage.worker.serving import cache_scope, encode_with

    encoder = load_encoder(bundle, device=device, dtype=dtype)
    if known_vector(bundle, encoder.answer_key, None) is not None:
        check_known_answer(bundle, encoder)
    return Lens(
        spec=bundle.view_spec,
        scope=cache_scope(bundle, encoder),
        encode=encode_with(encoder, keep_features=tokens),
        use=bundle.intended_use,
        pooling=pooling_of(bundle.manifest.encoder.architecture, bundle.manifest.features),
        keeps_tokens=tokens,
    )


def lens_of_encoder(
    directory: Path,
    *,
    rendering: str = "dicom",
    size_px: int | None = None,
    crops: int = 0,
    pooling: str = "mean",
    device: str = "auto",
    dtype: str = "auto",
    tokens: bool = False,
) -> Lens:
    """Load an encoder directory as `triage train --encoder` would take it.

    `size_px` defaults to the size that the encoder was trained at; `pooling` is one of POOLINGS.
    Raises BundleError, ConfigError, or PermanentError for what is no encoder and for a rendering
    that no bundle could name.
    """
    from triage.learning.material.encoders import pooled, require_encoder, trained_px

    require_encoder(directory)
    spec = ViewSpec(rendering=rendering, size_px=size_px or trained_px(directory))
    return lens_of_encoders(
        (directory,),
        spec=_possible(replace(spec, crops=crops)),
        features=pooled(directory, pooling),
        device=device,
        dtype=dtype,
        tokens=tokens,
    )


def lens_of_encoders(
    directories: Sequence[Path],
    *,
    spec: ViewSpec,
    features: "Features",
    use: IntendedUse | None = None,
    device: str = "auto",
    dtype: str = "auto",
    tokens: bool = False,
) -> Lens:
    """Load encoder directories, the further ones as experts beside the first.

    Raises BundleError, ConfigError.
    """
    from triage.imaging.views import PREPROCESSING_VERSION
    from triage.inference.bundle import digest_of, embedding_scope, features_digest
    from triage.inference.encoder import open_encoder
    from triage.learning.material.encoders import pooling_of, reference_of
    from triage.worker.serving import encode_with

    first, *further = map(reference_of, directories)
    features = replace(features, experts=tuple(further))
    encoder = open_encoder(
        directories[0],
        architecture=first.architecture,
        size_px=spec.size_px,
        device=device,
        dtype=dtype,
        features=features,
        experts=tuple((Path(each.path), each.architecture) for each in further),
    )
    return Lens(
        spec=spec,
        scope=embedding_scope(
            encoder_digest=digest_of(first.files),
            preprocessing_version=PREPROCESSING_VERSION,
            answer_key=encoder.answer_key,
            features_digest=features_digest(features, pooling="", terms=""),
        ),
        encode=encode_with(encoder, keep_features=tokens),
        use=use or IntendedUse(),
        pooling=pooling_of(first.architecture, features),
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
