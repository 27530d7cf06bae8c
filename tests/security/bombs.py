"""Hostile objects: what the published advisories describe, and bombs.

Each is an object that a sender could make with little effort, small in bytes, wrong in one thing.
They are made here, not kept: nothing in the repository is hostile by itself.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import imagecodecs
import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from tests.deploy.live import data_set
from tests.dicom_files import DEFLATED_IMAGE_FRAME, compress, make_dx, make_image, to_bytes
from triage.imaging.dataset import quiet_pydicom
from triage.imaging.decode import Values

SMALL = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
MIB = 1 << 20
ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
EMPTY_ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
RUN_OF_128 = b"\x81\x00"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hostile:
    """One object as a sender would send it: the data set as encoded, and what the command says."""

    name: str
    encoded: bytes
    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    at_the_door: bool = False  # may not be held


def hostile(
    name: str, ds: Dataset, *, encoded: bytes | None = None, at_the_door: bool = False
) -> Hostile:
    return Hostile(
        name=name,
        encoded=data_set(ds) if encoded is None else encoded,
        transfer_syntax_uid=str(ds.file_meta.TransferSyntaxUID),
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        study_instance_uid=str(ds.StudyInstanceUID),
        at_the_door=at_the_door,
    )


def bare(syntax: str = uid.ExplicitVRLittleEndian, **elements: object) -> Dataset:
    """A radiograph whose elements are changed after its pixels were set."""
    ds = make_dx(SMALL, transfer_syntax=syntax)
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


# --- what advisories describe (S1)

PATHS = ("..", "../../../../tmp/owned", "/etc/passwd", "1.2.3/../../4", "1.2\\..\\..\\3", "~root")
SHELL = ("$(touch owned)", "`touch owned`", "; touch owned", "| touch owned", "-exec", "../..")


def advisories() -> Iterator[Hostile]:
    """Yield objects; what is made of files and titles is the trial's own."""
    for number, path in enumerate(PATHS):
        yield _named(f"a path as SOP Instance UID ({number})", "SOPInstanceUID", path)
    yield _named("a path as Study Instance UID", "StudyInstanceUID", PATHS[1])
    yield _named("a path as Series Instance UID", "SeriesInstanceUID", PATHS[0])
    yield _named("a UID of 70 characters", "SOPInstanceUID", "1." + "2" * 68)
    yield _named("a UID of 60,000 characters", "StudyInstanceUID", "1." + "2" * 59998)
    for number, words in enumerate(SHELL):
        text = bare(PatientID=words[:64], StudyDescription=words, InstitutionName=words)
        text.Rows = 65  # so that it cannot be analysed
        yield hostile(f"shell words in text ({number})", text)
    yield hostile("an address to fetch from", bare(RetrieveURL="http://127.0.0.1:9/a", Rows=65))
    yield hostile("fewer pixels than its header says", bare(Rows=512, Columns=512))
    yield hostile(
        "a size that overflows", bare(Rows=65535, Columns=65535, NumberOfFrames=2**31 - 1)
    )
    yield hostile("65,535 samples", bare(SamplesPerPixel=65535))
    yield hostile("65,535 bits", bare(BitsAllocated=65535, BitsStored=65535, HighBit=65534))
    yield hostile("frames below zero", bare(NumberOfFrames="-5"))
    yield hostile("a palette without entries", _palette(descriptor=[0, 0, 16], data=b"\0\0"))
    yield hostile("a palette that is cut short", _palette(descriptor=[256, 0, 16], data=bytes(64)))
    yield hostile("a segmented palette that repeats itself", _looped_palette())
    lookup = Dataset()
    lookup.LUTDescriptor, lookup.LUTData = [65535, 0, 16], b"\0" * 8
    lookup["LUTData"].VR = "OW"
    yield hostile("a window table that is cut short", bare(VOILUTSequence=[lookup]))
    other = bare(uid.JPEGLSLossless)
    other.Rows = 128
    yield hostile("a code stream of another size", other)
    yield hostile("RLE segments outside the frame", _rle(64, 64, RUN_OF_128, offset=0x7FFFFFFF))


