"""The events that this program tells an auditor of (PS3.15 A.5.3), one function each.

Pure: facts in, one line of XML out. The messages hold patient data, as A.5.3 wants it: they go to
the audit spool and nowhere else.
"""

from xml.etree.ElementTree import Element

from triage.database.audit import (
    APPLICATION_STARTED,
    APPLICATION_STOPPED,
    ASSOCIATION_REJECTED,
    STUDY_READ,
    WORKLIST_READ,
    AuditedStudy,
    Noted,
    Transfer,
)
from triage.database.material import EMBEDDED
from triage.operations.audit_xml import (
    QUERY,
    REPORT,
    SECURITY_RESOURCE,
    SYSTEM_OBJECT,
    Code,
    Teller,
    add_detail,
    add_object,
    add_own,
    add_participant,
    add_source,
    add_study,
    begin,
    line,
)
from triage.records import Source

OWN_CODES = "99TRIAGE"
LIFE_CYCLE_ERASED = "15"
EXPIRED = "images_expired"
RETURNED = "returned"  # the program's own, and told by what brought it about

APPLICATION_ACTIVITY = Code(value="110100", meaning="Application Activity")
INSTANCES_ACCESSED = Code(value="110103", meaning="DICOM Instances Accessed")
INSTANCES_TRANSFERRED = Code(value="110104", meaning="DICOM Instances Transferred")
STUDY_DELETED = Code(value="110105", meaning="DICOM Study Deleted")
QUERY_EVENT = Code(value="110112", meaning="Query")
SECURITY_ALERT = Code(value="110113", meaning="Security Alert")
APPLICATION_START = Code(value="110120", meaning="Application Start")
APPLICATION_STOP = Code(value="110121", meaning="Application Stop")
NODE_AUTHENTICATION = Code(value="110126", meaning="Node Authentication")
APPLICATION = Code(value="110150", meaning="Application")
LAUNCHER = Code(value="110151", meaning="Application Launcher")
DESTINATION = Code(value="110152", meaning="Destination Role ID")
SOURCE = Code(value="110153", meaning="Source Role ID")
NODE_ID = Code(value="110182", meaning="Node ID")
SEARCH_CRITERIA = Code(value="10", meaning="Search Criteria", scheme="RFC-3881")
QUARANTINE_NUMBER = Code(value="quarantine", meaning="Number in quarantine", scheme=OWN_CODES)


def transferred(transfer: Transfer, study: AuditedStudy | None, teller: Teller) -> str:
    """Tell of objects that came in (A.5.3.7), or that were not taken in and why."""
    outcome = (
        "" if transfer.action else f"{transfer.objects} objects not taken in: {transfer.reason}"
    )
    message = begin(
        INSTANCES_TRANSFERRED,
        action=transfer.action or "C",
        at=transfer.last_at,
        outcome=outcome,
    )
    add_participant(
        message,
        transfer.sender_ae_title or _door(transfer.source),
        role=SOURCE,
        requestor=True,
        ae_title=transfer.sender_ae_title,
    )
    add_own(message, teller, role=DESTINATION)
    add_source(message, teller)
    if study is not None:
        add_study(message, study, classes=transfer.classes)
    return line(message)


def told(noted: Noted, study: AuditedStudy | None, teller: Teller) -> str | None:
    """Tell of a decision or a note; None where another message says it already."""
    if noted.what == RETURNED:
        return None
    if noted.what in (APPLICATION_STARTED, APPLICATION_STOPPED):
        message = _application(noted, teller)
    elif noted.what == ASSOCIATION_REJECTED:
        message = _rejected(noted, teller)
    elif noted.what == WORKLIST_READ:
        message = _queried(noted, teller)
    elif noted.what == EXPIRED:
        message = _deleted(noted, study, teller)
    else:
        message = _accessed(noted, study, teller)
    return line(message)


