"""Captions: one fixed prompt about an image, greedy, bounded, and checked before it is shown.

The prompt is a constant with a version, and nothing that a sender wrote can reach it: the
functions here take images or vision features and no text. Vision features that the encoder
still holds are used again, so a caption costs no second pass through the tower: the model's
own `get_image_features` is answered from them while it writes.

A caption never sets a flag. One that is not plain prose is an error, not a shortened caption.
"""

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer, Gemma3ForConditionalGeneration, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPooling

from triage.errors import BundleError, InferenceError, TriageError
from triage.inference.bundle import Bundle, digest_of
from triage.inference.device import on_device
from triage.inference.encoder import Encoder
from triage.inference.weights import read_json
from triage.records import Caption, ModelIdentity

PROMPT: Final = "Describe this X-ray."
PROMPT_VERSION: Final = 1  # raise with any change of the prompt or of how it is asked
MAXIMUM_CHARACTERS: Final = 2000
THINKING: Final = re.compile(r"<unused94>.*?<unused95>", re.DOTALL)
FORBIDDEN: Final = {
    "a thinking marker": re.compile(r"<unused\d+>"),
    "a web address": re.compile(r"https?:|www\.|\b[\w.+-]+@[\w-]+\.\w", re.IGNORECASE),
    "markup": re.compile(r"[<>]|```|\[[^\]]*\]\(|^#+ |\*\*", re.MULTILINE),
}
log = structlog.get_logger(__name__)


def chat() -> list[dict[str, Any]]:
    """The conversation that every image is put in: the image, then PROMPT."""
    content = [{"type": "image"}, {"type": "text", "text": PROMPT}]
    return [{"role": "user", "content": content}]


def prompt_digest(maximum_new_tokens: int) -> str:
    """SHA-256 hex of prompt, version and generation settings: stored with every caption."""
    return digest_of(
        {
            "prompt": PROMPT,
            "version": PROMPT_VERSION,
            "decoding": "greedy",
            "max_new_tokens": maximum_new_tokens,
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Captioner:
    """A language model around the encoder's tower. Serves one call at a time."""

    identity: ModelIdentity
    encoder: Encoder
    model: Gemma3ForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    prompt_ids: tuple[int, ...]  # with one soft token per image feature
    image_token_id: int
    stop_ids: tuple[int, ...]
    maximum_new_tokens: int
    prompt_digest: str
    turn: threading.Lock

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
        with self.turn:
            texts = on_device(lambda: self._write(torch.stack(tuple(features))))
        return [self._caption(text) for text in texts]

    def _write(self, tokens: Tensor) -> list[str]:
        """Greedy text for a batch of vision tokens (B, T, W); all prompts are equally long."""
        core = self.model.model
        soft = core.multi_modal_projector(tokens.to(self.model.dtype))

        # The parameter has to bear this name: generate() looks for it in the signature.
        def from_memory(pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
            return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=soft)

        ids = torch.tensor([self.prompt_ids], device=tokens.device).expand(len(tokens), -1)
        core.get_image_features = from_memory
        try:
            written = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                token_type_ids=(ids == self.image_token_id).long(),
                pixel_values=tokens.new_zeros(len(tokens), 3, 1, 1),  # only its presence counts
                max_new_tokens=self.maximum_new_tokens,
                do_sample=False,
                eos_token_id=list(self.stop_ids),
                pad_token_id=self.tokenizer.pad_token_id,
            )
        finally:
            del core.get_image_features
        return [self._text(row) for row in written[:, ids.shape[1] :].tolist()]

    def _text(self, ids: list[int]) -> str:
        """Text up to the first stop; special tokens inside it stay visible for the check."""
        stop = next((i for i, token in enumerate(ids) if token in self.stop_ids), len(ids))
        return str(self.tokenizer.decode(ids[:stop], skip_special_tokens=False))

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
    directory = bundle.encoder_directory
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise BundleError(f"{directory} has no tokenizer that can be loaded") from error
    config = encoder.whole.config
    ids = prompt_ids(directory, tokenizer, config)
    return Captioner(
        identity=bundle.identity,
        encoder=encoder,
        model=encoder.whole,
        tokenizer=tokenizer,
        prompt_ids=tuple(ids),
        image_token_id=config.image_token_id,
        stop_ids=_stop_ids(encoder.whole),
        maximum_new_tokens=maximum_new_tokens,
        prompt_digest=prompt_digest(maximum_new_tokens),
        turn=threading.Lock(),
    )


def prompt_ids(directory: Path, tokenizer: PreTrainedTokenizerBase, config: Any) -> list[int]:
    """PROMPT through the directory's own chat template, as token ids with soft tokens.

    The processor would write the same, but it wants an image to squeeze through eight bits.
    """
    marks = (config.boi_token_index, config.image_token_id, config.eoi_token_index)
    begin, image, end = map(tokenizer.convert_ids_to_tokens, marks)
    if None in (begin, image, end):
        raise BundleError(
            f"{directory} has no tokenizer that can be loaded and knows the image tokens"
        )
    soft = image * config.mm_tokens_per_image
    text = tokenizer.apply_chat_template(
        chat(),
        chat_template=_template(directory),
        tokenize=False,
        add_generation_prompt=True,
    )
    if str(text).count(begin) != 1:
        raise BundleError(f"the chat template in {directory} does not place the image once")
    whole = str(text).replace(begin, f"\n\n{begin}{soft}{end}\n\n")
    return [int(token) for token in tokenizer.encode(whole, add_special_tokens=False)]


def _template(directory: Path) -> str:
    """The chat template from whichever file this age of checkpoint keeps it in."""
    path = directory / "chat_template.jinja"
    if path.is_file():
        return path.read_text("utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            template = read_json(directory / name).get("chat_template")
            if isinstance(template, str):
                return template
    raise BundleError(f"{directory} has no chat template")


def _stop_ids(model: Gemma3ForConditionalGeneration) -> tuple[int, ...]:
    stops = model.generation_config.eos_token_id
    if stops is None:
        stops = model.config.eos_token_id
    found = stops if isinstance(stops, list | tuple) else [stops]
    return tuple(int(stop) for stop in found if stop is not None)
