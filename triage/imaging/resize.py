"""Pad and resize images in plain numpy, so that every machine renders the same values.

Bilinear with half-pixel centres. With `antialias` the triangle filter widens with the scale when
shrinking, as `torch.nn.functional.interpolate(mode="bilinear", antialias=True,
align_corners=False)` and Pillow do on float images; without it two samples are blended, as
torch's and TensorFlow's plain bilinear. Tests hold both against torch within 1e-5.
"""

import numpy as np
from numpy.typing import NDArray


def to_square(
    image: NDArray[np.float32], side_px: int, *, antialias: bool = True
) -> NDArray[np.float32]:
    """(..., H, W) to float32 (..., side_px, side_px): centred in a black square, then resized.

    An odd rest of the black goes below and right. The square is never there as a whole: a strip of
    16384 px by 100 would need a gigabyte for it.
    """
    return _resize(image, side_px, side_px, length_px=max(image.shape[-2:]), antialias=antialias)


def resize(
    image: NDArray[np.float32], height_px: int, width_px: int, *, antialias: bool = True
) -> NDArray[np.float32]:
    """(..., H, W) to float32 (..., height_px, width_px)."""
    return _resize(image, height_px, width_px, length_px=0, antialias=antialias)


def _resize(
    image: NDArray[np.float32], height_px: int, width_px: int, *, length_px: int, antialias: bool
) -> NDArray[np.float32]:
    shrunk = _resize_axis(np.asarray(image, np.float32), -2, height_px, length_px, antialias)
    return _resize_axis(shrunk, -1, width_px, length_px, antialias)


def _resize_axis(
    image: NDArray[np.float32], axis: int, size_px: int, length_px: int, antialias: bool
) -> NDArray[np.float32]:
    """Resize one axis as if it were `length_px` long, black on both sides of what is there."""
    held_px = image.shape[axis]
    length_px = max(length_px, held_px)
    if held_px == length_px == size_px:
        return image
    indices, weights = _taps(length_px, size_px, antialias)
    indices = indices - (length_px - held_px) // 2
    weights = np.where((indices < 0) | (indices >= held_px), np.float32(0), weights)
    indices = np.clip(indices, 0, held_px - 1)
    # Weights lie along `axis`; one gather per tap, since most of a dense matrix would be zero.
    trailing = (1,) * (-1 - axis)
    shape = list(image.shape)
    shape[axis] = size_px
    result = np.zeros(shape, np.float32)
    for index, weight in zip(indices, weights, strict=True):
        result += np.take(image, index, axis=axis) * weight.reshape(-1, *trailing)
    return result


def _taps(
    source_px: int, target_px: int, antialias: bool
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Source indices and weights, each (taps, target_px); a column of weights sums to one."""
    scale = source_px / target_px
    reach = max(scale, 1.0) if antialias else 1.0  # half width of the triangle, source pixels
    # Single precision here, as torch: plain bilinear shows the rounding of the positions.
    centre = (np.arange(target_px, dtype=np.float32) + np.float32(0.5)) * np.float32(scale)
    if not antialias:
        # Plain bilinear repeats the edge pixel instead of renormalising the weights.
        centre = np.clip(centre, 0.5, source_px - 0.5)
    first = np.floor(centre - reach + 0.5).astype(np.intp)
    indices = first + np.arange(int(np.ceil(reach)) * 2 + 1)[:, None]
    weights = np.maximum(0.0, 1.0 - np.abs(indices + 0.5 - centre) / reach)
    weights[(indices < 0) | (indices >= source_px)] = 0.0
    weights /= weights.sum(axis=0)
    return np.clip(indices, 0, source_px - 1), weights.astype(np.float32)
