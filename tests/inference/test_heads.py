"""Each kind of head gives the logits that a person computes by hand, from memory and from disk."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.inference import twins
from triage.errors import BundleError, InferenceError
from triage.inference.bundle import load_bundle
from triage.inference.bundle_fields import CalibrationRecord
from triage.inference.bundle_making import Fitted, init_bundle
from triage.inference.calibration import sigmoid, uncalibrated
from triage.inference.classifier import classify_subject
from triage.inference.heads import (
    Head,
    LinearHead,
    MixtureHead,
    MlpHead,
    ViewAttentionHead,
    check_head,
    finding_count,
    head_arrays,
    kind_of,
    read_head,
    subject_logits,
    view_logits,
    width,
)

WIDTH = 48
ONE = np.ones(2)


def vectors(*rows: tuple[float, float]) -> NDArray[np.float32]:
    return np.array(rows, np.float32)


LINEAR = LinearHead(
    mean=np.array([1.0, 0.0]),
    scale=np.array([2.0, 1.0]),
    weights=np.array([[1.0, 0.0], [1.0, -1.0]]),
    intercept=np.array([0.0, 0.5]),
)
MLP = MlpHead(
    mean=np.zeros(2),
    scale=ONE,
    layers=(
        (np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]), np.array([0.0, 0.0, -1.0])),
        (np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]]), np.array([0.0, -3.0])),
    ),
)
ATTENTION = ViewAttentionHead(
    mean=np.zeros(2),
    scale=ONE,
    query=np.array([[0.0, 0.0], [np.sqrt(2.0) * np.log(3.0), 0.0]]),
    weights=np.array([[1.0, 0.0], [0.0, 1.0]]),
    intercept=np.array([0.0, 1.0]),
)
MIXTURE = MixtureHead(
    mean=np.zeros(2),
    scale=ONE,
    widths=(1, 1),
    route=np.array([[0.0, 0.0], [0.0, np.log(3.0)]]),
    route_bias=np.zeros(2),
    heads=np.array([[4.0, 8.0], [0.0, 0.0]]),
    intercept=np.array([[0.0, 1.0], [0.0, 5.0]]),
)
HEADS: dict[str, Head] = {
    "linear": LINEAR,
    "mlp": MLP,
    "view-attention": ATTENTION,
    "mixture": MIXTURE,
}


def test_a_linear_head_counts_the_highest_view_of_each_finding() -> None:
    # Standardised: (1, 0) and (-1, -3). Logits: 1, 1.5 and -1, 2.5.
    logits = subject_logits(LINEAR, vectors((3.0, 0.0), (-1.0, -3.0)))
    np.testing.assert_allclose(logits, [1.0, 2.5])


def test_an_mlp_is_relu_between_its_layers_and_none_at_its_end() -> None:
    # |-2| = 2 through two ReLUs; relu(0.5 - 1) = 0, so the second logit is its bias.
    np.testing.assert_allclose(subject_logits(MLP, vectors((-2.0, 0.5))), [2.0, -3.0])
    np.testing.assert_allclose(subject_logits(MLP, vectors((-2.0, 0.5), (1.0, 3.0))), [2.0, 1.0])


def test_view_attention_weighs_the_views_of_each_finding_by_its_own_query() -> None:
    # No query: the mean of 0 and 1. A query of log 3 for the second view: shares 1/4 and 3/4.
    logits = subject_logits(ATTENTION, vectors((0.0, 4.0), (1.0, 8.0)))
    np.testing.assert_allclose(logits, [0.5, 0.25 * 4 + 0.75 * 8 + 1.0])


def test_one_view_has_all_the_attention() -> None:
    np.testing.assert_allclose(subject_logits(ATTENTION, vectors((2.0, 3.0))), [2.0, 4.0])
    np.testing.assert_allclose(view_logits(ATTENTION, vectors((2.0, 3.0))), [[2.0, 4.0]])


def test_a_mixture_routes_between_the_heads_of_its_experts() -> None:
    # Route of (2, 1): shares 1/4 and 3/4. Experts say 4 * 2 and 8 * 1; and 1 and 5.
    logits = subject_logits(MIXTURE, vectors((2.0, 1.0)))
    np.testing.assert_allclose(logits, [0.25 * 8 + 0.75 * 8, 0.25 * 1 + 0.75 * 5])


@pytest.mark.parametrize("kind", HEADS)
def test_what_is_written_is_what_is_read(kind: str) -> None:
    head = HEADS[kind]
    assert (kind_of(head), width(head), finding_count(head)) == (kind, 2, 2)
    read = read_head(kind, head_arrays(head))
    seen = vectors((0.3, -0.7), (1.2, 0.4))
    np.testing.assert_allclose(subject_logits(read, seen), subject_logits(head, seen), atol=1e-6)


@pytest.mark.parametrize("kind", HEADS)
def test_the_order_of_the_views_of_a_subject_changes_nothing(kind: str) -> None:
    seen = vectors((0.3, -0.7), (1.2, 0.4), (-2.0, 0.1))
    np.testing.assert_allclose(
        subject_logits(HEADS[kind], seen), subject_logits(HEADS[kind], seen[::-1]), atol=1e-12
    )


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_with_one_array_too_many_or_too_few_is_refused(kind: str) -> None:
    arrays = head_arrays(HEADS[kind])
    with pytest.raises(BundleError, match="no use for the array zoom"):
        read_head(kind, {**arrays, "zoom": np.zeros(1, np.float32)})
    del arrays["scale"]
    with pytest.raises(BundleError, match="array"):
        read_head(kind, arrays)


@pytest.mark.parametrize("kind", HEADS)
def test_every_array_of_another_shape_is_refused(kind: str) -> None:
    for name, array in head_arrays(HEADS[kind]).items():
        arrays = head_arrays(HEADS[kind])
        arrays[name] = np.concatenate([array, array])
        with pytest.raises(BundleError):
            read_head(kind, arrays)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("kind", HEADS)
def test_a_value_that_is_not_finite_is_refused(kind: str, poison: float) -> None:
    for name in head_arrays(HEADS[kind]):
        if name == "widths":
            continue
        arrays = head_arrays(HEADS[kind])
        arrays[name].flat[0] = poison
        with pytest.raises(BundleError, match=f"not finite in {name}"):
            read_head(kind, arrays)


def test_a_scale_of_zero_and_widths_that_do_not_sum_are_refused() -> None:
    with pytest.raises(BundleError, match="scale"):
        check_head(replace(LINEAR, scale=np.array([1.0, 0.0])))
    with pytest.raises(BundleError, match="widths"):
        check_head(replace(MIXTURE, widths=(2, 1)))
    with pytest.raises(BundleError, match="layers"):
        check_head(replace(MLP, layers=()))


def test_a_kind_that_is_not_known_is_refused() -> None:
    with pytest.raises(BundleError, match="forest"):
        read_head("forest", {})


# --- in a bundle


def wide(kind: str) -> Head:
    """A head over the twin's 48 features that reads the first two as HEADS[kind] does."""
    head = HEADS[kind]

    def padded(array: NDArray[np.float64], fill: float = 0.0) -> NDArray[np.float64]:
        room = [(0, 0)] * (array.ndim - 1) + [(0, WIDTH - 2)]
        return np.pad(array, room, constant_values=fill)

    ends = {"mean": padded(head.mean), "scale": padded(head.scale, 1.0)}
    match head:
        case LinearHead():
            return replace(head, **ends, weights=padded(head.weights))
        case MlpHead():
            (weights, bias), last = head.layers
            return replace(head, **ends, layers=((padded(weights), bias), last))
        case ViewAttentionHead():
            query = padded(head.query) * np.sqrt(WIDTH / 2)  # scores divide by sqrt(D)
            return replace(head, **ends, query=query, weights=padded(head.weights))
        case MixtureHead():
            heads, route = padded(head.heads), padded(head.route)
            return replace(head, **ends, widths=(1, WIDTH - 1), heads=heads, route=route)


