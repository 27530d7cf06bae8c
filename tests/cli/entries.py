"""Worklist entries as the reading room gives them, for tests of what is shown."""

from typing import Any


def entry(**changes: Any) -> dict[str, Any]:
    """Return an analysed study without a flag; `changes` are columns of the view."""
    plain: dict[str, Any] = {
        "schema_version": 1,
        "reading_order": 1,
        "study_instance_uid": "1.2.3",
        "accession_number": "A1",
        "patient_id": "P1",
        "issuer_of_patient_id": "",
        "patient_name": "DEMO^ONE",
        "patient_sex": "O",
        "patient_birth_date": "19700101",
        "referring_physician_name": "",
        "institution_name": "",
        "station_name": "",
        "current_patient_location": "",
        "sender_ae_title": "MODALITY",
        "study_description": "Chest",
        "study_date": "20260101",
        "study_time": "120000",
        "study_datetime": "2026-01-01T12:00:00.000000Z",
        "modalities_in_study": ["DX"],
        "body_part_examined": "CHEST",
        "number_of_study_related_instances": 1,
        "received_at": "2026-01-01T12:00:01.000000Z",
        "analysed_at": "2026-01-01T12:00:02.000000Z",
        "flagged_at": None,
        "acknowledged_at": None,
        "acknowledged_by": None,
        "state": "ready",
        "generation": 1,
        "analysis": "analysed",
        "analysis_reason": "",
        "images_eligible": 1,
        "images_analysed": 1,
        "priority": "ROUTINE",
        "priority_source": "default",
        "priority_reason": "nothing flagged",
        "order_priority": "ROUTINE",
        "findings": [],
        "caption": "",
        "models": [],
        "waiting_s": 72.0,
        "not_for_clinical_use": False,
    }
    return plain | changes


def finding(name: str, probability: float, *, flagged: bool) -> dict[str, Any]:
    """Return one finding of an entry."""
    return {
        "name": name,
        "code": None,
        "probability": probability,
        "operating_point": 0.5,
        "flagged": flagged,
    }
