"""Version 1 keeps its digest and its meaning; a bundle calibrated anew keeps all else."""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from tests.inference import twins
from triage.errors import BundleError
from triage.inference.bundle import Bundle, load_bundle, verify_bundle
from triage.inference.bundle_fields import CalibrationRecord, read_manifest, write_manifest
from triage.inference.bundle_making import derive_bundle, init_bundle
from triage.inference.calibration import Calibration, sigmoid, uncalibrated
from triage.inference.classifier import classify_subject
from triage.inference.encoder import check_known_answer, load_encoder
from triage.inference.patients import new_patients, seen_among, with_seen
from triage.pocket import BUNDLE

SINCE_2 = ("features", "head_kind", "calibration", "training")
RECORD = CalibrationRecord(
    kind="platt",
    local=True,
    images=120,
    patients=90,
    positives={"pneumothorax": 61, "nodule": 12},
    date="2026-01-31",
    labels_digest="ab" * 32,
    prevalence={"pneumothorax": 0.03},
    target_sensitivity=0.95,
    confidence=0.9,
    refusals={"nodule": "59 positives are needed, 12 are there"},
    dtype="bfloat16",
    device_class="cuda-9.0",
    local_findings=("pneumothorax", "nodule"),
)


def version_1(bundle: Bundle, *, slope: tuple[float, float] = (1.5, 0.7)) -> Bundle:
    """Write the bundle of `twins.fitted` as version 1 has it."""
    directory = bundle.directory
    arrays: dict[str, NDArray[Any]] = dict(load_file(directory / "head.safetensors"))
    arrays["platt_slope"] = np.array(slope, np.float32)
    arrays["platt_intercept"] = np.array([-1.0, 0.25], np.float32)
    data = save(arrays)
    (directory / "head.safetensors").write_bytes(data)
    (directory / "calibration.safetensors").unlink()
    document = json.loads((directory / "bundle.json").read_text())
    for key in SINCE_2:
        del document[key]
    del document["view"]["crops"]
    del document["files"]["calibration.safetensors"]
    document["files"]["head.safetensors"] = hashlib.sha256(data).hexdigest()
    document["schema_version"] = 1
    (directory / "bundle.json").write_text(json.dumps(document))
    return load_bundle(directory)


def test_the_built_in_bundle_keeps_its_digest_and_is_written_as_it_was_read() -> None:
    bundle = load_bundle(BUNDLE)
    assert bundle.identity.digest == (
        "fa46aea52a0050a520983c06160de5fea1c6ceb6c02fb799370b5f7b502d33fd"
    )
    document = json.loads((BUNDLE / "bundle.json").read_text())
    assert write_manifest(bundle.manifest) == document
    assert read_manifest(document) == bundle.manifest
    assert bundle.features_digest == ""
    assert not bundle.locally_calibrated


@pytest.mark.parametrize("slope", [(1.5, 0.7), (-1.5, 0.7)])
def test_version_1_counts_the_highest_probability_of_all_views_to_the_last_bit(
    fitted: Bundle, slope: tuple[float, float]
) -> None:
    bundle = version_1(fitted, slope=slope)
    seen = np.zeros((3, 48), np.float32)
    seen[:, :3] = [[0.31, 0.2, 3.0], [-0.7, 0.9, 3.0], [0.11, -1.3, 3.0]]
    arrays = load_file(fitted.directory / "head.safetensors")
    wide = {name: array.astype(np.float64) for name, array in arrays.items()}
    standard = (seen.astype(np.float64) - wide["mean"]) / wide["scale"]
    logits = standard @ wide["weights"].T + wide["intercept"]
    chances = sigmoid(wide["platt_slope"] * logits + wide["platt_intercept"]).max(axis=0)
    said = classify_subject(bundle, seen)
    assert [finding.probability for finding in said.findings] == chances.tolist()


@pytest.mark.parametrize("key", ["head_kind", "training", "features", "calibration"])
def test_version_1_knows_no_key_of_version_2_nor_the_reverse(fitted: Bundle, key: str) -> None:
    document = write_manifest(fitted.manifest)
    del document[key]
    with pytest.raises(BundleError, match=f"{key}.*missing"):
        read_manifest(document)
    version_1(fitted)
    document = json.loads((fitted.directory / "bundle.json").read_text())
    document[key] = None
    with pytest.raises(BundleError, match=f"{key}.*unknown"):
        read_manifest(document)


