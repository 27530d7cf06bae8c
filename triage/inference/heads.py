"""Heads: the vectors of one subject to one logit per finding, in float64.

Owns the arithmetic of each kind of head, the names of its arrays in `head.safetensors`, and
what makes them fit each other. A head is trained elsewhere and needs no training code here; a
logit becomes a probability in `calibration`. Numpy only; no device, no torch.

    linear          per view, the highest view counts      (logistic regression)
    mlp             per view, the highest view counts      (ReLU between layers)
    view-attention  one weighted mean of the views per finding, then linear
                    (attention pooling of Ilse et al., ICML 2018, by dot product)
    mixture         per view, softmax routing over one linear head per encoder, the highest
                    view counts (dense mixture of experts, Jacobs et al., 1991)
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from triage.errors import BundleError

Reals: TypeAlias = NDArray[np.float64]
MAXIMUM_LAYERS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearHead:
    """Standardised linear head: F findings over D features."""

    mean: Reals  # (D,)
    scale: Reals  # (D,) above 0
    weights: Reals  # (F, D)
    intercept: Reals  # (F,)


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpHead:
    """Layers with ReLU between; the first takes D features, the last gives F logits."""

    mean: Reals  # (D,)
    scale: Reals  # (D,) above 0
    layers: tuple[tuple[Reals, Reals], ...]  # weights (O, I) and bias (O,) of each


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewAttentionHead:
    """Each finding weighs the views of a subject by softmax(query . z / sqrt(D))."""

    mean: Reals  # (D,)
    scale: Reals  # (D,) above 0
    query: Reals  # (F, D)
    weights: Reals  # (F, D)
    intercept: Reals  # (F,)


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureHead:
    """One linear head per slice of the vector (an encoder each), mixed by a softmax of it all."""

    mean: Reals  # (D,)
    scale: Reals  # (D,) above 0
    widths: tuple[int, ...]  # features of each of the E experts, in order; they sum to D
    route: Reals  # (E, D)
    route_bias: Reals  # (E,)
    heads: Reals  # (F, D), sliced by `widths`
    intercept: Reals  # (E, F)


Head: TypeAlias = LinearHead | MlpHead | ViewAttentionHead | MixtureHead
KINDS: Final[Mapping[str, type[Head]]] = {
    "linear": LinearHead,
    "mlp": MlpHead,
    "view-attention": ViewAttentionHead,
    "mixture": MixtureHead,
}


def kind_of(head: Head) -> str:
    """Name of the kind, as in `Manifest.head_kind`."""
    return next(kind for kind, made in KINDS.items() if isinstance(head, made))


def width(head: Head) -> int:
    """D, the features that it takes."""
    return int(head.mean.size)


def finding_count(head: Head) -> int:
    """F, the logits that it gives."""
    match head:
        case MlpHead():
            return int(head.layers[-1][1].size)
        case MixtureHead():
            return int(head.intercept.shape[1])
        case _:
            return int(head.intercept.size)


# --- arithmetic


def subject_logits(head: Head, vectors: NDArray[np.floating]) -> Reals:
    """Logits (F,) of one subject from the embeddings of its views, (V, D), V at least 1."""
    if isinstance(head, ViewAttentionHead):
        standard = standardised(head, vectors)
        scores = head.query @ standard.T / np.sqrt(width(head))  # (F, V)
        seen = softmax(scores) @ standard  # (F, D)
        return np.asarray((head.weights * seen).sum(axis=1) + head.intercept, np.float64)
    return np.asarray(view_logits(head, vectors).max(axis=0), np.float64)


def view_logits(head: Head, vectors: NDArray[np.floating]) -> Reals:
    """Logits (B, F) of embeddings (B, D), each judged as if it were a subject's only view."""
    standard = standardised(head, vectors)
    match head:
        case MlpHead():
            hidden = standard
            for weights, bias in head.layers[:-1]:
                hidden = np.maximum(hidden @ weights.T + bias, 0.0)
            weights, bias = head.layers[-1]
            return np.asarray(hidden @ weights.T + bias, np.float64)
        case MixtureHead():
            return _mixed(head, standard)
        case _:
            return np.asarray(standard @ head.weights.T + head.intercept, np.float64)


def standardised(head: Head, vectors: NDArray[np.floating]) -> Reals:
    """(..., D) with the head's mean taken off and divided by its scale."""
    return np.asarray((vectors.astype(np.float64) - head.mean) / head.scale, np.float64)


def softmax(scores: Reals) -> Reals:
    """Shares over the last axis that sum to one."""
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True), np.float64)


