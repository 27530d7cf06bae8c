"""Records as JSON columns and back; findings and models have the keys of DESIGN section 6."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from triage.records import Code, Finding, Header, ModelIdentity, Rank

HEADER_FIELDS = tuple(field.name for field in fields(Header))


def header_document(header: Header) -> dict[str, Any]:
    """Return a header as JSON."""
    return {name: getattr(header, name) for name in HEADER_FIELDS}  # asdict would copy deeply


def read_header(document: Mapping[str, Any]) -> Header:
    """Return the header that `header_document` wrote; keys of another version are left out."""
    known = {key: value for key, value in document.items() if key in HEADER_FIELDS}
    return Header(**known | {"image_type": tuple(known.get("image_type", ()))})


def finding_document(finding: Finding) -> dict[str, Any]:
    """Return a finding as the worklist shows it."""
    return {
        "name": finding.name,
        "code": asdict(finding.code) if finding.code else None,
        "probability": finding.probability,
        "operating_point": finding.operating_point,
        "flagged": finding.flagged,
    }


def kept_finding(finding: Finding) -> dict[str, Any]:
    """Return a finding as a result keeps it: with the rank that its flag asks for."""
    return finding_document(finding) | {"raises_to": finding.raises_to.value}


def read_finding(document: Mapping[str, Any]) -> Finding:
    """Return the finding that `kept_finding` wrote."""
    code = document["code"]
    return Finding(
        name=document["name"],
        code=Code(**code) if code else None,
        probability=document["probability"],
        operating_point=document["operating_point"],
        flagged=document["flagged"],
        raises_to=Rank(document["raises_to"]),
    )


def model_document(model: ModelIdentity) -> dict[str, Any]:
    """Return a model's identity as the worklist shows it."""
    return asdict(model)
