"""Stored values come out as they went in, whatever the syntax, bits, sign and colour."""

import contextlib
import struct
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames

from tests.assurance import requirement
from tests.dicom_files import (
    DEFLATED_IMAGE_FRAME,
    NATIVE,
    compress,
    gradient,
    make_dx,
    make_image,
    make_sr,
    to_bytes,
)
from triage.errors import DecodeError, DecodeUnsupported, TriageError
from triage.imaging.codecs import FrameShape, decode_frame
from triage.imaging.dataset import DecodeLimits, parse
from triage.imaging.decode import Decoded, decode_frames, describe, pixel_digest

LIMITS = DecodeLimits()
LOSSLESS = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    DEFLATED_IMAGE_FRAME,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
    uid.HTJ2K,
    uid.RLELossless,
)


def decoded(ds: Dataset) -> Decoded:
    """Through bytes, as a stored file comes."""
    return decode_frames(parse(to_bytes(ds), LIMITS), LIMITS)


def values(ds: Dataset) -> Any:
    return decoded(ds).frames


@requirement("I2")
@pytest.mark.parametrize("syntax", LOSSLESS)
def test_lossless_syntaxes_give_the_same_values_and_digest(syntax: str) -> None:
    pixels = np.stack([gradient(), gradient()[::-1]])
    plain = decoded(make_dx(pixels))
    result = decoded(make_dx(pixels, transfer_syntax=syntax))
    np.testing.assert_array_equal(result.frames, pixels)
    assert pixel_digest(result) == pixel_digest(plain)


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_signed_values_keep_their_sign_in_every_lossless_syntax(syntax: str) -> None:
    pixels = (gradient().astype(np.int32) - 2048).astype(np.int16)
    result = decoded(make_image(pixels, transfer_syntax=syntax))
    np.testing.assert_array_equal(result.frames[0], pixels)
    assert pixel_digest(result) == pixel_digest(decoded(make_image(pixels)))


@pytest.mark.parametrize(
    "syntax", [s for s in LOSSLESS if s not in (uid.JPEGLossless, uid.JPEGLosslessSV1)]
)
def test_colour_is_lossless_in_every_lossless_syntax(syntax: str) -> None:
    grey = gradient(maximum=255).astype(np.uint8)
    pixels = np.stack([grey, grey.T.reshape(grey.shape), 255 - grey], axis=-1)
    result = decoded(make_image(pixels, transfer_syntax=syntax))
    np.testing.assert_array_equal(result.frames[0], pixels)


@requirement("I2")
@pytest.mark.parametrize(
    ("syntax", "tolerance"),
    [(uid.JPEGExtended12Bit, 24), (uid.JPEGLSNearLossless, 2), (uid.JPEG2000, 4)],
)
def test_lossy_syntaxes_stay_close(syntax: str, tolerance: int) -> None:
    result = values(make_dx(transfer_syntax=syntax))[0]
    assert np.abs(result.astype(int) - gradient()).max() <= tolerance


