"""Bundles are made from weights on disk, shown, and refused once a byte has changed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.inference import twins
from triage.cli.command_line import main
from triage.inference.bundle_fields import CalibrationRecord, Features
from triage.inference.bundle_making import init_bundle
from triage.inference.patients import new_patients
from triage.pocket import BUNDLE
from triage.records import ViewSpec

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


def test_show_says_how_a_vector_is_made_and_on_whose_studies_it_was_calibrated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    record = CalibrationRecord(
        kind="platt",
        local=True,
        images=120,
        patients=90,
        positives={"pneumothorax": 61, "nodule": 12},
        date="2026-01-31",
        prevalence={"pneumothorax": 0.03},
        target_sensitivity=0.95,
        refusals={"nodule": "59 positives are needed"},
        dtype="bfloat16",
        device_class="cuda-9.0",
    )
    init_bundle(
        tmp_path / ENCODER,
        tmp_path / "told",
        name="told",
        view=ViewSpec(rendering="dicom", size_px=112, crops=2),
        features=Features(pooling="mean", layer=1, unit_length=True),
        experts=[tmp_path / ENCODER],
        fitted=replace(twins.fitted(width=2 * 128), record=record),
        training={"method": "logistic", "seed": 7},
        patients=new_patients({"train": ["group a", "group b"], "test": []}),
        device="cpu",
    )
    assert main(["bundle", "show", "told"]) == 0
    shown = capsys.readouterr().out
    for said in (
        "mean over tokens of layer 1",
        "expert Gemma3ForConditionalGeneration in",
        "each encoder's vector scaled to length one",
        "dicom, 112 px, and 2 x 2 crops",
        "linear",
        "platt, on local studies on 2026-01-31",
        "at bfloat16 on cuda-9.0; elsewhere it runs as a shadow",
        "hashes: train 2, test 0",
        "120 images of 90 patients; positives: pneumothorax 61, nodule 12",
        "shifted to prevalence pneumothorax 0.03",
        "for a sensitivity of 0.95",
        "NOT supported for nodule: 59 positives are needed",
        "method: logistic",
        "seed: 7",
    ):
        assert said in shown
    assert main(["bundle", "show", "--json", "told"]) == 0
    document = json.loads(capsys.readouterr().out)["bundle"]
    assert (document["schema_version"], document["calibration"]["images"]) == (2, 120)


def test_show_says_that_a_bundle_was_not_calibrated_here(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bundle", "show", str(BUNDLE)]) == 0
    shown = capsys.readouterr().out
    assert "NOT on local studies" in shown
    assert "not recorded: nobody can tell" in shown
    assert main(["bundle", "show", "--json", str(BUNDLE)]) == 0
    assert json.loads(capsys.readouterr().out)["bundle"]["schema_version"] == 1
