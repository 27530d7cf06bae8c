"""Open a stored object within bounds of size, depth and count.

Owns parsing for the imaging rooms: Part 10 (PS3.10 section 7), with or without preamble and file
meta, all four data set encodings of PS3.5 section 10 and Annex A. Pixel data is read, never
decoded. Deflated data sets are inflated under a limit and nesting is measured without recursion
before pydicom, which recurses and inflates without one, sees the bytes.

Error messages name no value: a header's text may identify a patient.
"""

import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

from pydicom import config as pydicom_config
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID

from triage.errors import DecodeError, StoreError

IMPLICIT_LITTLE: Final = "1.2.840.10008.1.2"
EXPLICIT_LITTLE: Final = "1.2.840.10008.1.2.1"
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG: Final = "1.2.840.10008.1.2.2"

# What pydicom raises on malformed input; anything else is a fault of this program.
MALFORMED: Final = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,  # "No tag to read": there is no file behind the stream
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)

_UNDEFINED: Final = 0xFFFFFFFF
_LONG_VRS: Final = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
_PIXEL_DATA: Final = 0x7FE00010
_SPECIFIC_CHARACTER_SET: Final = 0x00080005
_FED_BYTES: Final = 1 << 16  # to zlib at once, which copies what it has not taken
_PIECE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """Bounds that hold before anything is allocated."""

    maximum_file_mib: int = 2048
    maximum_inflated_mib: int = 2048  # a deflated data set
    maximum_decoded_mib: int = 2048  # all frames of one object
    maximum_frame_mib: int = 256  # more than any detector has
    maximum_frames: int = 32768
    # What pydicom makes of them: a third of a KiB for an element, more than half for an item. An
    # enhanced image of 10,000 frames has less.
    maximum_elements: int = 400_000  # items and delimiters count too
    maximum_items: int = 150_000
    maximum_depth: int = 32  # nested sequences
    maximum_character_set_kib: int = 256  # all of (0008,0005): each bad term costs microseconds
    # Few bytes may become many up to a size that a process holds easily; what is larger shrinks
    # by as much only if it is blank. Cine loops are compressed further, and held frame by frame.
    any_ratio_mib: int = 24  # of a frame, or of a deflated data set
    highest_ratio: int = 50
    any_loop_ratio_mib: int = 64  # of all frames of one object
    highest_loop_ratio: int = 200

    def is_bomb(self, coded: int, decoded: int) -> bool:
        """Whether a frame or data set of `coded` bytes may not become so many."""
        return decoded > self.any_ratio_mib << 20 and decoded > self.highest_ratio * coded

    def is_loop_bomb(self, coded: int, decoded: int) -> bool:
        """The same of all frames of one object."""
        return decoded > self.any_loop_ratio_mib << 20 and decoded > self.highest_loop_ratio * coded


@dataclass(frozen=True, slots=True, kw_only=True)
class _Encoding:
    implicit: bool
    little_endian: bool


def open_dataset(path: Path, limits: DecodeLimits) -> Dataset:
    """Parse the file at `path`, pixel data included but not decoded.

    Raises DecodeError if it is no DICOM object, is cut short or breaks a limit, StoreError if the
    file cannot be read.
    """
    limit = limits.maximum_file_mib << 20
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read() if size <= limit else b""
    except OSError as error:
        raise StoreError(f"A stored file cannot be read ({type(error).__name__}).") from error
    if size > limit:
        raise DecodeError(f"The file is larger than {limits.maximum_file_mib} MiB.")
    return parse(data, limits)


def parse(data: bytes, limits: DecodeLimits) -> Dataset:
    """The same of bytes in memory. `file_meta` holds the transfer syntax alone."""
    start, syntax = _file_meta(data)
    if syntax == DEFLATED:
        data, start = _inflate(data[start:], limits), 0
    encoding = _encoding(data, start, syntax)
    check_structure(data, start, encoding.implicit, encoding.little_endian, limits)
    stream = BytesIO(data)
    stream.seek(start)
    try:
        with quiet_pydicom():
            ds = read_dataset(stream, encoding.implicit, encoding.little_endian)
            ds.file_meta = FileMetaDataset()
            ds.file_meta.TransferSyntaxUID = UID(syntax or _native_syntax(encoding))
    except MALFORMED as error:
        raise DecodeError(f"The data set cannot be parsed ({type(error).__name__}).") from None
    if not len(ds):
        raise DecodeError("The file holds no DICOM data set.")
    return ds


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Accept ill-formed values silently: pydicom's warnings quote them, and they may identify."""
    with warnings.catch_warnings(), pydicom_config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def _native_syntax(encoding: _Encoding) -> str:
    if encoding.implicit:
        return IMPLICIT_LITTLE
    return EXPLICIT_LITTLE if encoding.little_endian else EXPLICIT_BIG


# --- file meta and encoding


def _file_meta(data: bytes) -> tuple[int, str]:
    """Where the data set starts and its transfer syntax UID, empty where not stated."""
    position = 132 if data[128:132] == b"DICM" else 0
    syntax = ""
    while position + 8 <= len(data):
        group, element, vr, length = struct.unpack_from("<HH2sH", data, position)
        if group != 0x0002:
            break
        header = 8
        if vr in _LONG_VRS:
            if position + 12 > len(data):
                break
            header, length = 12, struct.unpack_from("<L", data, position + 8)[0]
        value = data[position + header : position + header + length]
        if element == 0x0010:
            syntax = value.rstrip(b"\0 ").decode("ascii", "replace")
        position += header + length
    return position, syntax


