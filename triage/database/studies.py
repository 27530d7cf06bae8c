"""The study and the series that an object belongs to: found or made, and the header they show.

One Study Instance UID under two patients is two rows, never merged (`rules.identity`). A blank
patient ID is unknown: it joins the study that is there, and is filled in when a later object
knows it.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, bindparam, select, update

from triage.database.statements import insert_whole, row_of, update_changed, update_row
from triage.database.study_alarms import raise_two_patients
from triage.database.study_facts import order_of
from triage.database.tables import Series, Study
from triage.records import Analysis, Arrival, Header, StudyState
from triage.rules import completion, orders
from triage.rules.eligibility import is_too_old
from triage.rules.identity import Patient, patient_matches, patient_of
from triage.rules.policies import Policies
from triage.rules.study_time import study_datetime

SHOWN = (
    "accession_number",
    "patient_name",
    "patient_sex",
    "patient_birth_date",
    "referring_physician_name",
    "institution_name",
    "station_name",
    "current_patient_location",
    "study_description",
    "study_date",
    "study_time",
    "timezone_offset_from_utc",
    "body_part_examined",
)


STUDIES_OF_UID = (
    select(Study.__table__)
    .where(Study.__table__.c.study_instance_uid == bindparam("uid"))
    .order_by(Study.__table__.c.id)
    .with_for_update(key_share=True)
)
SERIES_OF_STUDY = select(Series.__table__).where(
    Series.__table__.c.study_id == bindparam("study_id"),
    Series.__table__.c.series_instance_uid == bindparam("uid"),
)


def study_of(
    connection: Connection, arrival: Arrival, *, policies: Policies, now: datetime
) -> tuple[Any, bool]:
    """Return the locked row of an arriving object's study, and whether it was made for it."""
    header = arrival.header
    rows = connection.execute(STUDIES_OF_UID, {"uid": header.study_instance_uid}).all()
    same = _same_patient(rows, header)
    if same is not None:
        return same, False
    if rows:
        _mark_two_patients(connection, header.study_instance_uid, now)
    made = _make_study(connection, arrival, two_patients=bool(rows), policies=policies, now=now)
    return made, True


def joined(study: Any, arrival: Arrival, *, policies: Policies) -> dict[str, Any]:
    """Return what an object that counts says of its study: header and order priority."""
    joint = orders.combine(order_of(study), _order(arrival, policies))
    return {
        **shown(
            study,
            arrival.header,
            sender_ae_title=arrival.sender_ae_title,
            keep_blanks=False,
            policies=policies,
        ),
        "order_priority": joint.rank,
        "order_priority_source": joint.source,
    }


def shown(
    study: Any, header: Header, *, sender_ae_title: str, keep_blanks: bool, policies: Policies
) -> dict[str, Any]:
    """Return the columns that show the header of the newest object.

    A blank value of an object that merely joins the study says nothing; of a revision (with
    `keep_blanks`) it is a correction.
    """
    values = {
        name: getattr(header, name) or ("" if keep_blanks else getattr(study, name))
        for name in SHOWN
    }
    times = _times(values, received_at=study.received_at, policies=policies)
    # A date that comes later may bring a study back to the list, never take it off.
    times["too_old"] = bool(study.too_old and times["too_old"])
    if header.patient_id.strip() and not study.patient_id.strip():
        values["patient_id"] = header.patient_id
    if header.issuer_of_patient_id.strip() and not study.issuer_of_patient_id.strip():
        values["issuer_of_patient_id"] = header.issuer_of_patient_id
    return {**values, **times, "sender_ae_title": sender_ae_title or study.sender_ae_title}


def counted(
    study: Any, *, modality: str, new_object: bool, policies: Policies, now: datetime
) -> dict[str, Any]:
    """Return the columns that say that an object which counts has come: a new generation.

    `new_object` is False for one that shares the SOP Instance UID of another of the study.
    """
    window_at = now if study.closes_at is None else study.window_at
    closes_at = completion.closes_at(
        first_instance_at=window_at,
        last_instance_at=now,
        modality=modality,
        policy=policies.completion,
    )
    return {
        "generation": study.generation + 1,
        "window_at": window_at,
        "last_instance_at": now,
        "closes_at": max(closes_at, study.closes_at or closes_at),
        "images_expired_at": None,
        "number_of_study_related_instances": study.number_of_study_related_instances + new_object,
    }


