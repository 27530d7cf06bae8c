"""DICOM files and bare data sets (PS3.10 section 7): what is the data set, how is it encoded.

Owns the split of received bytes into file meta information and data set, the guess where there is
no meta information, and the meta information that this program writes before the data set in its
store. The data set itself is kept as received, byte by byte; the preamble, which may hold foreign
code (CVE-2019-11687), is not.
"""

import hashlib
import re
import struct
import zlib
from dataclasses import dataclass
from typing import Final

from triage.errors import ObjectRefused, ObjectUnparsable
from triage.ingest.elements import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    Encoding,
)
from triage.store import MIB, Bytes

IMPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1.99"
EXPLICIT_VR_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
MEDIA_STORAGE_DIRECTORY: Final = "1.2.840.10008.1.3.10"
# Names this implementation in associations and stored files (PS3.7 D.3.3.2); a UUID (PS3.5 B.2).
IMPLEMENTATION_CLASS_UID: Final = "2.25.172394580326214091735220953418607742159"
IMPLEMENTATION_VERSION_NAME: Final = "TRIAGE"

_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)*\Z")
_PREFIX_END: Final = 132
_MEDIA_STORAGE_SOP_CLASS_UID: Final = 0x0002
_TRANSFER_SYNTAX_UID: Final = 0x0010
_LONG_META_VRS: Final = (b"OB", b"UN", b"UR", b"UT", b"UC")
_MOST_META_ELEMENTS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """An encoded data set as received, without preamble and meta information."""

    transfer_syntax_uid: str
    encoded: Bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Inflated:
    """The readable beginning of a data set; `size` counts all of it, after inflation."""

    beginning: Bytes
    size: int


def is_uid(text: str) -> bool:
    """Whether `text` is a UID by form: digits and dots, 64 characters (PS3.5 section 9.1).

    Components with leading zeros, which the Standard forbids, are let pass: they occur in the
    field and harm nobody, and refusing them would keep a patient's image from being read.
    """
    return len(text) <= 64 and _UID.match(text) is not None


def split(data: Bytes) -> DataSet:
    """Find the data set in the bytes of a file, with or without preamble and meta information.

    Raises ObjectUnparsable for what is no DICOM, ObjectRefused for a DICOMDIR.
    """
    view = memoryview(data)
    if bytes(view[128:_PREFIX_END]) == b"DICM":
        return _after_meta(view[_PREFIX_END:])
    if bytes(view[:2]) == b"\x02\x00":
        return _after_meta(view)
    return DataSet(transfer_syntax_uid=_guess(view), encoded=view)


def encoding_of(transfer_syntax_uid: str) -> Encoding:
    """Return how elements are written; every encapsulated syntax is explicit little endian."""
    if transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN:
        return IMPLICIT_LITTLE
    return EXPLICIT_BIG if transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN else EXPLICIT_LITTLE


def inflated(data_set: DataSet, *, maximum_header_mib: int, maximum_inflated_mib: int) -> Inflated:
    """Return the data set as it can be walked; a deflated one is inflated as a stream, in bounds.

    Only the first `maximum_header_mib` are held in memory, the rest is counted and let go.
    """
    if data_set.transfer_syntax_uid != DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        return Inflated(beginning=data_set.encoded, size=len(data_set.encoded))
    stream = zlib.decompressobj(-zlib.MAX_WBITS)  # PS3.5 A.5: deflate without zlib's frame
    beginning = bytearray()
    size = 0
    rest: Bytes = data_set.encoded
    try:
        while not stream.eof:
            piece = stream.decompress(rest, MIB)
            rest = stream.unconsumed_tail
            if not piece and not stream.eof and not rest:
                raise ObjectUnparsable("the deflated data set is cut short")
            size += len(piece)
            if len(beginning) < maximum_header_mib * MIB:
                beginning += piece
            if size > maximum_inflated_mib * MIB:
                raise ObjectUnparsable("the deflated data set inflates beyond the limit")
    except zlib.error as error:
        raise ObjectUnparsable("the deflated data set is damaged") from error
    return Inflated(beginning=beginning, size=size)


def digest_of(data_set: DataSet) -> str:
    """Return the SHA-256 (hex) of transfer syntax UID and data set bytes: the object's identity."""
    digest = hashlib.sha256(data_set.transfer_syntax_uid.encode("ascii"))
    digest.update(data_set.encoded)
    return digest.hexdigest()


def file_meta(*, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Return preamble, prefix and file meta information (PS3.10 table 7.1-1) for our own file."""
    group = b"".join(
        (
            struct.pack("<HH2sHL", 2, 1, b"OB", 0, 2) + b"\x00\x01",
            _short(0x02, b"UI", sop_class_uid),
            _short(0x03, b"UI", sop_instance_uid),
            _short(0x10, b"UI", transfer_syntax_uid),
            _short(0x12, b"UI", IMPLEMENTATION_CLASS_UID),
            _short(0x13, b"SH", IMPLEMENTATION_VERSION_NAME),
        )
    )
    length = struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(group))
    return b"".join((bytes(128), b"DICM", length, group))


def _short(number: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii")
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", 2, number, vr, len(value)) + value


def _after_meta(view: memoryview) -> DataSet:
    """Read group 0002 element by element: its group length is often missing or wrong."""
    values: dict[int, str] = {}
    offset = 0
    for _ in range(_MOST_META_ELEMENTS):
        if bytes(view[offset : offset + 2]) != b"\x02\x00" or len(view) - offset < 12:
            break
        number, vr, length = struct.unpack_from("<2xH2sH", view, offset)
        start = offset + 8
        if vr in _LONG_META_VRS:
            length = struct.unpack_from("<L", view, start)[0]
            start += 4
        if length > len(view) - start:
            raise ObjectUnparsable("the file meta information is cut short")
        offset = start + length
        if number in (_MEDIA_STORAGE_SOP_CLASS_UID, _TRANSFER_SYNTAX_UID):
            raw = bytes(view[start : min(offset, start + 65)])
            values[number] = raw.decode("ascii", "replace").strip("\0 ")
    if values.get(_MEDIA_STORAGE_SOP_CLASS_UID) == MEDIA_STORAGE_DIRECTORY:
        raise ObjectRefused("a DICOMDIR lists other files and holds no instance itself")
    syntax = values.get(_TRANSFER_SYNTAX_UID, "")
    if not is_uid(syntax):
        raise ObjectUnparsable("the file meta information names no transfer syntax")
    return DataSet(transfer_syntax_uid=syntax, encoded=view[offset:])


def _guess(view: memoryview) -> str:
    """Guess the encoding of a bare data set by its first element, which is of group 0008."""
    first, explicit = bytes(view[:2]), bytes(view[4:6])
    spelled = explicit.isalpha() and explicit.isupper()
    if first == b"\x08\x00":
        return EXPLICIT_VR_LITTLE_ENDIAN if spelled else IMPLICIT_VR_LITTLE_ENDIAN
    if first == b"\x00\x08" and spelled:
        return EXPLICIT_VR_BIG_ENDIAN
    raise ObjectUnparsable("the file is no DICOM: neither prefix, meta information nor data set")
