"""The facts of one study, gathered for the rules: parts, persons' decisions, order.

Reads only, and only what belongs to the study: the cost does not grow with the table.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import BindParameter, Connection, bindparam, func, literal_column, select

from triage.database.said import CURRENT_RESULTS, Said, SubjectKey, by_subject, is_stale
from triage.database.tables import CaptionRow, Instance, ResultRow, Series
from triage.database.tables_house import Event, JobRow
from triage.records import (
    Analysis,
    AnalysisResult,
    JobKind,
    JobState,
    Mode,
    Rank,
    Subject,
)
from triage.rules.acknowledgement import Acknowledgement
from triage.rules.aggregate import Aggregate, Part, aggregate
from triage.rules.orders import OrderPriority
from triage.rules.priority import Decision

ACKNOWLEDGE = "acknowledge"  # what the event of an acknowledgement is called

OF_STUDY: BindParameter[int] = bindparam("study_id")
SERIES = (
    select(Series.id, Series.images, Series.closes_at, Series.generation, Series.modality)
    .where(Series.study_id == OF_STUDY)
    .order_by(Series.id)
)
IMAGES = select(Instance.id).where(Instance.study_id == OF_STUDY, Instance.subject == Subject.IMAGE)
CONFLICTS = select(func.count()).where(
    Instance.study_id == OF_STUDY, literal_column("instances.state = 'conflict'")
)
IN_SERIES = select(func.count()).where(
    Instance.study_id == OF_STUDY, Instance.subject == Subject.SERIES
)
RESULTS = CURRENT_RESULTS.where(ResultRow.study_id == OF_STUDY)
WAITING = select(JobRow.subject, JobRow.subject_id).where(
    JobRow.study_id == OF_STUDY,
    JobRow.kind == JobKind.ANALYSE,
    JobRow.state.in_((JobState.QUEUED, JobState.LEASED)),
)
CAPTIONS = (
    select(CaptionRow.text)
    .where(CaptionRow.study_id == OF_STUDY, CaptionRow.current)
    .order_by(CaptionRow.id)
)
ACKNOWLEDGED = (
    select(Event.detail)
    .where(Event.study_id == OF_STUDY, Event.what == ACKNOWLEDGE)
    .order_by(Event.id.desc())
    .limit(1)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyContents:
    """What a study holds and what was said about it."""

    aggregate: Aggregate
    failures: Mapping[int, datetime]  # when which current failed results were written
    flags_at: tuple[datetime, ...]  # when the current flagged results were written
    modalities: tuple[str, ...]
    caption: str


def study_contents(connection: Connection, study_id: int) -> StudyContents:
    """Combine the parts of a study."""
    of_study = {"study_id": study_id}
    series = connection.execute(SERIES, of_study).all()
    rows = connection.execute(RESULTS, of_study)
    results = {key: said for (_, key), said in by_subject(rows).items()}
    images: dict[SubjectKey, int] = dict.fromkeys(_images(connection, study_id), 1)
    arriving: set[SubjectKey] = set()
    for row in series:
        if row.images:
            key = (Subject.SERIES.value, row.id)
            images[key] = row.images
            if row.closes_at is not None or is_stale(results.get(key, ()), row.generation):
                arriving.add(key)
    waiting = _waiting(connection, study_id)
    parts = [
        Part(
            results=tuple(said.result for said in results.get(key, ())),
            pending=key in arriving or key in waiting,
            images=images.get(key, 1),
        )
        for key in sorted(images.keys() | results.keys() | waiting)
    ]
    conflicts = connection.execute(CONFLICTS, of_study).scalar_one()
    held = sum(row.images for row in series)
    came = connection.execute(IN_SERIES, of_study).scalar_one() if held else 0
    return StudyContents(
        aggregate=aggregate(parts, conflicts=conflicts, expired=max(came - held, 0)),
        failures=_written(results, _is_failure),
        flags_at=tuple(sorted(_written(results, _is_flagged).values())),
        modalities=tuple(sorted({row.modality for row in series} - {""})),
        caption=study_caption(connection, study_id),
    )


def order_of(study: Any) -> OrderPriority:
    """Return the order priority of a row of `studies`."""
    return OrderPriority(rank=Rank(study.order_priority), source=study.order_priority_source)


def decision_of(study: Any) -> Decision | None:
    """Return the rank that a person gave the study of this row."""
    if study.person_priority is None:
        return None
    return Decision(
        rank=Rank(study.person_priority),
        generation=study.person_priority_generation,
        flagged_findings=frozenset(study.person_priority_findings),
    )


def acknowledgement_of(connection: Connection, study: Any) -> Acknowledgement | None:
    """Return the acknowledgement of the study of this row; its failures stand in its event."""
    if study.acknowledged_at is None:
        return None
    detail = connection.execute(ACKNOWLEDGED, {"study_id": study.id}).scalar() or {}
    return Acknowledgement(
        generation=study.acknowledged_generation,
        flagged_findings=frozenset(study.acknowledged_findings),
        failures=frozenset(detail.get("failures", ())),
    )


def _written(
    results: Mapping[SubjectKey, Sequence[Said]], condition: Callable[[AnalysisResult], bool]
) -> dict[int, datetime]:
    """Return when the served results that meet a condition were written, by their number."""
    return {
        each.id: each.created_at
        for said in results.values()
        for each in said
        if each.result.mode is Mode.SERVE and condition(each.result)
    }


def _is_failure(result: AnalysisResult) -> bool:
    return result.analysis is Analysis.FAILED


def _is_flagged(result: AnalysisResult) -> bool:
    return any(finding.flagged for finding in result.findings)


def _images(connection: Connection, study_id: int) -> list[SubjectKey]:
    rows = connection.execute(IMAGES, {"study_id": study_id}).scalars()
    return [(Subject.IMAGE.value, each) for each in rows]


def _waiting(connection: Connection, study_id: int) -> set[SubjectKey]:
    """Return the subjects with an open job; comparisons of contested pixels are among them."""
    rows = connection.execute(WAITING, {"study_id": study_id}).all()
    return {(row.subject, row.subject_id) for row in rows}


def study_caption(connection: Connection, study_id: int) -> str:
    """Return the words about all parts, each sentence once, in the order in which they came."""
    texts = connection.execute(CAPTIONS, {"study_id": study_id}).scalars()
    return " ".join(dict.fromkeys(texts))
