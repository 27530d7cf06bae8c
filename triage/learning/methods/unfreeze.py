"""The last blocks of the vision tower trained along with a linear head.

From frozen (0 blocks) to all of them, patch embedding included. Rates fall from block to block
towards the input and follow a cosine; the head starts from a logistic regression on the frozen
vectors, so that the first steps do not tear the tower about (Kumar et al., 2022). Below the
first trained block nothing changes: its input is computed once and kept on disk.

The trained tower is written as an encoder directory of the bundle. Its language model was trained
on the tower as it was, so the bundle writes no captions.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from triage.inference.bundle_fields import Features
from triage.inference.encoder import Encoder
from triage.learning.material.encoders import pooled
from triage.learning.methods.checkpoint import write_encoder
from triage.learning.methods.descent import Descent, Split, descend
from triage.learning.methods.kept import Kept, keep, placed
from triage.learning.methods.linear import Strength, fit_chosen, restandardised
from triage.learning.methods.looking import open_first
from triage.learning.methods.material import (
    Choices,
    Material,
    Trained,
    require_both_classes,
)
from triage.learning.methods.modules import LinearModule


class Trunk(nn.Module):
    """What is kept of views, through the blocks that can be trained and the pooling, to vectors."""

    def __init__(self, encoder: Encoder, features: Features, first: int) -> None:
        super().__init__()
        self.vision: Any = encoder.vision
        self.encoder, self.first = encoder, first
        self.own_pooling = features.pooling == "default" and bool(encoder.vision.use_head)

    def forward(self, kept: Tensor) -> Tensor:
        """Vectors (n, D) of views (n, C, S, S), or of the input (n, T, W) of block `first`."""
        if self.first == 0:
            pixels = kept.expand(-1, 3, -1, -1)
            pixels = (pixels - self.encoder.mean) / self.encoder.deviation
            apart = pixels.shape[-1] != self.vision.config.image_size
            kept = self.vision.embeddings(pixels, interpolate_pos_encoding=apart)
        for block in self.vision.encoder.layers[self.first :]:
            kept = block(kept, None)
        tokens = self.vision.post_layernorm(kept)
        vectors: Tensor = self.vision.head(tokens) if self.own_pooling else tokens.mean(dim=1)
        return vectors


class UnfrozenModule(nn.Module):
    """Trunk and linear head together."""

    def __init__(self, trunk: Trunk, head: LinearModule) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, kept: Tensor, seen: Tensor) -> Tensor:
        """Logits (B, F)."""
        seen = seen.to(kept.device)
        logits: Tensor = self.head(placed(self.trunk(kept), seen), seen)
        return logits


def fit(material: Material, choices: Choices) -> Trained:
    """Train, write the encoder into the work directory, and embed with it."""
    features = pooled(material.encoders[0], choices.pooling)
    encoder = open_first(material, features)
    layers = int(encoder.vision.config.num_hidden_layers)
    first = max(0, layers - choices.blocks)
    make, what = _make(encoder, first)
    kept = [keep(material, split, make, what=what) for split in ("train", "val")]
    trunk = Trunk(encoder, features, first)
    trunk.requires_grad_(False)
    size = material.batch_size
    frozen = kept[0].labelled(_vectors(trunk, kept[0], size))
    require_both_classes(frozen, material.table.findings, "train")
    head, strength = fit_chosen(material, frozen, choices)
    module = UnfrozenModule(trunk, LinearModule(head).to(encoder.device))
    descent = _train(module, kept, choices) if choices.blocks else None
    changed = _changed(trunk) if descent and descent.best_epoch else {}
    directory = material.encoders[0]
    if changed:
        directory = write_encoder(directory, changed, material.work / "encoder")
    train, val = (each.labelled(_vectors(trunk, each, size)) for each in kept)
    return Trained(
        head=restandardised(module.head.exported(), train),
        encoder=directory,
        features=features,
        view=material.view,
        train=train,
        val=val,
        captions=False if changed else None,
        record=_record(layers, first, strength, descent, changed),
    )


def _make(encoder: Encoder, first: int) -> tuple[Callable[..., NDArray[np.float32]], str]:
    """What is kept of views: themselves, or the input of the first trained block."""
    if first == 0:
        return lambda views: np.asarray(views, np.float32), "views"
    return lambda views: encoder.patch_tokens(views, layer=first), "tokens"


def _train(module: UnfrozenModule, kept: list[Kept], choices: Choices) -> Descent:
    torch.manual_seed(choices.seed)
    groups = rate_groups(module, choices)
    for group in groups:
        for weight in group["params"]:
            weight.requires_grad_(True)
    train, val = (_split(module, each) for each in kept)
    return descend(module, train, val, choices, intercept=module.head.intercept, groups=groups)


def _changed(trunk: Trunk) -> dict[str, Tensor]:
    """The tensors of the tower that were trained."""
    return {
        name: weight.detach()
        for name, weight in trunk.vision.named_parameters()
        if weight.requires_grad
    }


def rate_groups(module: UnfrozenModule, choices: Choices) -> list[dict[str, Any]]:
    """Parameters with their rates: the head's own, then from the last block towards the input."""
    trunk, rate = module.trunk, choices.encoder_rate
    vision = trunk.vision
    top = list(vision.post_layernorm.parameters())
    top += list(vision.head.parameters()) if trunk.own_pooling else []
    groups = [
        {"params": list(module.head.parameters()), "lr": choices.rate},
        {"params": top, "lr": rate},
    ]
    for block in reversed(vision.encoder.layers[trunk.first :]):
        groups.append({"params": list(block.parameters()), "lr": rate})
        rate *= choices.layer_decay
    if trunk.first == 0:
        groups.append({"params": list(vision.embeddings.parameters()), "lr": rate})
    return groups


def _split(module: UnfrozenModule, kept: Kept) -> Split:
    def logits(rows: NDArray[np.intp]) -> Tensor:
        values, seen = kept.taken(rows)
        said: Tensor = module(values.to(module.trunk.encoder.device), seen)
        return said

    return Split(logits=logits, truth=kept.truth)


@torch.no_grad()
def _vectors(trunk: Trunk, kept: Kept, size: int) -> NDArray[np.float32]:
    device = trunk.encoder.device
    made = [
        trunk(torch.from_numpy(kept.values[at : at + size]).to(device)).cpu().numpy()
        for at in range(0, len(kept.values), size)
    ]
    width = int(trunk.vision.config.hidden_size)
    return np.concatenate(made) if made else np.empty((0, width), np.float32)


def _record(
    layers: int,
    first: int,
    strength: Strength,
    descent: Descent | None,
    changed: dict[str, Tensor],
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "encoder_blocks": layers,
        "trained_blocks": layers - first,
        "encoder_changed": bool(changed),
        "l2_of_the_start": strength.l2,
    }
    if descent is not None and not changed:
        record["remark"] = "no epoch bettered the frozen encoder, which is kept"
    return record | (descent.record() if descent is not None else {})
