"""Read what triage needs of one object's header, as text that both databases and every page take.

Owns which elements are read, how their text is decoded by Specific Character Set (0008,0005)
(PS3.5 section 6.1, PS3.3 C.12.1.1.2) and how it is cleaned: no NUL, no control characters, no
lone surrogates, bounded length. What cannot be decoded becomes U+FFFD: a name shown with a hole
is better than a study refused. Pixels are found, not read.
"""

import re
import struct
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Final

from pydicom.charset import python_encoding

from triage.errors import IdentifiersInvalid, ObjectUnparsable
from triage.ingest.elements import PIXEL_TAGS, Bounds, Element, Encoding, walk
from triage.ingest.part10 import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    DataSet,
    Inflated,
    encoding_of,
    inflated,
    is_uid,
)
from triage.ingest.span import Span
from triage.records import Header

LONGEST_TEXT: Final = 256  # characters kept of any value; names of three groups fit
_LONGEST_VALUE: Final = 1024  # bytes read of any value
_NEAR_BYTES: Final = 65536  # of the beginning, where most values stand: fetched at once
_MOST_VALUES: Final = 16  # values kept of a multi-valued element

_SPECIFIC_CHARACTER_SET: Final = 0x00080005
_PROCEDURE_CODE_SEQUENCE: Final = 0x00081032
_CODE_VALUE: Final = 0x00080100
_ROWS, _COLUMNS = 0x00280010, 0x00280011
_IMAGE_LATERALITY, _LATERALITY = 0x00200062, 0x00200060
_IMAGE_TYPE, _NUMBER_OF_FRAMES, _INSTANCE_NUMBER = 0x00080008, 0x00280008, 0x00200013

_UIDS: Final = {
    0x00080016: "sop_class_uid",
    0x00080018: "sop_instance_uid",
    0x0020000D: "study_instance_uid",
    0x0020000E: "series_instance_uid",
}
_TEXTS: Final = {
    0x00080020: "study_date",
    0x00080030: "study_time",
    0x00080050: "accession_number",
    0x00080060: "modality",
    0x00080068: "presentation_intent_type",
    0x00080080: "institution_name",
    0x00080090: "referring_physician_name",
    0x00080201: "timezone_offset_from_utc",
    0x00081010: "station_name",
    0x00081030: "study_description",
    0x0008103E: "series_description",
    0x00100010: "patient_name",
    0x00100020: "patient_id",
    0x00100021: "issuer_of_patient_id",
    0x00100030: "patient_birth_date",
    0x00100040: "patient_sex",
    0x00101010: "patient_age",
    0x00180015: "body_part_examined",
    0x00185101: "view_position",
    0x00280004: "photometric_interpretation",
    0x00280301: "burned_in_annotation",
    0x00380300: "current_patient_location",
}
_WANTED: Final = frozenset(_UIDS) | frozenset(_TEXTS) | {
    _SPECIFIC_CHARACTER_SET,
    _ROWS,
    _COLUMNS,
    _IMAGE_LATERALITY,
    _LATERALITY,
    _IMAGE_TYPE,
    _NUMBER_OF_FRAMES,
    _INSTANCE_NUMBER,
}  # fmt: skip

