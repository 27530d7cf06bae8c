"""Learned queries over the tokens of a tower, in torch: the same in training and in service.

Takes the arrays of `features.QueryPooling`, computes in float32 and lets gradients through; a
training room passes parameters, an explanation asks for the attention.
"""

from dataclasses import dataclass, fields
from math import sqrt

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from triage.inference.features import NORM_EPSILON, QueryPooling


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryTensors:
    """`features.QueryPooling` as float32 tensors of one device."""

    queries: Tensor  # (Q, W)
    key: Tensor  # (W, W)
    value: Tensor  # (W, P)
    norm_weight: Tensor  # (W,)
    norm_bias: Tensor  # (W,)


def tensors_of(pooling: QueryPooling, device: torch.device) -> QueryTensors:
    """Copy the arrays to a device."""
    arrays = {field.name: getattr(pooling, field.name) for field in fields(QueryTensors)}
    return QueryTensors(**{name: torch.tensor(array).to(device) for name, array in arrays.items()})


def query_attention(tokens: Tensor, pooling: QueryTensors) -> Tensor:
    """Share (B, Q, T) that each query gives to each token of (B, T, W)."""
    keys = _normed(tokens, pooling) @ pooling.key
    scores = pooling.queries @ keys.transpose(1, 2) / sqrt(tokens.shape[-1])
    return scores.softmax(dim=-1)


def query_pool(tokens: Tensor, pooling: QueryTensors) -> Tensor:
    """Tokens (B, T, W) to vectors (B, Q * P), query after query."""
    values = _normed(tokens, pooling) @ pooling.value
    return (query_attention(tokens, pooling) @ values).flatten(start_dim=1)


def _normed(tokens: Tensor, pooling: QueryTensors) -> Tensor:
    width = (tokens.shape[-1],)
    return layer_norm(
        tokens.float(), width, pooling.norm_weight, pooling.norm_bias, eps=NORM_EPSILON
    )