def _encoding(data: bytes, start: int, syntax: str) -> _Encoding:
    """Explicit or implicit as the first element shows: some writers declare the other one."""
    little_endian = syntax != EXPLICIT_BIG
    vr = data[start + 4 : start + 6]
    explicit = len(vr) == 2 and vr.isalpha() and vr.isupper()
    if not syntax and explicit:
        little_endian = data[start : start + 2] != b"\x00\x08"  # group 0008, high byte first
    return _Encoding(implicit=not explicit, little_endian=little_endian)


def _inflate(data: bytes, limits: DecodeLimits) -> bytes:
    """Inflate piece by piece, so that what is no longer within bounds is never held."""
    result = bytearray()
    for fed, piece in _inflated_pieces(memoryview(data)):
        result += piece
        if len(result) > limits.maximum_inflated_mib << 20:
            limit = f"{limits.maximum_inflated_mib} MiB"
            raise DecodeError(f"The deflated data set inflates beyond {limit}.")
        if limits.is_bomb(fed, len(result)):
            raise DecodeError("The deflated data set inflates further than any image.")
    return bytes(result)


def _inflated_pieces(data: memoryview) -> Iterator[tuple[int, bytes]]:
    """Yield how much was taken of the deflated bytes so far and what came out of it."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    fed = 0
    try:
        while not inflater.eof:
            rest = inflater.unconsumed_tail
            if not rest:
                rest = bytes(data[fed : fed + _FED_BYTES])
                fed += len(rest)
            piece = inflater.decompress(rest, _PIECE_BYTES)
            if not rest and not piece:
                raise DecodeError("The deflated data set is cut short.")
            yield fed - len(inflater.unconsumed_tail), piece
    except zlib.error:
        raise DecodeError("The deflated data set is damaged.") from None


# --- structure


@dataclass(slots=True)
class _Level:
    """One open sequence or item: where it ends (None: at its delimiter), how it is encoded."""

    end: int | None
    implicit: bool


def check_structure(
    data: bytes, start: int, implicit: bool, little_endian: bool, limits: DecodeLimits
) -> None:
    """Raise DecodeError where elements or nesting go beyond `limits` (PS3.5 section 7)."""
    order = "<" if little_endian else ">"
    levels = [_Level(len(data), implicit)]
    position, tally = start, _Tally(limits)
    while levels:
        top = levels[-1]
        if top.end is not None and position >= top.end:
            levels.pop()
            continue
        if position + 8 > len(data):
            return
        tally.element()
        if len(levels) > 2 * limits.maximum_depth + 1:
            raise DecodeError(f"Sequences are nested deeper than {limits.maximum_depth}.")
        group, element = struct.unpack_from(order + "HH", data, position)
        if group == 0xFFFE:
            length = struct.unpack_from(order + "L", data, position + 4)[0]
            position += 8
            if element == 0xE000:
                tally.item()
                end = None if length == _UNDEFINED else position + length
                levels.append(_Level(end, top.implicit))
            else:
                levels.pop()
            continue
        before, tag = position, group << 16 | element
        position = _step(data, position, tag, order, levels)
        if tag == _SPECIFIC_CHARACTER_SET:
            tally.character_set(position - before)


class _Tally:
    """What was met so far; raises DecodeError where it becomes too much."""

    def __init__(self, limits: DecodeLimits) -> None:
        self._limits = limits
        self._elements = self._items = self._character_set_bytes = 0

    def element(self) -> None:
        self._elements += 1
        if self._elements > self._limits.maximum_elements:
            raise DecodeError(f"The object has more than {self._limits.maximum_elements} elements.")

    def item(self) -> None:
        self._items += 1
        if self._items > self._limits.maximum_items:
            raise DecodeError(f"The object has more than {self._limits.maximum_items} items.")

    def character_set(self, length: int) -> None:
        self._character_set_bytes += length
        if self._character_set_bytes > self._limits.maximum_character_set_kib << 10:
            raise DecodeError("The object names more character sets than there are.")


def _step(data: bytes, position: int, tag: int, order: str, levels: list[_Level]) -> int:
    """Go past one element, or into it where it is a sequence; returns the new position."""
    implicit = levels[-1].implicit
    vr, length, position = _header(data, position, tag, order, implicit)
    if length != _UNDEFINED:
        if vr == b"SQ":
            levels.append(_Level(position + length, implicit))
            return position
        return position + length
    if tag == _PIXEL_DATA or vr in (b"OB", b"OW"):
        return _past_fragments(data, position, order)
    levels.append(_Level(None, implicit or vr == b"UN"))  # PS3.5 6.2.2: UN is implicit inside
    return position


def _header(
    data: bytes, position: int, tag: int, order: str, implicit: bool
) -> tuple[bytes, int, int]:
    """VR, length and value position of the element at `position`."""
    if implicit:
        length = struct.unpack_from(order + "L", data, position + 4)[0]
        try:
            vr = dictionary_VR(tag).encode("ascii")
        except KeyError:
            vr = b"UN"
        return vr, length, position + 8
    vr = data[position + 4 : position + 6]
    if vr not in _LONG_VRS:
        return vr, struct.unpack_from(order + "H", data, position + 6)[0], position + 8
    if position + 12 > len(data):
        return vr, 0, len(data)
    return vr, struct.unpack_from(order + "L", data, position + 8)[0], position + 12


def _past_fragments(data: bytes, position: int, order: str) -> int:
    """The position after encapsulated pixel data (PS3.5 section A.4)."""
    while position + 8 <= len(data):
        group, element, length = struct.unpack_from(order + "HHL", data, position)
        position += 8
        if (group, element) != (0xFFFE, 0xE000):
            return position
        position += length
    return len(data)
