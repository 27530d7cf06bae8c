"""`triage train` on a few films: what it asks for, what it makes, and how it refuses."""

import json
from pathlib import Path

import pytest

from tests.learning import films
from triage.cli.command_line import main
from triage.inference.bundle import load_bundle
from triage.learning.methods import METHODS
from triage.records import Rank

QUICK = ["--l2", "0.1", "--epochs", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return films.write_films(tmp_path_factory.mktemp("films"))


def asked(folder: Path, out: Path, *more: str, method: str = "logistic") -> list[str]:
    return [
        *("train", "--method", method, "--encoder", str(films.POCKET), "--out", str(out)),
        *("--images", str(folder), "--labels", str(folder / "labels.csv")),
        *("--findings", "disc,other"),
        *QUICK,
        *more,
    ]


def test_a_bundle_is_made_with_the_use_and_codes_that_were_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use = ["--modality", "cr,dx", "--body-part", "chest", "--minimum-age", "18"]
    findings = ["--code", "disc=1^99X^Disc", "--raises-to", "disc=stat", "--seed", "4"]
    assert main(asked(folder, tmp_path / "chest", *use, *findings)) == 0
    said = capsys.readouterr()
    assert "triage calibrate" in said.out
    assert "Embedding: 36 of 36" in said.err
    bundle = load_bundle(tmp_path / "chest")
    assert bundle.identity.name == "chest"
    assert bundle.intended_use.modalities == ("CR", "DX")
    assert bundle.intended_use.minimum_age_y == 18
    disc = bundle.manifest.findings[0]
    assert disc.code is not None
    assert disc.code.meaning == "Disc"
    assert disc.raises_to is Rank.STAT
    assert bundle.manifest.training["choices"]["seed"] == 4
    assert main(["bundle", "verify", str(tmp_path / "chest")]) == 0


def test_json_is_one_document(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(asked(folder, tmp_path / "m", "--hidden", "8,4", "--json", method="mlp")) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["bundle"]["training"]["choices"]["hidden"] == [8, 4]
    assert document["digest"] == load_bundle(tmp_path / "m").identity.digest


def test_a_use_that_is_left_open_is_remarked_upon(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(asked(folder, tmp_path / "any")) == 0
    assert "--modality" in capsys.readouterr().out


def test_zero_shot_reads_its_prompts_from_the_command_line(tmp_path: Path) -> None:
    reader = films.text_reader(tmp_path / "reader")
    arguments = ["train", "--method", "zero-shot", "--encoder", str(reader), "--device", "cpu"]
    arguments += ["--findings", "disc", "--prompt", "disc=a disc", "--prompt", "disc=large disc"]
    arguments += ["--absent-prompt", "disc=nothing", "--out", str(tmp_path / "zero")]
    assert main(arguments) == 0
    found = load_bundle(tmp_path / "zero").manifest.training["found"]
    assert found["prompts"]["disc"] == {"present": ["a disc", "large disc"], "absent": ["nothing"]}


REFUSED = {
    "add up to 1": ["--shares", "0.5,0.5,0.5"],
    "none of STAT": ["--raises-to", "disc=URGENT"],
    "VALUE^SCHEME^MEANING": ["--code", "disc=1^99X"],
    "no finding nodule": ["--code", "nodule=1^99X^Nodule"],
    "both --prompt and --absent-prompt": ["--prompt", "disc=a disc"],
    "not 0 or more": ["--rate", "-1"],
    "is no seed": ["--seed", "-1"],
    "would fit nobody": ["--minimum-age", "80", "--maximum-age", "2"],
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_cannot_be_meant_is_a_wrong_command_line(
    said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        ended = main(asked(folder, tmp_path / "bundle", *REFUSED[said]))
    except SystemExit as end:
        ended = end.code if isinstance(end.code, int) else -1
    assert ended == 64
    assert said in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_a_column_that_is_not_there_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(asked(folder, tmp_path / "bundle", "--findings", "nodule")) == 1
    assert "nodule" in capsys.readouterr().err


@pytest.mark.parametrize("method", [name for name in METHODS if name != "zero-shot"])
def test_methods_that_learn_need_labels(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--method", method, "--encoder", str(films.POCKET)]
    assert main([*arguments, "--out", str(tmp_path / "b")]) == 64
    assert "--labels" in capsys.readouterr().err
