"""A-ASSOCIATE-RQ, read strictly and without trust (PS3.8 9.3.2, PS3.7 annex D.3.3).

Owns the decoding of the one PDU that anybody may send. Written by hand, because the library's
decoder logs a traceback for each text that it dislikes, and a request has room for thousands.
Unknown items are passed over, as the Standard wants it; lengths that disagree are an error.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from triage.ingest.network_guard import INVALID_PARAMETER, MOST_CONTEXTS, MOST_SYNTAXES
from triage.ingest.pdu_reader import ProtocolError

_APPLICATION_CONTEXT: Final = 0x10
_PRESENTATION_CONTEXT: Final = 0x20
_ABSTRACT_SYNTAX: Final = 0x30
_TRANSFER_SYNTAX: Final = 0x40
_USER_INFORMATION: Final = 0x50
_MAXIMUM_LENGTH: Final = 0x51
_ASYNCHRONOUS_WINDOW: Final = 0x53
_ROLE_SELECTION: Final = 0x54
_EXTENDED_NEGOTIATION: Final = 0x56

_ITEM: Final = struct.Struct(">BxH")
_FIXED: Final = struct.Struct(">6xH2x16s16s32x")  # PDU header, version, called, calling


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """One proposed presentation context; the UIDs may be ill-formed."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What the requestor offers to be for one SOP Class."""

    sop_class_uid: str
    scu: bool
    scp: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UserInformation:
    """What the requestor said of itself, as far as it matters here."""

    maximum_length: int = 0  # of a P-DATA-TF towards it; 0 is unlimited
    has_window: bool = False
    roles: tuple[Role, ...] = ()
    extended_sop_class_uids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An association request that was understood."""

    encoded: bytes
    protocol_version: int
    called_ae_title: str
    calling_ae_title: str
    application_context: str
    proposals: tuple[Proposal, ...]
    user: UserInformation = field(default_factory=UserInformation)


def read(encoded: bytes) -> Request:
    """Decode the whole PDU, header included. Raises ProtocolError."""
    if len(encoded) < _FIXED.size:
        raise ProtocolError(INVALID_PARAMETER, "an association request that is cut short")
    version, called, calling = _FIXED.unpack_from(encoded)
    application_context = ""
    proposals: list[Proposal] = []
    user = UserInformation()
    for kind, value in _items(encoded[_FIXED.size :]):
        if kind == _APPLICATION_CONTEXT:
            application_context = _text(value)
        elif kind == _PRESENTATION_CONTEXT:
            proposals.append(_proposal(value))
            if len(proposals) > MOST_CONTEXTS:
                raise ProtocolError(INVALID_PARAMETER, "more contexts than there are identifiers")
        elif kind == _USER_INFORMATION:
            user = _user_information(value)
    if len({proposal.context_id for proposal in proposals}) < len(proposals):
        raise ProtocolError(INVALID_PARAMETER, "presentation contexts that share an identifier")
    return Request(
        encoded=encoded,
        protocol_version=version,
        called_ae_title=_title(called),
        calling_ae_title=_title(calling),
        application_context=application_context,
        proposals=tuple(proposals),
        user=user,
    )


def _proposal(value: bytes) -> Proposal:
    if len(value) < 4 or not value[0] % 2:
        raise ProtocolError(INVALID_PARAMETER, "a presentation context without odd identifier")
    abstract_syntaxes: list[str] = []
    transfer_syntaxes: dict[str, None] = {}
    for kind, text in _items(value[4:]):
        if kind == _ABSTRACT_SYNTAX:
            abstract_syntaxes.append(_text(text))
        elif kind == _TRANSFER_SYNTAX:
            transfer_syntaxes[_text(text)] = None
    if len(abstract_syntaxes) != 1 or not 0 < len(transfer_syntaxes) <= MOST_SYNTAXES:
        raise ProtocolError(INVALID_PARAMETER, "a presentation context without its syntaxes")
    return Proposal(
        context_id=value[0],
        abstract_syntax=abstract_syntaxes[0],
        transfer_syntaxes=tuple(transfer_syntaxes),
    )


def _user_information(value: bytes) -> UserInformation:
    maximum_length = 0
    has_window = False
    roles: dict[str, Role] = {}
    extended: dict[str, None] = {}
    for kind, item in _items(value):
        if kind == _MAXIMUM_LENGTH and len(item) == 4:
            maximum_length = int.from_bytes(item, "big")
        elif kind == _ASYNCHRONOUS_WINDOW:
            has_window = True
        elif kind == _ROLE_SELECTION:
            uid, rest = _uid_and_rest(item)
            if len(rest) != 2:
                raise ProtocolError(INVALID_PARAMETER, "a role selection of impossible length")
            roles[uid] = Role(sop_class_uid=uid, scu=bool(rest[0]), scp=bool(rest[1]))
        elif kind == _EXTENDED_NEGOTIATION:
            extended[_uid_and_rest(item)[0]] = None
    return UserInformation(
        maximum_length=maximum_length,
        has_window=has_window,
        roles=tuple(roles.values()),
        extended_sop_class_uids=tuple(extended),
    )


def _items(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset < len(encoded):
        if len(encoded) - offset < _ITEM.size:
            raise ProtocolError(INVALID_PARAMETER, "an item that is cut short")
        kind, length = _ITEM.unpack_from(encoded, offset)
        offset += _ITEM.size
        if length > len(encoded) - offset:
            raise ProtocolError(INVALID_PARAMETER, "an item longer than what holds it")
        yield kind, encoded[offset : offset + length]
        offset += length


def _uid_and_rest(item: bytes) -> tuple[str, bytes]:
    length = int.from_bytes(item[:2], "big")
    if len(item) < 2 + length:
        raise ProtocolError(INVALID_PARAMETER, "an item longer than what holds it")
    return _text(item[2 : 2 + length]), item[2 + length :]


def _text(value: bytes) -> str:
    return value.rstrip(b"\0 ").decode("latin-1")


def _title(value: bytes) -> str:
    """An AE title fit for a log: what the Standard does not allow in one becomes "?".

    Spaces around it do not count (PS3.5 6.2); nothing else is passed over, or who is not on the
    list could look like who is.
    """
    text = value.rstrip(b"\0 ").lstrip(b" ").decode("latin-1")
    allowed = (" " <= letter <= "~" and letter != "\\" for letter in text)
    return "".join(letter if is_so else "?" for letter, is_so in zip(text, allowed, strict=True))
