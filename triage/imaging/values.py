"""What stored values mean: modality units, padding, windows, inversion.

Owns the Modality LUT (PS3.3 C.11.1), VOI LUT and windows (C.11.2), Pixel Padding (C.7.5.1.1.2),
Presentation LUT Shape (C.11.6.1.2) and where enhanced objects keep them: functional groups per
frame before shared ones (C.7.6.16). The tables themselves are `tables`' business. Values of up
to 16 bits are computed in float32, wider ones in float64.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from triage.errors import DecodeError
from triage.imaging.dataset import EXPLICIT_BIG, MALFORMED, quiet_pydicom
from triage.imaging.decode import Layout, Values
from triage.imaging.tables import Table, read_table

Floats = NDArray[Any]  # float32 or float64
_LUMINANCE: Final = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


class VoiFunction(StrEnum):
    LINEAR = "LINEAR"
    LINEAR_EXACT = "LINEAR_EXACT"
    SIGMOID = "SIGMOID"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    centre: float
    width: float
    function: VoiFunction = VoiFunction.LINEAR


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescale:
    slope: float = 1.0
    intercept: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """All that turns the stored values of one frame into grey, read from the header once."""

    modality: Table | Rescale
    voi_table: Table | None  # goes before a window
    window: Window | None  # the first usable one
    padding: tuple[int, int] | None  # stored values, both ends included
    inverted: bool  # MONOCHROME1, or Presentation LUT Shape INVERSE


def meaning(ds: Dataset, layout: Layout, index: int) -> Meaning:
    """Read the grey chain of frame `index`. Raises DecodeError if a table is impossible."""
    try:
        with quiet_pydicom():
            return Meaning(
                modality=_modality(ds, layout, index),
                voi_table=_voi_table(ds, layout),
                window=_window(ds, index),
                padding=_padding(ds, layout),
                inverted=layout.photometric == "MONOCHROME1"
                or str(ds.get("PresentationLUTShape", "")).upper() == "INVERSE",
            )
    except MALFORMED as error:
        raise DecodeError("The grey scale of the image cannot be read.") from error


# --- reading


def functional_group(ds: Dataset, keyword: str, index: int) -> Dataset | None:
    """The first item of functional group sequence `keyword` for frame `index`, if there is one."""
    groups = ds.get("PerFrameFunctionalGroupsSequence") or ()
    candidates = [groups[index]] if index < len(groups) else []
    candidates += list(ds.get("SharedFunctionalGroupsSequence") or ())[:1]
    for group in candidates:
        if sequence := group.get(keyword):
            item: Dataset = sequence[0]
            return item
    return None


def numbers(ds: Dataset, keyword: str) -> list[float]:
    """The finite values of a numeric element; empty if absent or unreadable."""
    try:
        value = ds.get(keyword)
        if value is None or value == "":
            return []
        many = value if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
        found = [float(v) for v in many]
    except MALFORMED:
        return []
    return found if all(map(math.isfinite, found)) else []


def _modality(ds: Dataset, layout: Layout, index: int) -> Table | Rescale:
    if tables := ds.get("ModalityLUTSequence"):
        return _table(tables[0], layout, signed=layout.signed)
    source = functional_group(ds, "PixelValueTransformationSequence", index) or ds
    slope, intercept = numbers(source, "RescaleSlope"), numbers(source, "RescaleIntercept")
    if slope and intercept and slope[0] != 0:  # both or neither (C.11.1)
        return Rescale(slope=slope[0], intercept=intercept[0])
    return Rescale()


def _voi_table(ds: Dataset, layout: Layout) -> Table | None:
    tables = ds.get("VOILUTSequence")
    if not tables:
        return None
    # The table's input is the modality LUT's output, which may be below zero.
    return _table(tables[0], layout, signed=layout.signed or bool(numbers(ds, "RescaleIntercept")))


def _window(ds: Dataset, index: int) -> Window | None:
    source = functional_group(ds, "FrameVOILUTSequence", index) or ds
    centres, widths = numbers(source, "WindowCenter"), numbers(source, "WindowWidth")
    if not centres or not widths:
        return None
    try:
        function = VoiFunction(str(source.get("VOILUTFunction") or "LINEAR").strip().upper())
    except ValueError:
        function = VoiFunction.LINEAR
    usable = widths[0] >= 1 if function is VoiFunction.LINEAR else widths[0] > 0
    return Window(centre=centres[0], width=widths[0], function=function) if usable else None


def _padding(ds: Dataset, layout: Layout) -> tuple[int, int] | None:
    value = numbers(ds, "PixelPaddingValue")
    if not value or layout.is_float:
        return None
    limit = numbers(ds, "PixelPaddingRangeLimit") or value
    ends = sorted(_as_stored(int(v), layout) for v in (value[0], limit[0]))
    return ends[0], ends[1]


def _as_stored(value: int, layout: Layout) -> int:
    """A US or SS value in the sign of the pixels: implicit VR leaves the choice open."""
    bits = layout.bits_allocated
    value &= (1 << bits) - 1
    return value - (1 << bits) if layout.signed and value >> (bits - 1) else value


def _table(item: Dataset, layout: Layout, *, signed: bool) -> Table:
    return read_table(
        item["LUTDescriptor"].value,
        item["LUTData"].value,
        signed=signed,
        big_endian=layout.syntax == EXPLICIT_BIG,
    )


# --- applying


def modality_values(stored: Values, layout: Layout, mean: Meaning) -> Floats:
    """Stored grey values in modality units (HU, optical density, …)."""
    dtype = np.float32 if layout.bits_stored <= 16 else np.float64
    if isinstance(mean.modality, Table):
        return mean.modality.look_up(stored).astype(dtype)
    values: Floats = stored.astype(dtype)
    if mean.modality != Rescale():
        values = (values * mean.modality.slope + mean.modality.intercept).astype(dtype)
    return values


def usable_pixels(stored: Values, mean: Meaning) -> NDArray[np.bool_]:
    """True where a pixel is neither padding nor non-finite; (H, W) also of colour."""
    whole = stored.dtype.kind in "iu"
    usable: NDArray[np.bool_] = np.ones(stored.shape, bool) if whole else np.isfinite(stored)
    if mean.padding is not None:
        usable &= (stored < mean.padding[0]) | (stored > mean.padding[1])
    return usable if usable.ndim == 2 else np.asarray(usable.all(axis=-1))


def only_usable(values: NDArray[Any], usable: NDArray[np.bool_]) -> NDArray[Any]:
    """The usable values, flat or (N, 3); not copied where all are."""
    if not usable.all():
        return values[usable]
    return values.reshape(-1, *values.shape[usable.ndim :])


def windowed(values: Floats, window: Window) -> Floats:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3 with an output range of 0..1."""
    if window.function is VoiFunction.SIGMOID:
        exponent = np.clip(-4.0 * (values - window.centre) / window.width, -80.0, 80.0)
        return np.asarray(1.0 / (1.0 + np.exp(exponent)))
    if window.function is VoiFunction.LINEAR_EXACT:
        return stretched(values, window.centre - window.width / 2, window.centre + window.width / 2)
    centre, span = window.centre - 0.5, window.width - 1.0
    return stretched(values, centre - span / 2, centre + span / 2)


def stretched(values: Floats, low: float, high: float) -> Floats:
    """Linear from `low`..`high` to 0..1, clipped; a step at `low` where both are equal."""
    if high <= low:
        return (values > low).astype(values.dtype)
    grey = np.asarray(values - low)
    grey /= high - low
    return np.clip(grey, 0.0, 1.0, out=grey)


def luminance(rgb: Floats) -> Floats:
    """(..., 3) to grey, weights of ITU-R BT.601."""
    return np.asarray(rgb @ _LUMINANCE.astype(rgb.dtype))
