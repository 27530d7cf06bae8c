"""What a head makes of a vector, as one sum: which feature of which view moved the logit how far.

Every head of `inference.heads` is linear in the vectors once its own choices are held as they
were made for this subject (which view was highest, how views or experts were weighed, which
hidden units were open), so that its logit is exactly

    logit = sum over views v of share_v * (weights_v . vector_v + constant_v).

`torch_logit` is the same head with those choices left free, for gradients. Both are held against
`heads.subject_logits` by tests.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from triage.inference.heads import (
    Head,
    LinearHead,
    MixtureHead,
    MlpHead,
    Reals,
    ViewAttentionHead,
    softmax,
    standardised,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """One finding's logit as a sum over the features of V views."""

    weights: Reals  # (V, D), on vectors as they come, before standardising
    constants: Reals  # (V,)
    shares: Reals  # (V,) of each view in the logit, summing to one

    def logits(self, vectors: NDArray[np.floating]) -> Reals:
        """What each view gives by itself, (V,)."""
        products = np.einsum("vd,vd->v", self.weights, vectors.astype(np.float64))
        return np.asarray(products + self.constants, np.float64)


def direction(head: Head, vectors: NDArray[np.floating], finding: int) -> Direction:
    """The sum that gives the logit of `finding` for the views (V, D) of one subject."""
    standard = standardised(head, vectors)
    match head:
        case LinearHead() | ViewAttentionHead():
            weights = np.repeat(head.weights[finding][None], len(standard), axis=0)
            constants = np.full(len(standard), head.intercept[finding])
        case MlpHead():
            weights, constants = _open_units(head, standard, finding)
        case MixtureHead():
            weights, constants = _routed(head, standard, finding)
    # From standardised features to vectors as they come.
    weights = weights / head.scale
    constants = constants - weights @ head.mean
    if isinstance(head, ViewAttentionHead):
        shares = softmax(head.query[finding] @ standard.T / np.sqrt(standard.shape[1]))
    else:
        alone = np.einsum("vd,vd->v", weights, vectors.astype(np.float64)) + constants
        shares = np.zeros(len(standard))
        shares[int(np.argmax(alone))] = 1.0
    return Direction(weights=weights, constants=constants, shares=shares)


def _open_units(head: MlpHead, standard: Reals, finding: int) -> tuple[Reals, Reals]:
    """Weights and constants of the linear piece that each view lies in."""
    slopes = np.repeat(np.eye(standard.shape[1])[None], len(standard), axis=0)  # (V, I, D)
    offsets = np.zeros((len(standard), standard.shape[1]))
    hidden = standard
    for number, (weights, bias) in enumerate(head.layers, start=1):
        slopes = np.einsum("oi,vid->vod", weights, slopes)
        offsets = offsets @ weights.T + bias
        hidden = hidden @ weights.T + bias
        if number < len(head.layers):
            is_open = hidden > 0
            slopes, offsets = slopes * is_open[:, :, None], offsets * is_open
            hidden = hidden * is_open
    return slopes[:, finding], offsets[:, finding]


def _routed(head: MixtureHead, standard: Reals, finding: int) -> tuple[Reals, Reals]:
    routes = softmax(standard @ head.route.T + head.route_bias)  # (V, E)
    per_feature = np.repeat(routes, head.widths, axis=1)  # (V, D)
    return per_feature * head.heads[finding], routes @ head.intercept[:, finding]


def torch_logit(head: Head, vectors: "Tensor", finding: int) -> "Tensor":
    """Logit of `finding` for the views (V, D) of one subject, differentiable in the vectors."""
    import torch

    def fixed(array: Reals) -> "Tensor":
        return torch.as_tensor(array, dtype=vectors.dtype, device=vectors.device)

    standard = (vectors - fixed(head.mean)) / fixed(head.scale)
    match head:
        case ViewAttentionHead():
            scores = standard @ fixed(head.query[finding]) / standard.shape[1] ** 0.5
            seen = torch.softmax(scores, dim=0) @ standard
            return seen @ fixed(head.weights[finding]) + float(head.intercept[finding])
        case MlpHead():
            hidden = standard
            for number, (weights, bias) in enumerate(head.layers, start=1):
                hidden = hidden @ fixed(weights).T + fixed(bias)
                hidden = torch.relu(hidden) if number < len(head.layers) else hidden
            return hidden[:, finding].max()
        case MixtureHead():
            routes = torch.softmax(standard @ fixed(head.route).T + fixed(head.route_bias), dim=1)
            parts = torch.split(standard * fixed(head.heads[finding]), list(head.widths), dim=1)
            said = torch.stack([part.sum(dim=1) for part in parts], dim=1)
            return (routes * (said + fixed(head.intercept[:, finding]))).sum(dim=1).max()
        case LinearHead():
            return (standard @ fixed(head.weights[finding]) + float(head.intercept[finding])).max()
