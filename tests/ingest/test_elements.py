"""Any bytes are walked in bounded time to an end or an ObjectUnparsable, and nothing else."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assurance import requirement
from tests.dicom_files import make_dx, to_bytes
from triage.errors import ObjectUnparsable
from triage.ingest.elements import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    Bounds,
    Element,
    Encoding,
    walk,
)

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)


def short(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


def long(group: int, number: int, vr: bytes, length: int, value: bytes = b"") -> bytes:
    return struct.pack("<HH2sHL", group, number, vr, 0, length) + value


def bare(tag: tuple[int, int], length: int, value: bytes = b"") -> bytes:
    return struct.pack("<HHL", *tag, length) + value


def walked(
    data: bytes, encoding: Encoding = EXPLICIT_LITTLE, bounds: Bounds | None = None
) -> list[Element]:
    return list(walk(data, encoding, bounds or Bounds(), size=len(data)))


def tags(elements: list[Element]) -> list[int]:
    return [element.tag for element in elements]


def test_values_are_found_where_they_stand() -> None:
    data = short(8, 0x18, b"UI", b"1.2\0") + long(0x42, 0x11, b"OB", 3, b"abc")
    first, second = walked(data)
    assert data[first.start : first.start + (first.length or 0)] == b"1.2\0"
    assert data[second.start : second.start + (second.length or 0)] == b"abc"


@pytest.mark.parametrize("defined", [True, False], ids=["defined lengths", "undefined lengths"])
def test_elements_of_a_first_level_item_are_told_with_their_sequence(defined: bool) -> None:
    code = short(8, 0x100, b"SH", b"CODE")
    items = b""
    for _ in range(2):
        if defined:
            items += bare(ITEM, len(code), code)
        else:
            items += bare(ITEM, UNDEFINED, code) + bare(ITEM_END, 0)
    sequence = long(8, 0x1032, b"SQ", len(items) if defined else UNDEFINED, items)
    if not defined:
        sequence += bare(SEQUENCE_END, 0)
    elements = walked(sequence + short(0x10, 0x20, b"LO", b"ID"))
    assert [(element.tag, element.parent, element.item) for element in elements] == [
        (0x00081032, 0, 0),
        (0x00080100, 0x00081032, 1),
        (0x00080100, 0x00081032, 2),
        (0x00100020, 0, 0),
    ]


def test_the_walk_ends_at_pixel_data_that_is_whole() -> None:
    data = long(0x7FE0, 0x10, b"OW", 4, b"abcd") + b"whatever follows"
    assert tags(walked(data)) == [0x7FE00010]


def test_encapsulated_pixel_data_is_followed_to_its_delimiter() -> None:
    fragments = bare(ITEM, 0) + bare(ITEM, 6, b"\xfe\xff\xdd\xe0\0\0") + bare(SEQUENCE_END, 0)
    data = long(0x7FE0, 0x10, b"OB", UNDEFINED, fragments)
    assert tags(walked(data)) == [0x7FE00010]
    for cut in range(12, len(data)):
        with pytest.raises(ObjectUnparsable):
            walked(data[:cut])


def test_padding_with_zeros_at_the_end_is_let_pass() -> None:
    data = short(8, 0x60, b"CS", b"CT")
    assert tags(walked(data + bytes(100))) == [0x00080060]


def test_unknown_undefined_length_content_is_implicit() -> None:
    """PS3.5 6.2.2 note 2."""
    inside = bare((8, 0x100), 4, b"CODE")
    items = bare(ITEM, UNDEFINED, inside) + bare(ITEM_END, 0) + bare(SEQUENCE_END, 0)
    assert tags(walked(long(9, 0x1010, b"UN", UNDEFINED, items))) == [0x00091010, 0x00080100]


REFUSED = {
    "value longer than the rest": short(8, 0x18, b"UI", b"1.2\0")[:-1],
    "header cut": short(8, 0x18, b"UI", b"1.2\0") + b"\x08\x00\x60",
    "long header cut": long(0x7FE0, 0x10, b"OB", 0)[:-2],
    "no value representation": struct.pack("<HH2sH", 8, 0x18, b"\x01\x02", 0),
    "sequence without end": long(8, 0x1032, b"SQ", UNDEFINED, bare(ITEM, UNDEFINED)),
    "sequence of something else": long(8, 0x1032, b"SQ", 10, short(8, 0x100, b"SH", b"AB")),
    "item at the top": bare(ITEM, 0),
    "stray end of item": long(8, 0x1032, b"SQ", UNDEFINED, bare(ITEM_END, 0)),
    "item longer than its sequence": long(
        8, 0x1032, b"SQ", 8, bare(ITEM, 12, short(8, 0x100, b"SH", b"CODE"))
    ),
    "undefined length of text": long(8, 0x119, b"UC", UNDEFINED, bare(SEQUENCE_END, 0)),
    "fragment of undefined length": long(0x7FE0, 0x10, b"OB", UNDEFINED, bare(ITEM, UNDEFINED)),
    "tag zero before something": bytes(8) + short(8, 0x18, b"UI", b"1.2\0"),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_refused(data: bytes) -> None:
    with pytest.raises(ObjectUnparsable):
        walked(data)


def nested(depth: int) -> bytes:
    return long(8, 0x1032, b"SQ", UNDEFINED, bare(ITEM, UNDEFINED)) * depth


@requirement("S2")
def test_depth_is_bounded() -> None:
    end = bare(ITEM_END, 0) + bare(SEQUENCE_END, 0)
    assert walked(nested(32) + end * 32)
    with pytest.raises(ObjectUnparsable, match="nested"):
        walked(nested(33) + end * 33)
    with pytest.raises(ObjectUnparsable, match="nested"):
        walked(nested(100_000))


@requirement("S2")
def test_count_is_bounded() -> None:
    data = short(9, 0x10, b"SH", b"") * 1001
    with pytest.raises(ObjectUnparsable, match="too many"):
        walked(data, bounds=Bounds(maximum_elements=1000))
    fragments = bare(ITEM, 0) * 1001
    with pytest.raises(ObjectUnparsable, match="too many"):
        walked(
            long(0x7FE0, 0x10, b"OB", UNDEFINED, fragments), bounds=Bounds(maximum_elements=1000)
        )


@requirement("S3")
@settings(max_examples=300, deadline=None)
@given(
    data=st.binary(max_size=300),
    encoding=st.sampled_from([EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG]),
)
def test_random_bytes_end_or_are_refused(data: bytes, encoding: Encoding) -> None:
    try:
        elements = walked(data, encoding)
    except ObjectUnparsable:
        return
    for element in elements:
        assert element.length is None or element.start + element.length <= len(data)


@requirement("S3")
@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 5000), byte=st.integers(0, 255), cut=st.integers(0, 5000))
def test_a_damaged_image_ends_or_is_refused(place: int, byte: int, cut: int) -> None:
    data = bytearray(IMAGE)
    data[place % len(data)] = byte
    try:
        walked(bytes(data[: max(1, len(data) - cut)]))
    except ObjectUnparsable:
        return


IMAGE = to_bytes(make_dx())[132:]
IMAGE = IMAGE[IMAGE.index(b"\x08\x00\x16\x00") :]


class Watched:
    """A data set of zeros but for `parts`, told by offset; counts what is read of it."""

    def __init__(self, size: int, parts: dict[int, bytes]) -> None:
        self.size, self.parts, self.largest, self.total = size, parts, 0, 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self.size)
        found = bytearray(max(0, stop - start))
        for at, data in self.parts.items():
            if start - len(data) < at < stop:
                piece = data[max(0, start - at) : stop - at]
                offset = max(0, at - start)
                found[offset : offset + len(piece)] = piece
        self.largest, self.total = max(self.largest, len(found)), self.total + len(found)
        return bytes(found)


GIB = 1 << 30


def test_native_pixel_data_are_stepped_over_unread() -> None:
    head = short(8, 0x18, b"UI", b"1.2\0") + long(0x7FE0, 0x10, b"OW", 2 * GIB)
    data = Watched(len(head) + 2 * GIB, {0: head})
    elements = list(walk(data, EXPLICIT_LITTLE, Bounds(), size=len(data)))
    assert tags(elements) == [0x00080018, 0x7FE00010]
    assert data.total < 64 * 1024


def test_fragments_are_walked_header_by_header() -> None:
    head = long(0x7FE0, 0x10, b"OB", UNDEFINED) + bare(ITEM, 0)
    step = 8 + 2 * GIB // 100
    parts = {0: head}
    for number in range(100):
        parts[len(head) + number * step] = bare(ITEM, step - 8)
    end = len(head) + 100 * step
    parts[end] = bare(SEQUENCE_END, 0)
    data = Watched(end + 8, parts)
    assert tags(list(walk(data, EXPLICIT_LITTLE, Bounds(), size=len(data)))) == [0x7FE00010]
    assert data.largest <= 16 * 1024
    assert data.total < 101 * 16 * 1024 + 64


def test_padding_is_looked_through_piece_by_piece() -> None:
    head = short(8, 0x18, b"UI", b"1.2\0")
    size = 64 << 20
    data = Watched(size, {0: head})
    assert tags(list(walk(data, EXPLICIT_LITTLE, Bounds(), size=size))) == [0x00080018]
    assert data.largest <= 1 << 20
    spoilt = Watched(size, {0: head, size - 1: b"x"})
    with pytest.raises(ObjectUnparsable, match="0000,0000"):
        list(walk(spoilt, EXPLICIT_LITTLE, Bounds(), size=size))


@pytest.mark.parametrize("rest", range(1, 9))
def test_a_few_zeros_at_the_end_are_padding(rest: int) -> None:
    assert tags(walked(short(8, 0x18, b"UI", b"1.2\0") + bytes(rest))) == [0x00080018]


def test_headers_across_the_end_of_the_window_are_read_whole() -> None:
    lengths = [number * 7 % 31 for number in range(20_000)]
    data = b"".join(
        long(9, number, b"UN", length, bytes(length)) for number, length in enumerate(lengths)
    )
    elements = walked(data)
    assert tags(elements) == [9 << 16 | number for number in range(20_000)]
    assert [element.length for element in elements] == lengths
