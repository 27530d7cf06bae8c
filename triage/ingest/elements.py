"""Walk the elements of an encoded data set (PS3.5 section 7) without recursion and within bounds.

Owns the structure: tags, lengths, sequences, items, fragments, and whether the bytes are complete.
Knows nothing of values. It runs in the network path on bytes from strangers, so depth and count
are bounded, headers are read through one small window, values are stepped over, and a walk ends
when the top-level pixel data has been found whole: what follows is the decoder's business.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from pydicom.datadict import DicomDictionary  # type: ignore[attr-defined]

from triage.errors import ObjectUnparsable
from triage.ingest.span import Span

PIXEL_TAGS: Final = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD
_UNDEFINED: Final = 0xFFFFFFFF
# PS3.5 table 7.1-2; every VR that is not here, also one still to come, has the 32-bit form.
_SHORT_VRS: Final = frozenset(
    b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split()
)
_SHORT: Final = {order: struct.Struct(order + "HH2sH") for order in "<>"}
_LONG: Final = {order: struct.Struct(order + "L") for order in "<>"}
_LONGEST_HEADER: Final = 12
_WINDOW_BYTES: Final = 16384  # holds most headers whole; a fragment's costs little to skip to
_PADDING_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one object may hold before it is refused."""

    maximum_elements: int = 1_000_000  # items and delimiters count too
    maximum_depth: int = 32  # nested sequences


@dataclass(frozen=True, slots=True)
class Encoding:
    """How tags, lengths and VRs are written."""

    explicit: bool
    order: str  # struct's "<" or ">"

    @property
    def short(self) -> struct.Struct:
        """Group, element, VR and 16-bit length."""
        return _SHORT[self.order]

    @property
    def long(self) -> struct.Struct:
        """A 32-bit length."""
        return _LONG[self.order]


IMPLICIT_LITTLE: Final = Encoding(explicit=False, order="<")
EXPLICIT_LITTLE: Final = Encoding(explicit=True, order="<")
EXPLICIT_BIG: Final = Encoding(explicit=True, order=">")


class Element(NamedTuple):
    """One element: where its value stands, and inside which first-level sequence item.

    `length` is None where it was undefined. `parent` and `item` are 0 at the top level.
    """

    tag: int
    parent: int
    item: int
    start: int
    length: int | None


@dataclass(slots=True)
class _Level:
    """One open sequence or item; `end` is None where its length is undefined."""

    tag: int
    is_item: bool
    end: int | None
    encoding: Encoding
    items: int = 0


def walk(data: Span, encoding: Encoding, bounds: Bounds, *, size: int) -> Iterator[Element]:
    """Yield the elements of the top level and of its sequences' items, in order.

    `data` may be the beginning only of a data set of `size` bytes, as long as every element's
    header stands in it. Raises ObjectUnparsable.
    """
    return _Walk(data, encoding, bounds, size).elements()


