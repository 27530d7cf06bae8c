"""The same pixels under two patients are noticed, told with their rows, and never divided."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.dicom_files import make_dx, write
from tests.learning.embedders import SPEC, Counting, film_row, films, lens_with
from tests.learning.tables import label_row, table_of
from triage.learning.material.embedding import embed_rows
from triage.learning.material.images import DirectoryImages
from triage.learning.material.labels import LabelRow
from triage.learning.material.same_pixels import apart, joined, same_drawn, same_embedded, words
from triage.learning.material.splits import grouped_split


@pytest.fixture
def rows(tmp_path: Path) -> list[LabelRow]:
    """Six rows: 0 and 1 of one patient and alike, 2 alike 3 and a DICOM file alike another's."""
    made = films(tmp_path, 4)
    shutil.copy(tmp_path / "0.png", tmp_path / "1.png")
    with Image.open(tmp_path / "2.png") as picture:
        picture.save(tmp_path / "3.png", compress_level=0)  # other bytes, the same pixels
    write(make_dx(Rows=64, PatientID="A"), tmp_path / "4.dcm")
    write(make_dx(Rows=64, PatientID="B"), tmp_path / "5.dcm")
    made += [film_row("4.dcm", 6), film_row("5.dcm", 7)]
    patients = ("p", "p", "q", "r", "s", "t")
    return [replace(row, group=patient) for row, patient in zip(made, patients, strict=True)]


def test_copies_under_another_patient_are_found_by_their_pixels(
    rows: list[LabelRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = embed_rows(rows, tmp_path, lens_with(Counting()), tmp_path / "kept")
    assert same_embedded(rows, found) == ((4, 5), (6, 7))
    places = DirectoryImages(tmp_path)
    assert same_drawn(rows, places, SPEC) == ((4, 5), (6, 7))
    monkeypatch.delattr("triage.learning.material.same_pixels.Decoder.draw")
    assert same_drawn(rows, places, SPEC, kept=tmp_path / "kept") == ((4, 5), (6, 7))


def test_a_row_that_cannot_be_read_is_no_copy_of_another(tmp_path: Path) -> None:
    rows = films(tmp_path, 2)
    for row in rows:
        (tmp_path / row.subject).write_text("no picture")
    assert same_drawn([*rows, film_row("absent.png", 9)], DirectoryImages(tmp_path), SPEC) == ()


def test_patients_of_one_image_are_on_one_side_of_every_split_that_is_drawn() -> None:
    table = table_of(*(label_row(line, group=f"p{line // 2}") for line in range(2, 42)))
    same = ((2, 9), (9, 20), (31, 40))
    one = joined(table, same)
    for seed in range(20):
        splits = grouped_split(one, seed=seed, shares={"train": 0.5, "test": 0.5})
        side = {table.rows[row].line: name for name, rows in splits.items() for row in rows}
        assert side[2] == side[3] == side[8] == side[9] == side[20] == side[21]
        assert side[31] == side[40]
    assert len({row.patient for row in one.rows}) == 20 - 3
    assert joined(table, ()) == table


def test_rows_without_patients_are_joined_and_no_others() -> None:
    table = table_of(*(label_row(line) for line in range(2, 8)))
    patients = [row.patient for row in joined(table, ((3, 5),)).rows]
    assert patients[1] == patients[3]
    assert len(set(patients)) == 5


def test_what_the_labels_put_in_different_splits_stays_there_and_is_counted() -> None:
    stated = ("train", "test", "", "test", "test")
    rows = [
        label_row(line, group=f"p{min(line, 5)}", split=split)
        for line, split in enumerate(stated, start=2)
    ]
    rows[3] = label_row(5, group="p5")  # its patient is in the test split by another row
    table = table_of(*rows)
    same = ((2, 3, 4, 5),)
    one = joined(table, same)
    assert (apart(table, same), apart(table, ((2, 5),)), apart(table, ((3, 5),))) == (1, 1, 0)
    assert one.rows[2].patient == one.rows[0].patient  # the blank one goes with the first
    assert one.rows[1].patient == one.rows[3].patient != one.rows[0].patient
    splits = grouped_split(one, seed=1, shares={"train": 0.5, "test": 0.5})
    assert splits == {"train": [0, 2], "test": [1, 3, 4]}


def test_a_sentence_names_the_first_rows_and_counts_the_others() -> None:
    assert words(()) == ""
    said = words(((2, 9),))
    assert said == "1 image stands in the labels under more than one patient: rows 2 and 9."
    many = words(tuple((line, *range(1000, 1900)) for line in range(2, 300)))
    assert many.startswith("298 images stand")
    assert "rows 2, 1000, 1001, 1002 and 897 more; " in many
    assert many.endswith("; and 293 more.")


def test_slices_that_series_have_in_common_are_no_copy(tmp_path: Path) -> None:
    rows = films(tmp_path, 2)
    crops = replace(SPEC, crops=2)
    for row, corner in zip(rows, (10, 250), strict=True):
        pixels = np.full((64, 64), 100, np.uint8)
        pixels[:8, :8] = corner
        Image.fromarray(pixels).save(tmp_path / row.subject)
    found = embed_rows(rows, tmp_path, lens_with(Counting(), spec=crops), tmp_path / "kept")
    assert set(found.keys[0]) & set(found.keys[1])
    assert same_embedded(rows, found) == ()
