"""Pad and resize images in plain numpy, so that every machine renders the same values.

Bilinear with half-pixel centres. With `antialias` the triangle filter widens with the scale when
shrinking, as `torch.nn.functional.interpolate(mode="bilinear", antialias=True,
align_corners=False)` and Pillow do on float images; without it two samples are blended, as
torch's and TensorFlow's plain bilinear. Tests hold both against torch within 1e-5.
"""

import numpy as np
from numpy.typing import NDArray


def pad_to_square(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """(..., H, W) zero-padded to (..., L, L), L = max(H, W); an odd rest goes below and right."""
    height, width = image.shape[-2:]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    spatial = [(top, side - height - top), (left, side - width - left)]
    return np.pad(image, [(0, 0)] * (image.ndim - 2) + spatial)


def resize(
    image: NDArray[np.float32], height_px: int, width_px: int, *, antialias: bool = True
) -> NDArray[np.float32]:
    """(..., H, W) to float32 (..., height_px, width_px)."""
    shrunk = _resize_axis(np.asarray(image, np.float32), -2, height_px, antialias)
    return _resize_axis(shrunk, -1, width_px, antialias)


def _resize_axis(
    image: NDArray[np.float32], axis: int, size_px: int, antialias: bool
) -> NDArray[np.float32]:
    if image.shape[axis] == size_px:
        return image
    indices, weights = _taps(image.shape[axis], size_px, antialias)
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
