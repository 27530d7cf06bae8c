"""Smooth fields on a pixel grid: what phantoms are painted with.

One frame of coordinates for every matrix size: the longer side runs from -1 to 1, and grain is
drawn on a fixed grid, so a seed gives the same picture at any size.
"""

from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Field: TypeAlias = NDArray[np.float32]
Reals: TypeAlias = NDArray[np.floating[Any]]
GRAIN_PX: Final = 224  # longer side of the grid on which grain is drawn


def grid(shape: tuple[int, int]) -> tuple[Field, Field]:
    """x and y of every pixel centre (H, W); the longer side runs from -1 to 1."""
    height, width = shape
    longer = max(shape)
    rows = (np.arange(height, dtype=np.float32) * 2 + 1 - height) / longer
    columns = (np.arange(width, dtype=np.float32) * 2 + 1 - width) / longer
    x, y = np.meshgrid(columns, rows)
    return np.asarray(x, np.float32), np.asarray(y, np.float32)


def step(distance: Reals, softness: float) -> Field:
    """0 outside, 1 inside, with an edge of about `softness` on either side of distance 0."""
    return np.asarray(
        0.5 + 0.5 * np.tanh(np.asarray(distance, np.float32) / np.float32(softness)), np.float32
    )


def grain(random: np.random.Generator, shape: tuple[int, ...]) -> Field:
    """White noise of unit variance on the grid of GRAIN_PX, stretched to `shape`."""
    longer = max(shape)
    coarse = (round(shape[0] * GRAIN_PX / longer), round(shape[1] * GRAIN_PX / longer))
    return stretch(random.standard_normal(coarse, dtype=np.float32), shape)


def smooth_noise(random: np.random.Generator, shape: tuple[int, ...], cells: int) -> Field:
    """Smooth noise of unit variance with `cells` lattice cells along each side."""
    return stretch(random.standard_normal((cells, cells), dtype=np.float32) * 1.5, shape)


def stretch(values: Field, shape: tuple[int, ...]) -> Field:
    """Bilinear stretch of (h, w) to (H, W); pixel centres meet as in a resampled image."""
    for axis in (0, 1):
        count, target = values.shape[axis], shape[axis]
        at = np.clip((np.arange(target) + 0.5) * count / target - 0.5, 0, count - 1)
        low = np.minimum(at.astype(np.intp), max(count - 2, 0))
        share = np.asarray(at - low, np.float32)
        share = share[:, None] if axis == 0 else share[None, :]
        high = np.minimum(low + 1, count - 1)
        values = values.take(low, axis) * (1 - share) + values.take(high, axis) * share
    return np.asarray(values, np.float32)


def to_stored(picture: Field, bits: int, random: np.random.Generator) -> NDArray[np.uint16]:
    """Digitise display values 0..1 with a detector offset and head-room, as a panel does."""
    top = 2**bits - 1
    low, high = random.uniform(0.0, 0.06) * top, random.uniform(0.82, 1.0) * top
    return np.asarray(np.rint(low + np.clip(picture, 0.0, 1.0) * (high - low)), np.uint16)
