"""Records for tests: policies, headers and arrivals with sensible contents."""

import hashlib
import itertools
from dataclasses import replace
from typing import Any

from tests import patient
from triage.records import Arrival, Header, Source
from triage.rules.completion import CompletionPolicy
from triage.rules.eligibility import EligibilityPolicy
from triage.rules.policies import Policies

DX_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
BASIC_TEXT_SR = "1.2.840.10008.5.1.4.1.1.88.11"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"

_numbers = itertools.count(1)


def make_policies(**changes: Any) -> Policies:
    """Return policies that close a series after 10 s of silence and know no old study."""
    policies = Policies(
        completion=CompletionPolicy(quiet_s=10.0, max_wait_s=60.0, quiet_s_by_modality={}),
        eligibility=EligibilityPolicy(maximum_study_age_h=0),
    )
    return replace(policies, **changes)


def new_uid() -> str:
    """Return a UID that no other call returned (2.25 with a small number)."""
    return f"2.25.{next(_numbers)}"


def make_header(**changes: Any) -> Header:
    """Return the header of a chest radiograph; every call names a new study and image."""
    values: dict[str, Any] = {
        "sop_class_uid": DX_FOR_PRESENTATION,
        "sop_instance_uid": new_uid(),
        "study_instance_uid": new_uid(),
        "series_instance_uid": new_uid(),
        "transfer_syntax_uid": EXPLICIT_LITTLE,
        "modality": "DX",
        "patient_id": patient.ID,
        "patient_name": patient.NAME,
        "patient_birth_date": patient.BIRTH_DATE,
        "accession_number": patient.ACCESSION_NUMBER,
        "body_part_examined": "CHEST",
        "rows": 512,
        "columns": 512,
        "has_pixels": True,
    }
    return Header(**values | changes)


def make_ct_header(**changes: Any) -> Header:
    """Return the header of a CT slice, which is looked at with its series."""
    return make_header(**{"sop_class_uid": CT_IMAGE, "modality": "CT"} | changes)


def make_arrival(header: Header | None = None, *, content: str = "", **changes: Any) -> Arrival:
    """Return a durable object; `content` stands for its bytes (default: as the UID says)."""
    header = header or make_header()
    digest = hashlib.sha256((content or header.sop_instance_uid).encode()).hexdigest()
    values: dict[str, Any] = {
        "header": header,
        "digest": digest,
        "path": f"objects/{digest[:2]}/{digest}.dcm",
        "size_bytes": 1000,
        "source": Source.C_STORE,
        "sender_ae_title": "SENDER",
    }
    return Arrival(**values | changes)
