"""The structure of a DICOM audit message (PS3.15 A.5.1): elements, their order, what may stand in.

Everything is escaped, characters that XML does not know are replaced, and lengths are bounded, so
that a message fits into 32768 octets (A.6) whatever a sender wrote into its objects. Knows the
codes that name a role or an identifier (PS3.16, DCM 1101xx), and no event.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from triage.database.audit import AuditedStudy

# Characters of XML 1.0 (section 2.2); all others make a document ill-formed, escaped or not.
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
LONGEST_VALUE = 256  # characters; six octets each at worst
MOST_CLASSES = 32  # SOP Classes of one transfer named one by one
LONGEST_UID = 64
SUCCESS, MINOR_FAILURE = "0", "4"
PERSON, SYSTEM_OBJECT = "1", "2"
PATIENT, REPORT, SECURITY_RESOURCE, QUERY = "1", "3", "13", "24"


@dataclass(frozen=True, slots=True, kw_only=True)
class Teller:
    """Who tells: the same in every message of an installation."""

    ae_title: str
    host: str
    site: str = ""

    @property
    def process(self) -> str:
        return f"triage@{self.host}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    value: str
    meaning: str
    scheme: str = "DCM"


STUDY_UID = Code(value="110180", meaning="Study Instance UID")
PATIENT_NUMBER = Code(value="2", meaning="Patient Number", scheme="RFC-3881")


def begin(event: Code, *kinds: Code, action: str, at: datetime, outcome: str = "") -> Element:
    """Begin a message; an `outcome` in words makes it a minor failure."""
    message = Element("AuditMessage")
    head = SubElement(
        message,
        "EventIdentification",
        EventActionCode=action,
        EventDateTime=at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        EventOutcomeIndicator=MINOR_FAILURE if outcome else SUCCESS,
    )
    _coded(head, "EventID", event)
    for kind in kinds:
        _coded(head, "EventTypeCode", kind)
    if outcome:
        SubElement(head, "EventOutcomeDescription").text = _clean(outcome)
    return message


def add_participant(
    message: Element,
    user: str,
    *,
    requestor: bool,
    role: Code | None = None,
    ae_title: str = "",
    name: str = "",
    address: str = "",
    host: str = "",
) -> None:
    values = {
        "UserID": _clean(user) or "unknown",
        "AlternativeUserID": f"AETITLES={_clean(ae_title)}" if ae_title else "",
        "UserName": _clean(name),
        "UserIsRequestor": "true" if requestor else "false",
        "NetworkAccessPointID": _clean(address or host),
        "NetworkAccessPointTypeCode": "2" if address else "1" if host else "",
    }
    given = {key: value for key, value in values.items() if value}
    element = SubElement(message, "ActiveParticipant", given)
    if role is not None:
        _coded(element, "RoleIDCode", role)


def add_own(
    message: Element, teller: Teller, *, role: Code | None = None, requestor: bool = False
) -> None:
    add_participant(
        message,
        teller.process,
        requestor=requestor,
        role=role,
        ae_title=teller.ae_title,
        host=teller.host,
    )


def add_source(message: Element, teller: Teller) -> None:
    values = {"AuditSourceID": _clean(f"{teller.ae_title}@{teller.host}")}
    if teller.site:
        values["AuditEnterpriseSiteID"] = _clean(teller.site)
    element = SubElement(message, "AuditSourceIdentification", values)
    SubElement(element, "AuditSourceTypeCode", {"csd-code": "4"})  # application server


def add_study(
    message: Element,
    study: AuditedStudy,
    *,
    classes: Mapping[str, int] | None = None,
    life_cycle: str = "",
) -> None:
    """Add the study and its one patient."""
    element = add_object(
        message,
        study.study_instance_uid,
        kind=SYSTEM_OBJECT,
        id_type=STUDY_UID,
        name="study",
        role=REPORT,
        life_cycle=life_cycle,
    )
    if study.accession_number or classes:
        description = SubElement(element, "ParticipantObjectDescription")
        if study.accession_number:
            SubElement(description, "Accession", Number=_clean(study.accession_number))
        for uid, objects in _most(classes or {}):
            given = {"UID": _clean(uid)[:LONGEST_UID]} if uid else {}
            SubElement(description, "SOPClass", {**given, "NumberOfInstances": str(objects)})
    add_object(
        message,
        study.patient_id or "unknown",
        kind=PERSON,
        id_type=PATIENT_NUMBER,
        name=study.patient_name or "unknown",
        role=PATIENT,
    )


def _most(classes: Mapping[str, int]) -> Sequence[tuple[str, int]]:
    """Return the classes with their counts; what is beyond MOST_CLASSES is counted together."""
    listed = sorted(classes.items(), key=lambda each: -each[1])
    rest = sum(objects for _, objects in listed[MOST_CLASSES:])
    return listed[:MOST_CLASSES] + ([("", rest)] if rest else [])


def add_object(
    message: Element,
    identifier: str,
    *,
    kind: str,
    id_type: Code,
    role: str,
    name: str = "",
    query: str = "",
    life_cycle: str = "",
) -> Element:
    """Add a participant object; the schema wants a name or a query."""
    values = {
        "ParticipantObjectID": _clean(identifier) or "unknown",
        "ParticipantObjectTypeCode": kind,
        "ParticipantObjectTypeCodeRole": role,
    }
    if life_cycle:
        values["ParticipantObjectDataLifeCycle"] = life_cycle
    element = SubElement(message, "ParticipantObjectIdentification", values)
    _coded(element, "ParticipantObjectIDTypeCode", id_type)
    if query:
        SubElement(element, "ParticipantObjectQuery").text = _encoded(query)
    else:
        SubElement(element, "ParticipantObjectName").text = _clean(name)
    return element


def add_detail(element: Element, kind: str, value: str) -> None:
    SubElement(element, "ParticipantObjectDetail", type=kind, value=_encoded(value))


def _coded(parent: Element, tag: str, code: Code) -> None:
    SubElement(
        parent,
        tag,
        {
            "csd-code": _clean(code.value),
            "codeSystemName": code.scheme,
            "originalText": _clean(code.meaning),
        },
    )


def _clean(text: Any) -> str:
    """Return text that XML can hold, of bounded length, on one line."""
    kept = _NO_XML.sub("\ufffd", str(text)[:LONGEST_VALUE])
    return " ".join(kept.split())


def _encoded(text: str) -> str:
    return base64.b64encode(_clean(text).encode("utf-8")).decode("ascii")


def line(message: Element) -> str:
    """Return the message as one line; no value holds a line break."""
    return tostring(message, encoding="unicode")