def fitted(kind: str) -> Fitted:
    return replace(
        twins.fitted(width=WIDTH),
        head=wide(kind),
        calibration=uncalibrated(2),
        record=CalibrationRecord(kind="none", local=True, dtype="float32", device_class="cpu"),
        bank_vectors=None,
        gate=None,
    )


@pytest.mark.parametrize("kind", HEADS)
def test_a_bundle_of_each_kind_serves_the_logits_computed_by_hand(
    kind: str, medgemma_directory: Path, tmp_path: Path
) -> None:
    made = init_bundle(
        medgemma_directory, tmp_path / "b", name="x", fitted=fitted(kind), device="cpu"
    )
    bundle = load_bundle(tmp_path / "b")
    assert (bundle.manifest.head_kind, bundle.identity) == (kind, made.identity)
    seen = np.zeros((2, WIDTH), np.float32)
    seen[:, :2] = [[0.3, -0.7], [1.2, 0.4]]
    expected = sigmoid(subject_logits(HEADS[kind], seen[:, :2]))
    said = classify_subject(bundle, seen)
    assert [f.probability for f in said.findings] == pytest.approx(expected.tolist(), abs=1e-6)
    assert said.distance is None
    with pytest.raises(InferenceError, match="shape"):
        classify_subject(bundle, seen[:, :2])


UNFITTING: dict[str, tuple[Callable[[Fitted], Fitted], str]] = {
    "one finding too few": (lambda f: replace(f, findings=f.findings[:1]), "2 logits for 1"),
    "a bank without a gate": (
        lambda f: replace(f, bank_vectors=np.zeros((5, WIDTH), np.float32)),
        "bank without a gate",
    ),
    "a record of another kind": (
        lambda f: replace(f, record=CalibrationRecord(kind="platt", local=True)),
        "record",
    ),
    "a head of another width": (lambda f: replace(f, head=LINEAR), "different widths"),
}


@pytest.mark.parametrize(("change", "said"), UNFITTING.values(), ids=UNFITTING)
def test_parts_that_do_not_fit_each_other_make_no_bundle(
    change: Callable[[Fitted], Fitted], said: str, medgemma_directory: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match=said):
        init_bundle(
            medgemma_directory,
            tmp_path / "b",
            name="x",
            fitted=change(fitted("linear")),
            device="cpu",
        )


def test_a_head_whose_answer_overflows_is_a_failure_and_never_a_negative(
    medgemma_directory: Path, tmp_path: Path
) -> None:
    bundle = init_bundle(
        medgemma_directory, tmp_path / "b", name="x", fitted=fitted("linear"), device="cpu"
    )
    steep = np.full((2, WIDTH), 1e300)
    steep[:, 1] = -1e300
    head = replace(wide("linear"), weights=steep, scale=np.full(WIDTH, 1e-30))
    with np.errstate(all="ignore"), pytest.raises(InferenceError, match="not finite"):
        classify_subject(replace(bundle, head=head), np.ones((1, WIDTH), np.float32))
