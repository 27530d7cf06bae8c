"""Parsing is bounded in size, depth and count, and says nothing of what it read."""

import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.assurance import requirement
from tests.dicom_files import NATIVE, make_dx, to_bytes, write
from triage.errors import DecodeError, StoreError
from triage.imaging.dataset import DecodeLimits, open_dataset, parse

LIMITS = DecodeLimits()
SMALL = DecodeLimits(
    maximum_file_mib=1, maximum_inflated_mib=1, maximum_elements=100, maximum_depth=3
)


def nested(depth: int) -> Dataset:
    inner = make_dx()
    for _ in range(depth):
        outer = Dataset()
        outer.ReferencedSeriesSequence = Sequence([inner])
        inner = outer
    return inner


def undefined_nesting(depth: int) -> bytes:
    """Implicit VR sequences of undefined length, one in another, never closed."""
    level = struct.pack("<HHL", 0x0008, 0x1115, 0xFFFFFFFF) + struct.pack(
        "<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    return level * depth


@pytest.mark.parametrize("syntax", NATIVE)
def test_every_data_set_encoding_is_read(syntax: str) -> None:
    ds = parse(to_bytes(make_dx(transfer_syntax=syntax)), LIMITS)
    assert ds.file_meta.TransferSyntaxUID == syntax
    assert (ds.Rows, ds.Columns, ds.Modality) == (64, 48, "DX")


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian])
def test_a_data_set_without_preamble_and_meta_is_read(syntax: str) -> None:
    data = to_bytes(make_dx(transfer_syntax=syntax))
    bare = data[data.index(b"\x08\x00\x08\x00") :]
    ds = parse(bare, LIMITS)
    assert ds.file_meta.TransferSyntaxUID == syntax
    assert ds.Rows == 64


def test_a_declared_encoding_that_is_not_the_written_one_is_seen_through() -> None:
    data = to_bytes(make_dx(transfer_syntax=uid.ExplicitVRLittleEndian))
    lying = data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0", 1)
    assert lying != data
    assert parse(lying, LIMITS).Rows == 64


def test_a_file_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(2 << 20)
    with pytest.raises(DecodeError, match="larger than 1 MiB"):
        open_dataset(path, SMALL)


def test_a_missing_file_is_an_error_of_the_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="FileNotFoundError"):
        open_dataset(tmp_path / "absent", LIMITS)


def deflated_file(content: bytes) -> bytes:
    """A file of the deflated syntax that holds `content` where the data set should be."""
    head = to_bytes(make_dx(transfer_syntax=uid.DeflatedExplicitVRLittleEndian))
    start = 132 + head[132:].index(b"1.2.840.10008.1.2.1.99") + 22
    meta = head[: start + head[start:].index(b"1.2.826.0.1.3680043.8.498.1") + 28]
    deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return meta + deflate.compress(content) + deflate.flush()


@requirement("S2")
def test_a_deflated_bomb_is_stopped_at_the_limit() -> None:
    with pytest.raises(DecodeError, match="inflates beyond 1 MiB"):
        parse(deflated_file(bytes(64 << 20)), SMALL)


@requirement("S2")
def test_a_deflated_bomb_within_the_limit_is_told_by_its_ratio() -> None:
    with pytest.raises(DecodeError, match="further than any image"):
        parse(deflated_file(bytes(30 << 20)), DecodeLimits())


def test_a_large_deflated_image_is_read() -> None:
    """40 MiB of which one byte in sixteen is noise: deflated 13 times."""
    pixels = np.zeros((2560, 8192), np.uint16)
    pixels[::2, ::4] = np.random.default_rng(0).integers(0, 256, (1280, 2048))
    data = to_bytes(make_dx(pixels, transfer_syntax=uid.DeflatedExplicitVRLittleEndian))
    assert len(data) < len(pixels.tobytes()) // 8
    assert parse(data, DecodeLimits()).PixelData == pixels.tobytes()


def test_a_deflated_data_set_that_ends_early_is_an_error() -> None:
    data = to_bytes(make_dx(transfer_syntax=uid.DeflatedExplicitVRLittleEndian))
    with pytest.raises(DecodeError, match="cut short"):
        parse(data[:-200], LIMITS)


@pytest.mark.parametrize("depth", [1, 3])
def test_nesting_within_the_limit_is_read(depth: int, tmp_path: Path) -> None:
    ds = make_dx()
    ds.ReferencedSeriesSequence = Sequence([nested(depth - 1)])
    assert "ReferencedSeriesSequence" in open_dataset(write(ds, tmp_path / "x"), SMALL)


@requirement("S2")
def test_nesting_beyond_the_limit_is_refused() -> None:
    ds = make_dx()
    ds.ReferencedSeriesSequence = Sequence([nested(3)])
    with pytest.raises(DecodeError, match="nested deeper than 3"):
        parse(to_bytes(ds), SMALL)


@requirement("S2")
def test_three_thousand_open_sequences_are_refused_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(DecodeError, match="nested deeper"):
        parse(undefined_nesting(3000), LIMITS)
    assert time.monotonic() - started < 1


@requirement("S2")
def test_too_many_elements_are_refused() -> None:
    ds = make_dx()
    ds.ReferencedImageSequence = Sequence([Dataset() for _ in range(200)])
    with pytest.raises(DecodeError, match="more than 100 elements"):
        parse(to_bytes(ds), SMALL)


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"hello " * 50])
def test_what_is_no_dicom_never_becomes_an_image(data: bytes) -> None:
    try:
        ds = parse(data, LIMITS)
    except DecodeError:
        return
    assert "PixelData" not in ds


def test_an_error_never_quotes_the_header() -> None:
    ds = make_dx(patient_name="Secret^Name", patient_id="SECRET-ID")
    ds.Rows = 64
    data = to_bytes(ds).replace(b"SECRET-ID ", b"SECRET-ID\xff")
    messages = []
    for cut in range(200, len(data), 97):
        try:
            parse(data[:cut], SMALL)
        except DecodeError as error:
            messages.append(str(error))
    assert messages
    assert "SECRET" not in " ".join(messages).upper()


def sequence(item: bytes, count: int) -> bytes:
    """An explicit VR sequence of undefined length with so many equal items."""
    head = struct.pack("<HH2sHL", 0x0008, 0x1115, b"SQ", 0, 0xFFFFFFFF)
    whole = struct.pack("<HHL", 0xFFFE, 0xE000, len(item)) + item
    return head + whole * count + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)


@requirement("S2")
def test_more_items_than_memory_should_hold_are_refused_before_they_are_parsed() -> None:
    with pytest.raises(DecodeError, match="more than 150000 items"):
        parse(sequence(b"", 150_001), LIMITS)


@requirement("S2")
def test_character_sets_without_end_are_refused_before_they_are_parsed() -> None:
    value = b"x\\" * 16384
    element = struct.pack("<HH2sH", 0x0008, 0x0005, b"CS", len(value)) + value
    began_s = time.process_time()
    with pytest.raises(DecodeError, match="character sets"):
        parse(sequence(element, 20), LIMITS)
    assert time.process_time() - began_s < 1
