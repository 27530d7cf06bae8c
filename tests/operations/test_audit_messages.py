"""Audit messages have the structure that the Standard's schema asks for, whatever is in them."""

from datetime import UTC, datetime
from typing import Any
from xml.etree.ElementTree import Element

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.assurance import requirement
from tests.operations.audit_schema import check
from triage.database import audit as room
from triage.database.audit import AuditedStudy, Noted, Transfer
from triage.operations.audit_delivery import LONGEST_OCTETS, frame
from triage.operations.audit_messages import told, transferred
from triage.operations.audit_xml import Teller
from triage.records import Source

NINE = datetime(2026, 1, 2, 9, 0, tzinfo=UTC)
TELLER = Teller(ae_title="TRIAGE", host="ward7", site="General")
STUDY = AuditedStudy(
    study_instance_uid="1.2.3", accession_number="A1", patient_id="P1", patient_name="ROE^JANE"
)
ANY_TEXT = st.text(max_size=2000) | st.text(alphabet="<&>\"'\x00\n\ud800\ufffe]", max_size=600)


def transfer(**changes: Any) -> Transfer:
    values: dict[str, Any] = {
        "source": Source.C_STORE,
        "sender_ae_title": "CT1",
        "action": "C",
        "reason": "",
        "study_id": 1,
        "first_id": 1,
        "last_id": 9,
        "first_at": NINE,
        "last_at": NINE,
        "classes": {"1.2.840.10008.5.1.4.1.1.2": 2000},
    }
    return Transfer(**values | changes)


def noted(what: str, *, by: str = "anna", study_id: int | None = 1, **detail: Any) -> Noted:
    return Noted(id=1, at=NINE, study_id=study_id, what=what, by=by, detail=detail)


def event(message: Element) -> tuple[str, str, str, list[str]]:
    head = message.find("EventIdentification")
    assert head is not None
    identifier = head.find("EventID")
    assert identifier is not None
    kinds = [kind.attrib["csd-code"] for kind in head.findall("EventTypeCode")]
    outcome = head.attrib["EventOutcomeIndicator"]
    return identifier.attrib["csd-code"], head.attrib["EventActionCode"], outcome, kinds


def objects(message: Element) -> dict[str, str]:
    """Return identifier by the code of its kind."""
    return {
        str(each.find("ParticipantObjectIDTypeCode").attrib["csd-code"]): (  # type: ignore[union-attr]
            each.attrib["ParticipantObjectID"]
        )
        for each in message.findall("ParticipantObjectIdentification")
    }


def roles(message: Element) -> dict[str, str]:
    """Return the role of each participant by its identifier."""
    found = {}
    for each in message.findall("ActiveParticipant"):
        role = each.find("RoleIDCode")
        found[each.attrib["UserID"]] = "" if role is None else role.attrib["csd-code"]
    return found


def test_a_study_that_came_in_is_one_transfer_with_its_one_patient() -> None:
    message = check(transferred(transfer(), STUDY, TELLER))
    assert event(message) == ("110104", "C", "0", [])
    assert roles(message) == {"CT1": "110153", "triage@ward7": "110152"}
    assert objects(message) == {"110180": "1.2.3", "2": "P1"}
    (counted,) = message.iter("SOPClass")
    assert counted.attrib["NumberOfInstances"] == "2000"


def test_what_was_not_taken_in_is_a_failure_with_its_reason() -> None:
    refused = transfer(action="", reason="no DICOM", study_id=None, classes={"": 3})
    message = check(transferred(refused, None, TELLER))
    assert event(message)[2] == "4"
    assert "3 objects not taken in: no DICOM" in "".join(message.itertext())


@requirement("P2")
@pytest.mark.parametrize(
    ("what", "detail", "expected"),
    [
        (room.APPLICATION_STARTED, {"roles": ["receive"]}, ("110100", "E", "0", ["110120"])),
        (room.APPLICATION_STOPPED, {}, ("110100", "E", "0", ["110121"])),
        (room.ASSOCIATION_REJECTED, {"reason": "who?"}, ("110113", "E", "4", ["110126"])),
        (room.WORKLIST_READ, {"all": True}, ("110112", "E", "0", [])),
        (room.STUDY_READ, {}, ("110103", "R", "0", ["show"])),
        ("images_expired", {}, ("110105", "D", "0", [])),
        ("acknowledge", {}, ("110103", "U", "0", ["acknowledge"])),
        ("priority", {"to": "STAT"}, ("110103", "U", "0", ["priority"])),
        (
            "quarantine_discarded",
            {"quarantine_id": 7},
            ("110103", "D", "0", ["quarantine_discarded"]),
        ),
        (
            "a decision of a later version",
            {},
            ("110103", "U", "0", ["a decision of a later version"]),
        ),
    ],
)
def test_each_decision_and_note_has_the_code_of_its_event(
    what: str, detail: dict[str, Any], expected: tuple[str, str, str, list[str]]
) -> None:
    said = told(noted(what, **detail), STUDY, TELLER)
    assert said is not None
    assert event(check(said)) == expected


def test_what_the_program_does_by_itself_is_not_told_as_a_decision() -> None:
    assert told(noted("returned", by="triage"), STUDY, TELLER) is None


@requirement("N6")
def test_a_rejected_caller_is_named_with_its_address() -> None:
    note = noted(
        room.ASSOCIATION_REJECTED,
        study_id=None,
        calling_ae_title="EVIL",
        address="192.0.2.9",
        reason="unknown",
        times=4,
    )
    message = check(told(note, None, TELLER) or "")
    assert roles(message) == {"triage@ward7": "", "EVIL": ""}
    assert objects(message) == {"110182": "192.0.2.9"}


def test_a_decision_without_study_names_what_it_was_about() -> None:
    note = noted("quarantine_released", study_id=None, quarantine_id=7)
    assert objects(check(told(note, None, TELLER) or "")) == {"quarantine": "7"}


@requirement("P2")
@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_no_text_of_a_sender_breaks_the_structure_or_the_limit(a: str, b: str, c: str) -> None:
    study = AuditedStudy(study_instance_uid=a, accession_number=b, patient_id=c, patient_name=a)
    classes = {f"{number}{c}": number for number in range(1, 300)}
    hostile = [
        transferred(transfer(sender_ae_title=a, classes=classes), study, TELLER),
        transferred(transfer(action="", reason=b), None, TELLER),
        told(noted("acknowledge", by=a, note=b), study, TELLER),
        told(
            noted(room.ASSOCIATION_REJECTED, calling_ae_title=a, address=b, reason=c), None, TELLER
        ),
        told(noted(room.WORKLIST_READ, by=c, limit=a), None, TELLER),
    ]
    for message in hostile:
        assert message is not None
        check(message)
        assert "\n" not in message
        assert len(frame(message, host=a)) < LONGEST_OCTETS


def test_objects_of_classes_beyond_the_listed_ones_are_still_counted() -> None:
    classes = {f"1.2.{number}": 1 for number in range(100)}
    message = check(transferred(transfer(classes=classes), STUDY, TELLER))
    assert sum(int(each.attrib["NumberOfInstances"]) for each in message.iter("SOPClass")) == 100
