"""Which rows a bundle is judged on, and what is said when it has seen them."""

from dataclasses import replace
from typing import Any

import pytest

from triage.errors import PermanentError
from triage.inference.bundle import Bundle, load_bundle
from triage.inference.bundle_fields import CalibrationRecord
from triage.learning.judging.selection import select
from triage.learning.material.labels import LabelError, LabelRow, LabelTable
from triage.learning.material.splits import TRAIN_VAL_TEST, grouped_split
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


def trained(bundle: Bundle, digest: str = "d" * 64, **changes: Any) -> Bundle:
    record: dict[str, Any] = {
        "labels": {"digest": digest},
        "choices": {"seed": 3},
        "shares_of_unstated": dict(TRAIN_VAL_TEST),
    }
    return replace(bundle, manifest=replace(bundle.manifest, training=record | changes))


def test_the_usual_split_is_taken_where_rows_state_theirs(pocket: Bundle) -> None:
    found = select(pocket, table("train", "test", "val", "test"), split=None, usual="test")
    assert (found.rows, found.words, found.warnings) == ((1, 3), "split test", ())


def test_all_rows_are_taken_where_nothing_is_split(pocket: Bundle) -> None:
    found = select(pocket, table("", "", ""), split=None, usual="test")
    assert (found.rows, found.words) == ((0, 1, 2), "all rows")


def test_a_split_that_training_drew_is_drawn_again(pocket: Bundle) -> None:
    rows = table(*[""] * 60)
    found = select(trained(pocket), rows, split=None, usual="test")
    assert list(found.rows) == grouped_split(rows, seed=3, shares=TRAIN_VAL_TEST)["test"]
    assert found.warnings == ()


def test_rows_that_training_has_seen_are_named(pocket: Bundle) -> None:
    rows = table(*[""] * 60)
    drawn = grouped_split(rows, seed=3, shares=TRAIN_VAL_TEST)
    found = select(trained(pocket), rows, split="all", usual="test")
    assert f"{len(drawn['train'])} of these 60 rows were used to fit" in found.warnings[0]
    assert f"{len(drawn['val'])} of these 60 rows were used to choose" in found.warnings[1]


def test_rows_marked_as_training_warn_even_of_another_file(pocket: Bundle) -> None:
    found = select(trained(pocket, "e" * 64), table("train", "test"), split="all", usual="test")
    assert "1 of these 2 rows are marked as training rows" in found.warnings[0]


def test_rows_that_the_calibration_has_seen_are_named(pocket: Bundle) -> None:
    record = CalibrationRecord(kind="platt", local=True, labels_digest="d" * 64)
    bundle = replace(pocket, manifest=replace(pocket.manifest, calibration=record))
    warnings = select(bundle, table("val", "test"), split="val", usual="test").warnings
    assert any("calibrated on rows of this file" in warning for warning in warnings)
    assert not select(bundle, table("val", "test"), split=None, usual="test").warnings


def test_rows_without_patients_are_said_to_be_so(pocket: Bundle) -> None:
    found = select(pocket, table("test", grouped=False), split=None, usual="test")
    assert "no patient" in found.warnings[0]


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


def test_a_record_that_does_not_say_how_rows_were_divided_is_refused(pocket: Bundle) -> None:
    with pytest.raises(PermanentError, match="does not say how"):
        select(trained(pocket, choices={}), table("", ""), split=None, usual="test")
