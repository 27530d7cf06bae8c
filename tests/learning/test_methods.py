"""Each method trains on a few films in seconds, and what serves says what it said in training."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from tests.inference import twins
from tests.learning import films
from triage.errors import BundleError, PermanentError
from triage.inference.bundle import Bundle, encoder_files, verify_bundle
from triage.inference.encoder import load_encoder, open_encoder
from triage.inference.heads import subject_logits
from triage.learning.material.images import views_of
from triage.learning.methods import METHODS
from triage.learning.methods.checkpoint import write_encoder
from triage.learning.methods.kept import keep
from triage.learning.methods.material import Choices, Prompts, logits_of
from triage.learning.methods.zero_shot import canonical, head_of
from triage.learning.training.training import Plan, train

# Strong shrinkage leaves the start of a descent so poor that some epoch betters it.
UNDERFITTED = replace(films.QUICK, l2=(30.0,), rate=1e-2, encoder_rate=1e-3, epochs=4, patience=4)
CHOICES = {
    "unfreeze": UNDERFITTED,
    "focal": UNDERFITTED,
    "mixture": UNDERFITTED,
    "queries": replace(films.QUICK, rate=1e-2, epochs=6, patience=6),
    "mlp": replace(films.QUICK, rate=1e-2, epochs=6, patience=6),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return films.write_films(tmp_path_factory.mktemp("films"))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return films.text_reader(tmp_path_factory.mktemp("medsiglip"))


def encoders_of(method: str, reader: Path) -> tuple[Path, ...]:
    return {"zero-shot": (reader,), "mixture": (films.POCKET, reader)}.get(method, (films.POCKET,))


def made(method: str, folder: Path, out: Path, encoders: tuple[Path, ...]) -> Bundle:
    return train(
        Plan(
            method=method,
            table=films.table_of(folder),
            images=folder,
            encoders=encoders,
            out=out,
            name="films",
            choices=CHOICES.get(method, films.QUICK),
            size_px=112,
            device="cpu",
            dtype="float32",
            batch_size=8,
        )
    )


def served(bundle: Bundle, folder: Path, names: list[str]) -> NDArray[np.float64]:
    """Logits by the way of the daemon: file, views, encoder, head."""
    encoder = load_encoder(bundle, device="cpu")
    assert bundle.head is not None
    return np.stack(
        [
            subject_logits(
                bundle.head, encoder.embed(views_of(folder / name, bundle.view_spec)).vectors
            )
            for name in names
        ]
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_bundle_says_what_the_training_said_and_a_second_training_says_it_too(
    method: str, folder: Path, reader: Path, tmp_path: Path
) -> None:
    encoders = encoders_of(method, reader)
    bundle = verify_bundle(made(method, folder, tmp_path / "bundle", encoders).directory)
    material = films.material_of(folder, tmp_path / "again", encoders=encoders)
    again = films.fit(method, material, CHOICES.get(method, films.QUICK))
    names = [material.table.rows[row].subject for row in again.val.rows]
    assert len(names) == films.COUNTS["val"]
    expected = logits_of(again.head, again.val.parts)
    assert np.ptp(expected[:, 0]) > 1e-3
    np.testing.assert_allclose(served(bundle, folder, names), expected, atol=1e-4)


@pytest.mark.parametrize("method", ["mlp", "unfreeze", "queries", "focal", "mixture"])
def test_descent_betters_the_validation_loss_or_says_that_it_did_not(
    method: str, folder: Path, reader: Path, tmp_path: Path
) -> None:
    material = films.material_of(folder, tmp_path, encoders=encoders_of(method, reader))
    record = films.fit(method, material, CHOICES[method]).record
    assert record["best_epoch"] >= 1
    assert record["validation_log_loss_best"] < record["validation_log_loss_start"]
    hopeless = replace(CHOICES[method], rate=0.0, encoder_rate=0.0, weight_decay=0.0, patience=1)
    record = films.fit(method, material, hopeless).record
    assert record["best_epoch"] == 0
    assert record["epochs_run"] == 1
    assert record["validation_log_loss_best"] == record["validation_log_loss_start"]


def test_a_logistic_head_tells_the_films_apart(folder: Path, tmp_path: Path) -> None:
    trained = films.fit("logistic", films.material_of(folder, tmp_path))
    logits = logits_of(trained.head, trained.val.parts)[:, 0]
    truth = trained.val.truth[:, 0] == 1
    assert logits[truth].mean() > logits[~truth].mean() + 2.0


# --- unfreeze


def test_no_block_unfrozen_is_logistic_regression(folder: Path, tmp_path: Path) -> None:
    choices = replace(films.QUICK, blocks=0)
    frozen = films.fit("unfreeze", films.material_of(folder, tmp_path / "a"), choices)
    plain = films.fit("logistic", films.material_of(folder, tmp_path / "b"), choices)
    assert frozen.encoder == films.POCKET
    np.testing.assert_allclose(
        logits_of(frozen.head, frozen.val.parts),
        logits_of(plain.head, plain.val.parts),
        atol=1e-3,
    )


@pytest.mark.parametrize("blocks", [1, 99])
def test_only_the_unfrozen_blocks_change_and_the_copy_loads_as_its_source_does(
    blocks: int, folder: Path, tmp_path: Path
) -> None:
    material = films.material_of(folder, tmp_path)
    trained = films.fit("unfreeze", material, replace(UNDERFITTED, blocks=blocks))
    assert trained.record["encoder_changed"]
    assert trained.captions is False
    before = load_file(films.POCKET / "model.safetensors")
    after = load_file(trained.encoder / "model.safetensors")
    assert set(before) == set(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("layers.3." in name for name in changed)
    assert any("layers.0." in name for name in changed) == (blocks == 99)
    assert any("patch_embedding" in name for name in changed) == (blocks == 99)
    assert not any("language_model" in name for name in changed)
    assert set(encoder_files(trained.encoder)) == set(encoder_files(films.POCKET))
    open_encoder(
        trained.encoder,
        architecture="Gemma3ForConditionalGeneration",
        size_px=112,
        device="cpu",
        captions=True,
    )


def test_rates_fall_from_the_last_block_towards_the_input(folder: Path, tmp_path: Path) -> None:
    from triage.inference.bundle_fields import Features
    from triage.learning.methods.modules import LinearModule
    from triage.learning.methods.unfreeze import Trunk, UnfrozenModule, rate_groups

    trained = films.fit("logistic", films.material_of(folder, tmp_path))
    encoder = open_encoder(
        films.POCKET, architecture="Gemma3ForConditionalGeneration", size_px=112, device="cpu"
    )
    module = UnfrozenModule(Trunk(encoder, Features(), 0), LinearModule(trained.head))  # type: ignore[arg-type]
    choices = Choices(rate=1e-2, encoder_rate=1e-3, layer_decay=0.5)
    rates = [group["lr"] for group in rate_groups(module, choices)]
    assert rates == pytest.approx([1e-2, 1e-3, 1e-3, 5e-4, 2.5e-4, 1.25e-4, 6.25e-5])
    counted = sum(w.numel() for group in rate_groups(module, choices) for w in group["params"])
    assert counted == sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize("sharded", [True, False])
def test_a_tower_is_written_back_under_the_names_of_its_shards(
    sharded: bool, tmp_path: Path
) -> None:
    source = twins.medgemma(tmp_path / "source", sharded=sharded)
    name = "encoder.layers.1.mlp.fc1.weight"
    changed = {name: torch.full((96, 48), 0.25)}
    copy = write_encoder(source, changed, tmp_path / "copy")
    assert sorted(path.name for path in copy.iterdir()) == sorted(encoder_files(source))
    found = {}
    for path in copy.glob("*.safetensors"):
        found |= load_file(path)
    key = next(key for key in found if key.endswith(name) and "vision" in key)
    assert (found[key] == 0.25).all()
    with pytest.raises(BundleError, match="no place"):
        write_encoder(source, {"encoder.layers.9.bias": torch.zeros(1)}, tmp_path / "other")


# --- queries and focal


def test_the_middle_layer_is_read_unless_another_is_named(folder: Path, tmp_path: Path) -> None:
    material = films.material_of(folder, tmp_path)
    assert films.fit("queries", material).features.layer == 2
    chosen = films.fit("queries", material, replace(films.QUICK, layer=3))
    assert chosen.features.layer == 3
    assert chosen.pooling is not None
    assert chosen.pooling.width == 16
    with pytest.raises(PermanentError, match="4 layers"):
        films.fit("queries", material, replace(films.QUICK, layer=5))


def test_tokens_beyond_the_bound_of_scratch_space_are_refused(folder: Path, tmp_path: Path) -> None:
    material = replace(films.material_of(folder, tmp_path), scratch_mib=0)
    with pytest.raises(PermanentError, match="scratch"):
        keep(material, "train", lambda views: views, what="views")


def test_focal_sampling_looks_at_the_whole_and_at_every_crop(folder: Path, tmp_path: Path) -> None:
    trained = films.fit("focal", films.material_of(folder, tmp_path), CHOICES["focal"])
    assert trained.view.crops == 2
    assert {part.shape[0] for parts in trained.train.parts for part in parts} == {5}
    with pytest.raises(PermanentError, match="crops"):
        films.fit("focal", films.material_of(folder, tmp_path), replace(films.QUICK, crops=0))


# --- refusals


def test_a_mixture_of_one_encoder_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="two encoders"):
        films.fit("mixture", films.material_of(folder, tmp_path))


def test_a_finding_without_both_classes_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    material = films.material_of(folder, tmp_path)
    positives = [r for r in material.splits["train"] if material.table.rows[r].truth[0] == 1]
    alone = replace(material, splits={**material.splits, "train": positives})
    with pytest.raises(PermanentError, match="finding disc has 12 positive and 0 negative"):
        films.fit("logistic", alone)


def test_an_image_that_cannot_be_read_is_left_out_and_named_by_its_row(tmp_path: Path) -> None:
    broken = films.write_films(tmp_path / "films")
    (broken / "train-03.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    for method in ("logistic", "queries"):
        material = films.material_of(broken, tmp_path / method)
        assert len(films.fit(method, material).train) == films.COUNTS["train"] - 1
        assert list(material.left_out) == [5]


def test_caption_fusion_needs_a_model_that_writes(
    folder: Path, reader: Path, tmp_path: Path
) -> None:
    with pytest.raises(PermanentError, match="no captions"):
        films.fit("caption-fusion", films.material_of(folder, tmp_path, encoders=(reader,)))


# --- zero-shot


def similarity(reader: Path, film: NDArray[np.float32], text: str) -> float:
    """Cosine of image and text by transformers' own classes."""
    from transformers import PreTrainedTokenizerFast, SiglipModel

    model = SiglipModel.from_pretrained(reader, local_files_only=True).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(reader, local_files_only=True)
    ids = tokenizer(text, padding="max_length", max_length=64, return_tensors="pt")["input_ids"]
    pixels = torch.from_numpy((film - 0.5) / 0.5)[None].expand(1, 3, -1, -1)
    with torch.no_grad():
        said = model(input_ids=ids, pixel_values=pixels)
        return float(said.logits_per_image[0, 0] - model.logit_bias)


