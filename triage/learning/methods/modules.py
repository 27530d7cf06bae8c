"""The heads as torch modules, for gradient descent, and their way back to `inference.heads`.

Each module computes what its head computes on the standardised vectors of a batch of subjects,
padded to (B, P, V, D) for P parts of V views; `seen` (B, P, V) says which views are there. The
arithmetic stands twice on purpose: serving needs no torch, and a test holds the two together.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from triage.inference.heads import Head, LinearHead, MixtureHead, MlpHead, ViewAttentionHead
from triage.learning.methods.material import Parts, Reals

NOTHING = -1e30  # logit of a view that is not there: below every other, and finite


class HeadModule(nn.Module):
    """What all heads share: standardising, and the highest view of a subject."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Reals, scale: Reals) -> None:
        super().__init__()
        self.register_buffer("mean", tensor(mean))
        self.register_buffer("scale", tensor(scale))

    def forward(self, vectors: Tensor, seen: Tensor) -> Tensor:
        """Logits (B, F) of (B, P, V, D)."""
        logits = self.views((vectors - self.mean) / self.scale)
        return logits.masked_fill(~seen[..., None], NOTHING).amax(dim=(1, 2))

    def views(self, standard: Tensor) -> Tensor:
        """Logits (..., F) of standardised vectors (..., D), each view by itself."""
        raise NotImplementedError

    def exported(self) -> Head:
        """The head that serves."""
        raise NotImplementedError


class LinearModule(HeadModule):
    """Started from a fitted head."""

    def __init__(self, head: LinearHead) -> None:
        super().__init__(head.mean, head.scale)
        self.weights = nn.Parameter(tensor(head.weights))
        self.intercept = nn.Parameter(tensor(head.intercept))

    def views(self, standard: Tensor) -> Tensor:
        return standard @ self.weights.T + self.intercept

    def exported(self) -> LinearHead:
        return LinearHead(
            mean=reals(self.mean),
            scale=reals(self.scale),
            weights=reals(self.weights),
            intercept=reals(self.intercept),
        )


class MlpModule(HeadModule):
    """Hidden layers with ReLU and dropout, drawn anew from torch's seed."""

    def __init__(
        self, mean: Reals, scale: Reals, hidden: Sequence[int], findings: int, dropout: float
    ) -> None:
        super().__init__(mean, scale)
        sizes = [len(mean), *hidden, findings]
        self.layers = nn.ModuleList(
            nn.Linear(inputs, outputs) for inputs, outputs in pairwise(sizes)
        )
        self.dropout = nn.Dropout(dropout)

    @property
    def last(self) -> nn.Linear:
        """The layer that gives the logits."""
        *_, layer = self.linear
        return layer

    @property
    def linear(self) -> list[nn.Linear]:
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def views(self, standard: Tensor) -> Tensor:
        for layer in self.linear[:-1]:
            standard = self.dropout(torch.relu(layer(standard)))
        logits: Tensor = self.last(standard)
        return logits

    def exported(self) -> MlpHead:
        return MlpHead(
            mean=reals(self.mean),
            scale=reals(self.scale),
            layers=tuple((reals(layer.weight), reals(layer.bias)) for layer in self.linear),
        )


class ViewAttentionModule(HeadModule):
    """Started from a head fitted on single views: at first every view counts alike."""

    def __init__(self, head: LinearHead) -> None:
        super().__init__(head.mean, head.scale)
        self.query = nn.Parameter(torch.zeros_like(tensor(head.weights)))
        self.weights = nn.Parameter(tensor(head.weights))
        self.intercept = nn.Parameter(tensor(head.intercept))

    def forward(self, vectors: Tensor, seen: Tensor) -> Tensor:
        standard = (vectors - self.mean) / self.scale
        scores = standard @ self.query.T / standard.shape[-1] ** 0.5  # (B, P, V, F)
        shares = scores.masked_fill(~seen[..., None], NOTHING).softmax(dim=2)
        pooled = torch.einsum("bpvf,bpvd->bpfd", shares, standard)
        logits = (pooled * self.weights).sum(dim=-1) + self.intercept
        return logits.masked_fill(~seen.any(dim=2)[..., None], NOTHING).amax(dim=1)

    def exported(self) -> ViewAttentionHead:
        return ViewAttentionHead(
            mean=reals(self.mean),
            scale=reals(self.scale),
            query=reals(self.query),
            weights=reals(self.weights),
            intercept=reals(self.intercept),
        )


class MixtureModule(HeadModule):
    """Started from one fitted head per expert: at first all experts count alike."""

    def __init__(self, heads: Sequence[LinearHead]) -> None:
        super().__init__(
            np.concatenate([head.mean for head in heads]),
            np.concatenate([head.scale for head in heads]),
        )
        self.widths = tuple(len(head.mean) for head in heads)
        self.route = nn.Parameter(torch.zeros(len(heads), sum(self.widths)))
        self.route_bias = nn.Parameter(torch.zeros(len(heads)))
        self.heads = nn.Parameter(tensor(np.concatenate([head.weights for head in heads], axis=1)))
        self.intercept = nn.Parameter(tensor(np.stack([head.intercept for head in heads])))

    def views(self, standard: Tensor) -> Tensor:
        shares = (standard @ self.route.T + self.route_bias).softmax(dim=-1)  # (..., E)
        said = torch.stack(
            [
                part @ weights.T
                for part, weights in zip(
                    torch.split(standard, list(self.widths), dim=-1),
                    torch.split(self.heads, list(self.widths), dim=-1),
                    strict=True,
                )
            ],
            dim=-2,
        )  # (..., E, F)
        return (shares[..., None] * (said + self.intercept)).sum(dim=-2)

    def exported(self) -> MixtureHead:
        return MixtureHead(
            mean=reals(self.mean),
            scale=reals(self.scale),
            widths=self.widths,
            route=reals(self.route),
            route_bias=reals(self.route_bias),
            heads=reals(self.heads),
            intercept=reals(self.intercept),
        )


def padded(parts: Sequence[Parts]) -> tuple[Tensor, Tensor]:
    """Subjects as (B, P, V, D), zeros where there is nothing, and which views are there."""
    shape = (
        len(parts),
        max(len(subject) for subject in parts),
        max(len(part) for subject in parts for part in subject),
    )
    vectors = np.zeros((*shape, parts[0][0].shape[1]), np.float32)
    seen = np.zeros(shape, np.bool_)
    for i, subject in enumerate(parts):
        for j, part in enumerate(subject):
            vectors[i, j, : len(part)] = part
            seen[i, j, : len(part)] = True
    return torch.from_numpy(vectors), torch.from_numpy(seen)


def tensor(values: NDArray[np.floating]) -> Tensor:
    """Float32 on the processor."""
    return torch.tensor(np.asarray(values), dtype=torch.float32)


def reals(values: Tensor) -> Reals:
    """Float64 for what serves."""
    return np.asarray(values.detach().cpu().numpy(), np.float64)
