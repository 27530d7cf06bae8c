"""Clinically plausible damage to images, from a seed, in five severities.

For the question of how far a score can be trusted when the image is worse than those it was
fitted on. Seven kinds, after the idea of MedMNIST-C (Di Salvo et al., 2024) with amounts of our
own for grey projections: severity 1 is everyday work, 3 is what a radiographer would remark on,
5 is at the edge of what would be repeated. Takes pictures before padding or finished views, any
(..., H, W) of values in 0..1, and gives the same shape in the same range. One draw of the chance
holds for all leading axes: the views of one subject are turned, cropped and marked alike.

    noise     fewer photons: deviation grows with the root of the value, on an electronic floor
    blur      focal spot and motion: Gaussian, a share of the longer side
    contrast  wrong window: values drawn to their mean, and a gamma
    jpeg      lossy storage on the way: quality of one plane of eight bits
    crop      collimation that cuts: a share of each side is lost, the rest fills the field
    rotation  the patient turned in the plane: degrees, black outside
    marker    burnt-in letters and a lead strip at the edges, where markers are put
"""

import io
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triage.imaging.resize import resize

Picture = NDArray[np.float32]
SEVERITIES: Final = 5
NOISE: Final = (0.015, 0.03, 0.05, 0.08, 0.12)  # deviation at full white
NOISE_FLOOR: Final = 0.1  # share of it that black has too
BLUR: Final = (0.004, 0.006, 0.009, 0.014, 0.022)  # deviation, share of the longer side
CONTRAST: Final = (0.85, 0.7, 0.55, 0.42, 0.3)  # factor of the distance to the mean
GAMMA: Final = (1.1, 1.2, 1.35, 1.5, 1.7)  # or its inverse, as the seed says
JPEG_QUALITY: Final = (70, 45, 25, 15, 8)
CROP: Final = (0.03, 0.06, 0.1, 0.15, 0.2)  # lost of each direction, both ends together
ROTATION_DEG: Final = (2.0, 4.0, 7.0, 11.0, 16.0)
MARKERS: Final = (1, 2, 3, 4, 5)  # letters; from severity 3 a strip too
MARKER_SHARE: Final = (0.05, 0.06, 0.07, 0.085, 0.1)  # height of a letter, share of the side
GLYPHS: Final[Mapping[str, tuple[str, ...]]] = {
    "R": ("1110", "1001", "1001", "1110", "1010", "1001", "1001"),
    "L": ("1000", "1000", "1000", "1000", "1000", "1000", "1111"),
}


class Corruption(StrEnum):
    NOISE = "noise"
    BLUR = "blur"
    CONTRAST = "contrast"
    JPEG = "jpeg"
    CROP = "crop"
    ROTATION = "rotation"
    MARKER = "marker"


def corrupt(image: Picture, corruption: Corruption, *, severity: int, seed: int) -> Picture:
    """Damage (..., H, W) in 0..1; the same seed gives the same damage.

    `severity` is 1 to 5; with one seed a higher one is more of the same (same direction, same
    grain). Raises ValueError for another severity.
    """
    if not 1 <= severity <= SEVERITIES:
        raise ValueError(f"severity {severity} is not one of 1 to {SEVERITIES}")
    random = np.random.default_rng([seed, list(Corruption).index(corruption)])
    damaged = _KINDS[corruption](np.asarray(image, np.float32), severity - 1, random)
    return np.ascontiguousarray(np.clip(damaged, 0.0, 1.0), dtype=np.float32)


def _noise(image: Picture, step: int, random: np.random.Generator) -> Picture:
    grain = random.standard_normal(image.shape, dtype=np.float32)
    deviation = NOISE[step] * np.sqrt(NOISE_FLOOR + (1.0 - NOISE_FLOOR) * image)
    return np.asarray(image + grain * deviation, np.float32)


def _blur(image: Picture, step: int, _random: np.random.Generator) -> Picture:
    deviation_px = BLUR[step] * max(image.shape[-2:])
    reach = max(1, round(3.0 * deviation_px))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation_px) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    for axis in (-2, -1):
        edges = [(0, 0)] * image.ndim
        edges[axis] = (reach, reach)
        wide = np.pad(image, edges, mode="edge")
        count = image.shape[axis]
        image = sum(
            (
                np.take(wide, np.arange(first, first + count), axis=axis) * tap
                for first, tap in enumerate(taps)
            ),
            start=np.zeros_like(image),
        )
    return image


def _contrast(image: Picture, step: int, random: np.random.Generator) -> Picture:
    bend = GAMMA[step] if random.random() < 0.5 else 1.0 / GAMMA[step]
    mean = image.mean(axis=(-2, -1), keepdims=True)
    return np.asarray(np.clip(mean + (image - mean) * CONTRAST[step], 0.0, 1.0) ** bend, np.float32)


