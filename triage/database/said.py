"""What the models said of the subjects of studies, as far as it counts now."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import select

from triage.database.documents import read_finding
from triage.database.tables import ResultRow
from triage.records import Analysis, AnalysisResult, Mode, ModelIdentity

SubjectKey = tuple[str, int]

# What each refresh of a study reads; replay adds what it needs.
CURRENT_RESULTS = (
    select(
        ResultRow.id,
        ResultRow.study_id,
        ResultRow.subject,
        ResultRow.subject_id,
        ResultRow.generation,
        ResultRow.bundle_name,
        ResultRow.bundle_version,
        ResultRow.bundle_digest,
        ResultRow.mode,
        ResultRow.analysis,
        ResultRow.reason,
        ResultRow.findings,
        ResultRow.not_for_clinical_use,
        ResultRow.created_at,
    )
    .where(ResultRow.current)
    .order_by(ResultRow.id)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One current result, the generation that it was made for, and when it was written."""

    id: int
    result: AnalysisResult
    generation: int
    created_at: datetime


def by_subject(rows: Iterable[Any]) -> dict[tuple[int, SubjectKey], list[Said]]:
    """Group rows of `CURRENT_RESULTS` by study and subject, those of the newest look last.

    Each transaction writes the results of one look. What an older look has left is `earlier`.
    """
    said: dict[tuple[int, SubjectKey], list[Said]] = defaultdict(list)
    for row in rows:
        said[row.study_id, (row.subject, row.subject_id)].append(
            Said(
                id=row.id,
                result=_result(row),
                generation=row.generation,
                created_at=row.created_at,
            )
        )
    return {key: [_dated(each, told[-1]) for each in told] for key, told in said.items()}


def is_stale(said: Iterable[Said], generation: int) -> bool:
    """Whether the newest look at a subject came before this generation of it; no look does not."""
    return max((each.generation for each in said), default=generation) < generation


def _dated(said: Said, newest: Said) -> Said:
    if said.created_at == newest.created_at:
        return said
    return replace(said, result=replace(said.result, earlier=True))


def _result(row: Any) -> AnalysisResult:
    model = ModelIdentity(
        name=row.bundle_name, version=row.bundle_version, digest=row.bundle_digest
    )
    return AnalysisResult(
        model=model if row.bundle_digest else None,
        mode=Mode(row.mode),
        analysis=Analysis(row.analysis),
        reason=row.reason,
        findings=tuple(read_finding(document) for document in row.findings),
        distance=getattr(row, "distance", None),
        not_for_clinical_use=row.not_for_clinical_use,
        embedding_keys=tuple(getattr(row, "embedding_keys", ())),
    )
