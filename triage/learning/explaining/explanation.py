"""Where in a picture a bundle found its evidence for a finding, patch by patch.

Three methods, each with what it can and cannot say:

    additive   the logit as a sum: every patch's contribution, plus a constant. Exact for vectors
               that are a mean of tokens or read by queries, whatever the head (`directions`);
               which view was highest, how queries attended and how long the vector was are held
               as they were.
    attention  where queries, or the probe of SigLIP's pooling head, looked: shares that sum to
               one, the same for every finding, no sign.
    gradient   gradient of the logit times token at the layer that is pooled, through pooling and
               head: for every bundle; a slope, hence no sum that must come out.

A token mixes its patch with what the tower read elsewhere, and a few patches of large norm store
what belongs to the whole picture (Darcet et al., ICLR 2024): they are found by their norm and
their values clipped to the range of the others. Nothing here is shown to a reader of studies:
triage devices do not point at a location. What a map is worth is measured by `faithfulness`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from triage.errors import InferenceError, PermanentError
from triage.inference.calibration import calibrated
from triage.inference.classifier import OUT_OF_DISTRIBUTION, bank_distances
from triage.inference.features import NORM_EPSILON, QueryPooling
from triage.inference.heads import softmax, subject_logits
from triage.learning.explaining.directions import Direction, direction, torch_logit

if TYPE_CHECKING:
    from torch import Tensor

    from triage.inference.bundle import Bundle

Reals = NDArray[np.float64]
Views = NDArray[np.float32]
OUTLIER_DEVIATIONS: Final = 6.0  # of a token's norm from the median, in robust deviations


class Method(StrEnum):
    ADDITIVE = "additive"
    ATTENTION = "attention"
    GRADIENT = "gradient"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An encoder opened up: what stands between a view and its vector."""

    tokens: Callable[[Views], NDArray[np.float32]]  # (V, C, S, S) to (V, T, W) that are pooled
    vectors: Callable[[Views], NDArray[np.float32]]  # to (V, D), as served
    # Tokens (V, T, W) to the first encoder's part of the vector (V, D1), differentiable.
    pool: Callable[["Tensor"], "Tensor"]
    probe: Callable[[NDArray[np.float32]], Reals] | None  # where a pooling head looks, (V, T)
    tolerance: float  # of a vector made from tokens against the served one, share of its rms


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One finding in one subject of V views; patches in R rows of K columns."""

    finding: str
    method: Method
    values: Reals  # (V, R, K): logits for additive and gradient, shares for attention
    outliers: NDArray[np.bool_]  # (V, R, K) patches of outlying norm
    constants: Reals | None  # (V,): additive only, what is in no patch
    shares: Reals  # (V,) of each view in the subject's logit
    logits: Reals  # (V,) of each view by itself
    logit: float  # of the subject, before calibration
    probability: float
    operating_point: float
    in_distribution: bool
    reason: str  # why the bundle gives no score, if it gives none

    @property
    def view(self) -> int:
        """The view that counts most."""
        return int(np.argmax(self.shares))

    @property
    def flagged(self) -> bool:
        return self.in_distribution and self.probability >= self.operating_point

    @property
    def common(self) -> Reals:
        """(V,) the median patch of each view; of attention an even share."""
        if self.method is Method.ATTENTION:
            return np.full(len(self.values), 1.0 / self.values[0].size)
        return np.asarray(np.median(self.values, axis=(1, 2)), np.float64)

    @property
    def shown(self) -> Reals:
        """(V, R, K) above the common value, outliers clipped to the range of the others."""
        return np.stack(
            [
                clipped(values - common, odd)
                for values, common, odd in zip(self.values, self.common, self.outliers, strict=True)
            ]
        )


def explain(
    bundle: "Bundle", encoder: Opened, views: Views, *, finding: str | None, method: Method | None
) -> Evidence:
    """Explain one subject's views (V, C, S, S); None = most probable finding, best method.

    Raises PermanentError for a finding or method that the bundle does not have, InferenceError
    where the encoder gives no usable value.
    """
    head, calibration = bundle.head, bundle.calibration
    if head is None or calibration is None:
        raise PermanentError(
            f"bundle {bundle.identity.name} has no classifier, hence no evidence to show",
            hint="Make one with `triage train`.",
        )
    method = method or best_method(bundle)
    check_method(bundle, method)
    tokens, vectors = _looked(bundle, encoder, views, method)
    used, inside = _used_views(bundle, vectors)
    chances = calibrated(calibration, subject_logits(head, vectors[used]))
    at = finding_index(bundle, finding, chances)
    spec, sums = bundle.manifest.findings[at], direction(head, vectors, at)
    shares = np.zeros(len(vectors))
    shares[used] = direction(head, vectors[used], at).shares
    constants = None
    if method is Method.ADDITIVE:
        values, constants = _additive(bundle, tokens, vectors, sums, head.mean)
    elif method is Method.ATTENTION:
        values = _attention(bundle, encoder, tokens)
    else:
        values = _gradient(bundle, encoder, at, tokens, vectors)
    grid = patch_grid(tokens.shape[1])
    return Evidence(
        finding=spec.name,
        method=method,
        values=values.reshape(len(values), *grid),
        outliers=outlying(tokens).reshape(len(values), *grid),
        constants=constants,
        shares=shares,
        logits=sums.logits(vectors),
        logit=float(subject_logits(head, vectors[used])[at]),
        probability=float(chances[at]),
        operating_point=spec.operating_point,
        in_distribution=inside,
        reason="" if inside else OUT_OF_DISTRIBUTION,
    )


# --- which finding, which method


def finding_index(bundle: "Bundle", name: str | None, chances: Reals | None = None) -> int:
    """Place of a finding in the head; without a name that of the highest of `chances`."""
    names = [spec.name for spec in bundle.manifest.findings]
    if name is None:
        return 0 if chances is None else int(np.argmax(chances))
    if name not in names:
        raise PermanentError(
            f"bundle {bundle.identity.name} has no finding of that name",
            hint=f"It knows {', '.join(names)}.",
        )
    return names.index(name)


def is_additive(bundle: "Bundle") -> bool:
    """Whether its vectors are sums over patches: a mean of tokens, or what queries read."""
    pooling = bundle.manifest.features.pooling
    return pooling != "default" or bundle.manifest.encoder.architecture != "SiglipModel"


def methods_of(bundle: "Bundle") -> tuple[Method, ...]:
    """The methods that a bundle allows, the best first: exact before sloped before unsigned."""
    looks = bundle.pooling is not None or not is_additive(bundle)
    return (
        *((Method.ADDITIVE,) if is_additive(bundle) else ()),
        Method.GRADIENT,
        *((Method.ATTENTION,) if looks else ()),
    )


def best_method(bundle: "Bundle") -> Method:
    """What `--method auto` takes."""
    return methods_of(bundle)[0]


def check_method(bundle: "Bundle", method: Method) -> None:
    """Raise PermanentError where a bundle has nothing that the method could show."""
    if method in methods_of(bundle):
        return
    why = (
        "its pooling head is not a sum over patches"
        if method is Method.ADDITIVE
        else "it takes the mean of all patches and has no queries"
    )
    raise PermanentError(
        f"bundle {bundle.identity.name} allows no {method} map: {why}",
        hint=f"It allows {' and '.join(methods_of(bundle))}.",
    )


# --- values


def outlying(tokens: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(V, T) tokens whose norm lies far above the others of their view."""
    norms = np.linalg.norm(tokens.astype(np.float64), axis=2)
    middle = np.median(norms, axis=1, keepdims=True)
    spread = 1.4826 * np.median(np.abs(norms - middle), axis=1, keepdims=True)
    return np.asarray(norms > middle + OUTLIER_DEVIATIONS * np.maximum(spread, 1e-9 * middle))


