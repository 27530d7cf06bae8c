"""One encoded frame to sample values, for every transfer syntax that can be decoded.

Owns which syntaxes those are and which library decodes them: imagecodecs (libjpeg-turbo, CharLS,
OpenJPEG, PackBits), all under permissive licences. Before a codec allocates, the size in the code
stream must be the size in the header. Knows no data set; shapes and bits come as arguments.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from triage.errors import DecodeError

DEFLATED_FRAME: Final = "1.2.840.10008.1.2.8.1"
RLE: Final = "1.2.840.10008.1.2.5"
JPEG: Final = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70))
JPEG_LS: Final = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (80, 81))
JPEG_2000: Final = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203))
ENCAPSULATED: Final = JPEG | JPEG_LS | JPEG_2000 | {RLE, DEFLATED_FRAME}

_SOF: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}  # T.81 B.1.1.3, T.87
_LOSSLESS_SOF: Final = frozenset((0xC3, 0xF7))

_END_OF_IMAGE: Final = b"\xff\xd9"  # T.81 B.1.1.3

_SOT, _SOD, _EOC = 0xFF90, 0xFF93, 0xFFD9
_COD, _COC = 0xFF52, 0xFF53
# Segments with a length in the headers of JPEG 2000 (T.800 table A.2, T.801 A.3, T.814 A.2).
_J2K_SEGMENTS: Final = frozenset(
    0xFF00 | low
    for low in b"\x50\x51\x52\x53\x55\x56\x57\x58\x59\x5c\x5d\x5e\x5f\x60\x61\x63\x64tuwx"
)
# OpenJPEG holds some 10 KiB for each tile of an image, and half a KiB for each block of one tile.
_MOST_TILES: Final = 4096
_MOST_BLOCKS: Final = 1 << 17  # 64 x 64 pixels each are usual
_MOST_PACKETS: Final = 1 << 22  # it visits all of them, whether they are there or not


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameShape:
    """The size of one frame and of its samples, by the header."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int

    @property
    def size_bytes(self) -> int:
        """Of one frame in native form; single bits are packed and padded to a byte."""
        return (self.rows * self.columns * self.samples * self.bits_allocated + 7) // 8


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedFrame:
    """Decoded samples with what only the code stream tells.

    `values` is (rows, columns) or (rows, columns, samples), signed only if the stream is.
    """

    values: NDArray[Any]
    precision: int  # bits per sample in the stream
    ybr: bool | None = None  # None: the Photometric Interpretation decides


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stream:
    """The start of a JPEG, JPEG-LS or JPEG 2000 code stream."""

    rows: int
    columns: int
    samples: int
    precision: int
    ybr: bool | None = None


def decode_frame(data: bytes, syntax: str, shape: FrameShape) -> CodedFrame:
    """Decode one frame. Raises DecodeError if it is damaged or of another size."""
    if syntax == RLE:
        return _run_lengths(data, shape)
    if syntax == DEFLATED_FRAME:
        return native_frame(_inflate(data, shape), shape)
    if syntax in JPEG_2000:
        data = _code_stream(data)
        stream = _j2k_stream(data)
    else:
        stream = _jpeg_stream(data)
    if (stream.rows, stream.columns, stream.samples) != (shape.rows, shape.columns, shape.samples):
        raise DecodeError("The size in the code stream differs from the header's.")
    try:
        values = _decode_stream(data, syntax, stream)
    except (RuntimeError, ValueError) as error:
        raise DecodeError(f"The {_family(syntax)} code stream is damaged.") from error
    if values.shape[:2] != (shape.rows, shape.columns) or values.ndim != 2 + (shape.samples > 1):
        raise DecodeError("The code stream decodes to another size than it states.")
    return CodedFrame(values=values, precision=stream.precision, ybr=stream.ybr)


def _decode_stream(data: bytes, syntax: str, stream: _Stream) -> NDArray[Any]:
    if syntax in JPEG_2000:
        return np.asarray(imagecodecs.jpeg2k_decode(data, numthreads=1))
    if syntax in JPEG_LS:
        # Where no marker ends the scan, CharLS goes on reading zeros, for seconds.
        return np.asarray(imagecodecs.jpegls_decode(data + _END_OF_IMAGE))
    # One and the same colour space in and out: colour is converted once, by `decode`.
    space = "YCBCR" if stream.samples == 3 else None
    return np.asarray(imagecodecs.jpeg8_decode(data, colorspace=space, outcolorspace=space))


def _family(syntax: str) -> str:
    if syntax in JPEG_2000:
        return "JPEG 2000"
    return "JPEG-LS" if syntax in JPEG_LS else "JPEG"


