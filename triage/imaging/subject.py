"""One subject, an image or a series, from its files to views, digests and facts.

Owns the order of work: headers first, to choose slices, then one frame at a time, so that memory
holds one file, one frame and the finished views whatever the length of the series. Runs inside a
decoder process; `decode_pool` is how the rest of the program asks for it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from triage.errors import DecodeUnsupported
from triage.imaging.dataset import DecodeLimits, open_dataset
from triage.imaging.decode import Layout, PixelDigest, Values, describe, iterate_frames
from triage.imaging.tables import Table
from triage.imaging.values import (
    Meaning,
    luminance,
    meaning,
    modality_values,
    only_usable,
    usable_pixels,
)
from triage.imaging.views import VOLUME_RENDERINGS, Picture, render, to_views, view_digest
from triage.imaging.volume import Slice, equidistant, in_sequence, read_slices, select_volume
from triage.records import ImageFacts, ViewSpec

BLANK_STEPS: Final = 2  # 99 % of the stored values of a blank image lie within so many steps
_SAMPLE_PIXELS: Final = 1 << 18  # enough for the percentiles of that test


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeTask:
    """One subject to decode: its files in arrival order and the renderings wanted of it.

    Without `specs` the files are only decoded, for their pixel digests and facts.
    """

    paths: tuple[Path, ...]
    specs: tuple[ViewSpec, ...] = ()
    limits: DecodeLimits = field(default_factory=DecodeLimits)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedSubject:
    """`views[spec]` is float32 (V, C, size_px, size_px) in 0..1 with C 1 (grey) or 3.

    V is 1 for a single image, and with crops 1 + crops ** 2, the whole image first; else at most
    `spec.maximum_slices`, in order of position. A rendering that is not made for this subject is
    in `refused` instead, with the reason.
    """

    views: dict[ViewSpec, NDArray[np.float32]]
    view_digests: dict[ViewSpec, tuple[str, ...]]  # one per view, see views.view_digest
    pixel_digests: tuple[str, ...]  # one per path, see decode.PixelDigest
    facts: ImageFacts
    refused: dict[ViewSpec, str] = field(default_factory=dict)
    decode_s: float = 0.0  # of a decode pool: from the request to its process to the answer


def decode_subject(task: DecodeTask) -> DecodedSubject:
    """Decode all files of `task`.

    Raises DecodeError or DecodeUnsupported if one cannot be, or if no rendering is made for it.
    """
    only = len(task.paths) == 1
    sources = [_Source(path, task.limits, keep=only) for path in task.paths]
    slices = [s for i, source in enumerate(sources) for s in source.slices(i)]
    plans = [_plan(slices, spec) for spec in task.specs]
    facts = _FactsSoFar()
    digests = []
    for file_index, source in enumerate(sources):
        ds, layout = source.dataset(), source.layout
        digest = PixelDigest(layout)
        for frame_index, stored in enumerate(iterate_frames(ds, layout)):
            digest.update(stored)
            mean = meaning(ds, layout, frame_index)
            facts.add(stored, layout, mean)
            frame = _Frame(stored=stored, ds=ds, layout=layout, mean=mean)
            for plan in plans:
                plan.add(frame, (file_index, frame_index))
        digests.append(digest.hexdigest())
    views = {plan.spec: drawn for plan in plans if (drawn := plan.finish()) is not None}
    if plans and not views:
        raise DecodeUnsupported(plans[0].refusal)
    return DecodedSubject(
        views=views,
        view_digests={spec: tuple(map(view_digest, array)) for spec, array in views.items()},
        pixel_digests=tuple(digests),
        facts=facts.finish(),
        refused={plan.spec: plan.refusal for plan in plans if plan.refusal},
    )


class _Source:
    """One file: its layout is known from the start; its pixels stay in memory only if `keep`."""

    def __init__(self, path: Path, limits: DecodeLimits, *, keep: bool) -> None:
        self._path, self._limits = path, limits
        self._first: Dataset | None = open_dataset(path, limits)
        self.layout = describe(self._first, limits)
        self._slices = read_slices(self._first, self.layout, 0)
        if not keep:
            self._first = None

    def slices(self, file_index: int) -> list[Slice]:
        return [replace(s, file_index=file_index) for s in self._slices]

    def dataset(self) -> Dataset:
        return self._first or open_dataset(self._path, self._limits)


# --- views

_Place = tuple[int, int]  # file index, frame index


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    stored: Values
    ds: Dataset
    layout: Layout
    mean: Meaning


class _Plan:
    """The views that one spec asks for, filled as frames come by.

    Frames of an MR volume wait undrawn until the range of the whole volume is known. A rendering
    that meets a frame it is not made for ends in `refusal` and leaves the other plans alone.
    """

    def __init__(self, spec: ViewSpec, volume: Sequence[_Place], *, refusal: str = "") -> None:
        self.spec = spec
        self.refusal = refusal
        self._volume = frozenset(volume)
        self._order = [volume[i] for i in equidistant(len(volume), spec.maximum_slices)]
        self._sampled = frozenset(self._order)
        self._waiting: dict[_Place, _Frame] = {}
        self._views: dict[_Place, Picture] = {}  # (1, C, S, S), with crops more
        self._low, self._high = math.inf, -math.inf

    def add(self, frame: _Frame, place: _Place) -> None:
        if place not in self._volume or self.refusal:
            return
        if self.spec.rendering != "mr-volume":
            if place in self._sampled:
                self._draw(frame, place)
            return
        if not frame.layout.is_colour:
            low, high = value_range(frame.stored, frame.layout, frame.mean)
            self._low, self._high = min(self._low, low), max(self._high, high)
        if place in self._sampled:
            self._waiting[place] = frame

    def finish(self) -> NDArray[np.float32] | None:
        """(V, C, size_px, size_px), in order; None where the rendering is refused."""
        for place, frame in self._waiting.items():
            self._draw(frame, place)
        if self.refusal:
            return None
        return np.concatenate([self._views[place] for place in self._order])

    def _draw(self, frame: _Frame, place: _Place) -> None:
        try:
            self._views[place] = self._views_of(frame)
        except DecodeUnsupported as error:
            self.refusal = str(error)

    def _views_of(self, frame: _Frame) -> Picture:
        picture = render(
            frame.stored,
            frame.ds,
            frame.layout,
            frame.mean,
            self.spec.rendering,
            volume_range=(self._low, self._high),
        )
        return to_views(picture, self.spec)


def _plan(slices: list[Slice], spec: ViewSpec) -> _Plan:
    """Choose by position where there is one; runs and single images are taken as they come."""
    spatial = any(s.position_mm is not None for s in slices)
    if len(slices) == 1 and spec.rendering not in VOLUME_RENDERINGS:
        kept = slices
    elif spatial or spec.rendering in VOLUME_RENDERINGS:
        kept = select_volume(slices)
    else:
        kept = in_sequence(slices)
    if not kept:
        return _Plan(spec, (), refusal="The series holds nothing but localisers.")
    if spec.crops and len(kept) > 1:
        return _Plan(spec, (), refusal="The model takes crops of single images, not of a series.")
    return _Plan(spec, [(s.file_index, s.frame_index) for s in kept])


# --- facts


class _FactsSoFar:
    """What the frames seen so far say."""

    def __init__(self) -> None:
        self._rows = self._columns = 0
        self._frames = 0
        self._low, self._high = math.inf, -math.inf
        self._finite = self._blank = True

    def add(self, stored: Values, layout: Layout, mean: Meaning) -> None:
        first = self._frames == 0
        self._rows = layout.rows if first else min(self._rows, layout.rows)
        self._columns = layout.columns if first else min(self._columns, layout.columns)
        self._frames += 1
        low, high = value_range(stored, layout, mean)
        self._low, self._high = min(self._low, low), max(self._high, high)
        if layout.is_float:
            self._finite = self._finite and bool(np.isfinite(stored).all())
        self._blank = self._blank and is_blank(stored, layout, mean)

    def finish(self) -> ImageFacts:
        seen = self._low <= self._high
        return ImageFacts(
            rows=self._rows,
            columns=self._columns,
            number_of_frames=self._frames,
            minimum=self._low if seen else 0.0,
            maximum=self._high if seen else 0.0,
            finite=self._finite,
            blank=self._blank,
        )


def value_range(stored: Values, layout: Layout, mean: Meaning) -> tuple[float, float]:
    """Least and greatest usable value, of grey in modality units; (inf, -inf) if there is none."""
    usable = usable_pixels(stored, mean)
    seen = only_usable(stored, usable)
    if not seen.size:
        return math.inf, -math.inf
    # A rescale has its extremes at the ends; a table may have them anywhere.
    ends = np.asarray([seen.min(), seen.max()])
    if isinstance(mean.modality, Table):
        ends = seen
    values = ends if layout.is_colour else modality_values(ends, layout, mean)
    return float(values.min()), float(values.max())


def is_blank(stored: Values, layout: Layout, mean: Meaning) -> bool:
    """True if the usable pixels are constant or nearly so: 99 % within two stored steps."""
    usable = usable_pixels(stored, mean)
    grey = luminance(stored.astype(np.float32)) if layout.is_colour else stored
    seen = only_usable(grey, usable)
    if not seen.size:
        return True
    seen = seen[:: max(1, seen.size // _SAMPLE_PIXELS)]
    low, high = np.percentile(seen, [0.5, 99.5])
    steps = BLANK_STEPS if layout.bits_stored >= 8 and not layout.is_float else 0
    return bool(high - low <= steps)