def test_jpeg_baseline_stays_close_in_grey_and_colour() -> None:
    grey = gradient(maximum=255).astype(np.uint8)
    colour = np.stack([grey, 255 - grey, grey // 2], axis=-1)
    for pixels in (grey, colour):
        result = values(make_image(pixels, transfer_syntax=uid.JPEGBaseline8Bit))[0]
        assert np.abs(result.astype(int) - pixels).max() <= 6


@pytest.mark.parametrize(
    ("bits", "signed"), [(b, s) for b in range(1, 33) for s in (False, True) if b > 1 or not s]
)
def test_all_bit_depths_are_read_and_stray_high_bits_masked(bits: int, signed: bool) -> None:
    kind = "i" if signed else "u"
    dtype = np.dtype(f"{kind}{4 if bits > 16 else 2 if bits > 8 else 1}")
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    pixels = np.linspace(low, high, 24).astype(np.int64).reshape(4, 6)
    mask = (1 << bits) - 1
    overlay = ~mask & 0x5555555555555555
    stored = ((pixels & mask) | overlay).astype(np.uint64).astype(f"u{dtype.itemsize}")
    ds = make_image(stored.view(dtype), bits_stored=bits)
    np.testing.assert_array_equal(values(ds)[0], pixels)


def test_values_below_a_high_bit_at_the_top_are_shifted_down() -> None:
    pixels = gradient(maximum=4095)
    ds = make_image((pixels << 4).astype(np.uint16), bits_stored=12, HighBit=15)
    np.testing.assert_array_equal(values(ds)[0], pixels)


def test_single_bits_run_on_from_frame_to_frame() -> None:
    frames = np.random.default_rng(5).integers(0, 2, (3, 5, 7), np.uint8)
    ds = make_image(frames)
    ds.BitsAllocated = ds.BitsStored = 1
    ds.HighBit = 0
    packed = np.packbits(frames.ravel(), bitorder="little").tobytes()
    ds.PixelData = packed + b"\0" * (len(packed) % 2)
    np.testing.assert_array_equal(values(ds), frames)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
def test_float_pixels_are_read(dtype: Any, syntax: str) -> None:
    pixels = np.linspace(-1.5, 2.5, 20).reshape(4, 5).astype(dtype)
    np.testing.assert_array_equal(values(make_image(pixels, transfer_syntax=syntax))[0], pixels)


def test_eight_bits_in_big_endian_words_are_swapped() -> None:
    pixels = np.arange(1, 13, dtype=np.uint8).reshape(3, 4)
    ds = make_image(pixels, transfer_syntax=uid.ExplicitVRBigEndian)
    ds.PixelData = pixels.view(">u2").astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    np.testing.assert_array_equal(values(ds)[0], pixels)


def test_planes_are_interleaved() -> None:
    pixels = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    ds = make_image(pixels, PlanarConfiguration=1)
    ds.PixelData = np.moveaxis(pixels, -1, 0).tobytes()
    np.testing.assert_array_equal(values(ds)[0], pixels)


YBR_CASES = {  # PS3.3 C.7.6.3.1.2
    "white": ((255, 128, 128), (255, 255, 255)),
    "red": ((76, 85, 255), (254, 0, 0)),
    "grey": ((100, 128, 128), (100, 100, 100)),
    "blue": ((29, 255, 107), (0, 0, 254)),
}


@pytest.mark.parametrize(("ybr", "rgb"), YBR_CASES.values(), ids=YBR_CASES)
def test_ybr_becomes_rgb_once(ybr: tuple[int, ...], rgb: tuple[int, ...]) -> None:
    pixels = np.broadcast_to(np.asarray(ybr, np.uint8), (2, 4, 3))
    full = values(make_image(pixels, photometric="YBR_FULL"))[0, 0, 0]
    assert np.abs(full.astype(int) - rgb).max() <= 1
    y, blue, red = ybr
    subsampled = make_image(pixels, photometric="YBR_FULL_422")
    subsampled.PixelData = bytes([y, y, blue, red] * 4)
    assert np.abs(values(subsampled)[0, 1, 3].astype(int) - rgb).max() <= 1


def test_a_jpeg_2000_stream_of_the_wrong_sign_is_put_right() -> None:
    pixels = (gradient(maximum=4095).astype(np.int32) - 2048).astype(np.int16)
    as_unsigned = make_image((pixels & 0xFFF).astype(np.uint16), bits_stored=12)
    compress(as_unsigned, uid.JPEG2000Lossless)
    as_unsigned.PixelRepresentation = 1
    np.testing.assert_array_equal(values(as_unsigned)[0], pixels)


def test_the_sign_bit_of_a_wrong_stream_is_where_the_encoder_put_it() -> None:
    pixels = (gradient(maximum=4095).astype(np.int32) - 2048).astype(np.int16)
    as_unsigned = make_image((pixels & 0xFFF).astype(np.uint16), bits_stored=12)
    compress(as_unsigned, uid.JPEG2000Lossless)
    as_unsigned.PixelRepresentation, as_unsigned.BitsStored, as_unsigned.HighBit = 1, 16, 15
    np.testing.assert_array_equal(values(as_unsigned)[0], pixels)


def rgb_jpeg(*, adobe: bool, identifiers: bytes) -> Dataset:
    """A JPEG of plain RGB whose header calls it YBR_FULL."""
    colour = np.zeros((8, 8, 3), np.uint8) + np.asarray([200, 100, 50], np.uint8)
    stream = bytes(imagecodecs.jpeg8_encode(colour, 100, colorspace="RGB", outcolorspace="RGB"))
    marker = stream.index(b"\xff\xee")
    segment = stream[marker : marker + 2 + int.from_bytes(stream[marker + 2 : marker + 4])]
    assert segment[15] == 0  # transform: none
    stream = stream if adobe else stream.replace(segment, b"")
    for frame_id, new_id in zip(b"RGB", identifiers, strict=True):
        for table in (b"\x11\x00", b"\x00"):  # in the frame header, then in the scan header
            stream = stream.replace(bytes([frame_id]) + table, bytes([new_id]) + table, 1)
    ds = make_image(colour, photometric="YBR_FULL")
    ds.PixelData = encapsulate([stream])
    ds.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    return ds


@pytest.mark.parametrize(
    ("adobe", "identifiers"), [(True, b"\x01\x02\x03"), (False, b"RGB")], ids=["adobe", "ids"]
)
def test_a_jpeg_that_says_it_is_rgb_is_not_converted(adobe: bool, identifiers: bytes) -> None:
    result = values(rgb_jpeg(adobe=adobe, identifiers=identifiers))[0]
    assert np.abs(result.astype(int) - [200, 100, 50]).max() <= 1


# --- refusals


@requirement("I4")
def test_short_pixel_data_is_an_error_and_never_padded() -> None:
    ds = make_dx()
    ds.PixelData = ds.PixelData[:-2]
    with pytest.raises(DecodeError, match="cut short: 6142 of 6144"):
        values(ds)


def test_trailing_padding_is_ignored() -> None:
    ds = make_dx()
    ds.PixelData += b"\0\0\0\0"
    np.testing.assert_array_equal(values(ds)[0], gradient())


@pytest.mark.parametrize("syntax", [s for s in LOSSLESS if s not in NATIVE])
def test_a_frame_of_another_size_than_its_header_is_refused(syntax: str) -> None:
    ds = make_dx(transfer_syntax=syntax)
    ds.Columns = 4000
    with pytest.raises(DecodeError):
        values(ds)


@requirement("S2")
def test_a_code_stream_that_claims_a_huge_size_is_refused_before_decoding() -> None:
    ds = make_dx(transfer_syntax=uid.JPEGLSLossless)
    size = struct.pack(">HH", ds.Rows, ds.Columns)
    data = ds.PixelData.replace(size, b"\xff\xff\xff\xff", 1)
    assert data != ds.PixelData
    ds.PixelData = data
    with pytest.raises(DecodeError, match="differs from the header"):
        values(ds)


@requirement("S3")
def test_a_jpeg_ls_frame_without_its_end_marker_is_read_to_its_last_pixel() -> None:
    ds = make_dx(transfer_syntax=uid.JPEGLSLossless)
    whole = values(ds)
    (frame,) = generate_frames(ds.PixelData, number_of_frames=1)
    ds.PixelData = encapsulate([frame.rstrip(b"\0").removesuffix(b"\xff\xd9")])
    assert np.array_equal(values(ds), whole)


def jpeg_2000(
    size: int, *, tile: int = 0, precinct: int = 0, block: int = 6
) -> tuple[bytes, bytes]:
    """An empty grey code stream of eight bits: up to its COD segment, and from it on.

    Exponents of precinct and code block; a precinct of 0 stands for "as large as possible".
    """

    def segment(marker: int, body: bytes) -> bytes:
        return struct.pack(">HH", marker, len(body) + 2) + body

    siz = struct.pack(">H8LH3B", 0, size, size, 0, 0, tile or size, tile or size, 0, 0, 1, 7, 1, 1)
    cod = bytes((1, 0, 0, 1, 0, 0, block - 2, block - 2, 0, 1, precinct * 0x11 or 0xFF))
    rest = segment(0xFF5C, bytes((0x40, 8 << 3))) + segment(
        0xFF90, struct.pack(">HLBB", 0, 0, 0, 1)
    )
    first = b"\xff\x4f" + segment(0xFF51, siz)
    return first, segment(0xFF52, cod) + rest + b"\xff\x93" + bytes(64) + b"\xff\xd9"


def hidden_in_a_tile_part() -> bytes:
    first, harmless = jpeg_2000(2048)
    cod = jpeg_2000(2048, precinct=1)[1][:15]
    return first + harmless.replace(b"\xff\x93", cod + b"\xff\x93")


DIVIDED = {
    "tiles": b"".join(jpeg_2000(2048, tile=4)),
    "precincts": b"".join(jpeg_2000(2048, precinct=1)),
    "code blocks": b"".join(jpeg_2000(2048, block=2)),
    "precincts of one tile-part": hidden_in_a_tile_part(),
}


@requirement("S2")
@pytest.mark.parametrize("stream", DIVIDED.values(), ids=DIVIDED)
def test_a_code_stream_of_more_parts_than_any_image_is_refused_before_decoding(
    stream: bytes,
) -> None:
    shape = FrameShape(rows=2048, columns=2048, samples=1, bits_allocated=8)
    with pytest.raises(DecodeError, match="tiles or blocks"):
        decode_frame(stream, uid.JPEG2000Lossless, shape)
    usual = b"".join(jpeg_2000(2048, tile=256, precinct=8))
    assert decode_frame(usual, uid.JPEG2000Lossless, shape).values.shape == (2048, 2048)


@requirement("S2")
@pytest.mark.parametrize(
    ("rows", "frames", "said"),
    [
        (65535, 1, "A frame decodes to more than 256 MiB"),
        (8000, 1000, "The image decodes to more than 2048 MiB"),
        (1, 32769, "more than 32768 frames"),
    ],
)
def test_an_image_over_a_limit_is_refused_before_allocation(
    rows: int, frames: int, said: str
) -> None:
    ds = make_dx()
    ds.Rows = ds.Columns = rows
    ds.NumberOfFrames = frames
    with pytest.raises(DecodeError, match=said):
        describe(parse(to_bytes(ds), LIMITS), LIMITS)


@requirement("S2")
def test_a_large_image_out_of_very_few_bytes_is_refused_and_a_small_or_grainy_one_is_not() -> None:
    """4000 x 4000 are 31 MiB, 3000 x 4000 are 23."""
    blank = make_dx(np.zeros((4000, 4000), np.uint16), transfer_syntax=uid.JPEGLSLossless)
    with pytest.raises(DecodeError, match="more than any image"):
        describe(blank, LIMITS)
    small = make_dx(np.zeros((3000, 4000), np.uint16), transfer_syntax=uid.JPEGLSLossless)
    assert describe(small, LIMITS).rows == 3000
    blank.PixelData += bytes(1 << 20)  # a thirtieth of the image
    assert describe(blank, LIMITS).rows == 4000


@requirement("S2")
def test_many_frames_out_of_very_few_bytes_are_refused_and_a_cine_loop_is_not() -> None:
    """100 frames of 1024 x 768 in colour are 225 MiB; a loop shrinks them some sixtyfold."""
    frame = compress(make_image(np.zeros((768, 1024, 3), np.uint8)), uid.JPEGLSLossless)
    frame.NumberOfFrames = 100
    (encoded,) = generate_frames(frame.PixelData, number_of_frames=1)
    frame.PixelData = encapsulate([encoded] * 100)
    with pytest.raises(DecodeError, match="more than any image"):
        describe(frame, LIMITS)
    frame.PixelData = encapsulate([encoded + bytes(40_000)] * 100)
    assert describe(frame, LIMITS).frames == 100


def test_a_damaged_code_stream_is_an_error() -> None:
    for syntax in (uid.JPEG2000Lossless, uid.JPEGLSLossless, uid.RLELossless):
        ds = make_dx(transfer_syntax=syntax)
        ds.PixelData = encapsulate([b"\xff\xd8" + b"\x11" * 200])
        with pytest.raises(DecodeError):
            values(ds)


@pytest.mark.parametrize("offset", [0, 63, 5000, 0xFFFFFFFF])
def test_rle_segments_outside_the_frame_are_an_error(offset: int) -> None:
    ds = make_dx(transfer_syntax=uid.RLELossless)
    frame = bytearray(next(generate_frames(ds.PixelData, number_of_frames=1)))
    struct.pack_into("<L", frame, 8, offset)
    ds.PixelData = encapsulate([bytes(frame)])
    with pytest.raises(DecodeError, match="RLE"):
        values(ds)


def test_missing_frames_are_an_error() -> None:
    ds = make_dx(np.stack([gradient()] * 2), transfer_syntax=uid.RLELossless)
    ds.NumberOfFrames = 3
    with pytest.raises(DecodeError):
        values(ds)


def test_video_and_unknown_syntaxes_are_unsupported_not_failed() -> None:
    for syntax in ("1.2.840.10008.1.2.4.102", "1.2.3.4"):
        ds = make_dx(transfer_syntax=uid.RLELossless)
        ds.file_meta.TransferSyntaxUID = uid.UID(syntax)
        with pytest.raises(DecodeUnsupported, match="No decoder for transfer syntax"):
            describe(ds, LIMITS)


def test_an_object_without_pixels_is_unsupported() -> None:
    with pytest.raises(DecodeUnsupported, match="no pixel data"):
        values(make_sr())


BAD_HEADERS: dict[str, dict[str, Any]] = {
    "no rows": {"Rows": 0},
    "rows missing": {"Rows": None},
    "stored beyond allocated": {"BitsStored": 17},
    "high bit below stored": {"HighBit": 3},
    "two samples": {"SamplesPerPixel": 2},
    "three samples of grey": {"SamplesPerPixel": 3},
}


@pytest.mark.parametrize("elements", BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_an_impossible_header_is_an_error(elements: dict[str, Any]) -> None:
    ds = make_dx()
    for keyword, value in elements.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    with pytest.raises(DecodeError):
        values(ds)


# --- digest


def test_the_digest_ignores_container_size_and_header() -> None:
    pixels = gradient(maximum=200)
    wide = make_image(pixels, patient_name="Other^Name")
    narrow = make_image(pixels.astype(np.uint8))
    assert pixel_digest(decoded(wide)) == pixel_digest(decoded(narrow))


def test_one_changed_value_changes_the_digest() -> None:
    pixels = gradient()
    changed = pixels.copy()
    changed[10, 10] ^= 1
    assert pixel_digest(decoded(make_dx(pixels))) != pixel_digest(decoded(make_dx(changed)))


def test_the_same_bytes_in_another_shape_have_another_digest() -> None:
    pixels = gradient(8, 18)
    digests = {pixel_digest(decoded(make_dx(pixels.reshape(s)))) for s in ((8, 18), (18, 8))}
    assert len(digests) == 2


# --- hostile bytes

SEEDS = [to_bytes(make_dx(gradient(9, 7), transfer_syntax=s)) for s in LOSSLESS]


@requirement("S3")
@settings(max_examples=300, deadline=None)
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.integers(132, 3000), st.integers(0, 255)), max_size=8),
    cut=st.integers(0, 4000),
)
def test_damaged_files_decode_or_raise_our_errors_only(
    seed: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(seed)
    for position, value in changes:
        data[position % len(data)] = value
    small = DecodeLimits(maximum_decoded_mib=8, maximum_inflated_mib=8)
    with contextlib.suppress(TriageError):
        decode_frames(parse(bytes(data[: max(cut, 300)]), small), small)