def test_the_zero_shot_logit_is_the_difference_of_the_models_own_two(
    folder: Path, reader: Path
) -> None:
    prompts = {"disc": Prompts(present=("A Large, nodule.",), absent=("no finding",))}
    head = head_of(reader, prompts)
    film = views_of(folder / "val-00.png", replace(films.VIEW, size_px=56))[0]
    encoder = open_encoder(reader, architecture="SiglipModel", size_px=56, device="cpu")
    vector = encoder.embed(film[None]).vectors
    unit = vector / np.linalg.norm(vector)
    expected = similarity(reader, film, "a large nodule") - similarity(reader, film, "no finding")
    assert subject_logits(head, unit)[0] == pytest.approx(expected, abs=1e-4)


def test_prompts_are_read_as_the_tower_was_trained_to_read() -> None:
    assert canonical("  A chest X-ray, with NO_finding. ") == "a chest x ray with no finding"


def test_an_encoder_without_a_text_tower_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="no text tower"):
        films.fit("zero-shot", films.material_of(folder, tmp_path))


def test_a_tokenizer_that_is_not_there_or_cannot_be_read_is_named(
    reader: Path, tmp_path: Path
) -> None:
    import shutil

    bare = Path(shutil.copytree(reader, tmp_path / "bare"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).unlink()
    prompts = {"disc": Prompts(present=("a",), absent=("b",))}
    with pytest.raises(PermanentError, match="no tokenizer"):
        head_of(bare, prompts)
    (bare / "spiece.model").write_bytes(b"no model")
    with pytest.raises(PermanentError) as refused:
        head_of(bare, prompts)
    assert "sentencepiece" in refused.value.hint


def test_a_prompt_that_is_too_long_is_refused_rather_than_cut(reader: Path) -> None:
    prompts = {"disc": Prompts(present=("nodule " * 80,), absent=("none",))}
    with pytest.raises(PermanentError, match="longer than the 64 tokens"):
        head_of(reader, prompts)
