"""A trained bundle is whole, says how it was made, and claims no more than it may."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.learning import films
from triage.errors import PermanentError
from triage.inference.bundle import Bundle, load_bundle
from triage.inference.bundle_fields import write_manifest
from triage.inference.classifier import classify_subject
from triage.inference.encoder import check_known_answer, load_encoder
from triage.learning.judging.selection import select
from triage.learning.material.embedding import embed_rows
from triage.learning.material.embedding_set import load_embedding_set
from triage.learning.material.images import views_of
from triage.learning.material.labels import LabelError, LabelTable
from triage.learning.material.lens import lens_of_encoder
from triage.learning.training.provisional import FindingPlan, provisional_calibration
from triage.learning.training.training import Plan, inherits_demonstration, train, unlabelled
from triage.records import Code, Rank
from triage.rules.eligibility import IntendedUse

CODE = Code(value="36118008", scheme="SCT", meaning="Pneumothorax")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return films.write_films(tmp_path_factory.mktemp("films"))


def plan(folder: Path, out: Path, **changes: object) -> Plan:
    said: dict[str, object] = {
        "method": "logistic",
        "table": films.table_of(folder),
        "images": folder,
        "encoders": (films.POCKET,),
        "out": out,
        "name": "films",
        "choices": films.QUICK,
        "device": "cpu",
        **changes,
    }
    return Plan(**said)  # type: ignore[arg-type]


def splits_known(bundle: Bundle, table: LabelTable) -> dict[str, tuple[int, ...]]:
    """The rows of each split, as the bundle knows them again."""
    return {
        name: select(bundle, table, split=name, usual="test").rows
        for name in ("train", "val", "test")
    }


@pytest.fixture(scope="module")
def bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("bundles") / "films"
    return train(
        plan(
            folder,
            out,
            findings={"disc": FindingPlan(code=CODE, raises_to=Rank.STAT)},
            intended_use=IntendedUse(modalities=("DX",), body_parts=("CHEST",)),
        )
    )


def test_every_choice_stands_in_the_bundle_and_no_patient_does(bundle: Bundle) -> None:
    record = bundle.manifest.training
    assert record["method"] == "logistic"
    assert record["choices"]["seed"] == films.QUICK.seed
    assert record["choices"]["l2"] == list(films.QUICK.l2)
    assert record["found"]["l2_chosen"] in films.QUICK.l2
    assert record["splits"]["train"] == {
        "subjects": 24,
        "patients": 12,
        "positives": {"disc": 12, "other": 4},
        "negatives": {"disc": 12, "other": 8},
        "embedded": 24,
    }
    assert record["cost"]["peak_memory_mib"] > 50
    assert bundle.patients is not None
    held = {use: len(hashes) for use, hashes in bundle.patients.seen.items()}
    assert held == {"train": 12 + 24, "val": 6 + 12, "test": 2 + 4}  # patients and images
    text = json.dumps(write_manifest(bundle.manifest)) + bundle.card
    assert ".png" not in text
    assert "-train" not in text


def test_what_was_asked_for_stands_in_the_bundle(bundle: Bundle) -> None:
    disc, other = bundle.manifest.findings
    assert (disc.name, disc.code, disc.raises_to) == ("disc", CODE, Rank.STAT)
    assert (other.name, other.code, other.raises_to) == ("other", None, Rank.HIGH)
    assert bundle.intended_use.modalities == ("DX",)
    check_known_answer(bundle, load_encoder(bundle, device="cpu"))


def test_calibration_is_recorded_as_provisional_and_not_local(bundle: Bundle) -> None:
    record = bundle.manifest.calibration
    assert record is not None
    assert record.kind == "platt"
    assert record.local is False
    assert record.images == 12
    assert record.patients == 6
    assert record.positives == {"disc": 6, "other": 2}
    assert all(reason.startswith("provisional") for reason in record.refusals.values())
    assert "provisional" in bundle.card
    assert "triage calibrate" in bundle.card


def test_a_demonstration_encoder_makes_a_demonstration_bundle(
    bundle: Bundle, folder: Path, tmp_path: Path
) -> None:
    assert bundle.not_for_clinical_use
    assert "Not for clinical use" in bundle.card
    copied = Path(shutil.copytree(films.POCKET, tmp_path / "elsewhere"))
    assert inherits_demonstration(copied)
    underfitted = replace(films.QUICK, l2=(30.0,), rate=1e-2, encoder_rate=1e-3)
    adapted = train(plan(folder, tmp_path / "adapted", method="unfreeze", choices=underfitted))
    assert adapted.encoder_directory == adapted.directory / "encoder"
    assert not adapted.manifest.captions
    assert inherits_demonstration(adapted.encoder_directory)
    loose = Path(shutil.copytree(adapted.encoder_directory, tmp_path / "loose"))
    assert not inherits_demonstration(loose)  # other weights, beside no bundle: the site's word


def test_the_daemon_judges_films_within_the_gate_and_turns_noise_away(
    bundle: Bundle, folder: Path
) -> None:
    encoder = load_encoder(bundle, device="cpu")
    verdicts = [
        classify_subject(bundle, encoder.embed(views_of(path, bundle.view_spec)).vectors)
        for path in sorted(folder.glob("val-*.png"))
    ]
    assert all(verdict.in_distribution for verdict in verdicts)
    flagged = [verdict.findings[0].flagged for verdict in verdicts]
    assert sum(flagged[::2]) >= 5
    noise = np.random.default_rng(1).random((1, 1, 112, 112), dtype=np.float32)
    assert not classify_subject(bundle, encoder.embed(noise).vectors).in_distribution


def test_the_same_seed_gives_the_same_model(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    again = train(plan(folder, tmp_path / "again"))
    for name in ("head.safetensors", "calibration.safetensors", "bank.safetensors"):
        assert again.manifest.files[name] == bundle.manifest.files[name]
    assert [each.operating_point for each in again.manifest.findings] == [
        each.operating_point for each in bundle.manifest.findings
    ]


def test_the_test_split_is_never_looked_at(folder: Path, tmp_path: Path) -> None:
    blind = Path(shutil.copytree(folder, tmp_path / "films"))
    for path in blind.glob("test-*.png"):
        path.unlink()
    assert train(plan(blind, tmp_path / "bundle")).manifest.training["left_out"] == []


def test_embeddings_are_kept_where_asked_and_used_again(
    folder: Path, tmp_path: Path, bundle: Bundle
) -> None:
    kept = tmp_path / "kept"
    train(plan(folder, tmp_path / "first", embeddings=kept))
    assert len(load_embedding_set(kept).subjects) == 36
    shards = sorted(path.name for path in (kept / "shards").iterdir())
    second = train(plan(folder, tmp_path / "second", embeddings=kept))
    assert sorted(path.name for path in (kept / "shards").iterdir()) == shards
    name = "head.safetensors"
    assert second.manifest.files[name] == bundle.manifest.files[name]


def test_what_triage_embed_has_kept_is_what_a_training_needs(
    folder: Path, tmp_path: Path, bundle: Bundle
) -> None:
    """One cache scope for the verb, the training and the daemon's bundles without a head."""
    lens = lens_of_encoder(films.POCKET, device="cpu")
    embed_rows(films.table_of(folder).rows, folder, lens, tmp_path / "kept")
    head = "head.safetensors"
    made = train(plan(folder, tmp_path / "bundle", embeddings=tmp_path / "kept"))
    assert made.manifest.files[head] == bundle.manifest.files[head]