def _mixed(head: MixtureHead, standard: Reals) -> Reals:
    shares = softmax(standard @ head.route.T + head.route_bias)  # (B, E)
    ends = np.cumsum(head.widths)
    logits = np.zeros((len(standard), finding_count(head)))
    for expert, (end, size) in enumerate(zip(ends, head.widths, strict=True)):
        part = slice(int(end) - size, int(end))
        said = standard[:, part] @ head.heads[:, part].T + head.intercept[expert]
        logits += shares[:, expert, None] * said
    return logits


# --- files


def head_arrays(head: Head) -> dict[str, NDArray[np.float32]]:
    """The arrays of `head.safetensors`; the kind stands in the manifest."""
    arrays: dict[str, NDArray[Any]] = {}
    for field in fields(head):
        value = getattr(head, field.name)
        if field.name == "layers":
            for number, (weights, bias) in enumerate(value, start=1):
                arrays |= {f"weights_{number}": weights, f"bias_{number}": bias}
        else:
            arrays[field.name] = np.asarray(value)
    return {name: np.ascontiguousarray(value, np.float32) for name, value in arrays.items()}


def read_head(kind: str, arrays: Mapping[str, NDArray[Any]]) -> Head:
    """Make the head of `kind` from the arrays of its file; raises BundleError where they do not
    fit, are too many or too few, or hold a value that is not finite.
    """
    if kind not in KINDS:
        raise BundleError(f"a head of kind {kind!r} is not known")
    wanted = {field.name for field in fields(KINDS[kind])} - {"layers"}
    count = (len(arrays) - len(wanted)) // 2 if kind == "mlp" else 0
    layered = [f"{name}_{i}" for i in range(1, count + 1) for name in ("weights", "bias")]
    if odd := (wanted | set(layered)) ^ set(arrays):
        state = "lacks" if min(odd) not in arrays else "has no use for"
        raise BundleError(f"a head of kind {kind} {state} the array {min(odd)}")
    found: dict[str, Any] = {
        name: np.asarray(arrays[name], np.float64) for name in (*wanted, *layered)
    }
    if kind == "mixture":
        found["widths"] = tuple(int(size) for size in found["widths"].ravel())
    if kind == "mlp":
        found["layers"] = tuple(
            (found.pop(f"weights_{i}"), found.pop(f"bias_{i}")) for i in range(1, count + 1)
        )
    head: Head = KINDS[kind](**found)
    check_head(head)
    return head


def check_head(head: Head) -> None:
    """Raise BundleError unless all arrays of a head are finite and of shapes that fit."""
    kind = kind_of(head)
    if head.mean.ndim != 1 or not head.mean.size:
        raise BundleError(f"the {kind} head has a mean that is no row of features")
    arrays = _shapes(head)
    for name, (array, shape) in arrays.items():
        if array.shape != shape:
            raise BundleError(
                f"the {kind} head has {name} of shape {array.shape}, where {shape} fits"
            )
        if not np.isfinite(array).all():
            raise BundleError(f"the {kind} head holds values that are not finite in {name}")
    if not (head.scale > 0).all():
        raise BundleError(f"the {kind} head has a scale that is not positive")


def _shapes(head: Head) -> dict[str, tuple[Reals, tuple[int, ...]]]:
    """Each array with the shape that it must have, as the head's first ones say."""
    size = head.mean.size
    arrays: dict[str, tuple[Reals, tuple[int, ...]]] = {
        "mean": (head.mean, (size,)),
        "scale": (head.scale, (size,)),
    }
    match head:
        case MlpHead():
            return arrays | _layer_shapes(head, size)
        case MixtureHead():
            experts = len(head.widths)
            if sum(head.widths) != size or min(head.widths, default=0) < 1:
                raise BundleError("the mixture head has widths that do not sum to its features")
            count = len(head.heads) if head.heads.ndim == 2 else 0
            return arrays | {
                "route": (head.route, (experts, size)),
                "route_bias": (head.route_bias, (experts,)),
                "heads": (head.heads, (max(count, 1), size)),
                "intercept": (head.intercept, (experts, max(count, 1))),
            }
    count = max(len(head.weights) if head.weights.ndim == 2 else 0, 1)
    arrays |= {"weights": (head.weights, (count, size)), "intercept": (head.intercept, (count,))}
    if isinstance(head, ViewAttentionHead):
        arrays["query"] = (head.query, (count, size))
    return arrays


def _layer_shapes(head: MlpHead, size: int) -> dict[str, tuple[Reals, tuple[int, ...]]]:
    if not 1 <= len(head.layers) <= MAXIMUM_LAYERS:
        raise BundleError(f"the mlp head has not 1 to {MAXIMUM_LAYERS} layers")
    arrays: dict[str, tuple[Reals, tuple[int, ...]]] = {}
    for number, (weights, bias) in enumerate(head.layers, start=1):
        outputs = max(bias.size, 1)
        arrays[f"weights_{number}"] = (weights, (outputs, size))
        arrays[f"bias_{number}"] = (bias, (outputs,))
        size = outputs
    return arrays