# --- native, deflated, run length


def native_frame(
    data: bytes, shape: FrameShape, *, order: str = "<", planar: bool = False
) -> CodedFrame:
    """Unpack `shape.size_bytes` of native samples, read as unsigned; `order` is < or >."""
    pixels = (shape.rows, shape.columns)
    if shape.bits_allocated == 1:
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        values = bits[: shape.rows * shape.columns * shape.samples]
    else:
        values = np.frombuffer(data, f"{order}u{shape.bits_allocated // 8}")
    if shape.samples == 1:
        values = values.reshape(pixels)
    elif planar:
        values = np.moveaxis(values.reshape(shape.samples, *pixels), 0, -1)
    else:
        values = values.reshape(*pixels, shape.samples)
    return CodedFrame(values=values, precision=shape.bits_allocated)


def _inflate(data: bytes, shape: FrameShape) -> bytes:
    """Inflate one frame of the Deflated Image Frame syntax (PS3.5 A.4.13); padding may follow."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        result = inflater.decompress(data, shape.size_bytes)
    except zlib.error as error:
        raise DecodeError("The deflated frame is damaged.") from error
    if len(result) < shape.size_bytes:
        raise DecodeError("The deflated frame is shorter than its header says.")
    return result


def _run_lengths(data: bytes, shape: FrameShape) -> CodedFrame:
    """PS3.5 Annex G: one segment per byte of each sample, most significant first.

    Segments are cut here and decoded one by one: the whole-frame decoder of imagecodecs trusts
    the offsets of the frame's header.
    """
    item = max(1, shape.bits_allocated // 8)
    count = item * shape.samples
    if len(data) < 64 or struct.unpack_from("<L", data)[0] != count or count > 15:
        raise DecodeError("The RLE frame has another number of segments than its header says.")
    offsets = [*struct.unpack_from(f"<{count}L", data, 4), len(data)]
    if offsets[0] != 64 or offsets != sorted(offsets):
        raise DecodeError("The segments of the RLE frame are out of order.")
    size = shape.size_bytes // count
    planes = np.stack(
        [_unpacked(data[offsets[i] : offsets[i + 1]], size) for i in range(count)]
    ).reshape(shape.samples, item, size)
    little_endian = np.ascontiguousarray(planes[:, ::-1].swapaxes(1, 2))
    return native_frame(little_endian.tobytes(), shape, planar=True)


def _unpacked(segment: bytes, size: int) -> NDArray[np.uint8]:
    """PackBits to exactly `size` bytes; segments are padded to an even length."""
    try:
        raw = imagecodecs.packbits_decode(segment, out=size + 2)
    except (RuntimeError, ValueError) as error:
        raise DecodeError("The RLE frame is damaged.") from error
    if len(raw) < size:
        raise DecodeError("The RLE frame is shorter than its header says.")
    return np.frombuffer(raw, np.uint8, size)


# --- code stream headers


def _jpeg_stream(data: bytes) -> _Stream:
    """Read markers up to the frame header (ITU-T T.81 B.2.2; T.87 C.2.2)."""
    if data[:2] != b"\xff\xd8":
        raise DecodeError("The frame does not start with a JPEG marker.")
    position = 2
    ybr: bool | None = None
    while position + 4 <= len(data):
        marker, length = struct.unpack_from(">HH", data, position)
        if marker == 0xFFFF:  # fill byte
            position += 1
            continue
        if marker >> 8 != 0xFF or length < 2:
            break
        body = data[position + 4 : position + 2 + length]
        if marker & 0xFF in _SOF and len(body) >= 6:
            return _frame_header(marker & 0xFF, body, ybr)
        if marker == 0xFFE0 and body[:4] == b"JFIF" and ybr is None:
            ybr = True
        elif marker == 0xFFEE and body[:5] == b"Adobe" and len(body) >= 12:
            ybr = body[11] == 1  # transform: 0 none, 1 YCbCr
        position += 2 + length
    raise DecodeError("The JPEG code stream has no frame header.")


def _frame_header(marker: int, body: bytes, ybr: bool | None) -> _Stream:
    precision, rows, columns, samples = struct.unpack_from(">BHHB", body)
    identifiers = body[6 : 6 + 3 * samples : 3]
    if marker in _LOSSLESS_SOF:
        ybr = None  # lossless coders transform nothing, whatever application markers say
    elif identifiers in (b"RGB", b"rgb"):
        ybr = False
    return _Stream(
        rows=rows,
        columns=columns,
        samples=samples,
        precision=precision,
        ybr=ybr if samples == 3 else None,
    )


def _code_stream(data: bytes) -> bytes:
    """The code stream alone: a JP2 file's boxes (PS3.5 8.2.4 forbids them) are left out."""
    start = 0 if data[:2] == b"\xff\x4f" else data.find(b"\xff\x4f\xff\x51")
    if start < 0 or len(data) < start + 45:
        raise DecodeError("The frame does not hold a JPEG 2000 code stream.")
    return data[start:]