def _application(noted: Noted, teller: Teller) -> Element:
    """Start or stop of a process (A.5.3.1)."""
    started = noted.what == APPLICATION_STARTED
    kind = APPLICATION_START if started else APPLICATION_STOP
    message = begin(APPLICATION_ACTIVITY, kind, action="E", at=noted.at)
    process = f"triage@{noted.detail.get('host') or teller.host}"
    roles = ",".join(map(str, noted.detail.get("roles") or ()))
    add_participant(
        message,
        process,
        role=APPLICATION,
        requestor=False,
        ae_title=teller.ae_title,
        name=f"roles {roles}, process {noted.detail.get('pid', '')}",
    )
    add_participant(message, noted.by, role=LAUNCHER, requestor=True)
    add_source(message, teller)
    return message


def _rejected(noted: Noted, teller: Teller) -> Element:
    """A peer that was not let in (A.5.3.11)."""
    detail = noted.detail
    times, reason = detail.get("times", 1), detail.get("reason", "")
    message = begin(
        SECURITY_ALERT,
        NODE_AUTHENTICATION,
        action="E",
        at=noted.at,
        outcome=f"association rejected {times} times: {reason}",
    )
    add_own(message, teller, requestor=True)
    caller, address = str(detail.get("calling_ae_title", "")), str(detail.get("address", ""))
    add_participant(
        message,
        caller or address or "unknown",
        requestor=False,
        ae_title=caller,
        address=address,
    )
    add_source(message, teller)
    subject = add_object(
        message,
        address or "unknown",
        kind=SYSTEM_OBJECT,
        id_type=NODE_ID,
        name=caller or "unknown",
        role=SECURITY_RESOURCE,
    )
    add_detail(subject, "Alert Description", str(reason))
    return message


def _queried(noted: Noted, teller: Teller) -> Element:
    """A person who looked at the worklist (A.5.3.10)."""
    message = begin(QUERY_EVENT, action="E", at=noted.at)
    add_participant(message, noted.by, role=SOURCE, requestor=True)
    add_own(message, teller, role=DESTINATION)
    add_source(message, teller)
    asked = " ".join(f"{key}={value}" for key, value in sorted(noted.detail.items()))
    add_object(
        message,
        "worklist",
        kind=SYSTEM_OBJECT,
        id_type=SEARCH_CRITERIA,
        query=asked or "all open studies",
        role=QUERY,
    )
    return message


def _deleted(noted: Noted, study: AuditedStudy | None, teller: Teller) -> Element:
    """Images that retention has deleted (A.5.3.8)."""
    message = begin(STUDY_DELETED, action="D", at=noted.at)
    add_own(message, teller, requestor=True)
    add_source(message, teller)
    if study is not None:
        add_study(message, study, life_cycle=LIFE_CYCLE_ERASED)
    return message


def _accessed(noted: Noted, study: AuditedStudy | None, teller: Teller) -> Element:
    """A person who read a study or decided about one (A.5.3.6); the kind is a code of ours."""
    read = noted.what == STUDY_READ
    what = "show" if read else noted.what
    kind = Code(value=what, meaning=what.replace("_", " "), scheme=OWN_CODES)
    action = "R" if read or what == EMBEDDED else "D" if what == "quarantine_discarded" else "U"
    message = begin(INSTANCES_ACCESSED, kind, action=action, at=noted.at)
    add_participant(message, noted.by, requestor=True)
    add_own(message, teller)
    add_source(message, teller)
    if study is not None:
        add_study(message, study)
    elif number := noted.detail.get("quarantine_id"):
        add_object(
            message,
            str(number),
            kind=SYSTEM_OBJECT,
            id_type=QUARANTINE_NUMBER,
            name="object in quarantine",
            role=REPORT,
        )
    return message


def _door(source: Source) -> str:
    return {Source.FOLDER: "watched folder", Source.RECONCILE: "found in the store"}.get(
        source, "unknown sender"
    )
