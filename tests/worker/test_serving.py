"""Bundles become models; one that cannot be loaded never keeps the others from serving."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from triage.config import CaptionConfig, Config, ModelConfig
from triage.errors import BundleError, InferenceError, StoreError, TriageError
from triage.inference.bundle import load_bundle
from triage.pocket import BUNDLE
from triage.records import Mode
from triage.worker.models import Encoded
from triage.worker.roster import Roster
from triage.worker.serving import (
    captions_wanted,
    configured_models,
    encode_with,
    open_models,
    slots,
)
from triage.worker.slots import Slot


def test_the_built_in_model_is_there_in_demonstration_mode_only() -> None:
    assert configured_models(Config()) == ()
    (model,) = configured_models(Config(demonstration=True))
    assert model.bundle == BUNDLE


def test_named_models_take_the_place_of_the_built_in_one() -> None:
    named = ModelConfig(name="chest", bundle=Path("chest"))
    assert configured_models(Config(demonstration=True, models=(named,))) == (named,)


def test_a_bundle_that_is_missing_is_told_and_answers_with_its_error(tmp_path: Path) -> None:
    config = Config(models=(ModelConfig(name="chest", bundle=tmp_path / "none"),))
    (model,) = open_models(config, slot=0)
    (answer,) = model.encode([np.zeros((1, 8, 8), np.float32)])
    assert isinstance(answer, BundleError)
    roster = Roster([model])
    assert not roster.may_claim
    (told,) = roster.detail()
    assert "none" in told["reason"]
    assert str(tmp_path / "none") in told["hint"]
    assert "restart" in told["hint"]


def test_a_bundle_that_is_named_twice_speaks_once() -> None:
    names = ("first", "second")
    models = tuple(ModelConfig(name=name, bundle=BUNDLE, devices=("cpu",)) for name in names)
    shadow = replace(models[1], name="beside", mode=Mode.SHADOW)
    config = Config(demonstration=True, models=(*models, shadow))
    with capture_logs() as logged:
        loaded = open_models(config, slot=0)
    assert [model.mode for model in loaded] == [Mode.SERVE, Mode.SHADOW]
    assert [each["model"] for each in logged if each["event"] == "model_left_out"] == ["second"]


def test_a_bundle_without_a_head_leaves_its_language_model_on_disk() -> None:
    bundle = load_bundle(BUNDLE)
    assert captions_wanted(bundle, Config())
    assert not captions_wanted(replace(bundle, head=None), Config())
    assert not captions_wanted(bundle, Config(caption=CaptionConfig(when="never")))


def test_there_is_one_worker_per_device_of_the_longest_list() -> None:
    two = ModelConfig(name="a", bundle=Path("a"), devices=("cuda:0", "cuda:1"))
    one = ModelConfig(name="b", bundle=Path("b"))
    assert slots(Config(models=(two, one))) == 2
    assert slots(Config()) == 1


def test_two_workers_of_one_host_never_share_a_slot(tmp_path: Path) -> None:
    first, second = Slot(tmp_path, 2), Slot(tmp_path, 2)
    assert (first.number, second.number) == (0, 1)
    with pytest.raises(StoreError, match="every configured device"):
        Slot(tmp_path, 2)
    first.close()
    assert Slot(tmp_path, 2).number == 0


class Tower:
    """Stands for an encoder: takes at most two views at once and none that is all ones."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def embed(self, views: np.ndarray, *, keep_features: bool = False) -> object:
        from triage.errors import DeviceOutOfMemory
        from triage.inference.encoder import Embedded

        self.batches.append(len(views))
        if len(views) > 2:
            raise DeviceOutOfMemory("does not fit")
        if (views == 1.0).all(axis=(1, 2, 3)).any():
            raise InferenceError("refused")
        means = views.mean(axis=(1, 2, 3))
        return Embedded(
            vectors=means[:, None].astype(np.float32),
            finite=np.isfinite(means),
            features=None,
        )


def brightness(answers: list[Encoded | TriageError]) -> list[float | None]:
    return [
        None if isinstance(each, TriageError) else round(float(each.vector[0]), 3)
        for each in answers
    ]


def test_a_batch_that_does_not_fit_shrinks_and_one_bad_view_fails_alone() -> None:
    tower = Tower()
    views = [np.full((1, 4, 4), level, np.float32) for level in (0.1, 0.2, 0.3, 1.0, 0.5)]
    answers = list(encode_with(tower, keep_features=False)(views))  # type: ignore[arg-type]
    assert brightness(answers) == [0.1, 0.2, 0.3, None, 0.5]
    assert isinstance(answers[3], InferenceError)
    assert tower.batches[0] == 5


def test_grey_and_colour_views_keep_their_order() -> None:
    views = [np.full((channels, 4, 4), 0.1 * channels, np.float32) for channels in (3, 1, 3)]
    answers = list(encode_with(Tower(), keep_features=False)(views))  # type: ignore[arg-type]
    assert brightness(answers) == [0.3, 0.1, 0.3]
