"""Which rows a bundle is judged on, and what is said when it has seen them."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from triage.errors import BundleError
from triage.inference.bundle import Bundle, load_bundle
from triage.inference.bundle_fields import CalibrationRecord
from triage.inference.classifier import bank_of
from triage.inference.patients import new_patients, with_seen
from triage.learning.judging.selection import copies_of_training, select, with_copies
from triage.learning.material.embedding_set import EmbeddingSet
from triage.learning.material.labels import LabelError, LabelRow, LabelTable
from triage.learning.material.splits import names_to_keep
from triage.pocket import BUNDLE


@pytest.fixture(scope="module")
def pocket() -> Bundle:
    return load_bundle(BUNDLE, check_encoder=False)


def table(*splits: str, digest: str = "d" * 64, grouped: bool = True) -> LabelTable:
    return LabelTable(
        findings=("effusion",),
        rows=tuple(
            LabelRow(
                subject=f"{line}.png",
                group=f"p{line}" if grouped else "",
                truth=(float(line % 2),),
                split=split,
                strata={"source": "a" if line % 2 else "b"},
                line=line,
            )
            for line, split in enumerate(splits, start=2)
        ),
        digest=digest,
        subject_column="file",
    )


def trained(bundle: Bundle, rows: LabelTable, *, splits: Mapping[str, list[int]]) -> Bundle:
    """The bundle as if it had been trained on the rows, divided so."""
    seen = {
        use: [name for row in numbers for name in names_to_keep(rows.rows[row])]
        for use, numbers in splits.items()
    }
    return replace(bundle, patients=new_patients(seen))


def calibrated(bundle: Bundle, rows: LabelTable, numbers: list[int]) -> Bundle:
    names = [name for row in numbers for name in names_to_keep(rows.rows[row])]
    patients = bundle.patients or new_patients({})
    return replace(bundle, patients=with_seen(patients, "calibration", names))


SPLITS: dict[str, list[int]] = {"train": [0, 1, 2, 3], "val": [4, 5], "test": [6, 7, 8]}


def test_the_usual_split_is_taken_where_rows_state_theirs(pocket: Bundle) -> None:
    found = select(pocket, table("train", "test", "val", "test"), split=None, usual="test")
    assert (found.rows, found.words, found.training_rows) == ((1, 3), "split test", 0)


def test_all_rows_are_taken_where_nothing_is_split(pocket: Bundle) -> None:
    found = select(pocket, table("", "", ""), split=None, usual="test")
    assert (found.rows, found.words) == ((0, 1, 2), "all rows")


def test_a_bundle_without_a_record_says_that_it_cannot_tell(pocket: Bundle) -> None:
    found = select(pocket, table("test"), split=None, usual="test")
    assert "does not record whom it was fitted on" in found.warnings[0]
    assert "cannot be told" in found.warnings[0]
    record = CalibrationRecord(kind="platt", local=True)
    local = replace(pocket, manifest=replace(pocket.manifest, calibration=record))
    said = select(local, table("test"), split=None, usual="test").warnings[0]
    assert "fitted and calibrated on" in said


def test_an_image_of_the_training_is_known_again_under_any_name(pocket: Bundle) -> None:
    rows = table("test", "test", "test", "train")
    drawn = np.random.default_rng(1).normal(size=(8, pocket.width or 0)).astype(np.float32)
    assert pocket.head is not None
    fitted = replace(pocket, bank=bank_of(pocket.head, drawn[4:]))
    vectors = EmbeddingSet(
        subjects=tuple(row.subject for row in rows.rows),
        vectors=(drawn[:2], drawn[[2, 5]], drawn[[3, 6]], drawn[7:]),
        parts=((2,), (2,), (1, 1), (1,)),  # the second shares a slice, the third has a film of it
        keys=(("a", "b"), ("c", "d"), ("e", "f"), ("g",)),
        scope="",
    )
    assert copies_of_training(fitted, rows.rows, vectors) == (4,)  # row 5 says that it is one
    rows = table("test", "test", "test", "")
    assert copies_of_training(fitted, rows.rows, vectors) == (4, 5)
    chosen = select(fitted, rows, split="test", usual="test")
    told = with_copies(chosen, fitted, (4,))
    assert told.training_rows == chosen.training_rows + 1  # a fit on it is no local calibration
    assert "1 of these 3 rows have the embedding of an image that the bundle" in told.warnings[-1]
    assert "(rows 4 of the labels). It keeps 4 of its images" in told.warnings[-1]
    assert with_copies(chosen, fitted, ()) == chosen
    named = trained(fitted, rows, splits={"train": [3]})  # by its name it is told already
    assert copies_of_training(named, rows.rows, vectors) == (4,)
    assert not copies_of_training(fitted, rows.rows[:2], vectors)
    untaught = replace(fitted, manifest=replace(pocket.manifest, training={"method": "zero-shot"}))
    assert not copies_of_training(untaught, rows.rows, vectors)


@pytest.mark.parametrize("findings", [("effusion",), ("nodule", "effusion")])
def test_a_split_that_training_drew_is_known_again_whatever_else_has_changed(
    pocket: Bundle, findings: tuple[str, ...]
) -> None:
    """Other findings, another file, rows in another order: its draw would be another one."""
    rows = table(*[""] * 9)
    bundle = trained(pocket, rows, splits=SPLITS)
    changed = replace(rows, findings=findings, digest="e" * 64, rows=rows.rows[::-1])
    for usual, expected in (("test", (0, 1, 2)), ("val", (3, 4))):
        found = select(bundle, changed, split=None, usual=usual)
        assert (found.rows, found.words) == (expected, f"split {usual}")
        assert found.training_rows == 0
        assert "4 rows were left out, for the bundle was fitted on" in found.warnings[0]


def test_rows_that_training_has_seen_are_taken_where_asked_for_and_named(pocket: Bundle) -> None:
    rows = table(*[""] * 9)
    found = select(trained(pocket, rows, splits=SPLITS), rows, split="all", usual="test")
    assert found.rows == tuple(range(9))
    assert found.training_rows == 4
    assert "4 of these 9 rows are of patients whom the bundle was fitted on" in found.warnings[0]
    assert "2 of these 9 rows are of patients by whom it was chosen" in found.warnings[1]
    only = select(trained(pocket, rows, splits=SPLITS), rows, split="train", usual="test")
    assert (only.rows, only.training_rows) == ((0, 1, 2, 3), 4)


def test_a_patient_of_the_training_is_none_of_the_test_whatever_the_row_states(
    pocket: Bundle,
) -> None:
    bundle = trained(pocket, table(*[""] * 9), splits=SPLITS)
    found = select(bundle, table(*["test"] * 9), split="test", usual="test")
    assert found.rows == (4, 5, 6, 7, 8)
    assert "4 rows were left out" in found.warnings[0]
    assert "2 of these 5 rows are of patients by whom it was chosen" in found.warnings[1]


def test_new_patients_are_judged_and_those_of_the_training_left_out(pocket: Bundle) -> None:
    bundle = trained(pocket, table(*[""] * 9), splits={**SPLITS, "test": []})
    found = select(bundle, table(*[""] * 12), split=None, usual="test")
    assert found.rows == (6, 7, 8, 9, 10, 11)
    assert found.words == "all rows but 6 of other splits"
    assert "4 rows were left out" in found.warnings[0]


def test_rows_in_no_split_are_counted_where_others_are_in_one(pocket: Bundle) -> None:
    found = select(pocket, table("test", "", ""), split=None, usual="test")
    assert found.rows == (0,)
    assert "2 rows are in no split and were left out" in found.warnings[0]


def test_an_image_is_known_again_where_one_table_names_no_patient(pocket: Bundle) -> None:
    named, plain = table(*[""] * 9), table(*[""] * 9, grouped=False)
    for then, now in ((named, plain), (plain, named)):
        bundle = trained(pocket, then, splits=SPLITS)
        assert select(bundle, now, split=None, usual="test").rows == (6, 7, 8)
    others = replace(named, rows=tuple(replace(row, group=f"q{row.line}") for row in named.rows))
    found = select(trained(pocket, named, splits=SPLITS), others, split=None, usual="test")
    assert found.rows == tuple(range(9))  # files of other patients that bear the same names


def test_copies_of_training_rows_are_named(pocket: Bundle) -> None:
    rows = table("train", "test", "test", "test")
    labels = {"digest": rows.digest, "same_pixels": [[2, 4], [3, 5]]}
    bundle = trained(pocket, rows, splits={"train": [0], "test": [1, 2, 3]})
    bundle = replace(bundle, manifest=replace(bundle.manifest, training={"labels": labels}))
    (said,) = select(bundle, rows, split=None, usual="test").warnings
    assert "1 of these 3 rows hold the same pixels as training rows" in said
    odd = {"labels": {**labels, "same_pixels": "odd"}}
    with pytest.raises(BundleError, match="record of the training is damaged"):
        select(
            replace(bundle, manifest=replace(bundle.manifest, training=odd)),
            rows,
            split=None,
            usual="test",
        )


def test_rows_marked_as_training_warn_where_the_bundle_cannot_tell(pocket: Bundle) -> None:
    rows = table("train", "test")
    found = select(pocket, rows, split="all", usual="test")
    assert "1 of these 2 rows are marked as training rows" in found.warnings[0]
    assert found.training_rows == 1
    told = select(trained(pocket, rows, splits={"train": []}), rows, split="all", usual="test")
    assert (told.warnings, told.training_rows) == ((), 0)


def test_rows_that_the_calibration_has_seen_are_named_when_they_judge_it(pocket: Bundle) -> None:
    rows = table(*["test"] * 4)
    bundle = calibrated(trained(pocket, table(), splits={"train": []}), rows, [0, 1])
    changed = replace(rows, digest="e" * 64)
    (said,) = select(bundle, changed, split=None, usual="test").warnings
    assert "2 of these 4 rows are of patients whom it was calibrated on" in said
    assert select(bundle, changed, split=None, usual="test", judging=False).warnings == ()


def test_what_a_second_bundle_has_seen_is_told_of_it(pocket: Bundle) -> None:
    rows = table(*["test"] * 4)
    first = trained(pocket, rows, splits={"train": []})
    second = trained(pocket, rows, splits={"train": [0]})
    found = select(first, rows, split=None, usual="test", against=second)
    assert found.rows == (0, 1, 2, 3)
    assert found.warnings == (
        "Second bundle: 1 of these 4 rows are of patients whom the bundle was fitted on: figures on"
        " them are much too good.",
    )


def test_rows_without_patients_are_said_to_be_so(pocket: Bundle) -> None:
    found = select(pocket, table("test", grouped=False), split=None, usual="test")
    assert "no patient" in found.warnings[-1]


def test_rows_can_be_chosen_by_a_column(pocket: Bundle) -> None:
    found = select(
        pocket, table("test", "test", "val"), split=None, usual="test", only={"source": "a"}
    )
    assert (found.rows, found.words) == ((1,), "split test, source = a")


@pytest.mark.parametrize(
    ("split", "only", "says"),
    [
        ("val", {}, "no row of split val"),
        ("test", {"source": "c"}, "no row of split test, source = c"),
        ("test", {"colour": "red"}, "no column 'colour'"),
    ],
)
def test_a_choice_that_leaves_nothing_is_refused(
    pocket: Bundle, split: str, only: dict[str, str], says: str
) -> None:
    with pytest.raises(LabelError, match=says):
        select(pocket, table("test", "test"), split=split, usual="test", only=only)
