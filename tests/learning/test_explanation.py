"""A map says how the logit came about: exactly where it can, and nothing where it cannot."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.inference import twins
from tests.learning.test_explanation_directions import heads
from triage.errors import InferenceError, PermanentError
from triage.inference import pooling as torch_pooling
from triage.inference.bundle import Bundle
from triage.inference.bundle_fields import Features
from triage.inference.bundle_making import init_bundle
from triage.inference.classifier import classify_subject
from triage.inference.encoder import load_encoder
from triage.inference.features import QueryPooling
from triage.inference.heads import Head, LinearHead, subject_logits
from triage.learning.explaining.explanation import (
    Evidence,
    Method,
    Opened,
    Views,
    attention_of,
    clipped,
    explain,
    methods_of,
    outlying,
)
from triage.learning.explaining.opened import opened

WIDTH, PX = 48, 56


@pytest.fixture(scope="module")
def medgemma(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return _fitted(twins.medgemma(tmp_path_factory.mktemp("medgemma")), tmp_path_factory)


@pytest.fixture(scope="module")
def medsiglip(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return _fitted(twins.medsiglip(tmp_path_factory.mktemp("medsiglip")), tmp_path_factory)


def _fitted(encoder: Path, factory: pytest.TempPathFactory) -> Bundle:
    out = factory.mktemp("bundles") / encoder.name
    made = init_bundle(encoder, out, name="twin", fitted=twins.fitted(width=WIDTH), device="cpu")
    random = np.random.default_rng(1)
    head = LinearHead(
        mean=random.standard_normal(WIDTH),
        scale=random.uniform(0.5, 2.0, WIDTH),
        weights=random.standard_normal((2, WIDTH)),
        intercept=random.standard_normal(2),
    )
    return ungated(replace(made, head=head))


def ungated(bundle: Bundle) -> Bundle:
    return replace(bundle, bank=None, manifest=replace(bundle.manifest, gate=None))


def with_features(bundle: Bundle, arrays: QueryPooling | None = None, **features: Any) -> Bundle:
    manifest = replace(bundle.manifest, features=Features(**features))
    return replace(bundle, manifest=manifest, pooling=arrays)


def queries(width: int = WIDTH) -> QueryPooling:
    random = np.random.default_rng(2)

    def draw(*shape: int) -> Any:
        return (random.standard_normal(shape) / np.sqrt(width)).astype(np.float32)

    return QueryPooling(
        queries=draw(3, width),
        key=draw(width, width),
        value=draw(width, 16),
        norm_weight=1 + draw(width),
        norm_bias=draw(width),
    )


def views(count: int = 1, seed: int = 0) -> Views:
    return np.random.default_rng(seed).random((count, 1, PX, PX), dtype=np.float32)


def eye(bundle: Bundle) -> Opened:
    return opened(bundle, load_encoder(bundle, device="cpu"))


def total(found: Evidence) -> float:
    """What patches and constants of all views add up to."""
    assert found.constants is not None
    return float(found.shares @ (found.values.sum(axis=(1, 2)) + found.constants))


KINDS: dict[str, tuple[QueryPooling | None, dict[str, Any]]] = {
    "mean of tokens": (None, {}),
    "mean of a middle layer": (None, {"pooling": "mean", "layer": 1}),
    "mean of unit length": (None, {"unit_length": True}),
    "queries": (queries(), {"pooling": "queries"}),
    "queries of unit length in a middle layer": (
        queries(),
        {"pooling": "queries", "layer": 1, "unit_length": True},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 3])
def test_patches_and_constant_add_up_to_the_logit(kind: str, count: int, medgemma: Bundle) -> None:
    arrays, features = KINDS[kind]
    bundle = with_features(medgemma, arrays, **features)
    pictures = views(count)
    found = explain(bundle, eye(bundle), pictures, finding="nodule", method=Method.ADDITIVE)
    assert found.values.shape == (count, 4, 4)
    assert total(found) == pytest.approx(found.logit, abs=1e-6)
    served = load_encoder(bundle, device="cpu").embed(pictures).vectors
    assert bundle.head is not None
    assert found.logit == pytest.approx(subject_logits(bundle.head, served)[1], abs=1e-4)


@pytest.mark.parametrize("kind", heads())
def test_the_sum_holds_for_every_kind_of_head(kind: str, medgemma: Bundle) -> None:
    bundle = _of_width(medgemma, kind)
    found = explain(bundle, eye(bundle), views(3), finding="nodule", method=Method.ADDITIVE)
    assert total(found) == pytest.approx(found.logit, abs=1e-6)
    assert found.shares.sum() == pytest.approx(1.0)
    assert (found.shares.max() < 1.0) == (kind == "view-attention")


def _of_width(bundle: Bundle, kind: str) -> Bundle:
    """The bundle with a head of a kind, for the queries' 3 x 4 features."""
    pooling = replace(queries(), value=queries().value[:, :4])
    head: Head = heads()[kind]
    specs = bundle.manifest.findings
    bundle = with_features(bundle, pooling, pooling="queries")
    calibration = bundle.calibration
    assert calibration is not None
    names = ("slope", "intercept", "shift")
    three: dict[str, Any] = {name: np.resize(getattr(calibration, name), 3) for name in names}
    manifest = replace(bundle.manifest, findings=(*specs, replace(specs[0], name="third")))
    return replace(bundle, head=head, calibration=replace(calibration, **three), manifest=manifest)


