"""An encoder opened for `explanation`: tokens, vectors, pooling, also with shuffled weights.

Takes the encoder that serves, so that what is explained is what is served. Shuffling permutes the
values inside every array: the weights keep their sizes and lose their meaning, which is what a map
of the model has to notice (`faithfulness`). Gradients stop at the tokens: the tower itself is
passed once, without any.
"""

import copy
import re
from dataclasses import replace
from functools import partial
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from triage.inference.bundle import Bundle
from triage.inference.device import dtype_name, on_device
from triage.inference.encoder import Encoder, tokens_of
from triage.inference.heads import Head, MlpHead
from triage.inference.pooling import query_pool, tensors_of
from triage.learning.explaining.explanation import Opened, Reals, Views, is_additive

BATCH: Final = 16  # views at once
KEPT: Final = frozenset({"mean", "scale", "widths"})  # of a head: they describe the features
LAYER: Final = re.compile(r"\blayers\.(\d+)\.")


def opened(bundle: Bundle, encoder: Encoder, vision: Any = None) -> Opened:
    """Open the encoder of a bundle; `vision` is another tower to look through, of the same shape.

    With another tower the rest of the vector, of experts and words, is that of the encoder.
    """
    features = bundle.manifest.features
    tower = encoder.vision if vision is None else vision
    tensors = None if bundle.pooling is None else tensors_of(bundle.pooling, encoder.device)

    def tokens(views: Views) -> NDArray[np.float32]:
        def look(part: Views) -> NDArray[np.float32]:
            found = tokens_of(tower, encoder.pixels(part), features.layer)
            return np.asarray(found.float().cpu().numpy(), np.float32)

        return np.concatenate([on_device(partial(look, part)) for part in _batches(views)])

    def pool(tokens: Tensor) -> Tensor:
        tokens = tokens.to(encoder.device)
        if tensors is not None:
            vector = query_pool(tokens, tensors)
        elif is_additive(bundle):
            vector = tokens.mean(dim=1)
        else:
            vector = tower.head(tokens.to(encoder.dtype)).float()
        return (normalize(vector, dim=1) if features.unit_length else vector).cpu()

    def served(views: Views) -> NDArray[np.float32]:
        return np.concatenate([encoder.embed(part).vectors for part in _batches(views)])

    def through(views: Views) -> NDArray[np.float32]:
        found = torch.from_numpy(tokens(views))
        first = on_device(lambda: pool(found).numpy())
        return np.concatenate([first, served(views)[:, first.shape[1] :]], axis=1)

    def probe(found: NDArray[np.float32]) -> Reals:
        return on_device(lambda: _probed(tower.head, torch.from_numpy(found), encoder))

    return Opened(
        tokens=tokens,
        vectors=served if vision is None else through,
        pool=pool,
        probe=None if is_additive(bundle) else probe,
        tolerance=bundle.manifest.tolerance[dtype_name(encoder.dtype)],
    )


def _batches(views: Views) -> list[Views]:
    return [views[at : at + BATCH] for at in range(0, len(views), BATCH)]


def _probed(head: Any, tokens: Tensor, encoder: Encoder) -> Reals:
    """Attention of the probe of SigLIP's pooling head, mean over its heads, (V, T)."""
    tokens = tokens.to(encoder.device, encoder.dtype)
    probe = head.probe.repeat(len(tokens), 1, 1)
    _, weights = head.attention(probe, tokens, tokens, need_weights=True)
    return np.asarray(weights[:, 0].float().cpu().numpy(), np.float64)


# --- shuffled weights


def shuffled_tower(encoder: Encoder, *, seed: int, last: int | None = None) -> Any:
    """A copy of the tower with all weights shuffled, or those of its `last` blocks.

    What stands behind the blocks (last norm, pooling head) counts to the last ones.
    """
    tower: Any = copy.deepcopy(encoder.vision)
    first = 0 if last is None else max(0, tower.config.num_hidden_layers - last)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in tower.named_parameters():
            layer = LAYER.search(name)
            before = int(layer[1]) < first if layer else "embeddings" in name and first > 0
            if not before:
                order = torch.randperm(weight.numel(), generator=random).to(weight.device)
                weight.copy_(weight.flatten()[order].reshape(weight.shape))
    return tower


def shuffled_head(bundle: Bundle, *, seed: int) -> Bundle:
    """The bundle with the weights of its head, and of its queries where it has them, shuffled."""
    random = np.random.default_rng(seed)
    head: Head | None = bundle.head
    if isinstance(head, MlpHead):
        layers = tuple((_shuffled(w, random), _shuffled(b, random)) for w, b in head.layers)
        head = replace(head, layers=layers)
    elif head is not None:
        arrays = {name: getattr(head, name) for name in head.__dataclass_fields__}
        changed: dict[str, Any] = {
            name: _shuffled(array, random) for name, array in arrays.items() if name not in KEPT
        }
        head = cast("Head", replace(head, **changed))
    pooling = bundle.pooling
    if pooling is not None:
        names = ("queries", "key", "value")
        mixed = {name: _shuffled(getattr(pooling, name), random) for name in names}
        pooling = replace(pooling, **mixed)
    return replace(bundle, head=head, pooling=pooling)


def _shuffled(array: NDArray[Any], random: np.random.Generator) -> NDArray[Any]:
    return random.permutation(array.ravel()).reshape(array.shape)
