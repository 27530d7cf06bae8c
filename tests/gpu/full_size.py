"""Random twins at full size: MedGemma 4B and MedSigLIP-448 as their published configs have them.

The weights of the real models are gated; a twin of the same shape takes the same memory and the
same time. Its words are few, in a table of full size.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.inference.twins import PREPROCESSOR, fitted
from triage.inference.bundle import Bundle
from triage.inference.bundle_fields import Gate
from triage.inference.bundle_making import init_bundle
from triage.pocket.model import CHAT_TEMPLATE, build_tokenizer

MEDGEMMA_PX, MEDSIGLIP_PX = 896, 448
MEDGEMMA_PARAMETERS = 4_300_079_472
MEDSIGLIP_PARAMETERS = 878_300_338
VISION = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
}
MEDGEMMA_TEXT = {
    "vocab_size": 262_208,
    "hidden_size": 2560,
    "intermediate_size": 10_240,
    "num_hidden_layers": 34,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 1024,
}
SMALL_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
MEDSIGLIP_TEXT = {
    "vocab_size": 32_000,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "max_position_embeddings": 64,
    "projection_size": 1152,
}
ANY_IMAGE = Gate(neighbours=5, threshold=2.0)  # the largest cosine distance: none is held back


def medgemma(
    directory: Path,
    *,
    device: str,
    text: dict[str, Any] | None = None,
    size_px: int = MEDGEMMA_PX,
    soft_tokens: int = 256,
) -> Path:
    """Write MedGemma 4B in bfloat16; `text` and `size_px` for one that is smaller."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = build_tokenizer()
    token = tokenizer.convert_tokens_to_ids
    config = Gemma3Config(
        text_config=text or MEDGEMMA_TEXT,
        vision_config={**VISION, "image_size": size_px, "vision_use_head": False},
        mm_tokens_per_image=soft_tokens,
        boi_token_index=token("<start_of_image>"),
        eoi_token_index=token("<end_of_image>"),
        image_token_index=token("<image_soft_token>"),
        eos_token_id=[token("<eos>"), token("<end_of_turn>")],
    )
    torch.manual_seed(1)
    with torch.device(device):
        model = Gemma3ForConditionalGeneration(config).to(torch.bfloat16)
    projection = model.model.multi_modal_projector.mm_input_projection_weight
    torch.nn.init.normal_(projection, std=projection.shape[0] ** -0.5)
    if text is None:
        assert sum(weight.numel() for weight in model.parameters()) == MEDGEMMA_PARAMETERS
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))
    _write_preprocessor(directory, size_px, image_seq_length=soft_tokens)
    return directory


def medsiglip(directory: Path, *, device: str) -> Path:
    """Write MedSigLIP-448 with both towers, in bfloat16."""
    from transformers import SiglipConfig, SiglipModel

    vision = {**VISION, "image_size": MEDSIGLIP_PX}
    torch.manual_seed(1)
    with torch.device(device):
        model = SiglipModel(SiglipConfig(text_config=MEDSIGLIP_TEXT, vision_config=vision))
    assert sum(weight.numel() for weight in model.parameters()) == MEDSIGLIP_PARAMETERS
    model.to(torch.bfloat16).save_pretrained(directory)
    _write_preprocessor(directory, MEDSIGLIP_PX, image_processor_type="SiglipImageProcessor")
    return directory


def bundle_of(encoder: Path, out: Path, *, width: int, device: str) -> Bundle:
    """A bundle with a head and a gate that lets every image pass, so that studies get results."""
    passing = replace(fitted(width=width), gate=ANY_IMAGE)
    return init_bundle(encoder, out, name="twin", device=device, fitted=passing)


def _write_preprocessor(directory: Path, size_px: int, **settings: Any) -> None:
    size = {"size": {"height": size_px, "width": size_px}}
    path = directory / "preprocessor_config.json"
    path.write_text(json.dumps({**PREPROCESSOR, **size, **settings}))
