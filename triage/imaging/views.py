"""Named renderings of one frame: stored values to a float32 square in 0..1.

Owns what each rendering does to the values (DESIGN section 3.10); the bundle names one of them
and a size, and what it was trained with it is served with. `PREPROCESSING_VERSION` is part of
the embedding cache's key and rises with any change of a rendered value. Sources: PS3.4 N.2 for
the grey chain, MedSigLIP and MedGemma serving code for `google-cxr` and the CT and MR volumes.

    dicom         modality LUT, VOI table or first window (else min..max of unpadded values),
                  inversion; padding black; colour as luminance
    google-cxr    modality LUT, first window as centre +- width // 2, stretch to min..max unless
                  the values are plain 8 bit, MONOCHROME1 inverted last; padding not looked at
    ct-3-window   HU -1024..1024, -135..215, 0..80 as three channels, each rounded to 8 bits
    mr-volume     min..max of the whole volume, rounded to 8 bits
"""

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from triage.errors import DecodeUnsupported
from triage.imaging.decode import PALETTE, Layout, Values
from triage.imaging.resize import to_square
from triage.imaging.tables import palette_colours
from triage.imaging.values import (
    Floats,
    Meaning,
    Rescale,
    luminance,
    modality_values,
    only_usable,
    stretched,
    usable_pixels,
    windowed,
)
from triage.records import ViewSpec

RENDERINGS: Final = ("dicom", "google-cxr", "ct-3-window", "mr-volume")
VOLUME_RENDERINGS: Final = ("ct-3-window", "mr-volume")
PREPROCESSING_VERSION: Final = 1
CT_WINDOWS_HU: Final = ((-1024.0, 1024.0), (-135.0, 215.0), (0.0, 80.0))

Picture = NDArray[np.float32]  # (C, H, W) in 0..1


def render(
    stored: Values,
    ds: Dataset,
    layout: Layout,
    mean: Meaning,
    rendering: str,
    *,
    volume_range: tuple[float, float] = (0.0, 0.0),
) -> Picture:
    """One frame in its own size. `volume_range` is what `mr-volume` stretches.

    Raises DecodeUnsupported where a volume rendering meets colour.
    """
    if layout.is_colour or layout.photometric == PALETTE:
        if rendering in VOLUME_RENDERINGS:
            raise DecodeUnsupported(f"The rendering {rendering} needs grey values.")
        return _plane(grey_of_colour(stored, ds, layout))
    usable = usable_pixels(stored, mean)
    stored = np.where(np.isfinite(stored), stored, 0) if layout.is_float else stored
    values = modality_values(stored, layout, mean)
    match rendering:
        case "dicom":
            return _plane(_dicom(values, usable, mean))
        case "google-cxr":
            return _plane(_google_cxr(values, layout, mean))
        case "ct-3-window":
            channels = [_eight_bit(stretched(values, *ends)) for ends in CT_WINDOWS_HU]
            return np.stack([np.where(usable, c, 0) for c in channels]).astype(np.float32)
        case "mr-volume":
            return _plane(np.where(usable, _eight_bit(stretched(values, *volume_range)), 0))
    raise ValueError(f"There is no rendering {rendering!r}.")


def to_view(picture: Picture, spec: ViewSpec) -> Picture:
    """(C, H, W) to (C, size_px, size_px): zero-padded to a square, centred, resized."""
    view = to_square(picture, spec.size_px, antialias=spec.antialias)
    return np.ascontiguousarray(np.clip(view, 0.0, 1.0))


def to_views(picture: Picture, spec: ViewSpec) -> Picture:
    """(C, H, W) to (1 + crops ** 2, C, size_px, size_px): the whole, then its crops row by row.

    Crops are cut from the picture in its own size, then padded and resized as the whole is.
    """
    height, width = picture.shape[-2:]
    parts = [picture[:, rows, columns] for rows, columns in crop_slices(height, width, spec.crops)]
    return np.stack([to_view(part, spec) for part in (picture, *parts)])


def crop_slices(height_px: int, width_px: int, crops: int) -> list[tuple[slice, slice]]:
    """Rows and columns of `crops` x `crops` crops that overlap by half and cover the picture.

    Each has 2 / (crops + 1) of height and width, rounded up, hence the picture's own shape.
    """
    down, across = _spans(height_px, crops), _spans(width_px, crops)
    return [(rows, columns) for rows in down for columns in across]


def _spans(length_px: int, crops: int) -> list[slice]:
    size_px = min(length_px, -(-2 * length_px // (crops + 1)))
    room_px, steps = length_px - size_px, max(crops - 1, 1)
    starts_px = [(2 * i * room_px + steps) // (2 * steps) for i in range(crops)]  # half goes up
    return [slice(start, start + size_px) for start in starts_px]


def view_digest(view: Picture) -> str:
    """SHA-256 hex over shape and values of one view (C, S, S)."""
    canonical = np.ascontiguousarray(view, dtype="<f4")
    return hashlib.sha256(f"{canonical.shape} ".encode() + canonical.tobytes()).hexdigest()


def grey_of_colour(stored: Values, ds: Dataset, layout: Layout) -> Floats:
    """RGB or palette indices to luminance in 0..1, (H, W)."""
    if layout.is_colour:
        return luminance(stored.astype(np.float32) / np.float32((1 << layout.bits_stored) - 1))
    return luminance(palette_colours(stored, ds, layout))


def _dicom(values: Floats, usable: NDArray[np.bool_], mean: Meaning) -> Floats:
    if mean.voi_table is not None:
        grey = mean.voi_table.look_up(values) / ((1 << mean.voi_table.bits) - 1)
    elif mean.window is not None:
        grey = windowed(values, mean.window)
    elif usable.any():
        seen = only_usable(values, usable)
        grey = stretched(values, float(seen.min()), float(seen.max()))
    else:
        return np.zeros_like(values)
    grey = np.clip(1.0 - grey if mean.inverted else grey, 0.0, 1.0)
    return grey if usable.all() else np.where(usable, grey, 0.0)


def _google_cxr(values: Floats, layout: Layout, mean: Meaning) -> Floats:
    if mean.window is not None:
        half = mean.window.width // 2
        values = np.clip(values, mean.window.centre - half, mean.window.centre + half)
    plain_8_bit = layout.bits_allocated == 8 and not layout.signed and mean.modality == Rescale()
    low, high = (0.0, 255.0) if plain_8_bit else (float(values.min()), float(values.max()))
    grey = stretched(values, low, high)
    return 1.0 - grey if layout.photometric == "MONOCHROME1" else grey


def _eight_bit(grey: Floats) -> Floats:
    return np.asarray(np.rint(grey * 255.0) / 255.0)


def _plane(grey: Floats) -> Picture:
    return np.asarray(grey, np.float32)[None]
