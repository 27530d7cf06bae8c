"""DIMSE command sets: the flat list of elements before each message (PS3.7 section 6.3).

Owns reading the few elements that a storage SCP looks at, and writing responses. Written out by
hand, always implicit VR little endian: a library's data set per message costs more than all else
that is done for a small one.
"""

import struct
from dataclasses import dataclass
from typing import Final

from triage.ingest.network_guard import OWN_DECISION
from triage.ingest.part10 import is_uid
from triage.ingest.pdu_reader import ProtocolError

C_STORE_RQ: Final = 0x0001  # PS3.7 table E.1-1
C_FIND_RQ: Final = 0x0020
C_GET_RQ: Final = 0x0010
C_MOVE_RQ: Final = 0x0021
C_ECHO_RQ: Final = 0x0030
C_CANCEL_RQ: Final = 0x0FFF
COMPOSITE_OTHERS: Final = frozenset((C_FIND_RQ, C_GET_RQ, C_MOVE_RQ))
NORMALISED: Final = frozenset((0x0100, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150))
_RESPONSE: Final = 0x8000
_NO_DATA_SET: Final = 0x0101

_AFFECTED_CLASS: Final = 0x0002
_REQUESTED_CLASS: Final = 0x0003
_FIELD: Final = 0x0100
_MESSAGE_ID: Final = 0x0110
_MESSAGE_ID_RESPONDED_TO: Final = 0x0120
_PRIORITY: Final = 0x0700
_DATA_SET_TYPE: Final = 0x0800
_STATUS: Final = 0x0900
_ERROR_COMMENT: Final = 0x0902
_AFFECTED_INSTANCE: Final = 0x1000
_LONGEST_COMMENT: Final = 64  # LO

_HEADER: Final = struct.Struct("<HHI")
_PDV: Final = struct.Struct(">BBIIBB")
_P_DATA_TF: Final = 0x04
_COMMAND_LAST: Final = 0x03
_COMMAND_MORE: Final = 0x01


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One request as the peer wrote it. UIDs may be ill-formed, and empty where missing."""

    field: int
    message_id: int
    has_data_set: bool
    sop_class_uid: str
    sop_instance_uid: str
    priority: int | None

    @property
    def is_cancel(self) -> bool:
        """Whether this is C-CANCEL, which has no response."""
        return self.field == C_CANCEL_RQ


def read_command(encoded: bytes) -> Command:
    """Decode a command set. Raises ProtocolError where it cannot be answered."""
    values = _values(encoded)
    field = _number(values, _FIELD)
    message_id = _number(values, _MESSAGE_ID)
    data_set_type = _number(values, _DATA_SET_TYPE)
    if field is None or data_set_type is None or (message_id is None and field != C_CANCEL_RQ):
        raise ProtocolError(OWN_DECISION, "a command set without its mandatory elements")
    return Command(
        field=field,
        message_id=message_id or 0,
        has_data_set=data_set_type != _NO_DATA_SET,
        sop_class_uid=_uid(values.get(_AFFECTED_CLASS) or values.get(_REQUESTED_CLASS)),
        sop_instance_uid=_uid(values.get(_AFFECTED_INSTANCE)),
        priority=_number(values, _PRIORITY),
    )


def response(request: Command, status: int, comment: str = "") -> bytes:
    """Encode the response to `request`; UIDs are given back where they are such."""
    elements = [
        _unsigned(_FIELD, request.field | _RESPONSE),
        _unsigned(_MESSAGE_ID_RESPONDED_TO, request.message_id),
        _unsigned(_DATA_SET_TYPE, _NO_DATA_SET),
        _unsigned(_STATUS, status),
    ]
    if is_uid(request.sop_class_uid):
        elements.insert(0, _text(_AFFECTED_CLASS, request.sop_class_uid, b"\0"))
    if comment:
        shown = comment.replace("\\", "/").encode("ascii", "replace")[:_LONGEST_COMMENT].decode()
        elements.append(_text(_ERROR_COMMENT, shown, b" "))
    if is_uid(request.sop_instance_uid):
        elements.append(_text(_AFFECTED_INSTANCE, request.sop_instance_uid, b"\0"))
    body = b"".join(elements)
    return _HEADER.pack(0, 0, 4) + struct.pack("<I", len(body)) + body


def as_pdus(context_id: int, command_set: bytes, *, maximum_length: int) -> bytes:
    """Wrap a command set in P-DATA-TF PDUs no longer than the peer takes; 0 is unlimited."""
    room = max(1, maximum_length - 6) if maximum_length else len(command_set)
    pdus = []
    for start in range(0, len(command_set), room):
        part = command_set[start : start + room]
        control = _COMMAND_LAST if start + room >= len(command_set) else _COMMAND_MORE
        header = _PDV.pack(_P_DATA_TF, 0, len(part) + 6, len(part) + 2, context_id, control)
        pdus += [header, part]
    return b"".join(pdus)


def _values(encoded: bytes) -> dict[int, bytes]:
    values: dict[int, bytes] = {}
    offset = 0
    while offset < len(encoded):
        if len(encoded) - offset < _HEADER.size:
            raise ProtocolError(OWN_DECISION, "a command set that is cut short")
        group, element, length = _HEADER.unpack_from(encoded, offset)
        offset += _HEADER.size
        if group != 0 or length > len(encoded) - offset:
            raise ProtocolError(OWN_DECISION, "a command set that is no list of its elements")
        values[element] = encoded[offset : offset + length]
        offset += length
    return values


def _number(values: dict[int, bytes], element: int) -> int | None:
    value = values.get(element, b"")
    return int.from_bytes(value, "little") if len(value) == 2 else None


def _uid(value: bytes | None) -> str:
    return (value or b"").rstrip(b"\0 ").decode("latin-1")


def _unsigned(element: int, value: int) -> bytes:
    return _HEADER.pack(0, element, 2) + value.to_bytes(2, "little")


def _text(element: int, text: str, padding: bytes) -> bytes:
    value = text.encode("ascii")
    value += padding * (len(value) % 2)
    return _HEADER.pack(0, element, len(value)) + value
