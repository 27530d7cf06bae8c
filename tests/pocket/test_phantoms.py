"""Phantoms are what their captions say, from the same seed and at any size."""

import numpy as np
import pytest

from triage.imaging.resize import resize
from triage.pocket import others
from triage.pocket.dataset import PATCHES, TRUTHS, VIEW_PX, chests, not_chests, view
from triage.pocket.lesions import CONTRAST, EXTENT, Kind, Side, Size
from triage.pocket.phantoms import generate


def test_a_seed_always_gives_the_same_phantom() -> None:
    first, second = generate(5, size_px=96), generate(5, size_px=96)
    assert np.array_equal(first.pixels, second.pixels)
    assert first.lesions == second.lesions
    assert not np.array_equal(first.pixels, generate(6, size_px=96).pixels)


def test_a_phantom_is_the_same_picture_at_another_size() -> None:
    small, large = generate(8, size_px=224), generate(8, size_px=672)
    assert small.lesions == large.lesions
    difference = view(small.pixels) - view(large.pixels)
    assert np.abs(difference).mean() < 0.01


@pytest.mark.parametrize("bits", [12, 14])
def test_pixels_use_the_bits_that_are_said(bits: int) -> None:
    phantom = generate(3, size_px=96, bits_stored=bits)
    assert phantom.pixels.dtype == np.uint16
    assert phantom.bits_stored == bits
    assert 2 ** (bits - 1) < phantom.pixels.max() < 2**bits


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("size", Size)
def test_what_is_asked_for_is_there_and_is_said(kind: Kind, side: Side, size: Size) -> None:
    phantom = generate(11, finding=kind, side=side, size=size, size_px=96)
    (lesion,) = phantom.lesions
    assert (lesion.kind, lesion.side, lesion.size) == (kind, side, size)
    noun = "pleural effusion" if kind is Kind.EFFUSION else str(kind)
    assert phantom.caption == f"{size.capitalize()} {side} {noun}."
    low, high = EXTENT[kind][size]
    assert low <= lesion.extent <= high
    assert CONTRAST[kind][0] <= lesion.contrast <= CONTRAST[kind][1]


@pytest.mark.parametrize("side", Side)
def test_the_patients_left_is_at_the_right_edge_of_the_image(side: Side) -> None:
    for kind in Kind:
        phantom = generate(21, finding=kind, side=side, size="large", size_px=128)
        columns = phantom.masks.sum(axis=(0, 1))
        centre = (columns * np.arange(len(columns))).sum() / columns.sum() / len(columns)
        assert (centre > 0.5) == (side is Side.LEFT)


@pytest.mark.parametrize("kind", Kind)
def test_a_lesion_changes_the_picture_where_its_mask_is(kind: Kind) -> None:
    changes = []
    for seed in range(30, 42):
        sick = generate(seed, finding=kind, side="left", size="large", size_px=96)
        (mask,) = sick.masks[[list(Kind).index(kind)]]
        assert mask.max() > 0.5
        span = float(sick.pixels.max() - sick.pixels.min())
        inside = sick.pixels[mask > 0.5].astype(float).mean()
        changes.append((inside - sick.pixels[:, ::-1][mask > 0.5].astype(float).mean()) / span)
    # Against the same place in the other lung, which the heart covers now and then.
    assert np.mean(changes) < -0.02 if kind is Kind.PNEUMOTHORAX else np.mean(changes) > 0.05


def test_a_normal_chest_has_no_lesion() -> None:
    phantom = generate(2, finding="normal", size_px=96)
    assert phantom.lesions == ()
    assert phantom.masks.max() == 0
    assert phantom.caption == "No acute finding."


def test_two_findings_lie_in_opposite_lungs_and_the_more_urgent_is_named_first() -> None:
    pairs = [p for p in (generate(s, size_px=48) for s in range(200)) if len(p.lesions) == 2]
    assert 10 <= len(pairs) <= 35
    for phantom in pairs:
        first, second = phantom.lesions
        assert first.side is not second.side
        assert first.kind is not second.kind
        order = [phantom.caption.find(kind) for kind in Kind if kind in phantom.kinds]
        assert order == sorted(order)


def test_seeds_draw_the_shares_that_the_card_states() -> None:
    drawn = [generate(seed, size_px=32).kinds for seed in range(400)]
    normal = sum(not kinds for kinds in drawn) / len(drawn)
    assert abs(normal - 0.36) < 0.07
    for kind in Kind:
        assert abs(sum(kind in kinds for kinds in drawn) / len(drawn) - 0.185) < 0.05


def test_a_dataset_states_truth_cover_and_caption() -> None:
    data = chests(range(12))
    assert data.views.shape == (12, VIEW_PX, VIEW_PX)
    assert data.truth.shape == (12, TRUTHS)
    assert data.cover.shape == (12, PATCHES, len(Kind))
    there = data.truth.reshape(12, 4, 4)
    for row in range(12):
        kinds = generate(row, size_px=32).kinds
        assert {kind for i, kind in enumerate(Kind) if there[row, i, 0]} == kinds
        assert all(there[row, i, 1] + there[row, i, 2] == there[row, i, 0] for i in range(4))
        assert all((data.cover[row, :, i].max() > 0.02) == there[row, i, 0] for i in range(4))


def test_pictures_of_something_else_have_no_finding_and_no_caption() -> None:
    data = not_chests(range(10))
    assert not data.chest.any()
    assert not data.truth.any()
    assert set(data.captions) == {""}


@pytest.mark.parametrize("family", [*others.FAMILIES.values(), others.hand])
def test_other_pictures_come_from_a_seed_and_fit_a_detector(family: object) -> None:
    assert callable(family)
    picture = family(4, size_px=64)
    assert picture.dtype == np.float32
    assert 0.0 <= picture.min() <= picture.max() <= 1.0
    assert np.array_equal(picture, family(4, size_px=64))
    stored = others.stored(picture, seed=4, bits_stored=12)
    assert stored.dtype == np.uint16
    assert stored.max() < 4096


def test_a_ct_has_air_lung_soft_tissue_and_bone_in_hounsfield_units() -> None:
    volume = others.ct_volume(1, slices=6, size_px=64)
    assert volume.shape == (6, 64, 64)
    assert volume.dtype == np.int16
    assert volume[:, 0, 0].max() < -900
    for low, high in ((-900, -750), (0, 80), (250, 450)):
        assert ((volume > low) & (volume < high)).mean() > 0.003


def test_a_view_is_padded_with_black_and_reaches_full_range() -> None:
    seen = view(np.full((40, 20), 7, np.uint16) + np.arange(20, dtype=np.uint16))
    assert seen.shape == (VIEW_PX, VIEW_PX)
    assert seen[:, :20].max() == 0.0
    assert seen.max() == pytest.approx(1.0, abs=0.01)


def test_a_blank_picture_makes_a_black_view() -> None:
    assert view(np.full((30, 30), 500, np.uint16)).max() == 0.0


def test_resizing_in_two_steps_is_near_resizing_in_one() -> None:
    picture = generate(9, size_px=448).pixels.astype(np.float32)
    square = picture[:350, :350]
    once = resize(square, 56, 56)
    assert np.abs(resize(resize(square, 175, 175), 56, 56) - once).max() < 0.1 * once.max()
