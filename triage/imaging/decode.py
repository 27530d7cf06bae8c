"""A parsed object to stored values, frame by frame, and the digest of those values.

Owns the Image Pixel module (PS3.3 C.7.6.3): size, bits, sign, planes, colour space. Bounds are
checked before anything is allocated; pixel data that is too short is an error, never padded. What
the values mean is `values`' business, how they look is `views`'.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames

from triage.errors import DecodeError, DecodeUnsupported
from triage.imaging.codecs import (
    DEFLATED_FRAME,
    ENCAPSULATED,
    JPEG_2000,
    RLE,
    CodedFrame,
    FrameShape,
    decode_frame,
    native_frame,
)
from triage.imaging.dataset import (
    DEFLATED,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    MALFORMED,
    DecodeLimits,
    quiet_pydicom,
)

NATIVE: Final = frozenset((IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED))
GREY: Final = frozenset(("MONOCHROME1", "MONOCHROME2"))
PALETTE: Final = "PALETTE COLOR"
_YBR: Final = frozenset(("YBR_FULL", "YBR_FULL_422"))
_YBR_IN_STREAM: Final = frozenset(("YBR_ICT", "YBR_RCT"))  # the JPEG 2000 codec gives RGB
_FLOATS: Final = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}

_CELLS: Final = NATIVE | {RLE, DEFLATED_FRAME}  # carry whole cells, High Bit counts

Values = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The Image Pixel module of one object, checked."""

    syntax: str
    keyword: str  # PixelData, FloatPixelData or DoubleFloatPixelData
    photometric: str
    rows: int
    columns: int
    samples: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    planar: bool

    @property
    def is_float(self) -> bool:
        return self.keyword in _FLOATS

    @property
    def is_colour(self) -> bool:
        """Values come as RGB. Palette indices do not: `values.palette_colours` maps them."""
        return self.samples == 3

    @property
    def shape(self) -> FrameShape:
        return FrameShape(
            rows=self.rows,
            columns=self.columns,
            samples=self.samples,
            bits_allocated=self.bits_allocated,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """All frames of one object: (N, H, W) grey or palette indices, (N, H, W, 3) RGB."""

    layout: Layout
    frames: Values


def decode_frames(ds: Dataset, limits: DecodeLimits) -> Decoded:
    """Decode every frame at once; `iterate_frames` needs less memory."""
    layout = describe(ds, limits)
    return Decoded(layout=layout, frames=np.stack(list(iterate_frames(ds, layout))))


# --- describe


def may_decode(syntax: str) -> bool:
    """Whether there is a decoder for a transfer syntax; one that is not stated shows later."""
    return not syntax or syntax in NATIVE | ENCAPSULATED


def describe(ds: Dataset, limits: DecodeLimits) -> Layout:
    """Check the Image Pixel module against itself and `limits`.

    Raises DecodeUnsupported for an object without pixels or without a decoder, DecodeError for
    an impossible header.
    """
    syntax = str(ds.file_meta.TransferSyntaxUID)
    keyword = next((k for k in ("PixelData", *_FLOATS) if k in ds), None)
    if keyword is None:
        raise DecodeUnsupported("The object has no pixel data.")
    if syntax not in NATIVE | ENCAPSULATED:
        raise DecodeUnsupported(f"No decoder for transfer syntax {_printable(syntax)}.")
    bits_allocated = _FLOATS.get(keyword) or integer(ds, "BitsAllocated")
    bits_stored = bits_allocated if keyword in _FLOATS else integer(ds, "BitsStored")
    layout = Layout(
        syntax=syntax,
        keyword=keyword,
        photometric=_photometric(ds),
        rows=integer(ds, "Rows"),
        columns=integer(ds, "Columns"),
        samples=integer(ds, "SamplesPerPixel", 1),
        frames=integer(ds, "NumberOfFrames", 1) or 1,  # an empty or zero count means one
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        high_bit=integer(ds, "HighBit", bits_stored - 1),
        signed=integer(ds, "PixelRepresentation", 0) == 1,
        planar=integer(ds, "PlanarConfiguration", 0) == 1,
    )
    _check(layout)
    _check_size(layout, limits)
    if layout.syntax in ENCAPSULATED:
        _check_ratio(ds, layout, limits)
    return layout


def integer(ds: Dataset, keyword: str, default: int | None = None) -> int:
    """The first value of `keyword`; raises DecodeError if absent without default, or no number."""
    try:
        with quiet_pydicom():
            value = ds.get(keyword)
        if isinstance(value, (list, tuple)) or hasattr(value, "__iter__"):
            value = next(iter(value), None) if not isinstance(value, str) else value
        if value is not None and value != "":
            return int(value)
    except MALFORMED as error:
        raise DecodeError(f"{keyword} is not a number.") from error
    if default is None:
        raise DecodeError(f"{keyword} is missing.")
    return default


def _photometric(ds: Dataset) -> str:
    try:
        with quiet_pydicom():
            return str(ds.get("PhotometricInterpretation") or "MONOCHROME2").strip().upper()
    except MALFORMED as error:
        raise DecodeError("Photometric Interpretation cannot be read.") from error


def _printable(text: str) -> str:
    return "".join(c for c in text[:64] if c in "0123456789.") or "(none)"


def _check(layout: Layout) -> None:
    if layout.rows < 1 or layout.columns < 1 or layout.frames < 1:
        raise DecodeError("The image has no size.")
    one_sample = GREY | {PALETTE}
    three_samples = _YBR | _YBR_IN_STREAM | {"RGB"}
    if layout.photometric not in one_sample | three_samples:
        raise DecodeUnsupported("The Photometric Interpretation is not supported.")
    if layout.samples != (1 if layout.photometric in one_sample else 3):
        raise DecodeError("Samples per Pixel and Photometric Interpretation disagree.")
    if layout.photometric in _YBR_IN_STREAM and layout.syntax not in JPEG_2000:
        raise DecodeUnsupported("This colour space is defined for JPEG 2000 only.")
    if layout.is_float:
        if layout.syntax in ENCAPSULATED or layout.samples != 1:
            raise DecodeUnsupported("Float pixels are supported as native grey values only.")
        return
    if layout.bits_allocated not in (1, 8, 16, 32):
        raise DecodeUnsupported(f"{layout.bits_allocated} bits allocated are not supported.")
    if not 1 <= layout.bits_stored <= layout.bits_allocated:
        raise DecodeError("Bits Stored does not fit Bits Allocated.")
    if not layout.bits_stored - 1 <= layout.high_bit < layout.bits_allocated:
        raise DecodeError("High Bit does not fit Bits Stored and Bits Allocated.")


def _check_size(layout: Layout, limits: DecodeLimits) -> None:
    frame = layout.shape.size_bytes
    if layout.frames > limits.maximum_frames:
        raise DecodeError(f"The image has more than {limits.maximum_frames} frames.")
    if frame > limits.maximum_frame_mib << 20:
        raise DecodeError(f"A frame decodes to more than {limits.maximum_frame_mib} MiB.")
    if layout.frames * frame > limits.maximum_decoded_mib << 20:
        raise DecodeError(f"The image decodes to more than {limits.maximum_decoded_mib} MiB.")


def _check_ratio(ds: Dataset, layout: Layout, limits: DecodeLimits) -> None:
    """Refuse an image that is far larger than what it is decoded from."""
    try:
        with quiet_pydicom():
            value = ds[layout.keyword].value
    except MALFORMED as error:
        raise DecodeError("The pixel data cannot be read.") from error
    coded = len(value) if isinstance(value, bytes) else 0
    frame = layout.shape.size_bytes
    whole = limits.is_loop_bomb(coded, layout.frames * frame)
    if whole or limits.is_bomb(coded // layout.frames, frame):
        raise DecodeError("The compressed pixel data decodes to more than any image holds.")


# --- frames


def iterate_frames(ds: Dataset, layout: Layout) -> Iterator[Values]:
    """Each frame as stored values, (H, W) or RGB (H, W, 3), in the smallest fitting dtype."""
    if layout.syntax in NATIVE:
        coded = _native_frames(ds, layout)
    else:
        coded = _encapsulated_frames(ds, layout)
    for frame in coded:
        if layout.is_float:
            yield frame.values.view(f"{frame.values.dtype.byteorder}f{layout.bits_allocated // 8}")
            continue
        values = _stored_values(frame, layout)
        ybr = layout.photometric in _YBR if frame.ybr is None else frame.ybr
        yield _rgb(values, layout) if layout.is_colour and ybr else values


def _native_frames(ds: Dataset, layout: Layout) -> Iterator[CodedFrame]:
    try:
        with quiet_pydicom():
            element = ds[layout.keyword]
            data = element.value or b""
    except MALFORMED as error:
        raise DecodeError("The pixel data cannot be read.") from error
    if not isinstance(data, bytes):
        raise DecodeError("The pixel data has an impossible Value Representation.")
    order = ">" if layout.syntax == EXPLICIT_BIG else "<"
    if order == ">" and layout.bits_allocated <= 8 and element.VR == "OW":
        # Bytes travel in swapped 16-bit words (PS3.5 section 8.1.2).
        data = np.frombuffer(data[: len(data) // 2 * 2], ">u2").astype("<u2").tobytes()
    if layout.bits_allocated == 1:
        yield from _bit_frames(data, layout)
        return
    size = layout.shape.size_bytes
    subsampled = layout.photometric == "YBR_FULL_422" and len(data) < layout.frames * size
    if subsampled:
        size = layout.rows * (layout.columns + layout.columns % 2) * 2 * layout.bits_allocated // 8
    _check_length(len(data), layout.frames * size)
    for start in range(0, layout.frames * size, size):
        frame = data[start : start + size]
        if subsampled:
            yield _upsampled(frame, layout)
        else:
            yield native_frame(frame, layout.shape, order=order, planar=layout.planar)


def _check_length(actual: int, expected: int) -> None:
    if actual < expected:
        raise DecodeError(f"The pixel data is cut short: {actual} of {expected} bytes.")


def _bit_frames(data: bytes, layout: Layout) -> Iterator[CodedFrame]:
    """Single bits run on from frame to frame without padding (PS3.5 section 8.1.1)."""
    size = layout.rows * layout.columns * layout.samples
    _check_length(len(data), (layout.frames * size + 7) // 8)
    for first in range(0, layout.frames * size, size):
        packed = np.frombuffer(data[first // 8 : (first + size + 7) // 8], np.uint8)
        bits = np.unpackbits(packed, bitorder="little")[first % 8 :][:size]
        shape = (layout.rows, layout.columns) + (() if layout.samples == 1 else (layout.samples,))
        yield CodedFrame(values=bits.reshape(shape), precision=1)


def _upsampled(data: bytes, layout: Layout) -> CodedFrame:
    """YBR_FULL_422 as Y Y Cb Cr per two pixels (PS3.3 C.7.6.3.1.2); chroma is repeated."""
    if layout.bits_allocated != 8:
        raise DecodeUnsupported("Subsampled colour is supported with 8 bits only.")
    quads = np.frombuffer(data, np.uint8).reshape(layout.rows, -1, 4)
    luma = quads[..., :2].reshape(layout.rows, -1)
    blue, red = (np.repeat(quads[..., i], 2, axis=1) for i in (2, 3))
    values = np.stack([luma, blue, red], axis=-1)[:, : layout.columns]
    return CodedFrame(values=values, precision=8)


def _encapsulated_frames(ds: Dataset, layout: Layout) -> Iterator[CodedFrame]:
    offsets = None
    try:
        if "ExtendedOffsetTable" in ds and "ExtendedOffsetTableLengths" in ds:
            offsets = (ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths)
        frames = generate_frames(
            ds.PixelData, number_of_frames=layout.frames, extended_offsets=offsets
        )
        with quiet_pydicom():
            encoded = [bytes(frame) for frame in frames]
    except MALFORMED as error:
        raise DecodeError("The encapsulated frames cannot be told apart.") from error
    if len(encoded) != layout.frames:
        raise DecodeError(f"{len(encoded)} frames found where {layout.frames} are stated.")
    for frame in encoded:
        yield decode_frame(frame, layout.syntax, layout.shape)


def _stored_values(frame: CodedFrame, layout: Layout) -> Values:
    """Bits Stored of each sample below High Bit, with the sign that the header states.

    Code streams may carry signed data as unsigned (JPEG-LS always, JPEG 2000 by mistake), and
    native samples may carry overlays in their unused bits: both end here.
    """
    bits = layout.bits_stored
    container = 8 if bits <= 8 else 16 if bits <= 16 else 32
    values = frame.values
    if layout.syntax in JPEG_2000 and values.dtype.kind == "u" and layout.signed:
        bits = min(bits, frame.precision)  # the sign bit is where the encoder put it
    elif layout.syntax in _CELLS and layout.high_bit >= layout.bits_stored:
        values = values >> (layout.high_bit + 1 - layout.bits_stored)
    kind = "i" if layout.signed else "u"
    if values.dtype.kind == kind and bits == values.dtype.itemsize * 8 == container:
        return values
    # Room for the sign bit; twice the width is spared where it is not needed.
    wide: Values = values.astype(np.int32 if values.dtype.itemsize <= 2 else np.int64)
    wide &= (1 << bits) - 1
    if layout.signed:
        sign = 1 << (bits - 1)
        wide = (wide ^ sign) - sign
    return np.asarray(wide, f"{kind}{container // 8}")


def _rgb(values: Values, layout: Layout) -> Values:
    """YBR_FULL to RGB, full range, rounded (PS3.3 C.7.6.3.1.2)."""
    top = (1 << layout.bits_stored) - 1
    luma, blue, red = np.moveaxis(values.astype(np.float32), -1, 0)
    blue, red = blue - (top + 1) / 2, red - (top + 1) / 2
    rgb = np.stack(
        [luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], axis=-1
    )
    return np.asarray(np.clip(np.rint(rgb), 0, top), values.dtype)


# --- digest


class PixelDigest:
    """SHA-256 over decoded values, fed frame by frame.

    The same image has the same digest in every lossless transfer syntax and container size:
    hashed are the size, the number of frames and the values as 32-bit integers, or the bit
    patterns of float values. Palette tables, sign flag and headers do not count.
    """

    def __init__(self, layout: Layout) -> None:
        kind = f"f{layout.bits_allocated}" if layout.is_float else "i"
        size = (layout.frames, layout.rows, layout.columns, layout.samples)
        self._dtype = np.dtype(f"<f{layout.bits_allocated // 8}" if layout.is_float else "<i4")
        self._hash = hashlib.sha256(f"{kind} {size}".encode())

    def update(self, frame: Values) -> None:
        # 32-bit unsigned values wrap; only a change of sign flag could make two of them meet.
        canonical = np.ascontiguousarray(frame.astype(self._dtype, copy=False))
        self._hash.update(canonical.data)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def pixel_digest(decoded: Decoded) -> str:
    """The digest of all frames of one object."""
    digest = PixelDigest(decoded.layout)
    for frame in decoded.frames:
        digest.update(frame)
    return digest.hexdigest()