def test_patients_whose_split_is_open_are_divided_as_wholes(folder: Path, tmp_path: Path) -> None:
    open_labels = Path(shutil.copytree(folder, tmp_path / "films"))
    with (open_labels / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (open_labels / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row | {"split": ""} for row in rows)
    shares = {"train": 0.6, "val": 0.3, "test": 0.1}
    made = train(plan(open_labels, tmp_path / "bundle", shares=shares))
    splits = made.manifest.training["splits"]
    assert sum(said["patients"] for said in splits.values()) == 20  # nobody counted twice
    assert sum(said["subjects"] for said in splits.values()) == 40
    table = films.table_of(open_labels)
    other = replace(table, findings=("other",), rows=table.rows[::-1], digest="e" * 64)
    taken = splits_known(made, other)
    assert {name: len(rows) for name, rows in taken.items()} == {
        name: said["subjects"] for name, said in splits.items()
    }
    assert len({row for rows in taken.values() for row in rows}) == 40


def test_patients_of_the_same_pixels_are_not_divided_and_the_record_says_so(
    folder: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "films"))
    for number in range(8):
        shutil.copy(copied / f"train-{number:02}.png", copied / f"test-{number % 4:02}.png")
    table = films.table_of(copied)
    table = replace(table, rows=tuple(replace(row, split="") for row in table.rows))
    made = train(plan(copied, tmp_path / "bundle", table=table))
    labels = made.manifest.training["labels"]
    assert labels["same_pixels"] == [[6 + number, 38 + number] for number in range(4)]
    assert labels["same_pixels_apart"] == 0
    assert "4 images stand in the labels under more than one patient: rows 6 and 38;" in made.card
    splits = splits_known(made, table)
    side = {table.rows[row].line: name for name, rows in splits.items() for row in rows}
    assert all(side[first] == side[second] for first, second in labels["same_pixels"])
    recorded = made.manifest.training["splits"]
    assert {name: said["subjects"] for name, said in recorded.items()} == {
        name: len(rows) for name, rows in splits.items()
    }