def clipped(values: Reals, odd: NDArray[np.bool_]) -> Reals:
    """Values with those of `odd` patches held within the range of the others."""
    if odd.all() or not odd.any():
        return values
    rest = values[~odd]
    return np.where(odd, np.clip(values, rest.min(), rest.max()), values)


def patch_grid(count: int) -> tuple[int, int]:
    """Rows and columns of the patches of a square view."""
    side = round(count**0.5)
    if side * side != count:
        raise InferenceError(f"{count} patches make no square")
    return side, side


def attention_of(pooling: QueryPooling, tokens: NDArray[np.floating]) -> Reals:
    """Where each query looks, (V, Q, T) summing to one over the patches; float64."""
    keys = _normed(pooling, tokens) @ pooling.key.astype(np.float64)
    scores = pooling.queries.astype(np.float64) @ keys.transpose(0, 2, 1)
    return softmax(scores / np.sqrt(tokens.shape[2]))


def _normed(pooling: QueryPooling, tokens: NDArray[np.floating]) -> Reals:
    tokens = tokens.astype(np.float64)
    centred = tokens - tokens.mean(axis=2, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=2, keepdims=True) + NORM_EPSILON)
    return np.asarray(centred / deviation * pooling.norm_weight + pooling.norm_bias, np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Vectors (V, D1) of the first encoder in float64, as sums over patches."""

    looks: Reals  # (V, Q, T) shares; the mean of tokens is one query that looks everywhere alike
    read: Reals  # (V, T, P) what is read of each patch
    length: Reals  # (V, 1) the sums are divided by

    @property
    def whole(self) -> Reals:
        """The vectors, (V, Q * P)."""
        return (self.looks @ self.read).reshape(len(self.read), -1) / self.length

    def spread(self, weights: Reals, usual: Reals) -> Reals:
        """weights . (vector - usual) as patches' contributions: weights (V, D1) to (V, T).

        Without `usual` (D1,), the mean that the head takes off, a patch that is like everybody's
        would speak for or against; with it nothing is said there.
        """
        per_query = weights.reshape(len(weights), self.looks.shape[1], -1)
        heights = np.einsum("vtp,vqp->vqt", self.read, per_query) / self.length[:, :, None]
        heights -= (per_query * usual.reshape(1, *per_query.shape[1:])).sum(axis=2)[:, :, None]
        return np.asarray((self.looks * heights).sum(axis=1), np.float64)


def parts_of(bundle: "Bundle", tokens: NDArray[np.floating]) -> Parts:
    """Take tokens (V, T, W) apart as an additive bundle pools them."""
    count = tokens.shape[1]
    if bundle.pooling is None:
        looks = np.full((len(tokens), 1, count), 1.0 / count)
        read = tokens.astype(np.float64)
    else:
        looks = attention_of(bundle.pooling, tokens)
        read = _normed(bundle.pooling, tokens) @ bundle.pooling.value.astype(np.float64)
    parts = Parts(looks=looks, read=read, length=np.ones((len(tokens), 1)))
    if not bundle.manifest.features.unit_length:
        return parts
    return replace(parts, length=np.linalg.norm(parts.whole, axis=1, keepdims=True))


def _looked(
    bundle: "Bundle", encoder: Opened, views: Views, method: Method
) -> tuple[NDArray[np.float32], NDArray[np.floating]]:
    """Tokens and vectors; the latter, for an additive map, in float64 from the tokens.

    Raises InferenceError where the tokens do not give the vector that is served.
    """
    tokens, served = encoder.tokens(views), encoder.vectors(views)
    if not (np.isfinite(served).all() and np.isfinite(tokens).all()):
        raise InferenceError("the model gave a value that is not finite for this image")
    if method is not Method.ADDITIVE:
        return tokens, served
    first = parts_of(bundle, tokens).whole
    part = served[:, : first.shape[1]]
    scale = float(np.sqrt(np.mean(np.square(part, dtype=np.float64))))
    if float(np.abs(first - part).max()) > encoder.tolerance * max(scale, 1e-12):
        raise InferenceError("the patches of this image do not add up to the vector that is served")
    return tokens, np.concatenate([first, served[:, first.shape[1] :]], axis=1)


def _used_views(bundle: "Bundle", vectors: NDArray[np.floating]) -> tuple[NDArray[np.bool_], bool]:
    """Views that take part in the score, as `classify_subject` chooses them, and if any does."""
    gate = bundle.manifest.gate
    if bundle.bank is None or gate is None:
        return np.ones(len(vectors), np.bool_), True
    distances = bank_distances(bundle.bank, vectors.astype(np.float32), gate.neighbours)
    if float(np.median(distances)) > gate.threshold:
        return np.ones(len(vectors), np.bool_), False
    return np.asarray(distances <= gate.threshold), True


def _additive(
    bundle: "Bundle",
    tokens: NDArray[np.float32],
    vectors: NDArray[np.floating],
    sums: Direction,
    usual: Reals,
) -> tuple[Reals, Reals]:
    """Contributions (V, T) and constants (V,); further encoders and words are in no patch."""
    parts = parts_of(bundle, tokens)
    width = parts.whole.shape[1]
    weights, usual = sums.weights[:, :width], usual[:width]
    rest = np.einsum("vd,vd->v", sums.weights[:, width:], vectors[:, width:])
    return parts.spread(weights, usual), np.asarray(sums.constants + weights @ usual + rest)


def _attention(bundle: "Bundle", encoder: Opened, tokens: NDArray[np.float32]) -> Reals:
    if bundle.pooling is not None:
        return np.asarray(attention_of(bundle.pooling, tokens).mean(axis=1), np.float64)
    if encoder.probe is None:
        raise InferenceError("the encoder has no pooling head whose attention could be shown")
    return encoder.probe(tokens)


def _gradient(
    bundle: "Bundle",
    encoder: Opened,
    finding: int,
    tokens: NDArray[np.float32],
    vectors: NDArray[np.floating],
) -> Reals:
    """Gradient times token; each view as if it were the subject's only one."""
    import torch

    if bundle.head is None:
        raise InferenceError("a bundle without a head has no logit to follow")
    slopes = []
    for of_view, vector in zip(tokens, vectors.astype(np.float32), strict=True):
        leaf = torch.from_numpy(of_view[None].copy()).requires_grad_(True)
        first = encoder.pool(leaf)
        rest = torch.from_numpy(vector[None, first.shape[1] :]).to(first.device)
        logit = torch_logit(bundle.head, torch.cat([first, rest], dim=1), finding)
        (slope,) = torch.autograd.grad(logit, leaf)
        slopes.append((slope[0].numpy().astype(np.float64) * of_view).sum(axis=1))
    return np.stack(slopes)
