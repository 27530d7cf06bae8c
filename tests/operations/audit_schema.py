"""The schema of audit messages (PS3.15 A.5.1), restated as a check of one document."""

import base64
import re
from collections.abc import Sequence
from xml.etree.ElementTree import Element, fromstring

NUMBER = re.compile(r"-?\d+\Z")
DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)\Z")
BOOLEAN = re.compile(r"(true|false|0|1)\Z")
TOKEN = re.compile(r"(\S+( \S+)*)?\Z")  # xsd:token: no line breaks, no doubled spaces
ANY = re.compile(r".*\Z", re.DOTALL)


def one_of(*values: str) -> re.Pattern[str]:
    return re.compile("(" + "|".join(values) + r")\Z")


def numbers(last: int) -> re.Pattern[str]:
    return one_of(*map(str, range(1, last + 1)))


CODED = {"csd-code": TOKEN, "codeSystemName": TOKEN, "originalText": TOKEN}
# Element: required attributes, optional attributes, children in order as (name, least, most).
MANY = 1 << 30
SHAPES: dict[str, tuple[dict[str, re.Pattern[str]], dict[str, re.Pattern[str]], Sequence]] = {  # type: ignore[type-arg]
    "AuditMessage": (
        {},
        {},
        (
            ("EventIdentification", 1, 1),
            ("ActiveParticipant", 1, MANY),
            ("AuditSourceIdentification", 1, 1),
            ("ParticipantObjectIdentification", 0, MANY),
        ),
    ),
    "EventIdentification": (
        {"EventDateTime": DATE_TIME, "EventOutcomeIndicator": one_of("0", "4", "8", "12")},
        {"EventActionCode": one_of("C", "R", "U", "D", "E")},
        (("EventID", 1, 1), ("EventTypeCode", 0, MANY), ("EventOutcomeDescription", 0, 1)),
    ),
    "EventID": (CODED, {"displayName": TOKEN}, ()),
    "EventTypeCode": (CODED, {"displayName": TOKEN}, ()),
    "RoleIDCode": (CODED, {"displayName": TOKEN}, ()),
    "ParticipantObjectIDTypeCode": (CODED, {"displayName": TOKEN}, ()),
    "EventOutcomeDescription": ({}, {}, ()),
    "ActiveParticipant": (
        {"UserID": ANY, "UserIsRequestor": BOOLEAN},
        {
            "AlternativeUserID": ANY,
            "UserName": ANY,
            "NetworkAccessPointID": TOKEN,
            "NetworkAccessPointTypeCode": numbers(5),
        },
        (("RoleIDCode", 0, MANY),),
    ),
    "AuditSourceIdentification": (
        {"AuditSourceID": TOKEN},
        {"AuditEnterpriseSiteID": TOKEN},
        (("AuditSourceTypeCode", 0, MANY),),
    ),
    "AuditSourceTypeCode": ({"csd-code": numbers(9)}, {}, ()),
    "ParticipantObjectIdentification": (
        {"ParticipantObjectID": TOKEN},
        {
            "ParticipantObjectTypeCode": numbers(4),
            "ParticipantObjectTypeCodeRole": numbers(26),
            "ParticipantObjectDataLifeCycle": numbers(15),
            "ParticipantObjectSensitivity": TOKEN,
        },
        (
            ("ParticipantObjectIDTypeCode", 1, 1),
            ("ParticipantObjectName", 0, 1),
            ("ParticipantObjectQuery", 0, 1),
            ("ParticipantObjectDetail", 0, MANY),
            ("ParticipantObjectDescription", 0, MANY),
        ),
    ),
    "ParticipantObjectName": ({}, {}, ()),
    "ParticipantObjectQuery": ({}, {}, ()),
    "ParticipantObjectDetail": ({"type": TOKEN, "value": ANY}, {}, ()),
    "ParticipantObjectDescription": (
        {},
        {},
        (("Accession", 0, MANY), ("SOPClass", 0, MANY)),
    ),
    "Accession": ({"Number": TOKEN}, {}, ()),
    "SOPClass": ({"NumberOfInstances": NUMBER}, {"UID": TOKEN}, ()),
}


def check(message: str) -> Element:
    """Return the parsed message; AssertionError where the schema does not allow it."""
    document = fromstring(message)
    assert document.tag == "AuditMessage"
    _check(document)
    return document


def _check(element: Element) -> None:
    assert element.tag in SHAPES, element.tag
    required, optional, children = SHAPES[element.tag]
    missing = required.keys() - element.attrib.keys()
    assert not missing, f"{element.tag} lacks {missing}"
    for name, value in element.attrib.items():
        pattern = {**required, **optional}.get(name)
        assert pattern is not None, f"{element.tag} has no {name}"
        assert pattern.match(value), f"{element.tag} {name}={value!r}"
    left = [child.tag for child in element]
    for name, least, most in children:
        found = 0
        while left and left[0] == name:
            left.pop(0)
            found += 1
        assert least <= found <= most, f"{element.tag}: {found} times {name}"
    assert not left, f"{element.tag}: {left} not allowed here"
    if element.tag == "ParticipantObjectIdentification":
        # a group of the schema: a name or a query
        named = [element.find(f"ParticipantObject{each}") for each in ("Name", "Query")]
        assert sum(each is not None for each in named) == 1
    if element.tag == "ParticipantObjectQuery":
        base64.b64decode(element.text or "", validate=True)
    if element.tag == "ParticipantObjectDetail":
        base64.b64decode(element.attrib["value"], validate=True)
    for child in element:
        _check(child)
