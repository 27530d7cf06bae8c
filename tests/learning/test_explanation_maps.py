"""The sheet is true to the numbers: even colours, no invented values, and its two sentences."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from triage.learning.explaining.maps import LEGEND, MARK, Panel, Sheet, colours, smooth, write_png

Array = NDArray[Any]


def oklab(srgb: Array) -> Array:
    """sRGB (..., 3) in 0..1 to OKLab, written from the definition."""
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    cone = np.cbrt(
        linear
        @ np.array(
            [
                [0.4122214708, 0.5363325363, 0.0514459929],
                [0.2119034982, 0.6806995451, 0.1073969566],
                [0.0883024619, 0.2817188376, 0.6299787005],
            ]
        ).T
    )
    return np.asarray(
        cone
        @ np.array(
            [
                [0.2104542553, 0.7936177850, -0.0040720468],
                [1.9779984951, -2.4285922050, 0.4505937099],
                [0.0259040371, 0.7827717662, -0.8086757660],
            ]
        ).T
    )


def test_equal_steps_of_evidence_look_equally_large() -> None:
    steps = np.linalg.norm(np.diff(oklab(colours()), axis=0), axis=1)
    assert steps.max() / steps.min() < 1.1


def test_more_evidence_is_lighter_on_either_side() -> None:
    lightness = oklab(colours())[:, 0]
    middle = len(lightness) // 2
    assert (np.diff(lightness[middle:]) > 0).all()
    assert (np.diff(lightness[: middle + 1]) < 0).all()
    assert lightness[0] == pytest.approx(lightness[-1], abs=0.02)


def test_smoothing_keeps_the_range_and_the_place() -> None:
    values = np.zeros((8, 8))
    values[2, 5] = 1.0
    drawn = smooth(values, (112, 112))
    assert 0.5 < drawn.max() <= 1.0
    assert drawn.min() >= 0.0
    row, column = divmod(int(np.argmax(drawn)), 112)
    assert (row // 14, column // 14) == (2, 5)


def sheet(values: Array, *, views: int = 0) -> Sheet:
    picture = np.full((1, 112, 112), 0.5, np.float32)
    clipped = np.zeros(values.shape, bool)
    panel = Panel(picture=picture, values=values, clipped=clipped, label="whole: +1.0")
    return Sheet(
        title="Model evidence: $nodule$",  # no formula: names come from a bundle
        lines=("probability 0.5",),
        unit="logit",
        main=panel,
        views=(panel,) * views,
    )


def pixels(path: Path) -> Array:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), np.int32)


def coloured(rgb: Array, *, warm: bool) -> Array:
    difference = rgb[..., 0] - rgb[..., 2]
    return np.asarray(difference > 40 if warm else difference < -40)


def test_evidence_is_warm_where_it_is_and_cold_where_it_speaks_against(tmp_path: Path) -> None:
    values = np.zeros((8, 8))
    values[1:3, 1:3], values[5:7, 5:7] = 1.0, -1.0
    write_png(sheet(values), tmp_path / "map.png")
    rgb = pixels(tmp_path / "map.png")
    dots = rgb.shape[1] / 11.35
    right = rgb[int(1.55 * dots) : int(6.3 * dots), int(5.3 * dots) : int(10.05 * dots)]
    left = rgb[int(1.55 * dots) : int(6.3 * dots), int(0.4 * dots) : int(5.15 * dots)]
    rows, columns = (np.nonzero(coloured(right, warm=True))[at].mean() for at in (0, 1))
    assert rows < right.shape[0] / 2
    assert columns < right.shape[1] / 2
    assert np.nonzero(coloured(right, warm=False))[0].mean() > right.shape[0] / 2
    assert not coloured(left, warm=True).any()
    assert not coloured(left, warm=False).any()


def test_every_sheet_says_what_it_is_not(tmp_path: Path) -> None:
    write_png(sheet(np.zeros((8, 8))), tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as picture:
        told = picture.info["Description"]
    assert MARK in told
    assert LEGEND in told
    red = pixels(tmp_path / "map.png")[:120]
    assert (np.abs(red - np.array([198, 40, 40])).max(axis=-1) < 12).sum() > 2000  # the mark


def test_a_subject_of_many_views_has_a_strip(tmp_path: Path) -> None:
    write_png(sheet(np.eye(8), views=12), tmp_path / "strip.png")
    write_png(sheet(np.eye(8)), tmp_path / "one.png")
    assert pixels(tmp_path / "strip.png").shape[0] > pixels(tmp_path / "one.png").shape[0] + 200


def test_nothing_is_left_where_the_picture_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        write_png(sheet(np.eye(8)), tmp_path / "absent" / "map.png")
    assert list(tmp_path.iterdir()) == []
