"""`make pocket` from seed to bundle, at a hundredth of its size."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from triage.inference.bundle import verify_bundle
from triage.pocket.build import Seeds, build
from triage.pocket.model import build_model, build_tokenizer
from triage.pocket.train import Schedule

SMALL = Seeds(
    train=range(128),
    train_others=range(64),
    head=range(400_000, 400_120),
    calibration=range(500_000, 500_120),
    evaluation=range(900_000, 900_030),
    gate=range(900_000, 900_004),
)
SHORT = Schedule(epochs=1, batch_size=32, warm_up_steps=2)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pocket") / "bundle"
    out.mkdir()
    (out / "of-an-earlier-run").write_text("")
    build(out, seed=7, schedule=SHORT, seeds=SMALL)
    return out


def test_a_build_leaves_a_complete_bundle_and_nothing_else(built: Path) -> None:
    bundle = verify_bundle(built)
    assert bundle.head is not None
    assert bundle.bank is not None
    assert bundle.manifest.encoder.path == "encoder"
    assert [path.name for path in built.parent.iterdir()] == ["bundle"]
    assert not (built / "of-an-earlier-run").exists()


def test_figures_stand_in_bundle_and_card(built: Path) -> None:
    figures = json.loads((built / "bundle.json").read_text())["figures"]
    assert figures["phantoms"] == 30
    assert str(figures["any_finding_auroc"]) in (built / "card.md").read_text()
    assert set(figures["gated"]) == {"limb", "skull", "noise", "blank", "photograph", "hand"}


def test_training_reaches_every_part_of_the_model(built: Path) -> None:
    trained = load_file(built / "encoder" / "model.safetensors")
    fresh = build_model(build_tokenizer(), seed=7).state_dict()
    start = {name.removeprefix("model."): tensor.numpy() for name, tensor in fresh.items()}
    moved = {
        part
        for name, tensor in trained.items()
        for part in ("vision_tower", "multi_modal_projector", "layers.0", "layers.2")
        if part in name and not np.array_equal(tensor, _same(start, name))
    }
    assert moved == {"vision_tower", "multi_modal_projector", "layers.0", "layers.2"}


def _same(start: dict[str, np.ndarray], name: str) -> np.ndarray:
    """The weight that was saved as `name`: language models are saved with one room more."""
    plain = name.replace("language_model.model.", "language_model.")
    return start[plain.removeprefix("model.")]


def test_any_text_survives_the_tokenizer() -> None:
    tokenizer = build_tokenizer()
    for text in ("Large left pneumothorax.", "häh 12 µm\tx\n", "日本", "<end_of_turn"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == text
    assert len(tokenizer.encode("Large left pneumothorax.", add_special_tokens=False)) == 4