def test_the_score_is_the_one_that_is_served(medgemma: Bundle) -> None:
    pictures = views(3)
    found = explain(medgemma, eye(medgemma), pictures, finding=None, method=None)
    served = classify_subject(
        medgemma, load_encoder(medgemma, device="cpu").embed(pictures).vectors
    )
    highest = max(served.findings, key=lambda finding: finding.probability)
    assert found.finding == highest.name
    assert found.probability == pytest.approx(highest.probability, abs=1e-4)
    assert found.flagged == highest.flagged


def test_a_patch_counts_for_what_it_adds(medgemma: Bundle) -> None:
    """Contributions are those of the tokens: another token, another contribution, no other."""
    through = eye(medgemma)
    tokens = through.tokens(views())
    changed = tokens.copy()
    changed[0, 5] *= 2.0
    fake = replace(through, tokens=lambda _: changed, vectors=lambda _: changed.mean(axis=1))
    before = explain(medgemma, through, views(), finding="nodule", method=None)
    after = explain(medgemma, fake, views(), finding="nodule", method=None)
    assert np.flatnonzero(np.abs(after.values - before.values).ravel() > 1e-9).tolist() == [5]
    assert after.logit - before.logit == pytest.approx(
        float((after.values - before.values).sum()), abs=1e-6
    )


def test_tokens_that_do_not_give_the_served_vector_are_refused(medgemma: Bundle) -> None:
    through = eye(medgemma)
    fake = replace(through, vectors=lambda pictures: through.vectors(pictures) + 1.0)
    with pytest.raises(InferenceError, match="do not add up"):
        explain(medgemma, fake, views(), finding=None, method=Method.ADDITIVE)


def test_the_gradient_is_the_slope_of_the_logit(medsiglip: Bundle) -> None:
    """Held against a small step along one token, through the pooling head."""
    through = eye(medsiglip)
    found = explain(medsiglip, through, views(), finding="nodule", method=Method.GRADIENT)
    assert found.constants is None
    assert medsiglip.head is not None
    tokens = torch.from_numpy(through.tokens(views()))
    for patch in (0, 7, 15):
        logits = []
        for step in (-1e-2, 1e-2):
            moved = tokens.clone()
            moved[0, patch] *= 1 + step
            with torch.no_grad():
                vector = through.pool(moved).numpy()
            logits.append(float(subject_logits(medsiglip.head, vector)[1]))
        slope = (logits[1] - logits[0]) / 2e-2
        assert found.values.ravel()[patch] == pytest.approx(slope, rel=2e-2, abs=1e-3)


def test_making_all_tokens_longer_changes_nothing_for_vectors_of_unit_length(
    medgemma: Bundle,
) -> None:
    unit = with_features(medgemma, unit_length=True)
    found = explain(unit, eye(unit), views(), finding="nodule", method=Method.GRADIENT)
    assert found.values.sum() == pytest.approx(0.0, abs=1e-3 * np.abs(found.values).sum())


def test_of_a_plain_mean_the_gradient_shows_what_the_sum_shows(medgemma: Bundle) -> None:
    through = eye(medgemma)
    shown = [
        explain(medgemma, through, views(), finding="nodule", method=method).shown
        for method in (Method.ADDITIVE, Method.GRADIENT)
    ]
    np.testing.assert_allclose(shown[0], shown[1], atol=1e-4)