def _named(name: str, keyword: str, value: str) -> Hostile:
    """`value` goes in byte by byte: the library would not write it."""
    ds = bare()
    encoded = data_set(ds)
    old = str(ds[keyword].value).encode()
    old += b"\0" * (len(old) % 2)
    new = value.encode() + b"\0" * (len(value) % 2)
    assert encoded.count(old) == 1
    start = encoded.index(old)
    header = encoded[start - 8 : start - 2] + struct.pack("<H", len(new) & 0xFFFF)
    encoded = encoded[: start - 8] + header + new + encoded[start + len(old) :]
    made = hostile(name, ds, encoded=encoded, at_the_door=True)
    if keyword != "SOPInstanceUID":
        return made
    return Hostile(
        name=name,
        encoded=encoded,
        transfer_syntax_uid=made.transfer_syntax_uid,
        sop_class_uid=made.sop_class_uid,
        sop_instance_uid=value,
        study_instance_uid=made.study_instance_uid,
        at_the_door=True,
    )


def _palette(*, descriptor: list[int], data: bytes, segmented: bool = False) -> Dataset:
    ds = bare(PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", descriptor)
        name = f"{'Segmented' if segmented else ''}{colour}PaletteColorLookupTableData"
        setattr(ds, name, data)
        ds[name].VR = "OW"
    return ds


def _looped_palette() -> Dataset:
    """Segments that add nothing, repeated 20,000 times as a whole (PS3.3 C.7.9.2.3)."""
    words = bytes(4 * 65535) + struct.pack("<HHHH", 2, 65535, 0, 0) * 20000
    return _palette(descriptor=[65535, 0, 16], data=words, segmented=True)


# --- bombs (S2)


def bombs() -> Iterator[Hostile]:
    """Yield small objects that would become large ones."""
    yield _deflated("deflate: 2,200 MiB of zeros", zeros_mib=2200, image=False)
    yield _deflated("deflate: an image of 1,100 MiB", zeros_mib=1100, image=True)
    yield _deflated("deflate: an image of 300 MiB", zeros_mib=300, image=True)
    yield hostile("RLE: 5000 x 5000 of one value", _rle(5000, 5000, RUN_OF_128 * 195313))
    yield hostile("RLE: 11000 x 11000 of nothing", _rle(11000, 11000, RUN_OF_128))
    yield hostile("JPEG-LS: 7000 x 7000 of one value", _blank(7000, uid.JPEGLSLossless))
    yield hostile("JPEG 2000: 5500 x 5500 of one value", _blank(5500, uid.JPEG2000Lossless))
    yield hostile("JPEG-LS: a stream that claims 11000 x 11000", _claims_jpeg_ls(11000))
    yield hostile("JPEG 2000: a stream that claims 11000 x 11000", _claims_jpeg_2000(11000))
    yield hostile("JPEG 2000: tiles of one pixel", _claims_jpeg_2000(3000, tile=1))
    yield hostile("JPEG 2000: 65,535 layers of 65,025 precincts", _precincts(255, layers=65535))
    yield hostile("deflated frame: 6000 x 6000 of zeros", _deflated_frame(6000))
    yield hostile("dimensions: 65,535 x 65,535", bare(Rows=65535, Columns=65535))
    yield hostile("frames: 500,000 where there is one", _frames("500000"))
    yield hostile("frames: 32,000 where there is one", _frames("32000"))
    yield _appended("nesting: 3,000 sequences, open", _nested(3000))
    yield _appended("nesting: 3,000 sequences, with lengths", _nested_with_lengths(3000))
    yield _appended("count: 1,200,000 elements", _elements(1_200_000))
    yield _appended("count: 1,200,000 items", _items(1_200_000))
    yield hostile("count: 1,100,000 fragments", _fragments(1_100_000))


def _deflated(name: str, *, zeros_mib: int, image: bool, noise: bytes = b"") -> Hostile:
    ds = bare()
    head = data_set(ds)
    ds.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    head = head[: head.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW"))]
    length = zeros_mib * MIB + len(noise)
    if image:
        rows = struct.pack("<HH2sHH", 0x0028, 0x0010, b"US", 2, 64)
        columns = struct.pack("<HH2sHH", 0x0028, 0x0011, b"US", 2, 64)
        head = head.replace(rows, rows[:-2] + struct.pack("<H", 16384))
        head = head.replace(columns, columns[:-2] + struct.pack("<H", zeros_mib * 32))
    head += struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, length)
    return hostile(name, ds, encoded=deflated_zeros(head + noise, zeros_mib))


def deflated_zeros(head: bytes, zeros_mib: int) -> bytes:
    """Deflate `head` and so many MiB of zeros, which are deflated once and repeated."""
    stream = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    begun = stream.compress(head) + stream.flush(zlib.Z_FULL_FLUSH)
    block = stream.compress(bytes(MIB)) + stream.flush(zlib.Z_FULL_FLUSH)
    ended = stream.flush()
    encoded = begun + block * zeros_mib + ended
    return encoded + b"\0" * (len(encoded) % 2)


def _rle(rows: int, columns: int, segment: bytes, *, offset: int | None = None) -> Dataset:
    ds = bare(uid.RLELossless, Rows=rows, Columns=columns)
    second = 64 + len(segment) if offset is None else offset
    head = struct.pack("<3L", 2, 64, second).ljust(64, b"\0")
    ds.PixelData = encapsulate([head + segment * 2])
    return ds


def _blank(size: int, syntax: str) -> Dataset:
    return make_dx(np.zeros((size, size), np.uint16), transfer_syntax=syntax)


def _claims_jpeg_ls(size: int) -> Dataset:
    ds = bare(uid.JPEGLSLossless)
    old, new = struct.pack(">HH", 64, 64), struct.pack(">HH", size, size)
    ds.PixelData = ds.PixelData.replace(old, new, 1)
    ds.Rows = ds.Columns = size
    return ds


def _claims_jpeg_2000(size: int, *, tile: int | None = None) -> Dataset:
    """A whole stream of 64 x 64 whose SIZ segment (ITU-T T.800 A.5.1) says something else."""
    ds = bare(uid.JPEG2000Lossless)
    ds.Rows = ds.Columns = size
    stream = bytearray(_j2k(SMALL))
    start = stream.index(b"\xff\x51") + 6
    struct.pack_into(">2L", stream, start, size, size)
    struct.pack_into(">2L", stream, start + 16, *((tile or size,) * 2))
    ds.PixelData = encapsulate([bytes(stream)])
    return ds


def _deflated_frame(size: int) -> Dataset:
    ds = compress(make_dx(SMALL), DEFLATED_IMAGE_FRAME)
    ds.Rows = ds.Columns = size
    stream = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    ds.PixelData = encapsulate([stream.compress(bytes(size * size * 2)) + stream.flush()])
    return ds


def _frames(count: str) -> Dataset:
    ds = make_dx(SMALL.astype(np.uint8), bits_stored=8)
    ds.NumberOfFrames = count
    return ds


def _fragments(count: int) -> Dataset:
    ds = bare(uid.JPEGLSLossless)
    ds.PixelData = EMPTY_ITEM * count
    return ds


def _appended(name: str, tail: bytes) -> Hostile:
    """An image whose last element before the pixels is `tail`."""
    ds = bare(uid.ImplicitVRLittleEndian)
    encoded = data_set(ds)
    place = encoded.index(struct.pack("<HHL", 0x7FE0, 0x0010, SMALL.nbytes))
    return hostile(name, ds, encoded=encoded[:place] + tail + encoded[place:])


def _nested(depth: int) -> bytes:
    return (struct.pack("<HHL", 0x0040, 0x0275, 0xFFFFFFFF) + ITEM) * depth


def _nested_with_lengths(depth: int) -> bytes:
    content = b""
    for _ in range(depth):
        content = struct.pack("<HHL", 0xFFFE, 0xE000, len(content)) + content
        content = struct.pack("<HHL", 0x0040, 0x0275, len(content)) + content
    return content


def _elements(count: int) -> bytes:
    numbers = np.empty((count, 2), np.uint32)
    # Private groups from 0x0029 on, 65,000 elements in each: all tags differ and rise.
    index = np.arange(count, dtype=np.uint32)
    numbers[:, 0] = (0x0029 + 2 * (index // 65000)) | ((index % 65000 + 0x100) << 16)
    numbers[:, 1] = 0
    return numbers.astype("<u4").tobytes()


def _items(count: int, content: bytes = b"") -> bytes:
    item = struct.pack("<HHL", 0xFFFE, 0xE000, len(content)) + content
    return struct.pack("<HHL", 0x0040, 0x0275, count * len(item)) + item * count


# --- the most that passes (S2)


def just_within() -> Iterator[Hostile]:
    """Yield objects just below a limit, which are held and looked at, and must cost as little."""
    yield _appended("within: 149,000 empty items", _items(149_000))
    yield _appended("within: 399,000 elements", _elements(399_000))
    yield _appended("within: 149,000 items of 3 elements", _items(149_000, _elements(3)))
    yield _character_set("within: 130,000 character sets of no meaning", b"Q\\" * 130_000)
    yield hostile("within: JPEG 2000 of 4,096 tiles", _tiled(64))
    yield hostile("within: JPEG 2000 of 129,600 precincts", _precincts(360))
    yield _deflated("within: deflated strip of 23 MiB", zeros_mib=23, image=True)


def deflated_objects(count: int, *, zeros_mib: int) -> list[Hostile]:
    """Return objects of one size; 2 MiB of noise in each make up for so many zeros."""
    noise = os.urandom(2 * MIB)
    return [
        _deflated(f"deflate: {number}", zeros_mib=zeros_mib, image=False, noise=noise)
        for number in range(count)
    ]


def _character_set(name: str, terms: bytes) -> Hostile:
    ds = bare(uid.ImplicitVRLittleEndian)
    if "SpecificCharacterSet" in ds:
        del ds.SpecificCharacterSet
    element = struct.pack("<HHL", 0x0008, 0x0005, len(terms)) + terms
    return hostile(name, ds, encoded=element + data_set(ds))


def _tiled(across: int) -> Dataset:
    """A stream of one tile, told to be larger, and the tile as often as there is room for it."""
    side, size = 16, across * 16
    stream = bytearray(_j2k(SMALL[:side, :side]))
    siz, tile_part = stream.index(b"\xff\x51") + 6, stream.index(b"\xff\x90")
    struct.pack_into(">2L", stream, siz, size, size)
    struct.pack_into(">2L", stream, siz + 16, side, side)
    head, tile = bytes(stream[:tile_part]), bytes(stream[tile_part:-2])
    numbers = (struct.pack(">H", number) for number in range(across * across))
    tiles = b"".join(tile[:4] + number + tile[6:] for number in numbers)
    return _coded(size, head + tiles + b"\xff\xd9")


def _precincts(size: int, *, layers: int = 1) -> Dataset:
    """One resolution whose precincts have one pixel and an empty packet each (T.800 A.6.1, B.9)."""
    stream = _j2k(np.zeros((size, size), np.uint16), resolutions=1)
    start, tile_part = stream.index(b"\xff\x52"), stream.index(b"\xff\x90")
    length, style = struct.unpack_from(">HB", stream, start + 2)
    end = start + 2 + length
    # Style, progression order and the number of layers; then how the one resolution is coded.
    coding = struct.pack(">HHBBH", 0xFF52, length + 1, style | 1, stream[start + 5], layers)
    coding += stream[start + 8 : end] + b"\0"
    packets = bytes(size * size)
    tile = struct.pack(">HHHLBBH", 0xFF90, 10, 0, 14 + len(packets), 0, 1, 0xFF93) + packets
    return _coded(size, stream[:start] + coding + stream[end:tile_part] + tile + b"\xff\xd9")


def _j2k(pixels: Values, **how: int) -> bytes:
    encoded = imagecodecs.jpeg2k_encode(pixels, codecformat="J2K", reversible=True, **how)
    return bytes(encoded)


def _coded(size: int, stream: bytes) -> Dataset:
    ds = bare(uid.JPEG2000Lossless)
    ds.Rows = ds.Columns = size
    ds.PixelData = encapsulate([stream])
    return ds


# --- files


def files() -> dict[str, bytes]:
    """Return files for a watched folder that are no honest images, by the name that they get."""
    image = to_bytes(bare())
    elf = b"\x7fELF" + os.urandom(124) + image[128:]
    program = b"MZ" + os.urandom(126) + image[128:]
    return {
        "elf.dcm": elf,
        "program.dcm": program,
        "$(touch owned).dcm": b"#!/bin/sh\ntouch owned\n" * 9,
        "-rf *.dcm": os.urandom(4096),
        "line\nbreak.dcm": os.urandom(4096),
        "pickle.dcm": _pickle(),
        "archive.gz": zlib.compress(bytes(64 * MIB), 9, wbits=31),
        "empty.dcm": b"",
        "preamble only.dcm": bytes(128) + b"DICM",
        "DICOMDIR": dicomdir(("..", "..", "secret.dcm")),
    }


def _pickle() -> bytes:
    """What would run a command, were it ever loaded."""
    return b"cos\nsystem\n(S'touch owned'\ntR." + bytes(200)


def dicomdir(reference: tuple[str, ...]) -> bytes:
    """A directory whose one record points outside its folder (CVE-2026-32711)."""
    ds = make_image(SMALL)
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(ds, keyword)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = uid.MediaStorageDirectoryStorage
    record = Dataset()
    with quiet_pydicom():  # a name that no library would write
        record.ReferencedFileID = list(reference)
    record.DirectoryRecordType = "IMAGE"
    ds.DirectoryRecordSequence = [record]
    return to_bytes(ds)
