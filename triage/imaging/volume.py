"""Which slices of a series make up the volume, and in which order.

Pure: slice facts in, order out. Localisers and derived images are left out where originals are
held; of what is left the largest group of one acquisition, orientation and matrix counts; order
is by position along the normal of the planes (PS3.3 C.7.6.2.1.1), not by Instance Number.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from triage.imaging.dataset import MALFORMED, quiet_pydicom
from triage.imaging.decode import Layout
from triage.imaging.values import functional_group, numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One frame of one file."""

    file_index: int
    frame_index: int
    rows: int
    columns: int
    original: bool
    localiser: bool
    orientation: tuple[float, ...] | None  # direction cosines, rounded
    position_mm: float | None  # along the normal
    acquisition_number: int | None
    instance_number: int | None


def read_slices(ds: Dataset, layout: Layout, file_index: int) -> list[Slice]:
    """The slices of one object, one per frame; what a header does not say is None."""
    with quiet_pydicom():
        return [_slice(ds, layout, file_index, i) for i in range(layout.frames)]


def _slice(ds: Dataset, layout: Layout, file_index: int, frame_index: int) -> Slice:
    plane = functional_group(ds, "PlaneOrientationSequence", frame_index) or ds
    place = functional_group(ds, "PlanePositionSequence", frame_index) or ds
    orientation = numbers(plane, "ImageOrientationPatient")
    position = numbers(place, "ImagePositionPatient")
    image_type = _image_type(ds)
    return Slice(
        file_index=file_index,
        frame_index=frame_index,
        rows=layout.rows,
        columns=layout.columns,
        original=image_type[:1] != ["DERIVED"],
        localiser="LOCALIZER" in image_type,
        orientation=tuple(round(v, 2) for v in orientation) if len(orientation) == 6 else None,
        position_mm=_along_normal(orientation, position),
        acquisition_number=_first(numbers(ds, "AcquisitionNumber")),
        instance_number=_first(numbers(ds, "InstanceNumber")),
    )


def _first(found: list[float]) -> int | None:
    return int(found[0]) if found else None


def _image_type(ds: Dataset) -> list[str]:
    try:
        value = ds.get("ImageType") or []
    except MALFORMED:
        return []
    return [str(v).strip().upper() for v in ([value] if isinstance(value, str) else value)]


def _along_normal(orientation: list[float], position: list[float]) -> float | None:
    if len(orientation) != 6 or len(position) != 3:
        return None
    normal = np.cross(orientation[:3], orientation[3:])
    length = float(np.linalg.norm(normal))
    return float(normal @ np.asarray(position)) / length if length > 0.1 else None


def select_volume(slices: Sequence[Slice]) -> list[Slice]:
    """The slices of the volume in order; empty if nothing but localisers is held."""
    kept = [s for s in slices if not s.localiser]
    kept = [s for s in kept if s.original] or kept
    if not kept:
        return []
    (largest, _), *_ = Counter(map(_group, kept)).most_common(1)  # first seen wins a tie
    return sorted((s for s in kept if _group(s) == largest), key=_order)


def in_sequence(slices: Sequence[Slice]) -> list[Slice]:
    """All slices but localisers, in order: for runs and series that are no volume."""
    return sorted((s for s in slices if not s.localiser), key=_order)


def _group(slice_: Slice) -> tuple[object, ...]:
    size = (slice_.rows, slice_.columns)
    return (slice_.acquisition_number, slice_.orientation, slice_.position_mm is None, size)


def _order(slice_: Slice) -> tuple[float, int, int, int]:
    # Slices of a group all have a position or all lack one; then Instance Number has to do.
    position = slice_.position_mm or 0.0
    return (position, slice_.instance_number or 0, slice_.file_index, slice_.frame_index)


def equidistant(count: int, maximum: int) -> list[int]:
    """At most `maximum` indices of 0..count-1, both ends included; the middle one if one."""
    if count <= maximum:
        return list(range(count))
    if maximum == 1:
        return [(count - 1) // 2]
    return [round(i * (count - 1) / (maximum - 1)) for i in range(maximum)]
