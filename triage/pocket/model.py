"""The pocket model before training: MedGemma's classes at about a million parameters.

`Gemma3ForConditionalGeneration` with its processor, written and read in the hub's own layout,
so that everything downstream of a directory treats it as it treats MedGemma 4B: 112 px in 64
patches, pooled 2 x 2 to 16 soft tokens, and three text layers, the last of them with full
attention. The tokenizer knows the words of the captions and spells everything else in bytes.
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    PreTrainedTokenizerFast,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from triage.inference.writer import PROMPT
from triage.pocket.dataset import PATCH_PX, VIEW_PX
from triage.pocket.lesions import NO_FINDING, NOUN, Kind, Side, Size

SOFT_TOKENS = 16
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
IMAGE_TOKENS = ("<start_of_image>", "<end_of_image>", "<image_soft_token>")
TURNS = ("user", "model", "\n", "\n\n")
SPACE = "\u2581"  # how the tokenizer writes a space

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
<start_of_turn>{{ 'model' if message['role'] == 'assistant' else 'user' }}
{% if message['content'] is string -%}
{{ message['content'] | trim }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}<start_of_image>
{%- elif part['type'] == 'text' -%}{{ part['text'] | trim }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<end_of_turn>
{% endfor -%}
{%- if add_generation_prompt -%}
<start_of_turn>model
{% endif -%}
"""


def words() -> list[str]:
    """Every piece of text that is one token: words with their leading space, and stops."""
    said = [NO_FINDING, PROMPT, "and", *NOUN.values()]
    said += [*Size, *Side, *Kind, *(size.capitalize() for size in Size)]
    found = {word for text in said for word in text.replace(".", " ").replace(",", " ").split()}
    return [*(SPACE + word for word in sorted(found)), *sorted(found), ".", ","]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A unigram tokenizer from a list, with byte fallback: any text can be encoded."""
    pieces = [(token, 0.0) for token in (*SPECIAL, *IMAGE_TOKENS)]
    pieces += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    pieces += [(piece, -1.0) for piece in dict.fromkeys((*TURNS, *words(), SPACE))]
    core = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never")
    core.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    core.add_special_tokens([*SPECIAL, *IMAGE_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        **dict(zip(("pad_token", "eos_token", "bos_token", "unk_token"), SPECIAL, strict=False)),
        extra_special_tokens={
            "boi_token": IMAGE_TOKENS[0],
            "eoi_token": IMAGE_TOKENS[1],
            "image_token": IMAGE_TOKENS[2],
        },
        padding_side="left",
    )


def build_processor() -> Gemma3Processor:
    """Processor with MedGemma's normalisation at the pocket size."""
    images = Gemma3ImageProcessorPil(
        size={"height": VIEW_PX, "width": VIEW_PX},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        do_pan_and_scan=False,
    )
    return Gemma3Processor(
        image_processor=images,
        tokenizer=build_tokenizer(),
        chat_template=CHAT_TEMPLATE,
        image_seq_length=SOFT_TOKENS,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Gemma3ForConditionalGeneration:
    """An untrained model of a seed, in float32."""
    torch.manual_seed(seed)
    token = tokenizer.convert_tokens_to_ids
    stops = [token("<eos>"), token("<end_of_turn>")]
    config = Gemma3Config(
        text_config=_text_config(len(tokenizer)),
        vision_config={
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": VIEW_PX,
            "patch_size": PATCH_PX,
            "vision_use_head": False,
        },
        mm_tokens_per_image=SOFT_TOKENS,
        boi_token_index=token("<start_of_image>"),
        eoi_token_index=token("<end_of_image>"),
        image_token_index=token("<image_soft_token>"),
        eos_token_id=stops,
        tie_word_embeddings=True,
    )
    model = Gemma3ForConditionalGeneration(config)
    model.generation_config.eos_token_id = stops
    model.generation_config.pad_token_id = token("<pad>")
    model.generation_config.bos_token_id = token("<bos>")
    model.generation_config.do_sample = False
    # The projection is created as zeros: it has to be filled or no gradient reaches the tower.
    projection = model.model.multi_modal_projector.mm_input_projection_weight
    torch.nn.init.normal_(projection, std=projection.shape[0] ** -0.5)
    return model


def _text_config(vocabulary: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 24,
        "query_pre_attn_scalar": 24,
        "sliding_window": 64,
        "max_position_embeddings": 512,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }


def save(
    model: Gemma3ForConditionalGeneration, processor: Gemma3Processor, directory: Path
) -> None:
    """Write model and processor as the hub lays them out: config, safetensors, tokenizer."""
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    for path in directory.iterdir():
        path.chmod(0o644)  # safetensors writes for its owner alone; a wheel is read by others
