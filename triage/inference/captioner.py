"""Captions: text about an image that is checked before it is shown.

`writer` asks the model; here its text becomes a caption or an error. The functions take images
or vision features and no text. Vision features that the encoder still holds are used again, so
a caption costs no second pass through the tower.

A caption never sets a flag. One that is not plain prose is an error, not a shortened caption.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray
from torch import Tensor

from triage.errors import BundleError, InferenceError, TriageError
from triage.inference.bundle import Bundle
from triage.inference.device import on_device
from triage.inference.encoder import Encoder
from triage.inference.writer import Writer, open_writer, prompt_digest
from triage.records import Caption, ModelIdentity

MAXIMUM_CHARACTERS: Final = 2000
THINKING: Final = re.compile(r"<unused94>.*?<unused95>", re.DOTALL)
FORBIDDEN: Final = {
    "a thinking marker": re.compile(r"<unused\d+>"),
    "a web address": re.compile(r"https?:|www\.|\b[\w.+-]+@[\w-]+\.\w", re.IGNORECASE),
    "markup": re.compile(r"[<>]|```|\[[^\]]*\]\(|^#+ |\*\*", re.MULTILINE),
}
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Captioner(Writer):
    """A writer with the encoder that feeds it, speaking for one bundle."""

    identity: ModelIdentity
    encoder: Encoder
    prompt_digest: str

    def describe(self, views: NDArray[np.float32]) -> list[Caption | TriageError]:
        """Caption float32 views (B, C, S, S) in 0..1; errors of single images stand in their place.

        Raises DeviceOutOfMemory and DeviceFault for the batch.
        """
        embedded = self.encoder.embed(views, keep_features=True)
        features = embedded.features or ()
        sound = [feature for feature, fine in zip(features, embedded.finite, strict=True) if fine]
        said = iter(self.describe_features(sound))
        failed = InferenceError("the model gave a value that is not finite for this image")
        return [next(said) if fine else failed for fine in embedded.finite]

    def describe_features(self, features: Sequence[Tensor]) -> list[Caption | TriageError]:
        """Caption what `Encoder.embed(keep_features=True)` kept: (tokens, width) per image."""
        if not features:
            return []
        texts = on_device(lambda: self.write(features))
        return [self._caption(text) for text in texts]

    def _caption(self, text: str) -> Caption | TriageError:
        try:
            acceptable = checked(text)
        except InferenceError as error:
            log.warning("caption_refused", model=self.identity.name, reason=str(error))
            return error
        return Caption(text=acceptable, prompt_digest=self.prompt_digest, model=self.identity)


def checked(text: str) -> str:
    """The text if it is plain prose, with complete thinking passages cut out.

    Raises InferenceError that names what was found, never the text itself.
    """
    prose = " ".join(THINKING.sub("", text).split())
    if not prose:
        raise InferenceError("the caption is empty")
    if len(prose) > MAXIMUM_CHARACTERS:
        raise InferenceError(f"the caption is longer than {MAXIMUM_CHARACTERS} characters")
    if not prose.isprintable() or "\ufffd" in prose:
        raise InferenceError("the caption holds characters that cannot be printed")
    for what, pattern in FORBIDDEN.items():
        if pattern.search(prose):
            raise InferenceError(f"the caption holds {what}")
    return prose


def load_captioner(bundle: Bundle, encoder: Encoder, *, maximum_new_tokens: int) -> Captioner:
    """Make the captioner of an encoder that was loaded with `captions`; raises BundleError."""
    if encoder.whole is None:
        raise BundleError(f"bundle {bundle.identity.name} was loaded without its language model")
    writer = open_writer(
        bundle.encoder_directory,
        encoder.whole,
        maximum_new_tokens=maximum_new_tokens,
        turn=encoder.turn,
    )
    return Captioner(
        **{field.name: getattr(writer, field.name) for field in fields(writer)},
        identity=bundle.identity,
        encoder=encoder,
        prompt_digest=prompt_digest(maximum_new_tokens),
    )