def test_a_record_says_all_that_it_was_told(
    fitted: Bundle, medgemma_directory: Path, tmp_path: Path
) -> None:
    training = {"method": "logistic", "seed": 7, "folds": [1, 2], "nested": {"l2": 0.5}}
    bundle = init_bundle(
        medgemma_directory,
        tmp_path / "told",
        name="told",
        fitted=replace(twins.fitted(width=48), record=RECORD),
        training=training,
        device="cpu",
    )
    read = load_bundle(bundle.directory)
    assert read.manifest.calibration == RECORD
    assert read.manifest.training == training
    assert read.locally_calibrated
    assert read.patients is None
    assert asdict(read.manifest) == asdict(bundle.manifest)


def test_whom_it_has_seen_goes_from_bundle_to_bundle_and_no_name_does(
    fitted: Bundle, tmp_path: Path
) -> None:
    names = [f"group {number:08}" for number in range(100_000)]
    trained = derive_bundle(
        fitted, tmp_path / "trained", patients=new_patients({"train": names, "test": ["group x"]})
    )
    assert trained.patients is not None
    longer = with_seen(trained.patients, "calibration", ["group y", "group y"])
    again = derive_bundle(trained, tmp_path / "again", patients=longer)
    copied = load_bundle(derive_bundle(again, tmp_path / "copied").directory).patients
    assert copied is not None
    asked = ["group 00000007", "group x", "group y", "group z"]
    assert {use: mask.tolist() for use, mask in seen_among(copied, asked).items()} == {
        "train": [True, False, False, False],
        "test": [False, True, False, False],
        "calibration": [False, False, True, False],
    }
    assert [len(copied.seen[use]) for use in ("train", "calibration")] == [100_000, 1]
    file = tmp_path / "copied" / "patients.safetensors"
    assert file.stat().st_size < 1 << 20
    assert b"group" not in file.read_bytes()
    assert again.identity.digest != trained.identity.digest
    other = new_patients({"train": names[:1]})
    assert not np.isin(other.seen["train"], copied.seen["train"]).any()


DAMAGED: dict[str, dict[str, NDArray[Any]]] = {
    "no key": {"train": np.zeros(1, np.uint64)},
    "a short key": {"key": np.zeros(3, np.uint8)},
    "names": {"key": np.zeros(32, np.uint8), "train": np.zeros(4, np.uint8)},
    "an unknown use": {"key": np.zeros(32, np.uint8), "colour": np.zeros(1, np.uint64)},
}