def _jpeg(image: Picture, step: int, _random: np.random.Generator) -> Picture:
    from PIL import Image

    planes = np.rint(image.reshape(-1, *image.shape[-2:]) * 255.0).clip(0, 255).astype(np.uint8)
    read = []
    for plane in planes:
        stream = io.BytesIO()
        Image.fromarray(plane).save(stream, "JPEG", quality=JPEG_QUALITY[step])
        with Image.open(stream) as decoded:
            read.append(np.asarray(decoded, np.float32) / np.float32(255.0))
    return np.stack(read).reshape(image.shape)


def _crop(image: Picture, step: int, random: np.random.Generator) -> Picture:
    height, width = image.shape[-2:]
    down, right = random.random(2)
    rows, columns = (max(1, round(side * (1.0 - CROP[step]))) for side in (height, width))
    top, left = round(down * (height - rows)), round(right * (width - columns))
    return resize(image[..., top : top + rows, left : left + columns], height, width)


def _rotation(image: Picture, step: int, random: np.random.Generator) -> Picture:
    angle = np.deg2rad(ROTATION_DEG[step]) * (1.0 if random.random() < 0.5 else -1.0)
    height, width = image.shape[-2:]
    y, x = np.meshgrid(
        np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij"
    )
    row = np.cos(angle) * y - np.sin(angle) * x + (height - 1) / 2
    column = np.sin(angle) * y + np.cos(angle) * x + (width - 1) / 2
    return _bilinear(image, row, column)


def _bilinear(image: Picture, row: NDArray[np.float64], column: NDArray[np.float64]) -> Picture:
    """Values at fractional places; what lies outside is black."""
    framed = np.pad(image, [(0, 0)] * (image.ndim - 2) + [(1, 1), (1, 1)])
    row = np.clip(row + 1.0, 0.0, framed.shape[-2] - 1.001)
    column = np.clip(column + 1.0, 0.0, framed.shape[-1] - 1.001)
    top, left = np.floor(row).astype(np.intp), np.floor(column).astype(np.intp)
    down, right = (row - top).astype(np.float32), (column - left).astype(np.float32)
    upper = framed[..., top, left] * (1 - right) + framed[..., top, left + 1] * right
    lower = framed[..., top + 1, left] * (1 - right) + framed[..., top + 1, left + 1] * right
    return np.asarray(upper * (1 - down) + lower * down, np.float32)


def _marker(image: Picture, step: int, random: np.random.Generator) -> Picture:
    marked = image.copy()
    height, width = image.shape[-2:]
    size = max(7, round(MARKER_SHARE[step] * max(height, width)))
    # Drawn for the greatest number, so that a higher severity adds to the letters of a lower one.
    draws = random.random((MARKERS[-1], 4))
    for letter, edge, along, bright in draws[: MARKERS[step]]:
        mask = _glyph("R" if letter < 0.5 else "L", size)
        top = round((0.02 + 0.12 * along) * height) if edge < 0.7 else round(0.85 * height)
        side = 0.03 if letter < 0.5 else 0.9  # the patient's right is on the viewer's left
        _paint(marked, mask, top, round(side * width), np.float32(0.85 + 0.15 * bright))
    if step >= 2:
        strip = np.ones((max(1, size // 3), max(2, width // 4)), np.bool_)
        _paint(marked, strip, height - size, round(0.6 * random.random() * width), np.float32(1.0))
    return marked


def _glyph(letter: str, height_px: int) -> NDArray[np.bool_]:
    pattern = np.array([[cell == "1" for cell in line] for line in GLYPHS[letter]])
    factor = max(1, height_px // len(pattern))
    return np.repeat(np.repeat(pattern, factor, axis=0), factor, axis=1)


def _paint(image: Picture, mask: NDArray[np.bool_], top: int, left: int, value: np.float32) -> None:
    """Write `value` where the mask is, in place; what reaches beyond the image is cut."""
    height, width = image.shape[-2:]
    top, left = min(top, height - 1), min(left, width - 1)
    mask = mask[: height - top, : width - left]
    place = image[..., top : top + mask.shape[0], left : left + mask.shape[1]]
    place[..., mask] = value


_KINDS: Final[Mapping[Corruption, Callable[[Picture, int, np.random.Generator], Picture]]] = {
    Corruption.NOISE: _noise,
    Corruption.BLUR: _blur,
    Corruption.CONTRAST: _contrast,
    Corruption.JPEG: _jpeg,
    Corruption.CROP: _crop,
    Corruption.ROTATION: _rotation,
    Corruption.MARKER: _marker,
}
