"""A map that is true beats chance and centre, one that is not is told so."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from triage.learning.explaining.faithfulness import (
    CENTRE,
    FILLS,
    HITS,
    RANDOM,
    USUAL,
    Case,
    Compared,
    compare,
    emptied,
    follow,
    hit,
    measure,
    patch_mask,
    randomised,
    spearman,
    touched_patches,
    usual_places,
)

SIDE, PX = 8, 64


def case(place: tuple[int, int], number: int, **changes: Any) -> Case:
    """A dark picture with one bright patch, and a map that points at it."""
    view = np.full((1, PX, PX), 0.2, np.float32)
    row, column = place
    view[0, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = 1.0
    truth = np.zeros((SIDE, SIDE))
    truth[place] = 1.0
    values: dict[str, Any] = {
        "finding": "nodule",
        "group": f"patient {number}",
        "view": view,
        "maps": {"true": truth, "false": -truth},
        "touched": truth > 0,
    }
    return Case(**values | changes)


def model(place: tuple[int, int]) -> Any:
    """A model that looks at one patch and nothing else."""
    mask = np.zeros((SIDE, SIDE), bool)
    mask[place] = True
    pixels = patch_mask(mask, PX)
    return lambda views: 10.0 * views[:, 0][:, pixels].mean(axis=1).astype(np.float64)


def everything() -> tuple[list[Case], list[Any]]:
    random = np.random.default_rng(1)
    places = [(int(random.integers(SIDE)), int(random.integers(SIDE))) for _ in range(30)]
    cases = [case(place, number) for number, place in enumerate(places)]
    measured = [
        measure(one, model(place), seed=number, draws=2, usual=usual)
        for number, (one, place, usual) in enumerate(
            zip(cases, places, usual_places(cases), strict=True)
        )
    ]
    return cases, measured


def verdicts(found: list[Compared]) -> Mapping[tuple[str, str, str], str]:
    return {(each.measure, each.method, each.baseline): each.verdict for each in found}


def test_a_true_map_is_better_and_a_false_one_is_worse() -> None:
    cases, measured = everything()
    said = verdicts(compare(cases, measured, seed=1, rounds=300))
    measures = [f"{name}, {fill}" for name in ("deletion", "insertion") for fill in FILLS]
    for name in measures:
        for baseline in (RANDOM, CENTRE):
            assert said[name, "true", baseline] == f"better than {baseline}"
            assert said[name, "false", baseline] == f"WORSE than {baseline}"
    for baseline in (RANDOM, CENTRE, USUAL):
        assert said[HITS, "true", baseline] == f"better than {baseline}"


def test_a_map_that_is_the_baseline_is_no_better() -> None:
    random = np.random.default_rng(5)
    cases = [
        case((1, 1), number, maps={"noise": random.random((SIDE, SIDE))}) for number in range(40)
    ]
    measured = [
        measure(one, model((1, 1)), seed=number, draws=1) for number, one in enumerate(cases)
    ]
    said = verdicts(compare(cases, measured, seed=1, rounds=300))
    assert said["deletion, mean", "noise", RANDOM] == "no better than random"
    assert said[HITS, "noise", RANDOM] == "no better than random"


def test_one_patient_gives_no_verdict() -> None:
    cases = [case((1, 1), 0), case((2, 2), 0)]
    measured = [measure(one, model((1, 1)), seed=0) for one in cases]
    assert set(verdicts(compare(cases, measured, seed=1)).values()) == {"too few cases to say"}


def test_without_a_known_lesion_there_are_no_hits() -> None:
    one = case((1, 1), 0, touched=None)
    assert HITS not in measure(one, model((1, 1)), seed=0)


def test_all_is_there_at_first_and_nothing_at_last() -> None:
    """The first patch is taken out at once, so what is left is the empty picture."""
    one = case((3, 4), 0)
    full = float(model((3, 4))(one.view[None])[0])
    empty = float(model((3, 4))(emptied(one.view, "mean")[None])[0])
    deleted, inserted = follow(one.view, one.maps["true"], model((3, 4)), fill="mean")
    assert deleted == pytest.approx(empty, abs=0.05 * (full - empty))
    assert inserted == pytest.approx(full, abs=0.05 * (full - empty))
    last, first = follow(one.view, one.maps["false"], model((3, 4)), fill="mean")
    assert last == pytest.approx(full, abs=0.05 * (full - empty))
    assert first == pytest.approx(empty, abs=0.05 * (full - empty))


@pytest.mark.parametrize("fill", FILLS)
def test_an_emptied_picture_has_the_shape_and_no_detail(fill: str) -> None:
    view = np.random.default_rng(0).random((3, PX, PX)).astype(np.float32)
    assert emptied(view, fill).shape == view.shape
    assert emptied(view, fill).std() < 0.3 * view.std()


def test_patches_of_equal_height_share_the_hit() -> None:
    touched = np.zeros((4, 4), bool)
    touched[1, 1] = True
    values = np.zeros((4, 4))
    assert hit(values, touched) == pytest.approx(1 / 16)
    values[1, 1] = values[1, 2] = 1.0
    assert hit(values, touched) == 0.5


def test_a_patch_is_touched_where_one_pixel_of_the_lesion_lies_in_it() -> None:
    cover = np.zeros((28, 28), np.float32)
    cover[13, 13], cover[0, 27] = 1.0, 0.4  # the second is too faint
    expected = np.zeros((2, 2), bool)
    expected[0, 0] = True
    np.testing.assert_array_equal(touched_patches(cover, (2, 2)), expected)


def test_the_usual_place_is_that_of_the_others() -> None:
    cases = [case((1, 1), 0), case((1, 1), 1), case((5, 5), 2), case((2, 2), 3, finding="other")]
    places = usual_places(cases)
    assert places[2] is not None
    assert np.flatnonzero(places[2].ravel()).tolist() == [9]
    assert places[3] is None  # the only one of its finding


@given(st.lists(st.integers(0, 5), min_size=4, max_size=30), st.integers(0, 2**32 - 1))
def test_rank_correlation_is_that_of_the_textbook(values: list[int], seed: int) -> None:
    first = np.array(values, np.float64)
    second = np.random.default_rng(seed).integers(0, 4, first.size).astype(np.float64)
    if np.ptp(first) and np.ptp(second):
        assert spearman(first, second) == pytest.approx(spearmanr(first, second)[0], abs=1e-9)
    else:
        assert spearman(first, second) == 0.0


def test_a_map_that_outlives_its_weights_is_told() -> None:
    random = np.random.default_rng(2)
    cases = []
    for number in range(20):
        true = random.random((SIDE, SIDE))
        noise = random.random((SIDE, SIDE))
        shuffled = {"edges": {"head": -true}, "model": {"head": noise}}
        cases.append(case((1, 1), number, maps={"edges": true, "model": true}, shuffled=shuffled))
    stayed = {each.method: each for each in randomised(cases, seed=1, rounds=300)}
    assert stayed["edges"].correlation.value == pytest.approx(1.0)  # turned round is no other map
    assert stayed["edges"].verdict.startswith("STAYS")
    assert stayed["model"].verdict.startswith("falls:")
