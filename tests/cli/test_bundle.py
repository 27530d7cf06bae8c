"""Bundles are made from weights on disk, shown, and refused once a byte has changed."""

import json
import shutil
from pathlib import Path

import pytest

from triage.cli.command_line import main
from triage.pocket import BUNDLE

ENCODER = "weights"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in a directory where an encoder lies, as a user does who has fetched one."""
    shutil.copytree(BUNDLE / "encoder", tmp_path / ENCODER)
    monkeypatch.chdir(tmp_path)


def test_a_bundle_made_from_an_encoder_has_no_classifier_and_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bundle", "init", "--encoder", ENCODER, "chest"]) == 0
    assert "no classifier" in capsys.readouterr().out
    assert main(["bundle", "show", "chest"]) == 0
    assert "no classifier for this encoder" in capsys.readouterr().out


def test_a_bundle_is_named_after_its_directory_unless_told_otherwise(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["bundle", "init", "--encoder", ENCODER, "--json", "chest"])
    assert json.loads(capsys.readouterr().out)["bundle"]["name"] == "chest"
    main(["bundle", "init", "--encoder", ENCODER, "--name", "mine", "--json", "other"])
    assert json.loads(capsys.readouterr().out)["bundle"]["name"] == "mine"


def test_a_changed_byte_of_the_encoder_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["bundle", "init", "--encoder", ENCODER, "chest"])
    assert main(["bundle", "verify", "chest"]) == 0
    with (tmp_path / ENCODER / "config.json").open("a", encoding="utf-8") as file:
        file.write(" ")
    capsys.readouterr()
    assert main(["bundle", "verify", "chest"]) == 1
    assert "has changed" in capsys.readouterr().err


def test_a_directory_without_an_encoder_is_a_plain_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["bundle", "init", "--encoder", "empty", "chest"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_built_in_bundle_is_shown_as_not_for_clinical_use(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bundle", "show", str(BUNDLE)]) == 0
    assert "NO: demonstration only" in capsys.readouterr().out
    assert main(["bundle", "show", "--json", str(BUNDLE)]) == 0
    assert json.loads(capsys.readouterr().out)["bundle"]["not_for_clinical_use"] is True


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        (["show", "nowhere"], "`triage bundle init --help`"),
        (["verify", "nowhere"], "`triage bundle init --help`"),
        (["init", "--encoder", "nowhere", "new"], "config.json"),
    ],
)
def test_a_directory_that_is_not_there_is_told_with_what_to_name_instead(
    verb: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bundle", *verb]) == 1
    told = capsys.readouterr().err
    assert "there is no directory nowhere" in told
    assert said in told
