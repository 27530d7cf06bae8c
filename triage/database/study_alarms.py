"""Alarms about one study: opened when objects contradict each other, closed by a person.

A person who takes the study off the list has been shown why it is odd, so the acknowledgement
closes them; the trace of both stays.
"""

from datetime import datetime

from sqlalchemy import Connection, select

from triage.database.house import clear_alarm, raise_alarm
from triage.database.tables import Instance, Study
from triage.records import AlarmCode, ObjectState


def raise_conflict(connection: Connection, sop_instance_uid: str, *, now: datetime) -> None:
    """Tell a person that two images share one SOP Instance UID."""
    raise_alarm(
        connection,
        code=AlarmCode.PIXEL_CONFLICT,
        subject=sop_instance_uid,
        message=f"Two objects with different pixels share SOP Instance UID {sop_instance_uid};"
        " both are held, the newer one is not analysed.",
        next_step="See `triage show STUDY`; find out which image is right and correct the sender."
        " `triage acknowledge STUDY` closes this.",
        now=now,
    )


def raise_two_patients(connection: Connection, study_instance_uid: str, *, now: datetime) -> None:
    """Tell a person that one Study Instance UID came with two patients."""
    raise_alarm(
        connection,
        code=AlarmCode.TWO_PATIENTS,
        subject=study_instance_uid,
        message=f"Study Instance UID {study_instance_uid} came with more than one patient;"
        " both are held apart.",
        next_step="Find out which patient is right, correct the sender, then send again."
        " `triage acknowledge STUDY` of each closes this.",
        now=now,
    )


def close_alarms_of(
    connection: Connection, study_id: int, study_instance_uid: str, *, now: datetime
) -> None:
    """Close the alarms of an acknowledged study; that of two patients once both were read."""
    i = Instance
    conflicts = connection.execute(
        select(i.sop_instance_uid).where(i.study_id == study_id, i.state == ObjectState.CONFLICT)
    ).scalars()
    for sop_instance_uid in sorted(set(conflicts)):
        clear_alarm(connection, code=AlarmCode.PIXEL_CONFLICT, subject=sop_instance_uid, now=now)
    unread = select(Study.id).where(
        Study.study_instance_uid == study_instance_uid, Study.acknowledged_at.is_(None)
    )
    if connection.execute(unread).first() is None:
        clear_alarm(connection, code=AlarmCode.TWO_PATIENTS, subject=study_instance_uid, now=now)
