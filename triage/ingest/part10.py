"""DICOM files and bare data sets (PS3.10 section 7): what is the data set, how is it encoded.

Owns the split of received bytes into file meta information and data set, the guess where there is
no meta information, and the meta information that this program writes before the data set in its
store: always META_BYTES long, so that its room can be kept free while the data set, which names
what it has to say, is still arriving. The data set itself is kept as received, byte by byte; the
preamble, which may hold foreign code (CVE-2019-11687), is not.
"""

import hashlib
import mmap
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from triage.errors import ObjectRefused, ObjectUnparsable
from triage.ingest.elements import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, Encoding
from triage.ingest.span import Span, pieces
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
_LONGEST_UID: Final = 64
_DEFLATED_PIECE: Final = 65536
LONGEST_META: Final = 65536  # bytes of a file that are searched for the end of its meta information
# Images shrink a hundredfold at most, but for masks and blank ones, which are seldom large.
ANY_RATIO_MIB: Final = 512
HIGHEST_RATIO: Final = 200
META_BYTES: Final = 512  # three UIDs of full length leave 8 of them for padding


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """An encoded data set as received, without preamble and meta information."""

    transfer_syntax_uid: str
    encoded: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Inflated:
    """The readable beginning of a data set; `size` counts all of it, after inflation."""

    beginning: Span
    size: int


def is_uid(text: str) -> bool:
    """Whether `text` is a UID by form: digits and dots, 64 characters (PS3.5 section 9.1).

    Components with leading zeros, which the Standard forbids, are let pass: they occur in the
    field and harm nobody, and refusing them would keep a patient's image from being read.
    """
    return len(text) <= _LONGEST_UID and _UID.match(text) is not None


def split(data: Bytes) -> DataSet:
    """Find the data set in the bytes of a file, with or without preamble and meta information.

    `data` may be the beginning of a file; the first LONGEST_META bytes of it must suffice.
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

    Only the first `maximum_header_mib` are held in memory, the rest is counted and let go. A few
    kilobytes can inflate to gigabytes, which takes seconds: beyond ANY_RATIO_MIB a data set may
    not be larger than HIGHEST_RATIO times what it was inflated from.
    """
    if data_set.transfer_syntax_uid != DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        return Inflated(beginning=data_set.encoded, size=len(data_set.encoded))
    # A mapping of its own: what the allocator grew it through would stay with each thread.
    room = memoryview(
        mmap.mmap(-1, maximum_header_mib * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    )
    size = kept = 0
    for fed, piece in _inflated_pieces(data_set.encoded):
        size += len(piece)
        if size > maximum_inflated_mib * MIB:
            raise ObjectUnparsable("the deflated data set inflates beyond the limit")
        if size > ANY_RATIO_MIB * MIB and size > HIGHEST_RATIO * fed:
            raise ObjectUnparsable("the deflated data set inflates further than any image")
        taken = min(len(piece), len(room) - kept)
        room[kept : kept + taken] = piece[:taken]
        kept += taken
    return Inflated(beginning=room[:kept], size=size)


def _inflated_pieces(encoded: Span) -> Iterator[tuple[int, bytes]]:
    """Yield how much was fed so far and what came out of it, at most 1 MiB at a time.

    It is fed in small pieces: what zlib has not consumed is copied with each call.
    """
    stream = zlib.decompressobj(-zlib.MAX_WBITS)  # PS3.5 A.5: deflate without zlib's frame
    fed = 0
    try:
        for taken in pieces(encoded, _DEFLATED_PIECE):
            rest: Bytes = taken
            fed += len(taken)
            while rest and not stream.eof:
                yield fed, stream.decompress(rest, MIB)
                rest = stream.unconsumed_tail
            if stream.eof:
                return
        while piece := stream.decompress(b"", MIB):
            yield fed, piece
    except zlib.error as error:
        raise ObjectUnparsable("the deflated data set is damaged") from error
    if not stream.eof:
        raise ObjectUnparsable("the deflated data set is cut short")


def begin_digest(transfer_syntax_uid: str) -> "hashlib._Hash":
    """Return the SHA-256 that, fed with the data set bytes, becomes the object's identity."""
    return hashlib.sha256(transfer_syntax_uid.encode("ascii", "replace"))


def digest_of(data_set: DataSet) -> str:
    """Return the identity (hex) of a whole data set."""
    digest = begin_digest(data_set.transfer_syntax_uid)
    for piece in pieces(data_set.encoded, MIB):
        digest.update(piece)
    return digest.hexdigest()


def file_meta(*, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Return preamble, prefix and file meta information (PS3.10 table 7.1-1) for our own file.

    The UIDs have at most 64 characters. The result has META_BYTES: zeros in the private
    information fill it up.
    """
    elements = b"".join(
        (
            struct.pack("<HH2sHL", 2, 1, b"OB", 0, 2) + b"\x00\x01",
            _short(0x02, b"UI", sop_class_uid),
            _short(0x03, b"UI", sop_instance_uid),
            _short(0x10, b"UI", transfer_syntax_uid),
            _short(0x12, b"UI", IMPLEMENTATION_CLASS_UID),
            _short(0x13, b"SH", IMPLEMENTATION_VERSION_NAME),
            _short(0x100, b"UI", IMPLEMENTATION_CLASS_UID),
        )
    )
    length = META_BYTES - _PREFIX_END - 12  # of the group, less its length itself
    padding = length - len(elements) - 12
    private = struct.pack("<HH2sHL", 2, 0x102, b"OB", 0, padding) + bytes(padding)
    group_length = struct.pack("<HH2sHL", 2, 0, b"UL", 4, length)
    return b"".join((bytes(128), b"DICM", group_length, elements, private))


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
