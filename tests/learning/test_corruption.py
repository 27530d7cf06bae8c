"""Damage comes from a seed, grows with its severity, and leaves shape and range alone."""

import numpy as np
import pytest
from numpy.typing import NDArray

from triage.learning.judging.corruption import SEVERITIES, Corruption, corrupt


def chest_like(side: int = 96) -> NDArray[np.float32]:
    """A picture (1, H, W) with soft fields, an edge and fine texture, well within 0..1."""
    y, x = np.mgrid[0 : side + 20, 0:side] / side
    picture = (
        0.35 + 0.25 * np.sin(5 * x) * np.cos(4 * y) + 0.15 * (np.hypot(x - 0.5, y - 0.5) < 0.3)
    )
    return np.asarray(picture + 0.04 * np.sin(60 * x), np.float32)[None]


@pytest.mark.parametrize("corruption", Corruption)
@pytest.mark.parametrize("shape", ["picture", "colour", "views"])
def test_shape_and_range_are_kept(corruption: Corruption, shape: str) -> None:
    image = {
        "picture": chest_like(),
        "colour": np.repeat(chest_like(), 3, axis=0),
        "views": np.stack([chest_like(), 1.0 - chest_like()]),
    }[shape]
    for severity in (1, SEVERITIES):
        damaged = corrupt(image, corruption, severity=severity, seed=1)
        assert damaged.shape == image.shape
        assert damaged.dtype == np.float32
        assert damaged.min() >= 0.0
        assert damaged.max() <= 1.0


@pytest.mark.parametrize("corruption", Corruption)
def test_extreme_images_stay_in_range(corruption: Corruption) -> None:
    for value in (0.0, 1.0):
        flat = np.full((1, 40, 30), value, np.float32)
        damaged = corrupt(flat, corruption, severity=SEVERITIES, seed=4)
        assert np.isfinite(damaged).all()
        assert 0.0 <= damaged.min() <= damaged.max() <= 1.0


@pytest.mark.parametrize("corruption", Corruption)
def test_a_higher_severity_damages_more(corruption: Corruption) -> None:
    image = chest_like()
    damage = [
        float(np.abs(corrupt(image, corruption, severity=severity, seed=2) - image).mean())
        for severity in range(1, SEVERITIES + 1)
    ]
    assert damage[0] > 1e-4
    assert damage == sorted(damage)
    assert damage[-1] > 1.5 * damage[0]


@pytest.mark.parametrize("corruption", Corruption)
def test_the_same_seed_gives_the_same_damage_and_the_image_itself_is_untouched(
    corruption: Corruption,
) -> None:
    image = chest_like()
    before = image.copy()
    first, second = (corrupt(image, corruption, severity=3, seed=9) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    "corruption",
    [Corruption.NOISE, Corruption.CROP, Corruption.MARKER, Corruption.ROTATION],
)
def test_other_seeds_give_other_damage(corruption: Corruption) -> None:
    image = chest_like()
    found = {corrupt(image, corruption, severity=3, seed=seed).tobytes() for seed in range(8)}
    assert len(found) > 1


def test_views_of_one_subject_are_turned_alike() -> None:
    image = chest_like()
    pair = corrupt(np.stack([image, image]), Corruption.ROTATION, severity=4, seed=5)
    np.testing.assert_array_equal(pair[0], pair[1])


def test_blur_takes_fine_texture_and_keeps_the_mean() -> None:
    image = chest_like()
    blurred = corrupt(image, Corruption.BLUR, severity=5, seed=0)
    assert blurred.mean() == pytest.approx(image.mean(), abs=0.01)
    assert np.abs(np.diff(blurred)).mean() < 0.7 * np.abs(np.diff(image)).mean()


def test_a_rotation_and_its_picture_agree() -> None:
    spot = np.zeros((1, 61, 61), np.float32)
    spot[0, 30, 50:53] = 1.0  # twenty pixels right of the centre
    turned = corrupt(spot, Corruption.ROTATION, severity=5, seed=1)[0]
    row, column = np.unravel_index(turned.argmax(), turned.shape)
    angle = abs(np.rad2deg(np.arctan2(row - 30, column - 30)))
    assert angle == pytest.approx(16.0, abs=2.5)


def test_markers_are_bright_and_lie_at_the_edges() -> None:
    image = np.zeros((1, 100, 100), np.float32)
    marked = corrupt(image, Corruption.MARKER, severity=5, seed=3)[0]
    assert marked.max() > 0.8
    assert marked[35:70, 35:65].max() == 0.0


@pytest.mark.parametrize("severity", [0, 6])
def test_there_are_five_severities(severity: int) -> None:
    with pytest.raises(ValueError, match="severity"):
        corrupt(chest_like(), Corruption.NOISE, severity=severity, seed=1)