@pytest.mark.parametrize("arrays", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_of_patients_is_refused(
    fitted: Bundle, arrays: dict[str, NDArray[Any]]
) -> None:
    data = save(arrays)
    (fitted.directory / "patients.safetensors").write_bytes(data)
    document = json.loads((fitted.directory / "bundle.json").read_text())
    document["files"]["patients.safetensors"] = hashlib.sha256(data).hexdigest()
    (fitted.directory / "bundle.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match="record of patients"):
        load_bundle(fitted.directory)


UNUSABLE = {
    "kind": {"kind": "beta"},
    "local": {"local": "yes"},
    "images": {"images": 1.5},
    "positives": {"positives": {"nodule": "many"}},
    "prevalence": {"prevalence": {"nodule": 3.0}},
    "target_sensitivity": {"target_sensitivity": 95},
    "refusals": {"refusals": {"nodule": 12}},
    "dtype": {"dtype": "float16"},
    "local_findings": {"local_findings": [7]},
    "unknown": {"colour": "red"},
}


@pytest.mark.parametrize("change", UNUSABLE.values(), ids=UNUSABLE)
def test_an_unusable_record_is_refused(fitted: Bundle, change: dict[str, Any]) -> None:
    document = write_manifest(fitted.manifest)
    document["calibration"].update(change)
    with pytest.raises(BundleError):
        read_manifest(document)


UNFITTING: dict[str, dict[str, Any]] = {
    "a head of no kind": {"head_kind": None},
    "a head of an unknown kind": {"head_kind": "forest"},
    "no calibration": {"calibration": None},
    "crops of a volume": {"view": {"rendering": "mr-volume", "crops": 2}},
    "crops out of range": {"view": {"crops": 9}},
    "an unknown pooling": {"features": {"pooling": "maximum"}},
    "a layer of the default": {"features": {"layer": 1}},
    "an expert out of the bundle": {
        "features": {"experts": [{"path": "../x", "architecture": "SiglipModel", "files": {}}]}
    },
}


@pytest.mark.parametrize("change", UNFITTING.values(), ids=UNFITTING)
def test_fields_that_contradict_each_other_are_refused(
    fitted: Bundle, change: dict[str, Any]
) -> None:
    document = json.loads((fitted.directory / "bundle.json").read_text())
    for key, value in change.items():
        document[key] = {**document[key], **value} if isinstance(value, dict) else value
    (fitted.directory / "bundle.json").write_text(json.dumps(document))
    with pytest.raises(BundleError):
        load_bundle(fitted.directory)


# --- calibrated anew


def test_a_bundle_calibrated_anew_keeps_all_else(fitted: Bundle, tmp_path: Path) -> None:
    calibration = Calibration(
        kind="platt", slope=np.array([2.0, 1.0]), intercept=np.zeros(2), shift=np.zeros(2)
    )
    points = tuple(replace(spec, operating_point=0.3) for spec in fitted.manifest.findings)
    made = derive_bundle(
        fitted,
        tmp_path / "next",
        version="2",
        calibration=calibration,
        record=RECORD,
        findings=points,
        card="# fitted 2\n",
    )
    seen = np.zeros((1, 48), np.float32)
    seen[0, :3] = 0.2, 0.1, 3.0
    said = classify_subject(made, seen)
    assert [f.probability for f in said.findings] == pytest.approx(sigmoid(np.array([0.8, 0.2])))
    assert [f.operating_point for f in said.findings] == [0.3, 0.3]
    assert said.distance == classify_subject(fitted, seen).distance
    assert (made.identity.version, made.card) == ("2", "# fitted 2\n")
    assert made.manifest.calibration == RECORD
    assert made.identity.digest != fitted.identity.digest
    assert load_bundle(fitted.directory).identity == fitted.identity
    check_known_answer(made, load_encoder(made, device="cpu"))


def test_a_bundle_of_version_1_can_be_calibrated_with_its_encoder(tmp_path: Path) -> None:
    pocket = load_bundle(BUNDLE)
    record = replace(RECORD, kind="none")
    made = derive_bundle(pocket, tmp_path / "local", calibration=uncalibrated(4), record=record)
    assert verify_bundle(made.directory).locally_calibrated
    assert made.encoder_directory == tmp_path / "local" / "encoder"
    assert made.encoder_digest == pocket.encoder_digest
    check_known_answer(made, load_encoder(made, device="cpu"))


def test_a_copy_of_version_1_says_the_same_and_is_still_not_local(tmp_path: Path) -> None:
    pocket = load_bundle(BUNDLE)
    made = derive_bundle(pocket, tmp_path / "copy")
    assert pocket.bank is not None
    seen = (pocket.bank.units[:2] * 3 * pocket.bank.scale + pocket.bank.mean).astype(np.float32)
    assert classify_subject(made, seen) == classify_subject(pocket, seen)
    assert not made.locally_calibrated
    assert made.manifest.schema_version == 2


def test_a_calibration_without_a_record_or_of_other_findings_is_refused(
    fitted: Bundle, medgemma: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="record"):
        derive_bundle(fitted, tmp_path / "a", calibration=uncalibrated(2))
    with pytest.raises(BundleError, match="names"):
        derive_bundle(fitted, tmp_path / "b", findings=fitted.manifest.findings[::-1])
    with pytest.raises(BundleError, match="no head"):
        derive_bundle(medgemma, tmp_path / "c", record=RECORD)
    with pytest.raises(BundleError, match="already"):
        derive_bundle(fitted, fitted.directory)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match="other files"):
        derive_bundle(fitted, tmp_path / "full")
    assert list(tmp_path.glob(".*")) == []


def test_a_copy_that_is_broken_off_leaves_nothing_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pocket, out, real, left = load_bundle(BUNDLE), tmp_path / "local", os.fsync, 0

    def until_the_end(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        real(descriptor)

    monkeypatch.setattr(os, "fsync", until_the_end)
    for left in count():
        syncs = left
        with suppress(KeyboardInterrupt):
            derive_bundle(pocket, out)
        if out.exists():
            break
        assert list(tmp_path.iterdir()) == []
    assert verify_bundle(out).manifest.encoder == pocket.manifest.encoder
    assert syncs > len(pocket.manifest.files) + len(pocket.manifest.encoder.files)