def _j2k_stream(data: bytes) -> _Stream:
    """Read the SIZ segment (ITU-T T.800 A.5.1), and check what the image is divided into."""
    right, bottom, left, top, *tile = struct.unpack_from(">8L", data, 8)
    samples, depth = struct.unpack_from(">HB", data, 40)
    stream = _Stream(
        rows=bottom - top, columns=right - left, samples=samples, precision=(depth & 0x7F) + 1
    )
    wide, high, from_left, from_top = tile
    if not (wide and high and from_left <= left and from_top <= top):
        raise DecodeError("The tiles of the JPEG 2000 code stream are impossible.")
    tiles = -(-(right - from_left) // wide) * -(-(bottom - from_top) // high)
    codings, layers = list(_codings(data, samples)), _layers(data)
    blocks = max((_blocks(stream, *coding) for coding in codings), default=0)
    packets = max((_packets(stream, tiles, *coding) for coding in codings), default=0) * layers
    if tiles > _MOST_TILES or blocks > _MOST_BLOCKS or packets > _MOST_PACKETS:
        raise DecodeError("The JPEG 2000 code stream has more tiles or blocks than any image.")
    return stream


def _codings(data: bytes, samples: int) -> Iterator[tuple[bool, bytes]]:
    """Yield, of each COD and COC, whether precincts are given, and the parameters (A.6.1)."""
    for marker, body in _j2k_segments(data):
        if marker == _COD:
            style, parameters = body[:1], body[5:]
        elif marker == _COC:
            at = 1 if samples < 257 else 2
            style, parameters = body[at : at + 1], body[at + 1 :]
        else:
            continue
        if not style or len(parameters) < 5:
            raise DecodeError("The JPEG 2000 code stream is damaged.")
        yield bool(style[0] & 1), parameters


def _blocks(stream: _Stream, has_precincts: bool, parameters: bytes) -> int:
    """About how many precincts or code blocks, whichever are smaller, there are of all samples."""
    levels, width, height = parameters[:3]
    sizes = parameters[5:] if has_precincts else b""
    total = 0
    for resolution in range(levels + 1):
        size = sizes[resolution] if resolution < len(sizes) else 0xFF
        scale = levels - resolution
        across = scale + min((width & 15) + 2, size & 15)
        down = scale + min((height & 15) + 2, size >> 4)
        total += -(-stream.columns >> across) * -(-stream.rows >> down)
    return total * stream.samples


def _packets(stream: _Stream, tiles: int, has_precincts: bool, parameters: bytes) -> int:
    """About how many packets one layer has: one for each precinct, at least one in each tile."""
    levels, sizes = parameters[0], parameters[5:] if has_precincts else b""
    total = tiles * (levels + 1)
    for resolution, size in enumerate(sizes[: levels + 1]):
        scale = levels - resolution
        across, down = scale + (size & 15), scale + (size >> 4)
        total += -(-stream.columns >> across) * -(-stream.rows >> down)
    return total * stream.samples


def _layers(data: bytes) -> int:
    """The most quality layers that any COD states (A.6.1)."""
    stated = (body[2:4] for marker, body in _j2k_segments(data) if marker == _COD)
    return max((int.from_bytes(layers, "big") for layers in stated), default=1)


def _j2k_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the segments of the main header and of all tile-parts' headers (A.3, A.4)."""
    position, end = 2, 0  # of the tile-part; 0 in the main header
    while position + 4 <= len(data):
        marker, length = struct.unpack_from(">HH", data, position)
        if marker == _EOC or (position == end and marker != _SOT):
            return
        if marker == _SOD and end > position:
            position = end
            continue
        if marker == _SOT and position + 10 <= len(data):
            size = struct.unpack_from(">L", data, position + 6)[0]
            end = position + size if size else len(data)
        elif marker not in _J2K_SEGMENTS:
            raise DecodeError("The JPEG 2000 code stream is damaged.")
        if length < 2 or (marker == _SOT and end < position + 14):
            raise DecodeError("The JPEG 2000 code stream is damaged.")
        yield marker, data[position + 4 : position + 2 + length]
        position += 2 + length
