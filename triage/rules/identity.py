"""Decide what an object is whose SOP Instance UID may be held already.

A PACS resends corrected demographics and other transfer syntaxes as routine, so other bytes
under a known UID are no alarm; other pixels are. Digests decide, pixels only where they must:
the intake compares bytes, the worker compares decoded pixels. Source: DESIGN section 4.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from triage.records import Header, ObjectState

# Reasons in the trail of an object whose pixels must be compared: it has two dispositions there,
# on arrival and after the comparison, and is one object all the same.
COMPARED_LATER = "pixels are compared with those held under the same SOP Instance UID"
COMPARED = "pixels were compared"


class Identity(StrEnum):
    NEW = "new"  # first of its UID
    DUPLICATE = "duplicate"  # data set bytes equal to one held: no work
    REVISION = "revision"  # neither has pixels: a newer header
    COMPARE = "compare"  # both have pixels: `decide_pixels` once they are decoded
    CONFLICT = "conflict"  # one has pixels, the other has none


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityFacts:
    """A newcomer and what is held under its SOP Instance UID."""

    new_digest: str  # SHA-256 of transfer syntax and data set bytes
    new_has_pixels: bool
    held_digests: frozenset[str] = field(default=frozenset())  # of every object held under the UID
    held_has_pixels: bool = False  # of the one that counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """Who a study belongs to, as received; "" = not given."""

    patient_id: str
    issuer_of_patient_id: str = ""


def decide(facts: IdentityFacts) -> Identity:
    """Decide by bytes alone; every outcome is held and answered 0x0000."""
    if not facts.held_digests:
        return Identity.NEW
    if facts.new_digest in facts.held_digests:
        return Identity.DUPLICATE
    if facts.new_has_pixels != facts.held_has_pixels:
        return Identity.CONFLICT
    return Identity.COMPARE if facts.new_has_pixels else Identity.REVISION


def decide_pixels(
    held_digest: str | None, new_digest: str | None
) -> Literal[ObjectState.REVISION, ObjectState.CONFLICT]:
    """Decide by digests of the decoded pixels; None = could not be decoded.

    Equality that cannot be shown is not assumed: an undecodable side is a conflict.
    """
    if held_digest is not None and held_digest == new_digest:
        return ObjectState.REVISION
    return ObjectState.CONFLICT


def patient_of(header: Header) -> Patient:
    """Return the patient that a header names."""
    return Patient(patient_id=header.patient_id, issuer_of_patient_id=header.issuer_of_patient_id)


def patient_matches(held: Patient, new: Patient) -> bool:
    """Whether one Study Instance UID may carry both; if not: hold both, alarm, never merge.

    A blank ID is unknown and contradicts nobody. Issuers count only where both are given.
    Leading zeros and case are part of an ID; spaces around it are not (PS3.5 6.2, LO).
    """
    held_id, new_id = held.patient_id.strip(), new.patient_id.strip()
    if not held_id or not new_id:
        return True
    issuers = {held.issuer_of_patient_id.strip(), new.issuer_of_patient_id.strip()} - {""}
    return held_id == new_id and len(issuers) <= 1
