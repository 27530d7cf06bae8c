"""What the receiver promises on the network, as rows: the source of the conformance statement.

Owns no value: each row is read from the module that acts on it (statuses, admission, negotiation,
network_guard), so a statement made from these rows cannot differ from what is done. Writes no text
beyond the words of a row. Outline: PS3.2 annex N.
"""

from dataclasses import dataclass
from typing import Final

import pynetdicom  # noqa: F401  # names syntaxes that pydicom's dictionary lacks
from pydicom._uid_dict import UID_dictionary

from triage.ingest.admission import REJECTIONS, Rejection
from triage.ingest.negotiation import DECODABLE, STORAGE_LEVEL, VERIFICATION, is_storage
from triage.ingest.network_guard import (
    ABORT_REASONS,
    LARGEST_COMMAND_BYTES,
    LARGEST_REQUEST_BYTES,
    MAXIMUM_PDU_BYTES,
    MOST_CONTEXTS,
    AbortReason,
    Limits,
)
from triage.ingest.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from triage.ingest.statuses import STATUS_ROWS, StatusRow

__all__ = [
    "ABORT_REASONS",
    "IMPLEMENTATION",
    "LIMITS",
    "NEGOTIATION",
    "REJECTIONS",
    "STATUS_ROWS",
    "TIMEOUTS",
    "AbortReason",
    "Bound",
    "NamedUid",
    "Rejection",
    "Stance",
    "StatusRow",
    "storage_classes",
    "transfer_syntaxes",
    "verification_class",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedUid:
    """A UID of the Standard with its name."""

    uid: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """One timeout or limit."""

    name: str
    value: float
    unit: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stance:
    """How one matter of negotiation is answered."""

    matter: str
    answer: str


_LIMITS: Final = Limits()

TIMEOUTS: Final = (
    Bound(
        name="opening",
        value=_LIMITS.opening_s,
        unit="s",
        meaning="from the connection to the whole A-ASSOCIATE-RQ, TLS handshake included (ARTIM)",
    ),
    Bound(
        name="idle",
        value=_LIMITS.idle_s,
        unit="s",
        meaning="silence of an association between two messages; then A-ABORT",
    ),
    Bound(
        name="silence",
        value=_LIMITS.silence_s,
        unit="s",
        meaning="silence inside a PDU or a message: A-ABORT; a response not taken: closed",
    ),
    Bound(
        name="closing",
        value=_LIMITS.closing_s,
        unit="s",
        meaning="for the peer to close after A-ASSOCIATE-RJ, A-RELEASE-RP or A-ABORT (ARTIM)",
    ),
)

LIMITS: Final = (
    Bound(
        name="maximum length received",
        value=MAXIMUM_PDU_BYTES,
        unit="bytes",
        meaning="announced for P-DATA-TF and enforced",
    ),
    Bound(
        name="A-ASSOCIATE-RQ",
        value=LARGEST_REQUEST_BYTES,
        unit="bytes",
        meaning="longer requests are aborted",
    ),
    Bound(
        name="presentation contexts",
        value=MOST_CONTEXTS,
        unit="per association",
        meaning="the most that identifiers allow (PS3.8 9.3.2.2)",
    ),
    Bound(
        name="command set",
        value=LARGEST_COMMAND_BYTES,
        unit="bytes",
        meaning="longer command sets are aborted",
    ),
    Bound(
        name="slowest sender",
        value=_LIMITS.slowest_bytes_per_s,
        unit="bytes/s",
        meaning="average inside one message, once it was waited for longer than the silence",
    ),
    Bound(
        name="connections without association, per address",
        value=_LIMITS.waiting_per_address,
        unit="connections",
        meaning="the oldest goes; as many as [receiver] maximum_associations where that is more",
    ),
    Bound(
        name="connections without association, in all",
        value=_LIMITS.waiting_in_all,
        unit="connections",
        meaning="the oldest of the address with the most goes",
    ),
)

NEGOTIATION: Final = (
    Stance(
        matter="asynchronous operations window",
        answer="1 operation invoked, 1 performed, whatever is proposed",
    ),
    Stance(
        matter="SCP/SCU role selection",
        answer="SCP of every accepted class, SCU of none",
    ),
    Stance(
        matter="SOP Class extended negotiation of storage",
        answer=(
            f"level {STORAGE_LEVEL.level}, digital signature level"
            f" {STORAGE_LEVEL.signature_level}, no element coercion"
        ),
    ),
    Stance(
        matter="SOP Class common extended negotiation",
        answer="read and not needed: every storage class is accepted by its own UID",
    ),
    Stance(matter="user identity", answer="no positive response; not used to admit"),
    Stance(
        matter="storage commitment",
        answer=(
            "refused (abstract syntax not supported): this is no archive, and what it holds"
            " expires; never delete a copy because triage has the image"
        ),
    ),
    Stance(
        matter="query, retrieve, worklist and every other service",
        answer="refused (abstract syntax not supported)",
    ),
)

IMPLEMENTATION: Final = NamedUid(uid=IMPLEMENTATION_CLASS_UID, name=IMPLEMENTATION_VERSION_NAME)


def storage_classes() -> tuple[NamedUid, ...]:
    """Return the storage classes that are known by name; `is_storage` accepts more.

    Those are private classes, and classes which a later edition adds to the storage branch.
    """
    return tuple(
        NamedUid(uid=str(uid), name=row[0] or str(uid))
        for uid, row in UID_dictionary.items()
        if row[1] == "SOP Class" and is_storage(str(uid))
    )


def verification_class() -> NamedUid:
    """Return the class of C-ECHO."""
    return NamedUid(uid=VERIFICATION, name=UID_dictionary[VERIFICATION][0])


def transfer_syntaxes() -> tuple[NamedUid, ...]:
    """Return the transfer syntaxes that can be decoded, in order of preference.

    Any other is accepted where the sender proposes nothing else: stored, never analysed.
    """
    return tuple(NamedUid(uid=uid, name=UID_dictionary[uid][0]) for uid in DECODABLE)
