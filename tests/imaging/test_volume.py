"""Slices are chosen by what they are and ordered by where they are."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triage.imaging.volume import Slice, equidistant, in_sequence, select_volume

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
PLAIN = Slice(
    file_index=0,
    frame_index=0,
    rows=512,
    columns=512,
    original=True,
    localiser=False,
    orientation=AXIAL,
    position_mm=0.0,
    acquisition_number=1,
    instance_number=1,
)


def at(position_mm: float | None, file_index: int = 0, **facts: object) -> Slice:
    return replace(PLAIN, position_mm=position_mm, file_index=file_index, **facts)  # type: ignore[arg-type]


def test_order_is_by_position_not_by_instance_number() -> None:
    slices = [at(10.0, 0, instance_number=1), at(-5.0, 1, instance_number=2), at(2.5, 2)]
    assert [s.position_mm for s in select_volume(slices)] == [-5.0, 2.5, 10.0]


def test_without_positions_the_instance_number_has_to_do() -> None:
    slices = [at(None, 0, instance_number=3), at(None, 1, instance_number=1)]
    assert [s.instance_number for s in select_volume(slices)] == [1, 3]


def test_localisers_and_derived_images_are_left_out() -> None:
    slices = [
        at(0.0, 0, localiser=True),
        at(1.0, 1, original=False),
        at(2.0, 2),
    ]
    assert [s.file_index for s in select_volume(slices)] == [2]


def test_derived_images_are_taken_where_there_is_nothing_else() -> None:
    assert len(select_volume([at(0.0, original=False), at(1.0, original=False)])) == 2


def test_localisers_alone_are_no_volume() -> None:
    assert select_volume([at(0.0, localiser=True)]) == []
    assert in_sequence([at(0.0, localiser=True)]) == []


@pytest.mark.parametrize(
    "other",
    [{"acquisition_number": 2}, {"orientation": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)}, {"rows": 64}],
)
def test_the_largest_group_is_the_volume(other: dict[str, object]) -> None:
    slices = [at(0.0, 0, **other), at(1.0, 1), at(2.0, 2)]
    assert [s.file_index for s in select_volume(slices)] == [1, 2]


@given(count=st.integers(1, 2000), maximum=st.integers(1, 100))
def test_sampling_is_even_and_keeps_both_ends(count: int, maximum: int) -> None:
    chosen = equidistant(count, maximum)
    assert len(chosen) == min(count, maximum)
    assert chosen == sorted(set(chosen))
    if len(chosen) > 1:
        assert (chosen[0], chosen[-1]) == (0, count - 1)
        steps = [b - a for a, b in pairwise(chosen)]
        assert max(steps) - min(steps) <= 1


def test_one_slice_of_many_is_the_middle_one() -> None:
    assert equidistant(9, 1) == [4]
