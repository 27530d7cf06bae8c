"""One loader for three encoders; what fails, fails alone and by its kind."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.assurance import requirement
from triage.errors import (
    BundleError,
    ConfigError,
    DeviceFault,
    DeviceOutOfMemory,
    InferenceError,
    KnownAnswerError,
    TriageError,
)
from triage.inference.bundle import Bundle, known_vector
from triage.inference.device import on_device
from triage.inference.encoder import (
    Encoder,
    check_known_answer,
    embed_isolating,
    load_encoder,
    open_encoder,
)

GEMMA = "Gemma3ForConditionalGeneration"


def views(count: int, *, channels: int = 1, side: int = 56) -> NDArray[np.float32]:
    random = np.random.default_rng(7)
    return random.random((count, channels, side, side), dtype=np.float32)


@pytest.mark.parametrize("name", ["medgemma", "medsiglip"])
def test_another_image_gives_another_embedding(name: str, request: pytest.FixtureRequest) -> None:
    bundle: Bundle = request.getfixturevalue(name)
    vectors = load_encoder(bundle, device="cpu").embed(views(2)).vectors
    assert vectors.shape == (2, 48)
    assert vectors.dtype == np.float32
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_the_tower_alone_embeds_as_the_whole_model_does(medgemma: Bundle) -> None:
    alone, whole = load_encoder(medgemma, device="cpu"), None
    whole = load_encoder(medgemma, device="cpu", captions=True)
    assert alone.whole is None
    assert whole.whole is not None
    np.testing.assert_allclose(
        alone.embed(views(3)).vectors, whole.embed(views(3)).vectors, atol=1e-6
    )


def test_medgemma_is_the_mean_of_its_tokens(medgemma: Bundle) -> None:
    embedded = load_encoder(medgemma, device="cpu").embed(views(2), keep_features=True)
    assert embedded.features is not None
    assert embedded.features[0].shape == (16, 48)
    means = [feature.mean(dim=0).numpy() for feature in embedded.features]
    np.testing.assert_allclose(embedded.vectors, np.stack(means), atol=1e-6)


def test_one_channel_is_three_equal_channels(medgemma: Bundle) -> None:
    encoder = load_encoder(medgemma, device="cpu")
    grey = views(1)
    np.testing.assert_allclose(
        encoder.embed(grey).vectors, encoder.embed(np.repeat(grey, 3, axis=1)).vectors, atol=1e-6
    )


@requirement("M3")
def test_the_order_of_a_batch_is_kept_and_its_size_changes_nothing(medsiglip: Bundle) -> None:
    encoder = load_encoder(medsiglip, device="cpu")
    batch = views(4)
    together = encoder.embed(batch).vectors
    for row in range(4):
        np.testing.assert_allclose(together[row], encoder.embed(batch[row : row + 1]).vectors[0],
                                   atol=1e-4)  # fmt: skip


@pytest.mark.parametrize(
    "old_prefix", ["vision_tower.vision_model.", "vision_tower.", "model.vision_tower."]
)
def test_key_names_of_every_age_are_read(
    medgemma_directory: Path, tmp_path: Path, old_prefix: str
) -> None:
    shutil.copytree(medgemma_directory, tmp_path, dirs_exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for shard in tmp_path.glob("model-*.safetensors"):
        tensors |= load_file(shard)
        shard.unlink()
    (tmp_path / "model.safetensors.index.json").unlink()
    renamed = {
        key.replace("vision_tower.vision_model.", old_prefix): tensor
        for key, tensor in tensors.items()
    }
    save_file(renamed, tmp_path / "model.safetensors")
    original = open_encoder(medgemma_directory, architecture=GEMMA, size_px=56, device="cpu")
    read = open_encoder(tmp_path, architecture=GEMMA, size_px=56, device="cpu")
    np.testing.assert_array_equal(original.embed(views(1)).vectors, read.embed(views(1)).vectors)


@requirement("M1")
def test_a_missing_weight_is_refused(medgemma_directory: Path, tmp_path: Path) -> None:
    shutil.copytree(medgemma_directory, tmp_path, dirs_exist_ok=True)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    lost = next(key for key in index["weight_map"] if "vision_tower" in key and "mlp" in key)
    del index["weight_map"][lost]
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BundleError, match="do not fit"):
        open_encoder(tmp_path, architecture=GEMMA, size_px=56, device="cpu")


def test_a_weight_that_only_the_words_need_is_refused_too(
    medgemma_directory: Path, tmp_path: Path
) -> None:
    shutil.copytree(medgemma_directory, tmp_path, dirs_exist_ok=True)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    lost = next(key for key in index["weight_map"] if "language_model" in key and "mlp" in key)
    for shard in set(index["weight_map"].values()):
        kept = {k: v for k, v in load_file(tmp_path / shard).items() if k != lost}
        save_file(kept, tmp_path / shard)
    del index["weight_map"][lost]
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BundleError, match="lack"):
        open_encoder(tmp_path, architecture=GEMMA, size_px=56, device="cpu", captions=True)


def test_an_index_that_leaves_its_directory_is_refused(
    medgemma_directory: Path, tmp_path: Path
) -> None:
    shutil.copytree(medgemma_directory, tmp_path, dirs_exist_ok=True)
    index = {"weight_map": {"vision_tower.post_layernorm.bias": "../other.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BundleError, match="outside"):
        open_encoder(tmp_path, architecture=GEMMA, size_px=56, device="cpu")


def test_normalisation_is_read_from_the_directory(medgemma_directory: Path, tmp_path: Path) -> None:
    shutil.copytree(medgemma_directory, tmp_path, dirs_exist_ok=True)
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    settings |= {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    usual = open_encoder(medgemma_directory, architecture=GEMMA, size_px=56, device="cpu")
    other = open_encoder(tmp_path, architecture=GEMMA, size_px=56, device="cpu")
    image = views(1)
    np.testing.assert_allclose(
        other.embed((image - 0.5) / 0.5).vectors, usual.embed(image).vectors, atol=1e-5
    )


def test_a_tower_can_be_run_at_another_size(medgemma_directory: Path) -> None:
    encoder = open_encoder(medgemma_directory, architecture=GEMMA, size_px=84, device="cpu")
    assert encoder.embed(views(2, side=84)).vectors.shape == (2, 48)


@pytest.mark.parametrize(
    "bad",
    [views(1, side=28), views(1, channels=2), views(1).astype(np.float64), views(1)[0]],
    ids=["size", "channels", "float64", "no batch"],
)
def test_views_of_another_form_are_refused(medgemma: Bundle, bad: NDArray[np.float32]) -> None:
    with pytest.raises(InferenceError):
        load_encoder(medgemma, device="cpu").embed(bad)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_view_that_is_not_finite_fails_alone(medgemma: Bundle, poison: float) -> None:
    encoder = load_encoder(medgemma, device="cpu")
    batch = views(3)
    clean = encoder.embed(batch).vectors
    batch[1, 0, 5, 5] = poison
    answers = embed_isolating(encoder, batch)
    assert isinstance(answers[1], InferenceError)
    for row in (0, 2):
        answer = answers[row]
        assert not isinstance(answer, TriageError)
        np.testing.assert_allclose(answer[0], clean[row], atol=1e-5)


def test_an_unknown_device_or_dtype_is_refused(medgemma: Bundle) -> None:
    with pytest.raises(ConfigError, match="abacus"):
        load_encoder(medgemma, device="abacus")
    with pytest.raises(ConfigError, match="float16"):
        load_encoder(medgemma, device="cpu", dtype="float16")
    with pytest.raises(ConfigError, match="cuda:63"):
        load_encoder(medgemma, device="cuda:63")


# --- errors of the device, from a tower that has them


def with_tower(encoder: Encoder, fail: dict[str, object]) -> Encoder:
    """The encoder with a device that holds `room` views and dies of a white image."""
    seen: list[int] = fail.setdefault("seen", [])  # type: ignore[assignment]

    def tower(pixels: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(len(pixels))
        if len(pixels) > int(str(fail.get("room", 99))):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        if (pixels.flatten(1).mean(dim=1) > 0.99).any():
            raise RuntimeError(str(fail.get("of", "sizes must match")))
        return encoder.tower(pixels)

    return replace(encoder, tower=tower)


def test_a_batch_that_does_not_fit_is_halved(medgemma: Bundle) -> None:
    plain = load_encoder(medgemma, device="cpu")
    fail: dict[str, object] = {"room": 2}
    answers = embed_isolating(with_tower(plain, fail), views(5))
    assert fail["seen"] == [5, 2, 3, 1, 2]
    expected = plain.embed(views(5)).vectors
    for answer, vector in zip(answers, expected, strict=True):
        assert not isinstance(answer, TriageError)
        np.testing.assert_allclose(answer[0], vector, atol=1e-4)


def test_a_view_that_does_not_fit_alone_says_so(medgemma: Bundle) -> None:
    encoder = with_tower(load_encoder(medgemma, device="cpu"), {"room": 0})
    assert [type(answer) for answer in embed_isolating(encoder, views(2))] == [
        DeviceOutOfMemory,
        DeviceOutOfMemory,
    ]


def test_a_view_that_the_model_refuses_fails_alone(medgemma: Bundle) -> None:
    encoder = with_tower(load_encoder(medgemma, device="cpu"), {})
    batch = views(6)
    batch[4] = 1.0
    answers = embed_isolating(encoder, batch)
    assert [isinstance(answer, InferenceError) for answer in answers] == [
        row == 4 for row in range(6)
    ]


@requirement("M2")
def test_a_broken_device_is_raised_and_not_retried(medgemma: Bundle) -> None:
    fail: dict[str, object] = {"of": "CUDA error: an illegal memory access was encountered"}
    batch = views(4)
    batch[0] = 1.0
    with pytest.raises(DeviceFault, match="illegal memory access"):
        embed_isolating(with_tower(load_encoder(medgemma, device="cpu"), fail), batch)
    assert fail["seen"] == [4]


def test_no_views_give_no_answers(medgemma: Bundle) -> None:
    assert embed_isolating(load_encoder(medgemma, device="cpu"), views(0)) == []


# --- known answer


@pytest.mark.parametrize("name", ["medgemma", "medsiglip"])
def test_the_known_answer_holds_where_it_was_recorded(
    name: str, request: pytest.FixtureRequest
) -> None:
    bundle: Bundle = request.getfixturevalue(name)
    check_known_answer(bundle, load_encoder(bundle, device="cpu"))
    assert known_vector(bundle, "float32-cpu", None) is not None


@requirement("M2")
def test_a_slightly_other_encoder_does_not_pass(medgemma: Bundle) -> None:
    encoder = load_encoder(medgemma, device="cpu")

    def tower(pixels: Tensor) -> tuple[Tensor, Tensor]:
        tokens, vectors = encoder.tower(pixels * 1.02)
        return tokens, vectors

    with pytest.raises(KnownAnswerError, match="tolerance"):
        check_known_answer(medgemma, replace(encoder, tower=tower))


def test_an_answer_that_is_not_a_number_does_not_pass(medgemma: Bundle) -> None:
    encoder = load_encoder(medgemma, device="cpu")

    def tower(pixels: Tensor) -> tuple[Tensor, Tensor]:
        tokens, vectors = encoder.tower(pixels)
        return tokens, vectors * float("nan")

    with pytest.raises(KnownAnswerError):
        check_known_answer(medgemma, replace(encoder, tower=tower))


def test_weights_that_are_moved_to_a_device_can_still_be_trained() -> None:
    """A GPU makes new tensors of them; CPU does not, so the guard is asked itself."""
    moved = on_device(lambda: torch.ones(2) * 2.0, final=False)
    weight = torch.nn.Parameter(moved)
    (weight * 3.0).sum().backward()
    assert weight.grad is not None
    assert on_device(lambda: torch.ones(2) * 2.0).is_inference()
