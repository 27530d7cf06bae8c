"""Tiny random twins of MedGemma 4B and MedSigLIP-448 in the layout that the hub has.

Same classes, same key names, same legacy settings, a few thousand parameters.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    SiglipConfig,
    SiglipModel,
)

from triage.inference.bundle_fields import CalibrationRecord, FindingSpec, Gate
from triage.inference.bundle_making import Fitted
from triage.inference.calibration import Calibration
from triage.inference.heads import LinearHead
from triage.pocket.model import CHAT_TEMPLATE, build_tokenizer
from triage.records import Code, Rank

PREPROCESSOR = {
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "Gemma3ImageProcessor",
    "image_seq_length": 4,
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "Gemma3Processor",
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 56, "width": 56},
}
VISION = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}


def medgemma(directory: Path, *, sharded: bool = True) -> Path:
    """Write a MedGemma twin: legacy key names, legacy config fields, two shards and an index."""
    tokenizer = build_tokenizer()
    token = tokenizer.convert_tokens_to_ids
    torch.manual_seed(3)
    config = Gemma3Config(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "sliding_window": 16,
            "max_position_embeddings": 256,
        },
        vision_config={**VISION, "vision_use_head": False},
        mm_tokens_per_image=4,
        boi_token_index=token("<start_of_image>"),
        eoi_token_index=token("<end_of_image>"),
        image_token_index=token("<image_soft_token>"),
        eos_token_id=[token("<eos>"), token("<end_of_turn>")],
    )
    model = Gemma3ForConditionalGeneration(config)
    for weight in model.parameters():  # zeros and narrow normals would hide a lost image
        torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))
    (directory / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    _legacy_settings(directory / "config.json")
    _legacy_names(directory, sharded=sharded)
    return directory


def medsiglip(directory: Path) -> Path:
    """Write a MedSigLIP twin with its pooling head and its text tower."""
    torch.manual_seed(4)
    text = {
        "vocab_size": 64,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "max_position_embeddings": 16,
        "projection_size": 48,
    }
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(directory)
    settings = {**PREPROCESSOR, "image_processor_type": "SiglipImageProcessor"}
    (directory / "preprocessor_config.json").write_text(json.dumps(settings))
    return directory


def _legacy_settings(path: Path) -> None:
    """The fields that the hub's config has and that newer versions write otherwise."""
    settings: dict[str, Any] = json.loads(path.read_text())
    text = settings["text_config"]
    text.pop("rope_parameters", None)
    text.pop("layer_types", None)
    text |= {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 6}
    text["rope_scaling"] = {"factor": 8.0, "rope_type": "linear"}
    settings["torch_dtype"] = settings.pop("dtype", "float32")
    path.write_text(json.dumps(settings))


def _legacy_names(directory: Path, *, sharded: bool) -> None:
    """`vision_tower.vision_model.*` and `language_model.model.*`, in one or two shards."""
    whole = directory / "model.safetensors"
    tensors = {}
    for new_name, tensor in load_file(whole).items():
        room, _, rest = new_name.removeprefix("model.").partition(".")
        inner = {"vision_tower": "vision_model.", "language_model": "model."}.get(room, "")
        tensors[f"{room}.{inner}{rest.removeprefix(inner)}"] = tensor
    if not sharded:
        save_file(tensors, whole, metadata={"format": "pt"})
        return
    whole.unlink()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2]}
    shards["model-00002-of-00002.safetensors"] = names[1::2]
    for shard, held in shards.items():
        part = {name: tensors[name] for name in held}
        save_file(part, directory / shard, metadata={"format": "pt"})
    places = {name: shard for shard, held in shards.items() for name in held}
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def fitted(*, width: int) -> Fitted:
    """A head that reads features 0 and 1, and a bank of embeddings along feature 2."""
    random = np.random.default_rng(5)
    weights = np.zeros((2, width))
    weights[0, 0] = weights[1, 1] = 2.0
    ones, zeros = np.ones(2), np.zeros(2)
    bank = (0.05 * random.standard_normal((40, width))).astype(np.float32)
    bank[:, 2] += 3.0
    codes = Code(value="36118008", scheme="SCT", meaning="Pneumothorax"), None
    return Fitted(
        head=LinearHead(
            mean=np.zeros(width), scale=np.ones(width), weights=weights, intercept=zeros
        ),
        calibration=Calibration(kind="platt", slope=ones, intercept=zeros - 1.0, shift=zeros),
        record=CalibrationRecord(kind="platt", local=True, dtype="float32", device_class="cpu"),
        findings=(
            FindingSpec(
                name="pneumothorax", code=codes[0], operating_point=0.5, raises_to=Rank.STAT
            ),
            FindingSpec(name="nodule", code=codes[1], operating_point=0.9, raises_to=Rank.MEDIUM),
        ),
        bank_vectors=bank,
        gate=Gate(neighbours=5, threshold=0.5),
    )