# Escape sequences of ISO 2022 (PS3.3 table C.12-3 and C.12-4) and the codec of what follows them;
# the last three codecs want to see the escape sequence itself.
_ESCAPES: Final = {
    b"\x1b(B": "ascii",
    b"\x1b-A": "latin_1",
    b"\x1b-B": "iso8859_2",
    b"\x1b-C": "iso8859_3",
    b"\x1b-D": "iso8859_4",
    b"\x1b-F": "iso8859_7",
    b"\x1b-G": "iso8859_6",
    b"\x1b-H": "iso8859_8",
    b"\x1b-L": "iso8859_5",
    b"\x1b-M": "iso8859_9",
    b"\x1b-T": "iso8859_11",
    b"\x1b-b": "iso8859_15",
    b"\x1b(J": "shift_jis",
    b"\x1b)I": "shift_jis",
    b"\x1b$)C": "euc_kr",
    b"\x1b$)A": "gb2312",
    b"\x1b$B": "iso2022_jp",
    b"\x1b$(D": "iso2022_jp_2",
}
_NEEDS_ESCAPE: Final = ("iso2022_jp", "iso2022_jp_2")
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_WHOLE: Final = re.compile(r"\s*([+-]?[0-9]{1,10})\s*\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderLimits:
    """Bounds on one object, before anything is allocated for it."""

    maximum_object_mib: int = 2048
    maximum_inflated_mib: int = 2048  # a deflated data set after inflation
    maximum_header_mib: int = 64  # of a deflated data set: where its last header must end
    bounds: Bounds = field(default_factory=Bounds)


def read_header(
    data_set: DataSet,
    limits: HeaderLimits,
    inflating: AbstractContextManager[object] | None = None,
) -> Header:
    """Read the header of one object. Raises ObjectUnparsable or IdentifiersInvalid.

    `inflating` is held while a deflated data set is in memory, as far as `maximum_header_mib`.
    """
    syntax = data_set.transfer_syntax_uid
    if not is_uid(syntax):
        raise ObjectUnparsable("the transfer syntax is no UID")
    deflated = syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
    with inflating if inflating is not None and deflated else nullcontext():
        content = inflated(
            data_set,
            maximum_header_mib=limits.maximum_header_mib,
            maximum_inflated_mib=limits.maximum_inflated_mib,
        )
        encoding = _as_written(encoding_of(syntax), content.beginning)
        values, has_pixels = _collect(content, encoding, limits.bounds)
        del content
    uids = _identifiers(values)
    return _header(values, uids, syntax, encoding, has_pixels=has_pixels)


def clean(text: str, longest: int = LONGEST_TEXT) -> str:
    """Return `text` without what a database, a log or a page could stumble over."""
    return _UNPRINTABLE.sub("", text).strip()[:longest]


def decode_text(raw: bytes, character_sets: list[str]) -> str:
    """Decode one value by the terms of Specific Character Set; never fails."""
    first = _codec(character_sets[0] if character_sets else "")
    if b"\x1b" not in raw:
        return raw.decode(first, "replace")
    pieces = [raw[: raw.index(b"\x1b")].decode(first, "replace")]
    for piece in re.split(rb"(?=\x1b)", raw[raw.index(b"\x1b") :]):
        if piece:
            pieces.append(_decode_piece(piece, first))
    return "".join(pieces)


def _decode_piece(piece: bytes, first: str) -> str:
    """Decode a piece that begins with an escape sequence."""
    escape = next((known for known in _ESCAPES if piece.startswith(known)), b"")
    codec = _ESCAPES.get(escape, first)
    if codec in _NEEDS_ESCAPE:
        return piece.decode(codec, "replace")
    body = piece[len(escape) :] if escape else piece[1:]
    return body.decode(codec, "replace")


def _codec(term: str) -> str:
    term = term.strip()
    # Many writers spell ISO_IR 100 with a blank or a hyphen; no term at all means the default
    # repertoire, where latin-1 shows stray bytes of the most frequent misconfiguration rightly.
    for spelling in (term, term.replace("ISO IR", "ISO_IR"), term.replace("ISO-IR", "ISO_IR")):
        if spelling == "ISO_IR 203":  # Latin-9, younger than the library's table
            return "iso8859_15"
        if spelling in python_encoding:
            codec = python_encoding[spelling]
            return "latin_1" if codec in ("iso8859", "ascii") else codec
    return "latin_1"


def _as_written(declared: Encoding, beginning: Span) -> Encoding:
    """Return the encoding in use: some writers name an explicit syntax and write implicit."""
    vr = bytes(beginning[4:6])
    spelled = vr.isalpha() and vr.isupper()
    return Encoding(explicit=spelled, order=declared.order) if beginning else declared


def _collect(
    content: Inflated, encoding: Encoding, bounds: Bounds
) -> tuple[Mapping[int, bytes], bool]:
    """Return the raw values of wanted elements, and whether pixel data with content is there."""
    values: dict[int, bytes] = {}
    near = bytes(content.beginning[:_NEAR_BYTES])
    for element in walk(content.beginning, encoding, bounds, size=content.size):
        if element.parent == 0 and element.tag in PIXEL_TAGS:
            return values, element.length != 0
        key = _wanted(element)
        if key is None or element.length is None:
            continue
        if key in values:
            # Two readers could take two different ones for the identity of one object.
            raise ObjectUnparsable("an element that identifies the object occurs twice")
        end = element.start + min(element.length, _LONGEST_VALUE)
        where = near if end <= len(near) else content.beginning
        values[key] = bytes(where[element.start : end])
    return values, False


def _wanted(element: Element) -> int | None:
    if element.parent == 0:
        return element.tag if element.tag in _WANTED else None
    if element.parent == _PROCEDURE_CODE_SEQUENCE and element.item == 1:
        return element.tag if element.tag == _CODE_VALUE else None
    return None


def _identifiers(values: Mapping[int, bytes]) -> dict[str, str]:
    """Return the four UIDs that every composite instance has. Raises IdentifiersInvalid."""
    found = {
        name: values.get(tag, b"").decode("ascii", "replace").strip("\0 ")
        for tag, name in _UIDS.items()
    }
    missing = [name for name, value in found.items() if not value]
    if missing:
        raise IdentifiersInvalid(f"the data set has no {' and no '.join(missing)}")
    bad = [name for name, value in found.items() if not is_uid(value)]
    if bad:
        raise IdentifiersInvalid(f"the data set has an ill-formed {' and '.join(bad)}")
    return found


def _header(
    values: Mapping[int, bytes],
    uids: Mapping[str, str],
    transfer_syntax_uid: str,
    encoding: Encoding,
    *,
    has_pixels: bool,
) -> Header:
    character_sets = values.get(_SPECIFIC_CHARACTER_SET, b"").decode("ascii", "replace").split("\\")

    def text(tag: int) -> str:
        return clean(decode_text(values.get(tag, b""), character_sets))

    rows, columns = (_unsigned(values.get(tag, b""), encoding) for tag in (_ROWS, _COLUMNS))
    if has_pixels and not (rows and columns):
        raise ObjectUnparsable("the data set has pixel data without Rows or Columns")
    image_type = tuple(clean(part) for part in text(_IMAGE_TYPE).split("\\")[:_MOST_VALUES])
    return Header(
        sop_class_uid=uids["sop_class_uid"],
        sop_instance_uid=uids["sop_instance_uid"],
        study_instance_uid=uids["study_instance_uid"],
        series_instance_uid=uids["series_instance_uid"],
        transfer_syntax_uid=transfer_syntax_uid,
        **{name: text(tag).rstrip("=") for tag, name in _TEXTS.items()},  # PN: empty groups
        procedure_code=text(_CODE_VALUE),
        laterality=text(_IMAGE_LATERALITY) or text(_LATERALITY),
        image_type=image_type if image_type != ("",) else (),
        rows=rows,
        columns=columns,
        number_of_frames=max(1, _whole(text(_NUMBER_OF_FRAMES)) or 1),
        instance_number=_whole(text(_INSTANCE_NUMBER)),
        has_pixels=has_pixels,
    )


def _unsigned(raw: bytes, encoding: Encoding) -> int:
    """Read US; 0 where it is absent or has another length."""
    return int(struct.unpack(encoding.order + "H", raw)[0]) if len(raw) == 2 else 0


def _whole(text: str) -> int | None:
    """Read IS (PS3.5 6.2); None where it is none or leaves 32 bits."""
    match = _WHOLE.match(text)
    number = int(match[1]) if match else None
    return number if number is not None and abs(number) < 2**31 else None
