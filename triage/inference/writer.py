"""Text from vision tokens: one fixed prompt, greedy, bounded, exactly as the model writes it.

The prompt is a constant with a version, and nothing that a sender wrote can reach it: what comes
in are tokens of a tower. Vision tokens that the encoder still holds cost no second pass: the
model's own `get_image_features` is answered from them while it writes. Whether a text may be
shown is for `captioner`; caption features count its words unseen.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from transformers import AutoTokenizer, Gemma3ForConditionalGeneration, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPooling

from triage.errors import BundleError
from triage.inference.bundle import digest_of
from triage.inference.weights import read_json

PROMPT: Final = "Describe this X-ray."
PROMPT_VERSION: Final = 1  # raise with any change of the prompt or of how it is asked


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
class Writer:
    """A language model around a tower. Serves one call at a time, whoever shares the model."""

    model: Gemma3ForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    prompt_ids: tuple[int, ...]  # with one soft token per image feature
    image_token_id: int
    stop_ids: tuple[int, ...]
    maximum_new_tokens: int
    turn: threading.Lock

    def write(self, tokens: Sequence[Tensor]) -> list[str]:
        """Text for vision tokens, (T, W) per image; raises what torch raises."""
        with self.turn:
            return self._write(torch.stack(tuple(tokens)))

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


def open_writer(
    directory: Path,
    model: Gemma3ForConditionalGeneration,
    *,
    maximum_new_tokens: int,
    turn: threading.Lock,
) -> Writer:
    """Make the writer of a whole model; `turn` is shared by all that share the model.

    Raises BundleError where `directory` has no tokenizer or template that fits.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise BundleError(f"{directory} has no tokenizer that can be loaded") from error
    return Writer(
        model=model,
        tokenizer=tokenizer,
        prompt_ids=tuple(prompt_ids(directory, tokenizer, model.config)),
        image_token_id=model.config.image_token_id,
        stop_ids=_stop_ids(model),
        maximum_new_tokens=maximum_new_tokens,
        turn=turn,
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
