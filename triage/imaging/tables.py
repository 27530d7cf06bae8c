"""Lookup tables: descriptor and data to entries, palettes to colours.

Owns LUT Descriptor and LUT Data (PS3.3 C.11.1.1), palettes (C.7.6.3.1.5, C.7.6.3.1.6) and
segmented palettes (C.7.9.2). Which table applies when is `values`' and `views`' business.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from triage.errors import DecodeError
from triage.imaging.dataset import EXPLICIT_BIG, MALFORMED, quiet_pydicom
from triage.imaging.decode import Layout, Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """`entries` from input value `first` on, each of `bits` bits."""

    first: int
    bits: int
    entries: NDArray[np.uint16]

    def look_up(self, values: Values) -> NDArray[np.uint16]:
        """Inputs outside the table take its first or last entry."""
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        return np.asarray(self.entries[index.astype(np.intp)])


def read_table(descriptor: Sequence[Any], data: Any, *, signed: bool, big_endian: bool) -> Table:
    """`signed`: the first input value is read as SS. Raises DecodeError if data is short."""
    count, first, bits = _descriptor(descriptor, signed=signed)
    return Table(first=first, bits=bits, entries=_entries(data, count, bits, big_endian))


def _descriptor(descriptor: Sequence[Any], *, signed: bool) -> tuple[int, int, int]:
    count, first, bits = (int(v) & 0xFFFF for v in descriptor)
    if not 1 <= bits <= 16:
        raise DecodeError("A lookup table has an impossible number of bits.")
    # Zero entries mean 65536, which 16 bits cannot say.
    return count or 0x10000, (first ^ 0x8000) - 0x8000 if signed else first, bits


def _entries(data: Any, count: int, bits: int, big_endian: bool) -> NDArray[np.uint16]:
    """Entries lie in words, or two 8-bit ones in a word, low byte first."""
    if isinstance(data, bytes):
        words = np.frombuffer(data[: len(data) // 2 * 2], ">u2" if big_endian else "<u2")
    else:
        words = np.atleast_1d(np.asarray(data, np.int64)) & 0xFFFF
    words = words.astype("<u2")
    entries = words.view("u1") if bits <= 8 and len(words) < count else words
    if len(entries) < count:
        raise DecodeError("A lookup table is shorter than its descriptor says.")
    return entries[:count].astype(np.uint16)


# --- palettes


def palette_colours(stored: Values, ds: Dataset, layout: Layout) -> NDArray[np.float32]:
    """Palette indices (H, W) to RGB in 0..1, (H, W, 3). Raises DecodeError without a palette."""
    try:
        with quiet_pydicom():
            tables = [_palette(ds, colour, layout) for colour in ("Red", "Green", "Blue")]
    except MALFORMED as error:
        raise DecodeError("The colour palette cannot be read.") from error
    planes = [table.look_up(stored) / np.float32((1 << table.bits) - 1) for table in tables]
    return np.stack(planes, axis=-1).astype(np.float32)


def _palette(ds: Dataset, colour: str, layout: Layout) -> Table:
    descriptor = ds[f"{colour}PaletteColorLookupTableDescriptor"].value
    big_endian = layout.syntax == EXPLICIT_BIG
    if plain := ds.get(f"{colour}PaletteColorLookupTableData"):
        return read_table(descriptor, plain, signed=layout.signed, big_endian=big_endian)
    count, first, bits = _descriptor(descriptor, signed=layout.signed)
    data = ds[f"Segmented{colour}PaletteColorLookupTableData"].value
    words = np.frombuffer(data, "u1" if bits <= 8 else ">u2" if big_endian else "<u2")
    return Table(first=first, bits=bits, entries=expand_segments(words, count))


def expand_segments(words: NDArray[Any], count: int) -> NDArray[np.uint16]:
    """Discrete (0), linear (1) and indirect (2) segments to `count` entries."""
    result: list[int] = []
    position = 0
    while position + 2 <= len(words) and len(result) < count:
        if words[position] != 2:
            position = _append_segment(words, position, result, count)
            continue
        # An indirect segment repeats earlier ones, found by a 32-bit byte offset, low part first.
        parts = 2 if words.dtype.itemsize == 2 else 4
        shift = 32 // parts
        offset = sum(int(words[position + 2 + i]) << shift * i for i in range(parts))
        source = offset // words.dtype.itemsize
        for _ in range(int(words[position + 1])):
            if len(result) < count:
                source = _append_segment(words, source, result, count)
        position += 2 + parts
    if len(result) < count:
        raise DecodeError("A segmented palette is shorter than its descriptor says.")
    return np.asarray(result[:count], np.uint16)


def _append_segment(words: NDArray[Any], position: int, result: list[int], count: int) -> int:
    """Append one discrete or linear segment; returns where the next one starts."""
    opcode, length = int(words[position]), int(words[position + 1])
    body = position + 2
    if opcode == 0 and length:  # one that adds nothing could be repeated for ever
        result.extend(int(v) for v in words[body : body + length])
        return body + length
    if opcode == 1 and result and length:
        ramp = np.linspace(result[-1], int(words[body]), length + 1)[1:]
        result.extend(int(v) for v in np.rint(ramp[: count - len(result)]))
        return body + 1
    raise DecodeError("A segmented palette holds an impossible segment.")