def series_of(connection: Connection, study_id: int, header: Header, *, now: datetime) -> Any:
    """Return the row of an object's series; it is made where it is new."""
    found = connection.execute(
        SERIES_OF_STUDY, {"study_id": study_id, "uid": header.series_instance_uid}
    ).first()
    modality = completion.stated_modality(header.modality, header.sop_class_uid)
    if found is not None and (found.modality or not modality):
        return found
    if found is not None:
        update_row(connection, Series, found.id, modality=modality)
        return row_of(connection, Series, found.id)
    return insert_whole(
        connection,
        Series,
        study_id=study_id,
        series_instance_uid=header.series_instance_uid,
        modality=modality,
        window_at=now,
        first_instance_at=now,
        last_instance_at=now,
        closes_at=None,
        images=0,
        generation=0,
    )


def grow_series(
    connection: Connection, series: Any, *, images: int, policies: Policies, now: datetime
) -> None:
    """Count `images` more that are looked at with their series: it has a new generation.

    Its due time moves; a series that had closed opens again with a window of its own.
    """
    window_at = now if series.closes_at is None else series.window_at
    update_changed(
        connection,
        Series,
        series,
        window_at=window_at,
        last_instance_at=now,
        images=series.images + images,
        generation=series.generation + 1,
        closes_at=completion.closes_at(
            first_instance_at=window_at,
            last_instance_at=now,
            modality=series.modality,
            policy=policies.completion,
        ),
    )


def _same_patient(rows: Sequence[Any], header: Header) -> Any | None:
    """Return the oldest row that may be the object's patient.

    A row with a blank ID has no sibling: it would have been taken for any patient that came.
    """
    new = patient_of(header)
    return next((row for row in rows if patient_matches(_patient(row), new)), None)


def _patient(row: Any) -> Patient:
    return Patient(patient_id=row.patient_id, issuer_of_patient_id=row.issuer_of_patient_id)


def _make_study(
    connection: Connection,
    arrival: Arrival,
    *,
    two_patients: bool,
    policies: Policies,
    now: datetime,
) -> Any:
    header = arrival.header
    values = {name: getattr(header, name) for name in SHOWN}
    order = _order(arrival, policies)
    return insert_whole(
        connection,
        Study,
        study_instance_uid=header.study_instance_uid,
        patient_id=header.patient_id,
        issuer_of_patient_id=header.issuer_of_patient_id,
        **values,
        **_times(values, received_at=now, policies=policies),
        sender_ae_title=arrival.sender_ae_title,
        modalities_in_study=[],
        received_at=now,
        waiting_since=now,
        last_instance_at=now,
        window_at=now,
        state=StudyState.ARRIVING,
        generation=0,
        two_patients=two_patients,
        analysis=Analysis.PENDING,
        findings=[],
        models=[],
        not_for_clinical_use=False,
        priority=order.rank,
        priority_source=order.source,
        order_priority=order.rank,
        order_priority_source=order.source,
    )


def _times(
    values: dict[str, str], *, received_at: datetime, policies: Policies
) -> dict[str, datetime | bool | None]:
    """Return when the study was made, and whether it was too old when it came."""
    made_at = study_datetime(
        study_date=values["study_date"],
        study_time=values["study_time"],
        timezone_offset_from_utc=values["timezone_offset_from_utc"],
        site_timezone=ZoneInfo(policies.site_timezone),
    )
    too_old = is_too_old(
        study_date=values["study_date"],
        study_datetime=made_at,
        received_at=received_at,
        policy=policies.eligibility,
    )
    return {"study_datetime": made_at, "too_old": too_old}


def _order(arrival: Arrival, policies: Policies) -> orders.OrderPriority:
    return orders.order_priority(
        arrival.header,
        sender_ae_title=arrival.sender_ae_title,
        c_store_priority=arrival.c_store_priority,
        policy=policies.orders,
    )


def _mark_two_patients(connection: Connection, study_instance_uid: str, now: datetime) -> None:
    connection.execute(
        update(Study)
        .where(Study.study_instance_uid == study_instance_uid)
        .values(two_patients=True, next_change_at=now)  # the next sweep says so on the worklist
    )
    raise_two_patients(connection, study_instance_uid, now=now)
