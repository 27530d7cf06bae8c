"""Bundles of every kind become models of the worker; one calibrated elsewhere is a shadow."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

from tests.dicom_files import make_dx, write
from tests.inference import twins
from tests.inference.test_features import pooling, terms
from tests.inference.test_heads import HEADS, fitted
from triage.config import Config, ModelConfig
from triage.imaging.subject import DecodeTask, decode_subject
from triage.inference.bundle import Bundle
from triage.inference.bundle_fields import CalibrationRecord, Features
from triage.inference.bundle_making import Fitted, init_bundle
from triage.inference.classifier import classify_subject
from triage.inference.encoder import load_encoder
from triage.inference.heads import LinearHead, ViewAttentionHead
from triage.pocket import BUNDLE
from triage.records import Analysis, Mode, ViewSpec
from triage.worker.looking import Question, look
from triage.worker.models import LoadedModel
from triage.worker.roster import Roster
from triage.worker.serving import CALIBRATE, NOT_CALIBRATED, mode_of, open_models

VIEW = ViewSpec(rendering="dicom", size_px=56)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return twins.medgemma(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return twins.medsiglip(tmp_path_factory.mktemp("expert"))


def opened(bundle: Bundle, config: Config | None = None, **choices: Any) -> LoadedModel:
    named = ModelConfig(name="chest", bundle=bundle.directory, devices=("cpu",), **choices)
    (model,) = open_models(replace(config or Config(), models=(named,)), slot=0)
    return model


def spread(width: int) -> LinearHead:
    """A head that hears every feature."""
    random = np.random.default_rng(2)
    return LinearHead(
        mean=np.zeros(width),
        scale=np.ones(width),
        weights=random.standard_normal((2, width)) / width,
        intercept=np.zeros(2),
    )


def focal() -> ViewAttentionHead:
    random = np.random.default_rng(3)
    return ViewAttentionHead(
        mean=np.zeros(48),
        scale=np.ones(48),
        query=random.standard_normal((2, 48)),
        weights=random.standard_normal((2, 48)) / 48,
        intercept=np.zeros(2),
    )


CHOICES: dict[str, dict[str, Any]] = {
    **{kind: {"fitted": fitted(kind)} for kind in HEADS},
    "queries": {
        "features": Features(pooling="queries", layer=1),
        "pooling": pooling(),
        "fitted": replace(fitted("linear"), head=spread(15)),
    },
    "unit length": {"features": Features(unit_length=True)},
    "captions": {
        "features": Features(captions=True),
        "terms": terms(),
        "fitted": replace(fitted("linear"), head=spread(51)),
    },
    "experts": {"experts": "siglip", "fitted": replace(fitted("linear"), head=spread(96))},
    "crops": {
        "view": replace(VIEW, crops=2),
        "fitted": replace(fitted("linear"), head=focal()),
    },
}


@pytest.mark.parametrize("name", CHOICES)
def test_the_worker_says_what_the_bundle_says(
    name: str, encoder: Path, expert: Path, tmp_path: Path
) -> None:
    choices = {"fitted": fitted("linear"), **CHOICES[name]}
    if choices.get("experts"):
        choices["experts"] = [expert]
    bundle = init_bundle(encoder, tmp_path / "bundle", name="chest", device="cpu", **choices)
    model = opened(bundle)
    assert model.mode is Mode.SERVE
    Roster([model])
    path = write(make_dx(pixels()), tmp_path / "dx")
    decoded = decode_subject(DecodeTask(paths=(path,), specs=(model.view_spec,)))
    (seen,) = look([Question(decoded=decoded, models=(model,))], cached={}, batch_size=2)
    assert seen.errors == []
    (result,) = seen.results
    assert result.analysis is Analysis.ANALYSED
    views = decoded.views[model.view_spec]
    expected = classify_subject(bundle, load_encoder(bundle, device="cpu").embed(views).vectors)
    for told, known in zip(result.findings, expected.findings, strict=True):
        assert told.probability == pytest.approx(known.probability, abs=1e-5)
    assert len(result.embedding_keys) == (5 if name == "crops" else 1)


def pixels() -> NDArray[np.uint16]:
    return np.random.default_rng(6).integers(0, 4096, (90, 70), dtype=np.uint16)


def test_embeddings_of_other_features_are_never_mixed(encoder: Path, tmp_path: Path) -> None:
    def scope(name: str, **choices: Any) -> str:
        bundle = init_bundle(encoder, tmp_path / name, name=name, device="cpu", **choices)
        return opened(bundle).cache_scope

    plain = scope("a")
    assert scope("b", fitted=fitted("linear")) == plain
    assert plain.count("|") == 2
    assert scope("c", features=Features(unit_length=True)).startswith(f"{plain}|")


def test_the_whole_image_alone_decides_whether_its_crops_are_judged(
    encoder: Path, tmp_path: Path
) -> None:
    gated = replace(twins.fitted(width=48), head=focal())
    bundle = init_bundle(
        encoder,
        tmp_path / "bundle",
        name="chest",
        view=replace(VIEW, crops=2),
        fitted=gated,
        device="cpu",
    )
    fits, stranger = np.zeros((2, 5, 48), np.float32)
    fits[0, 2] = stranger[1:, 2] = 3.0
    fits[1:, 2] = stranger[0, 2] = -3.0
    assert classify_subject(bundle, fits).in_distribution
    judged = classify_subject(bundle, stranger)
    assert (judged.in_distribution, judged.findings) == (False, ())


# --- calibrated here or elsewhere


def elsewhere(record: CalibrationRecord | None) -> Fitted:
    return replace(twins.fitted(width=48), record=record)


RECORDS = {
    "none": None,
    "of other studies": CalibrationRecord(kind="platt", local=False, images=900),
}


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_a_bundle_not_calibrated_here_is_a_shadow_and_says_what_to_do(
    record: CalibrationRecord | None, encoder: Path, tmp_path: Path
) -> None:
    bundle = init_bundle(
        encoder, tmp_path / "b", name="chest", fitted=elsewhere(record), device="cpu"
    )
    with capture_logs() as logged:
        model = opened(bundle)
    assert model.mode is Mode.SHADOW
    (told,) = Roster([model]).detail()
    assert (told["mode"], told["served"]) == ("shadow", True)
    assert (told["reason"], told["hint"]) == (NOT_CALIBRATED, CALIBRATE)
    assert "triage calibrate" in told["hint"]
    assert "serve_without_local_calibration" in told["hint"]
    assert [(each["event"], each["log_level"]) for each in logged] == [
        ("model_only_shadow", "warning")
    ]


@pytest.mark.parametrize(
    ("dtype", "device_class", "there"),
    [
        ("bfloat16", "cpu", "at bfloat16 on cpu"),
        ("float32", "cuda-9.0", "at float32 on cuda-9.0"),
        ("", "", "does not tell"),
    ],
)
def test_a_bundle_calibrated_in_other_arithmetic_is_a_shadow_and_says_what_to_do(
    dtype: str, device_class: str, there: str, encoder: Path, tmp_path: Path
) -> None:
    record = CalibrationRecord(kind="platt", local=True, dtype=dtype, device_class=device_class)
    bundle = init_bundle(
        encoder, tmp_path / "b", name="chest", fitted=elsewhere(record), device="cpu"
    )
    (told,) = Roster([opened(bundle)]).detail()
    assert told["mode"] == "shadow"
    assert there in told["reason"]
    assert "runs here at float32 on cpu" in told["reason"]
    assert (
        "triage calibrate` on the machine that serves, with --device cpu --dtype float32"
        in (told["hint"])
    )
    assert "serve_without_local_calibration" in told["hint"]
    model = ModelConfig(name="chest", bundle=bundle.directory, devices=("cuda",))
    if device_class:
        scope = f"encoder|1|{dtype}-{device_class}"
        assert mode_of(bundle, model, Config(), scope) == (Mode.SERVE, "", "")
        excused = replace(model, serve_without_local_calibration=True)
        assert mode_of(bundle, excused, Config(), "encoder|1|x-y|z") == (Mode.SERVE, "", "")


def test_the_configuration_may_say_otherwise_in_so_many_words(
    encoder: Path, tmp_path: Path
) -> None:
    bundle = init_bundle(
        encoder, tmp_path / "b", name="chest", fitted=elsewhere(None), device="cpu"
    )
    excused = opened(bundle, serve_without_local_calibration=True)
    shown = opened(bundle, Config(demonstration=True))
    meant = opened(bundle, mode=Mode.SHADOW)
    assert [each.mode for each in (excused, shown, meant)] == [Mode.SERVE, Mode.SERVE, Mode.SHADOW]
    assert [each.shadow_reason for each in (excused, shown, meant)] == ["", "", ""]


def test_a_bundle_without_a_head_has_nothing_to_calibrate(encoder: Path, tmp_path: Path) -> None:
    bundle = init_bundle(encoder, tmp_path / "b", name="chest", device="cpu")
    assert opened(bundle).mode is Mode.SERVE


def test_the_built_in_bundle_serves_in_demonstration_mode() -> None:
    (model,) = open_models(Config(demonstration=True), slot=0)
    assert (model.mode, model.shadow_reason) == (Mode.SERVE, "")
    assert model.cache_scope.count("|") == 2
    assert BUNDLE.is_dir()