def test_a_pooling_head_is_no_sum_and_says_what_it_allows(medsiglip: Bundle) -> None:
    assert methods_of(medsiglip) == (Method.GRADIENT, Method.ATTENTION)
    with pytest.raises(PermanentError, match="not a sum over patches") as caught:
        explain(medsiglip, eye(medsiglip), views(), finding=None, method=Method.ADDITIVE)
    assert "gradient and attention" in caught.value.hint
    assert methods_of(with_features(medsiglip, pooling="mean"))[0] is Method.ADDITIVE


def test_a_mean_of_tokens_has_no_attention_to_show(medgemma: Bundle) -> None:
    with pytest.raises(PermanentError, match="no queries"):
        explain(medgemma, eye(medgemma), views(), finding=None, method=Method.ATTENTION)


def test_attention_is_shares_of_one(medsiglip: Bundle, medgemma: Bundle) -> None:
    asking = with_features(medgemma, queries(), pooling="queries")
    for bundle in (medsiglip, asking):
        found = explain(bundle, eye(bundle), views(2), finding=None, method=Method.ATTENTION)
        np.testing.assert_allclose(found.values.sum(axis=(1, 2)), 1.0, atol=1e-5)
        assert (found.values >= 0).all()
        assert found.values.std() > 1e-4
        even = 1 / found.values[0].size
        inside = ~found.outliers
        np.testing.assert_allclose(found.shown[inside], found.values[inside] - even, atol=1e-12)


def test_queries_look_where_the_served_pooling_looks() -> None:
    tokens = np.random.default_rng(4).standard_normal((2, 16, WIDTH)).astype(np.float32)
    tensors = torch_pooling.tensors_of(queries(), torch.device("cpu"))
    served = torch_pooling.query_attention(torch.from_numpy(tokens), tensors).numpy()
    np.testing.assert_allclose(attention_of(queries(), tokens), served, atol=1e-6)


def test_an_image_that_the_gate_turns_away_has_a_map_and_no_flag(medgemma: Bundle) -> None:
    gated = _gated(medgemma, threshold=1e-6)
    found = explain(gated, eye(gated), views(), finding="nodule", method=None)
    assert not found.in_distribution
    assert not found.flagged
    assert "unlike" in found.reason


def _gated(bundle: Bundle, threshold: float) -> Bundle:
    from triage.inference.bundle_fields import Gate
    from triage.inference.bundle_parts import Bank, unit_rows

    random = np.random.default_rng(9)
    bank = Bank(
        mean=np.zeros(WIDTH, np.float32),
        scale=np.ones(WIDTH, np.float32),
        units=unit_rows(random.standard_normal((8, WIDTH)).astype(np.float32)),
    )
    gate = Gate(neighbours=3, threshold=threshold)
    return replace(bundle, bank=bank, manifest=replace(bundle.manifest, gate=gate))


def test_a_finding_that_is_not_there_is_refused_with_those_that_are(medgemma: Bundle) -> None:
    with pytest.raises(PermanentError) as caught:
        explain(medgemma, eye(medgemma), views(), finding="gout", method=None)
    assert "pneumothorax, nodule" in caught.value.hint


def test_a_bundle_without_a_head_has_no_evidence(medgemma: Bundle) -> None:
    bare = replace(medgemma, head=None, calibration=None)
    with pytest.raises(PermanentError, match="no classifier"):
        explain(bare, eye(medgemma), views(), finding=None, method=None)


def test_a_token_of_outlying_norm_is_found_and_its_value_clipped() -> None:
    tokens = np.random.default_rng(6).standard_normal((1, 64, 32)).astype(np.float32)
    tokens[0, 10] *= 20
    odd = outlying(tokens)
    assert np.flatnonzero(odd[0]).tolist() == [10]
    values = np.linspace(-1.0, 1.0, 64)
    values[10] = 50.0
    shown = clipped(values, odd[0])
    assert shown[10] == 1.0
    np.testing.assert_array_equal(np.delete(shown, 10), np.delete(values, 10))


def test_what_is_shown_is_what_differs_between_patches(medgemma: Bundle) -> None:
    found = explain(medgemma, eye(medgemma), views(), finding="nodule", method=None)
    assert np.median(found.shown) == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(found.shown + found.common[:, None, None], found.values)
