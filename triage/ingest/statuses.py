"""Every DIMSE status that this receiver sends, with what brings it about.

One table: the receiver answers from it and the conformance statement is written from it. A status
other than 0x0000 means "not held": no warning status is sent, because senders take one for stored
(PS3.4 B.2.3) and may delete their copy.
"""

from dataclasses import dataclass
from typing import Final

from triage.errors import (
    CommandMismatch,
    DatabaseUnavailable,
    IdentifiersInvalid,
    ObjectRefused,
    ObjectUnparsable,
    OutOfSpace,
    StoreError,
    TriageError,
)

SUCCESS: Final = 0x0000
PROCESSING_FAILURE: Final = 0x0110
CLASS_NOT_SUPPORTED: Final = 0x0122
UNRECOGNISED_OPERATION: Final = 0x0211


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRow:
    """One status of one service."""

    service: str
    code: int
    meaning: str  # the Standard's words
    when: str
    retry: bool  # whether sending the same again later can succeed
    error: type[TriageError] | None = None  # what the intake raises


STATUS_ROWS: Final = (
    StatusRow(
        service="C-STORE",
        code=SUCCESS,
        meaning="Success",
        when="The instance is held: its file is synced and its row is committed.",
        retry=False,
    ),
    StatusRow(
        service="C-STORE",
        code=0xA700,
        meaning="Refused: out of resources",
        when="The store has less free space than its margin, or a write met a full disk.",
        retry=True,
        error=OutOfSpace,
    ),
    StatusRow(
        service="C-STORE",
        code=0xA701,
        meaning="Refused: out of resources",
        when="The store could not write, sync or read.",
        retry=True,
        error=StoreError,
    ),
    StatusRow(
        service="C-STORE",
        code=0xA702,
        meaning="Refused: out of resources",
        when="The database did not answer, or was locked for too long.",
        retry=True,
        error=DatabaseUnavailable,
    ),
    StatusRow(
        service="C-STORE",
        code=0xA900,
        meaning="Error: data set does not match SOP Class",
        when="Command and data set name different SOP Classes or SOP Instances.",
        retry=False,
        error=CommandMismatch,
    ),
    StatusRow(
        service="C-STORE",
        code=0xC000,
        meaning="Error: cannot understand",
        when="The data set cannot be parsed, or breaks a limit of depth or count.",
        retry=False,
        error=ObjectUnparsable,
    ),
    StatusRow(
        service="C-STORE",
        code=0xC001,
        meaning="Error: cannot understand",
        when="Study, Series or SOP Instance UID or SOP Class UID is missing or ill-formed.",
        retry=False,
        error=IdentifiersInvalid,
    ),
    StatusRow(
        service="C-STORE",
        code=0xC002,
        meaning="Error: cannot understand",
        when="The object is larger than [receiver] maximum_object_mib; it is not kept.",
        retry=False,
        error=ObjectRefused,
    ),
    StatusRow(
        service="C-STORE",
        code=PROCESSING_FAILURE,
        meaning="Failure: processing failure",
        when="An error of this program that no other status names.",
        retry=True,
    ),
    StatusRow(
        service="C-STORE",
        code=CLASS_NOT_SUPPORTED,
        meaning="Refused: SOP Class not supported",
        when="The presentation context is that of Verification.",
        retry=False,
    ),
    StatusRow(
        service="C-ECHO",
        code=SUCCESS,
        meaning="Success",
        when="Instances can be stored at present.",
        retry=False,
    ),
    StatusRow(
        service="C-ECHO",
        code=PROCESSING_FAILURE,
        meaning="Failure: processing failure",
        when="Instances cannot be stored at present.",
        retry=True,
    ),
    StatusRow(
        service="C-FIND, C-GET, C-MOVE",
        code=CLASS_NOT_SUPPORTED,
        meaning="Refused: SOP Class not supported",
        when="Always.",
        retry=False,
    ),
    StatusRow(
        service="N-EVENT-REPORT, N-GET, N-SET, N-ACTION, N-CREATE, N-DELETE",
        code=UNRECOGNISED_OPERATION,
        meaning="Failure: unrecognized operation",
        when="Always.",
        retry=False,
    ),
)

STATUSES: Final[dict[type[TriageError], int]] = {
    row.error: row.code for row in STATUS_ROWS if row.error is not None
}


def status_of(error: TriageError) -> int:
    """Return the C-STORE status for an error, by the nearest class that the table names."""
    return next(
        (STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), PROCESSING_FAILURE
    )
