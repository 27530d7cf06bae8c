"""Learned queries that attend to the tokens of a frozen middle layer.

After MedBridge (arXiv 2505.21698): what tells a finding from another may be plainer half-way up
the tower than at its end, where training for captions has smoothed it over. The arithmetic is
that of `inference.pooling`, which takes parameters here and arrays when it serves. The queries
and their linear head are trained together; the encoder stays as it is.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from triage.errors import PermanentError
from triage.inference.bundle_fields import Features
from triage.inference.encoder import Encoder
from triage.inference.features import QueryPooling
from triage.inference.heads import LinearHead
from triage.inference.pooling import QueryTensors, query_pool
from triage.learning.methods.descent import Split, descend
from triage.learning.methods.kept import Kept, keep, placed
from triage.learning.methods.linear import restandardised
from triage.learning.methods.looking import open_first
from triage.learning.methods.material import Choices, Material, Trained, require_both_classes
from triage.learning.methods.modules import NOTHING

NAMES = ("queries", "key", "value", "norm_weight", "norm_bias")


class QueryModule(nn.Module):
    """Pooling and head in one, on tokens (n, T, W) of views."""

    def __init__(self, width: int, choices: Choices, findings: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(choices.queries, width))
        self.key = nn.Parameter(torch.randn(width, width) * width**-0.5)
        self.value = nn.Parameter(torch.randn(width, choices.query_width) * width**-0.5)
        self.norm_weight = nn.Parameter(torch.ones(width))
        self.norm_bias = nn.Parameter(torch.zeros(width))
        self.head = nn.Linear(choices.queries * choices.query_width, findings)

    def pool(self, tokens: Tensor) -> Tensor:
        """Vectors (n, Q * P)."""
        return query_pool(tokens, QueryTensors(**{name: getattr(self, name) for name in NAMES}))

    def forward(self, tokens: Tensor, seen: Tensor) -> Tensor:
        """Logits (B, F), the highest view of each subject."""
        seen = seen.to(tokens.device)
        logits = placed(self.head(self.pool(tokens)), seen)
        return logits.masked_fill(~seen[..., None], NOTHING).amax(dim=(1, 2))


def fit(material: Material, choices: Choices) -> Trained:
    """Keep the tokens of the layer, then train queries and head on them."""
    encoder = open_first(material, Features())
    layer = layer_of(encoder, choices)
    kept = [
        keep(material, split, lambda views: encoder.patch_tokens(views, layer=layer), what="tokens")
        for split in ("train", "val")
    ]
    device = encoder.device
    torch.manual_seed(choices.seed)
    width = encoder.vision.config.hidden_size
    module = QueryModule(width, choices, len(material.table.findings)).to(device)
    train, val = (_split(module, each, device) for each in kept)
    descent = descend(module, train, val, choices, intercept=module.head.bias)
    embedded = [each.labelled(_vectors(module, each, device, material.batch_size)) for each in kept]
    require_both_classes(embedded[0], material.table.findings, "train")
    return Trained(
        head=restandardised(_head(module), embedded[0]),
        encoder=material.encoders[0],
        features=Features(pooling="queries", layer=layer),
        view=material.view,
        train=embedded[0],
        val=embedded[1],
        pooling=QueryPooling(**{name: _array(getattr(module, name)) for name in NAMES}),
        record={"layer_chosen": layer, **descent.record()},
    )


def layer_of(encoder: Encoder, choices: Choices) -> int:
    """The hidden layer that was asked for, else the middle one."""
    layers = int(encoder.vision.config.num_hidden_layers)
    layer = choices.layer if choices.layer is not None else max(1, round(layers / 2))
    if not 1 <= layer <= layers:
        raise PermanentError(
            f"the encoder has {layers} layers, and layer {layer} was asked for",
            hint="Choose --layer between 1 and that number.",
        )
    return layer


def _split(module: QueryModule, kept: Kept, device: torch.device) -> Split:
    def logits(rows: NDArray[np.intp]) -> Tensor:
        tokens, seen = kept.taken(rows)
        said: Tensor = module(tokens.to(device), seen)
        return said

    return Split(logits=logits, truth=kept.truth)


@torch.no_grad()
def _vectors(
    module: QueryModule, kept: Kept, device: torch.device, size: int
) -> NDArray[np.float32]:
    width = module.head.in_features
    made = [
        module.pool(torch.from_numpy(kept.values[first : first + size]).to(device)).cpu().numpy()
        for first in range(0, len(kept.values), size)
    ]
    return np.concatenate(made) if made else np.empty((0, width), np.float32)


def _head(module: QueryModule) -> LinearHead:
    width = module.head.in_features
    return LinearHead(
        mean=np.zeros(width),
        scale=np.ones(width),
        weights=_array(module.head.weight).astype(np.float64),
        intercept=_array(module.head.bias).astype(np.float64),
    )


def _array(parameter: Tensor) -> NDArray[np.float32]:
    return np.array(parameter.detach().cpu().numpy(), np.float32)