def test_a_patient_in_two_splits_is_refused(folder: Path, tmp_path: Path) -> None:
    table = films.table_of(folder)
    rows = tuple(replace(row, group="same") if row.line in (2, 30) else row for row in table.rows)
    with pytest.raises(LabelError):
        train(plan(folder, tmp_path / "bundle", table=replace(table, rows=rows)))
    assert not (tmp_path / "bundle").exists()


def test_nothing_is_left_where_a_training_fails(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PermanentError):
        train(plan(folder, tmp_path / "out" / "bundle", method="mixture"))
    assert list((tmp_path / "out").iterdir()) == []


def test_images_that_are_not_there_are_no_want_of_labels(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"row 2, column 'file' of the labels \(and \d+ more rows"):
        train(plan(folder, tmp_path / "bundle", images=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_never_overwritten(bundle: Bundle, folder: Path) -> None:
    with pytest.raises(PermanentError, match="there already"):
        train(plan(folder, bundle.directory))
    assert load_bundle(bundle.directory).identity == bundle.identity


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "magic"}, "no method"),
        ({"findings": {"nodule": FindingPlan()}}, "no finding nodule"),
        ({"encoders": (Path("nowhere"),)}, "holds no encoder"),
        ({"choices": replace(films.QUICK, class_weights="odd")}, "class weights"),
        ({"choices": replace(films.QUICK, dropout=1.0)}, "dropout"),
        ({"choices": replace(films.QUICK, folds=1)}, "folds"),
        ({"name": "chest (new)"}, "cannot hold the name"),
        ({"rendering": "sepia"}, "no rendering"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_work(
    changes: dict[str, object], said: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(PermanentError, match=said):
        train(plan(folder, tmp_path / "bundle", **changes))


def test_zero_shot_needs_no_label_and_takes_its_bank_from_the_images(
    folder: Path, tmp_path: Path
) -> None:
    reader = films.text_reader(tmp_path / "reader")
    table = unlabelled(folder, ("disc",))
    assert len(table.rows) == 40
    made = train(
        plan(folder, tmp_path / "bundle", method="zero-shot", table=table, encoders=(reader,))
    )
    assert not made.not_for_clinical_use
    assert made.bank is not None
    assert made.patients is not None
    assert {use: len(held) for use, held in made.patients.seen.items()} == {
        "train": 0,
        "val": 0,
        "test": 0,
    }  # prompts have seen nobody: all may be calibrated on
    record = made.manifest.calibration
    assert record is not None
    assert record.refusals["disc"].startswith("not calibrated")
    assert made.manifest.findings[0].operating_point == 0.5
    alone = train(
        plan(
            folder,
            tmp_path / "alone",
            method="zero-shot",
            table=unlabelled(None, ("disc",)),
            encoders=(reader,),
        )
    )
    assert alone.bank is None
    assert "no images to take a bank from" in alone.card


def test_a_head_that_scores_the_wrong_way_round_is_not_calibrated() -> None:
    truth = np.array([[1.0, 1.0, np.nan], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, np.nan]])
    logits = np.array([[2.0, -2.0, 0.1], [-1.0, 1.0, 0.2], [1.5, -1.5, 0.3], [-2.0, 2.0, 0.4]])
    calibration, refusals = provisional_calibration(logits, truth, ("right", "wrong", "alone"))
    assert calibration.slope[0] > 0
    assert calibration.slope[0] != 1
    np.testing.assert_array_equal(calibration.slope[1:], 1.0)
    np.testing.assert_array_equal(calibration.intercept[1:], 0.0)
    assert "provisional" in refusals["right"]
    assert "wrong way round" in refusals["wrong"]
    assert "lacks a class" in refusals["alone"]
