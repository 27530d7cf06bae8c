"""Patients are divided, images never: no seed puts one patient on two sides."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.learning.tables import label_row, table_of
from triage.learning.material.labels import LabelError, LabelRow, LabelTable
from triage.learning.material.splits import grouped_folds, grouped_split, require_grouped

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


def many(patients: int, images: int = 3, *, positive_every: int = 4) -> LabelTable:
    rows = [
        label_row(
            p * images + i + 2, group=f"p{p}", truth=float(p % positive_every == 0 and i == 0)
        )
        for p in range(patients)
        for i in range(images)
    ]
    return table_of(*rows)


def groups_of(table: LabelTable, indices: Sequence[int]) -> set[str]:
    return {table.rows[i].patient for i in indices}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["", *"abcdefgh"]), min_size=1, max_size=40), st.integers(0, 99))
def test_no_patient_is_in_two_splits_and_no_row_is_lost(groups: list[str], seed: int) -> None:
    table = table_of(*(label_row(i + 2, group=g, truth=i % 2) for i, g in enumerate(groups)))
    splits = grouped_split(table, seed=seed, shares=SHARES)
    assert sorted(i for indices in splits.values() for i in indices) == list(range(len(groups)))
    require_grouped(table, splits)
    patients = len(groups_of(table, range(len(groups))))
    if patients >= 3:
        for fit, held in grouped_folds(table, range(len(groups)), seed=seed, folds=3):
            assert not groups_of(table, fit) & groups_of(table, held)
            assert sorted(fit + held) == list(range(len(groups)))


def test_shares_are_kept_and_a_finding_reaches_every_split_alike() -> None:
    table = many(100)
    splits = grouped_split(table, seed=3, shares=SHARES)
    assert [len(groups_of(table, splits[name])) for name in SHARES] == [60, 20, 20]
    positives = [sum(table.rows[i].truth[0] for i in splits[name]) for name in SHARES]
    assert positives == [15, 5, 5]


def test_a_seed_gives_the_same_split_in_whatever_order_the_rows_come() -> None:
    table = many(30)
    shuffled = list(table.rows)
    random.Random(5).shuffle(shuffled)
    other = replace(table, rows=tuple(shuffled))
    first = grouped_split(table, seed=1, shares=SHARES)
    second = grouped_split(other, seed=1, shares=SHARES)
    for name in SHARES:
        assert groups_of(table, first[name]) == groups_of(other, second[name])
    again = grouped_split(table, seed=2, shares=SHARES)
    assert groups_of(table, again["test"]) != groups_of(table, first["test"])


def test_a_stated_split_stands_and_takes_the_rest_of_its_patient_along() -> None:
    rows = [
        label_row(2, group="a", split="test"),
        label_row(3, group="a"),
        *(label_row(line, group=f"g{line}") for line in range(4, 14)),
    ]
    splits = grouped_split(table_of(*rows), seed=1, shares={"train": 1.0})
    assert splits["test"] == [0, 1]
    assert splits["train"] == list(range(2, 12))


def test_shares_are_of_all_rows_also_where_some_state_their_split() -> None:
    stated = [label_row(line, group=f"s{line}", split="test") for line in range(2, 12)]
    free = [label_row(line, group=f"g{line}") for line in range(12, 22)]
    splits = grouped_split(table_of(*stated, *free), seed=1, shares={"train": 0.5, "test": 0.5})
    assert splits == {"train": list(range(10, 20)), "test": list(range(10))}


def test_a_patient_in_two_splits_is_refused_with_the_rows() -> None:
    rows = [label_row(2, group="a", split="train"), label_row(7, group="a", split="test")]
    with pytest.raises(LabelError, match="rows 2, 7 of the labels belong to one patient"):
        grouped_split(table_of(*rows), seed=1, shares=SHARES)
    with pytest.raises(LabelError, match="rows 2, 7"):
        require_grouped(table_of(*rows), {"fit": [0], "held out": [1]})


def test_folds_hold_every_row_out_once_and_each_has_its_positives() -> None:
    table = many(40)
    folds = grouped_folds(table, range(len(table.rows)), seed=9, folds=5)
    assert sorted(i for _, held in folds for i in held) == list(range(len(table.rows)))
    assert [sum(table.rows[i].truth[0] for i in held) for _, held in folds] == [2.0] * 5


def test_folds_are_made_of_the_named_rows_alone() -> None:
    table = many(20)
    indices = [i for i in range(len(table.rows)) if i % 3]
    for fit, held in grouped_folds(table, indices, seed=9, folds=4):
        assert sorted(fit + held) == indices


def test_more_folds_than_patients_are_refused() -> None:
    with pytest.raises(LabelError, match="2 patients cannot be divided into 3 folds"):
        grouped_folds(many(2), range(6), seed=1, folds=3)


@pytest.mark.parametrize("shares", [{"train": 0.5}, {"train": 1.5, "test": -0.5}])
def test_shares_that_are_none_are_refused(shares: dict[str, float]) -> None:
    row: LabelRow = label_row(2)
    with pytest.raises(ValueError, match="add up to 1"):
        grouped_split(table_of(row), seed=1, shares=shares)