class _Walk:
    """The state of one walk: where it is and what is open around it."""

    def __init__(self, data: Span, encoding: Encoding, bounds: Bounds, size: int) -> None:
        self._data = data
        self._encoding = encoding
        self._bounds = bounds
        self._size = size
        self._offset = 0
        self._count = 0
        self._open: list[_Level] = []
        self._window = b""
        self._window_start = 0

    def elements(self) -> Iterator[Element]:
        while (self._offset < self._size and not self._open) or not self._at_end():
            self._step_count()
            window, at = self._window_here()
            if window[at : at + 1] == b"\0" and not self._open and self._only_padding():
                return
            tag, vr, length, start = self._header(window, at)
            element: Element | None
            if vr in _SHORT_VRS and not self._open:  # most elements are of this simple kind
                self._offset = self._end(start, length)
                element = Element(tag, 0, 0, start, length)
            else:
                element = self._next(tag, vr, length, start)
            if element is not None:
                yield element
                if tag in PIXEL_TAGS and element.parent == 0:
                    return

    def _step_count(self) -> None:
        self._count += 1
        if self._count > self._bounds.maximum_elements:
            raise ObjectUnparsable("the data set has too many elements")

    def _at_end(self) -> bool:
        """Close what has reached its end; True when the data set has."""
        while self._open:
            end = self._open[-1].end
            if end is None or self._offset < end:
                break
            if self._offset > end:
                raise ObjectUnparsable("an element runs past the end of its sequence")
            self._open.pop()
        if self._offset < self._size:
            return False
        if self._open:
            raise ObjectUnparsable("the data set ends inside a sequence")
        return True

    def _window_here(self) -> tuple[bytes, int]:
        """Return a window that holds the next header, if the data do, and where it begins there."""
        at = self._offset - self._window_start
        if at + _LONGEST_HEADER > len(self._window):
            self._window_start, at = self._offset, 0
            self._window = bytes(self._data[self._offset : self._offset + _WINDOW_BYTES])
        return self._window, at

    def _only_padding(self) -> bool:
        """Whether nothing but zeros follows: some writers fill their files up to a block."""
        window, at = self._window_here()
        if any(window[at : at + 8]):
            return False
        for start in range(self._offset, len(self._data), _PADDING_BYTES):
            if bytes(self._data[start : start + _PADDING_BYTES]).strip(b"\0"):
                raise ObjectUnparsable("an element has the tag (0000,0000)")
        return True

    def _next(self, tag: int, vr: bytes, length: int, start: int) -> Element | None:
        """Step over or into what a header announces."""
        if tag in (_ITEM, _ITEM_END, _SEQUENCE_END):
            self._step_delimiter(tag, length, start)
            return None
        if self._open and not self._open[-1].is_item:
            raise ObjectUnparsable("a sequence holds something other than items")
        depth = len(self._open)
        parent, item = (self._open[0].tag, self._open[0].items) if depth else (0, 0)
        self._step_element(tag, vr, length, start)
        if depth > 2:  # deeper than an item of a first-level sequence
            return None
        return Element(tag, parent, item, start, None if length == _UNDEFINED else length)

    def _header(self, window: bytes, at: int) -> tuple[int, bytes, int, int]:
        """Return tag, VR (empty where not written), length and the offset of the value."""
        encoding = self._open[-1].encoding if self._open else self._encoding
        if len(window) - at < 8:
            raise ObjectUnparsable("the data set ends inside an element")
        group, number, vr, length = encoding.short.unpack_from(window, at)
        tag = group << 16 | number
        if not encoding.explicit or group == 0xFFFE:
            return tag, b"", encoding.long.unpack_from(window, at + 4)[0], self._offset + 8
        if vr in _SHORT_VRS:
            return tag, vr, length, self._offset + 8
        if not (vr.isalpha() and vr.isupper()):
            raise ObjectUnparsable("an element has no value representation")
        if len(window) - at < _LONGEST_HEADER:
            raise ObjectUnparsable("the data set ends inside an element")
        return tag, vr, encoding.long.unpack_from(window, at + 8)[0], self._offset + 12

    def _step_delimiter(self, tag: int, length: int, start: int) -> None:
        level = self._open[-1] if self._open else None
        if level is None or level.is_item == (tag != _ITEM_END):
            raise ObjectUnparsable("an item or delimiter stands where none belongs")
        self._offset = start
        if tag != _ITEM:
            if level.end is not None:
                raise ObjectUnparsable("an item or delimiter stands where none belongs")
            self._open.pop()
            return
        level.items += 1
        end = None if length == _UNDEFINED else self._end(start, length)
        self._open.append(_Level(level.tag, True, end, level.encoding))

    def _step_element(self, tag: int, vr: bytes, length: int, start: int) -> None:
        if length == _UNDEFINED and (vr in (b"OB", b"OW") or tag in PIXEL_TAGS):
            self._step_fragments(start)
        elif length == _UNDEFINED or _is_sequence(tag, vr):
            if length == _UNDEFINED and vr not in (b"", b"SQ", b"UN"):
                raise ObjectUnparsable("an element has an undefined length that it may not have")
            # PS3.5 6.2.2 note 2: the content of UN with undefined length is implicit little endian.
            outside = self._open[-1].encoding if self._open else self._encoding
            within = IMPLICIT_LITTLE if vr == b"UN" else outside
            end = None if length == _UNDEFINED else self._end(start, length)
            if sum(not level.is_item for level in self._open) >= self._bounds.maximum_depth:
                raise ObjectUnparsable("sequences are nested too deeply")
            self._open.append(_Level(tag, False, end, within))
            self._offset = start
        else:
            self._offset = self._end(start, length)

    def _step_fragments(self, start: int) -> None:
        """Step over encapsulated pixel data (PS3.5 annex A.4): items up to the delimiter."""
        self._offset = start
        while True:
            self._step_count()
            tag, _, length, start = self._header(*self._window_here())
            if tag == _SEQUENCE_END:
                self._offset = start
                return
            if tag != _ITEM or length == _UNDEFINED:
                raise ObjectUnparsable("the encapsulated pixel data is cut short or damaged")
            self._offset = self._end(start, length)

    def _end(self, start: int, length: int) -> int:
        if length > self._size - start:
            raise ObjectUnparsable("the data set is cut short: an element is longer than the rest")
        return start + length


def _is_sequence(tag: int, vr: bytes) -> bool:
    if vr:
        return vr == b"SQ"
    entry = DicomDictionary.get(tag)
    return entry is not None and entry[0] == "SQ"
