"""The trial runs through the code that serves, on pictures whose lesion is known."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from triage.errors import PermanentError
from triage.inference.bundle import Bundle, load_bundle
from triage.inference.bundle_fields import Features
from triage.inference.encoder import Encoder, load_encoder
from triage.inference.features import QueryPooling
from triage.inference.heads import LinearHead
from triage.learning.explaining.explanation import Method
from triage.learning.explaining.faithfulness import HITS
from triage.learning.explaining.opened import opened, shuffled_head, shuffled_tower
from triage.learning.explaining.trials import HEAD, TOWER, Trial, planted, put_to_the_test
from triage.pocket import BUNDLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Pocket:
    bundle: Bundle
    encoder: Encoder


@pytest.fixture(scope="module")
def pocket() -> Pocket:
    bundle = load_bundle(BUNDLE)
    return Pocket(bundle=bundle, encoder=load_encoder(bundle, device="cpu"))


def test_phantoms_show_every_finding_in_turn_with_its_place(pocket: Pocket) -> None:
    shown = list(planted(pocket.bundle, 5))
    names = [spec.name for spec in pocket.bundle.manifest.findings]
    assert [each.finding for each in shown] == [*names, names[0]]
    for each in shown:
        assert each.view.shape == (1, 112, 112)
        assert each.cover is not None
        assert each.cover.shape == (112, 112)
        assert 0.001 < (each.cover > 0.5).mean() < 0.3
    assert len({each.group for each in shown}) == 5


def test_only_the_finding_asked_for_is_planted(pocket: Pocket) -> None:
    assert {each.finding for each in planted(pocket.bundle, 3, finding="nodule")} == {"nodule"}
    with pytest.raises(PermanentError, match="no finding"):
        list(planted(pocket.bundle, 1, finding="gout"))


def test_the_shipped_model_points_at_planted_lesions_more_often_than_chance(
    pocket: Pocket,
) -> None:
    shown = list(planted(pocket.bundle, 12))
    trial = Trial(
        methods=(Method.ADDITIVE, Method.GRADIENT), seed=1, fills=("blur",), draws=1, rounds=200
    )
    done: list[int] = []
    report = put_to_the_test(
        pocket.bundle, pocket.encoder, shown, trial, progress=lambda: done.append(1)
    )
    assert len(done) == report.pictures == 12
    assert report.same == {"gradient": "additive"}
    said = {(each.measure, each.baseline): each for each in report.compared}
    assert said[HITS, "random"].verdict == "better than random"
    assert said["deletion, blur", "random"].verdict == "better than random"
    stayed = {each.shuffled: each.correlation.value for each in report.stayed}
    assert stayed[TOWER] < 0.5
    assert stayed[HEAD] < 0.8


def test_shuffling_the_last_block_leaves_the_first_ones(pocket: Pocket) -> None:
    whole = dict(pocket.encoder.vision.named_parameters())
    last = dict(shuffled_tower(pocket.encoder, seed=1, last=1).named_parameters())
    changed = {name for name in whole if not torch.equal(whole[name], last[name])}
    assert any("layers.3." in name for name in changed)
    assert any("post_layernorm" in name for name in changed)
    assert not any("layers.2." in name or "embeddings" in name for name in changed)
    for name in changed:  # the same values, elsewhere
        assert torch.equal(whole[name].flatten().sort()[0], last[name].flatten().sort()[0])


def test_a_shuffled_tower_gives_other_vectors_and_leaves_the_served_one(pocket: Pocket) -> None:
    view = next(iter(planted(pocket.bundle, 1))).view[None]
    before = pocket.encoder.embed(view).vectors
    tower = shuffled_tower(pocket.encoder, seed=1)
    other = opened(pocket.bundle, pocket.encoder, tower).vectors(view)
    assert np.abs(other - before).max() > 0.1
    np.testing.assert_array_equal(pocket.encoder.embed(view).vectors, before)


def test_a_shuffled_head_keeps_how_features_are_standardised(pocket: Pocket) -> None:
    head, before = shuffled_head(pocket.bundle, seed=1).head, pocket.bundle.head
    assert isinstance(head, LinearHead)
    assert isinstance(before, LinearHead)
    np.testing.assert_array_equal(head.mean, before.mean)
    np.testing.assert_array_equal(head.scale, before.scale)
    assert np.abs(head.weights - before.weights).max() > 0
    np.testing.assert_array_equal(np.sort(head.weights, None), np.sort(before.weights, None))


def test_queries_are_shuffled_with_the_head_that_reads_them(pocket: Pocket) -> None:
    width = pocket.encoder.vision.config.hidden_size
    draw = np.random.default_rng(2).standard_normal
    pooling = QueryPooling(
        queries=draw((4, width)).astype(np.float32),
        key=draw((width, width)).astype(np.float32),
        value=draw((width, width // 4)).astype(np.float32),  # as many features as the head reads
        norm_weight=np.ones(width, np.float32),
        norm_bias=np.zeros(width, np.float32),
    )
    manifest = replace(pocket.bundle.manifest, features=Features(pooling="queries"), gate=None)
    bundle = replace(pocket.bundle, manifest=manifest, pooling=pooling, bank=None)
    trial = Trial(methods=(Method.ADDITIVE,), seed=1, fills=("blur",), draws=1, rounds=100)
    shown = list(planted(bundle, 2))
    report = put_to_the_test(bundle, load_encoder(bundle, device="cpu"), shown, trial)
    stayed = {each.shuffled: each.correlation.value for each in report.stayed}
    assert stayed[HEAD] < 0.9
