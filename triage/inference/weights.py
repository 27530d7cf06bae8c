"""Read a vision tower out of a checkpoint of the hub, without the gigabytes around it.

A MedGemma checkpoint holds 0.8 GB of vision tower and 7.8 GB of text model; when only
embeddings are wanted, the tower is read alone. Key names differ with the age of the checkpoint:
`vision_tower.vision_model.*`, `vision_tower.*`, `model.vision_tower.*` for Gemma 3, and
`vision_model.*` for SigLIP. Loading is strict: no key missing, none left over, shapes equal.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from transformers import Gemma3ForConditionalGeneration, SiglipVisionConfig, SiglipVisionModel
from transformers.utils.logging import disable_progress_bar

from triage.errors import BundleError

INDEX: Final = "model.safetensors.index.json"
WHOLE: Final = "model.safetensors"
TOWER: Final = re.compile(r"(?:model\.)?vision_tower\.(?:vision_model\.)?|vision_model\.")


def load_vision_tower(directory: Path, dtype: torch.dtype) -> SiglipVisionModel:
    """Build the tower that config.json describes and fill it; raises BundleError."""
    settings = read_json(directory / "config.json")
    try:
        config = SiglipVisionConfig(**settings.get("vision_config", {}))
    except (TypeError, ValueError) as error:
        raise BundleError(f"{directory / 'config.json'} describes no vision tower") from error
    config._attn_implementation = "sdpa"
    tower = SiglipVisionModel(config).to(dtype)
    state = {name: tensor.to(dtype) for name, tensor in _tower_tensors(directory).items()}
    try:
        tower.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise BundleError(
            f"the weights in {directory} do not fit the vision tower of its config.json"
        ) from error
    return tower


def _tower_tensors(directory: Path) -> dict[str, torch.Tensor]:
    """All tensors of the tower, named as in SiglipVisionModel."""
    tensors: dict[str, torch.Tensor] = {}
    for shard, wanted in _shards(directory).items():
        try:
            with safe_open(directory / shard, framework="pt") as file:
                for key in wanted if wanted is not None else file.keys():
                    if prefix := TOWER.match(key):
                        tensors[key[prefix.end() :]] = file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise BundleError(f"{directory / shard} cannot be read as safetensors") from error
    return tensors


def _shards(directory: Path) -> dict[str, list[str] | None]:
    """Files that hold the tower, with its keys in each; None = look through all keys."""
    if not (directory / INDEX).is_file():
        return {WHOLE: None}
    places = read_json(directory / INDEX).get("weight_map", {})
    shards: dict[str, list[str] | None] = {}
    for key, shard in places.items():
        if Path(shard).name != shard:
            raise BundleError(f"{directory / INDEX} names a file outside its directory")
        if TOWER.match(key):
            shards.setdefault(shard, [])
            shards[shard] = [*(shards[shard] or []), key]
    return shards


def load_whole(directory: Path, dtype: torch.dtype) -> Gemma3ForConditionalGeneration:
    """Load tower and language model together; raises BundleError for one that lacks weights."""
    disable_progress_bar()
    try:
        model, told = Gemma3ForConditionalGeneration.from_pretrained(
            directory,
            local_files_only=True,
            use_safetensors=True,
            dtype=dtype,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise BundleError(f"{directory} cannot be loaded as a Gemma 3 model") from error
    if told["missing_keys"]:  # transformers would let random weights speak in their place
        raise BundleError(
            f"the weights in {directory} lack {min(told['missing_keys'])} of its config.json"
        )
    return model


def normalisation(directory: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation per channel, from either layout of the preprocessor settings."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (directory / name).is_file():
            settings = read_json(directory / name)
            settings = settings.get("image_processor", settings)
            break
    else:
        raise BundleError(f"{directory} has no preprocessor_config.json")
    read = []
    for key in ("image_mean", "image_std"):
        values = settings.get(key)
        if not isinstance(values, list) or len(values) != 3:
            raise BundleError(f"{directory / name} lacks {key} of three channels")
        read.append(torch.tensor(values, dtype=torch.float32).reshape(3, 1, 1))
    if not (read[1] > 0).all():
        raise BundleError(f"{directory / name} has an image_std that is not positive")
    return read[0], read[1]


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object of an encoder directory; raises BundleError."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read as JSON") from error
    if not isinstance(value, dict):
        raise BundleError(f"{path} holds no JSON object")
    return value
