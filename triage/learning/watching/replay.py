"""What another bundle, or other thresholds, would have said of the studies that were received.

No pixel is decoded: `replay_answers` says what stands in for the served models. A study of which
something is missing is not compared; what is missing is told and counted. Ranks are compared as
they were before any waiting. Streams: holds one page of studies, whatever their number.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from triage.database.connection import Database
from triage.database.results import cached_embeddings
from triage.database.scores import StoredPart, StoredStudy, stored_studies
from triage.learning.watching.replay_answers import Answers, Missing
from triage.learning.watching.score_sums import ScoreSums
from triage.records import Analysis, AnalysisResult, Mode, ModelIdentity, Rank
from triage.rules.aggregate import Aggregate, Part, aggregate
from triage.rules.policies import Policies
from triage.rules.priority import StudyFacts, effective
from triage.rules.ranks import urgency
from triage.rules.standing import stands


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the worklist shows, or would show, of a study."""

    priority: Rank
    flagged: tuple[str, ...]
    analysis: Analysis


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One study that would stand differently."""

    study_instance_uid: str
    received_at: datetime
    was: Standing
    would: Standing


@dataclass(kw_only=True)
class Summary:
    """Counts of studies, and how the scores compare by replaced model and finding."""

    studies: int = 0
    compared: int = 0
    was_flagged: int = 0
    would_flag: int = 0
    newly_flagged: int = 0
    no_longer_flagged: int = 0
    raised: int = 0
    lowered: int = 0
    no_longer_analysed: int = 0
    changed: int = 0
    missing: Counter[Missing] = field(default_factory=Counter)
    missing_studies: int = 0
    mendable: int = 0  # of them, by another look
    scores: dict[tuple[ModelIdentity, str], ScoreSums] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Who is told while it runs: of each change, each study left out, and each page's size."""

    changed: Callable[[Change], None] = lambda change: None
    missing: Callable[[StoredStudy, frozenset[Missing]], None] = lambda study, reasons: None
    progress: Callable[[int], None] = lambda studies: None


def replay(
    db: Database,
    answers: Answers,
    *,
    since: datetime | None,
    instead_of: frozenset[str] | None,
    policies: Policies,
    listener: Listener | None = None,
) -> Summary:
    """Compare every study received since then; `instead_of` are the digests of what is replaced.

    Without it every served model is.
    """
    listener = listener or Listener()
    summary = Summary()
    for page in stored_studies(db, since=since):
        keys = {key for study in page for part in study.parts for key in answers.keys(part, study)}
        with db.read() as connection:
            vectors = cached_embeddings(connection, sorted(keys))
        for study in page:
            said = [answers.answer(part, study, vectors) for part in study.parts]
            summary.studies += 1
            if lacking := frozenset(each for each in said if isinstance(each, Missing)):
                _count_missing(summary, lacking)
                listener.missing(study, lacking)
                continue
            told = [each for each in said if isinstance(each, AnalysisResult)]
            change = _compared(summary, study, told, instead_of, policies)
            if change.was != change.would:
                listener.changed(change)
        listener.progress(len(page))
    return summary


def _count_missing(summary: Summary, lacking: frozenset[Missing]) -> None:
    summary.missing.update(lacking)
    summary.missing_studies += 1
    summary.mendable += Missing.EXPIRED not in lacking


def _compared(
    summary: Summary,
    study: StoredStudy,
    new: Sequence[AnalysisResult],
    instead_of: frozenset[str] | None,
    policies: Policies,
) -> Change:
    """Count one study of which nothing is missing."""
    was_parts, would_parts = [], []
    for part, answer in zip(study.parts, new, strict=True):
        served = [each for each in part.results if each.mode is Mode.SERVE]
        kept = [
            each
            for each in served
            if not _replaced(each, instead_of) and _counts_beside(each, answer)
        ]
        # A part that nobody has looked at yet stays as it is: it waits under either model.
        unseen = part.pending and not part.results
        # With what a shadow said: aggregate tells "nobody serves" from "not looked at yet".
        was_parts.append(_part(part, part.results))
        would_parts.append(_part(part, [] if unseen else [*kept, answer]))
        replaced = [each for each in served if each not in kept and not each.earlier]
        _count_scores(summary, replaced, answer)
    change = Change(
        study_instance_uid=study.study_instance_uid,
        received_at=study.received_at,
        was=_standing(study, aggregate(was_parts, conflicts=study.conflicts), policies),
        would=_standing(study, aggregate(would_parts, conflicts=study.conflicts), policies),
    )
    _count_change(summary, change)
    return change


def _replaced(result: AnalysisResult, instead_of: frozenset[str] | None) -> bool:
    return instead_of is None or result.model is None or result.model.digest in instead_of


def _counts_beside(result: AnalysisResult, answer: AnalysisResult) -> bool:
    """What a served model says now does; its flag of an earlier look only where it stands."""
    return not result.earlier or result.model is None or stands(result.model.digest, [answer])


def _part(part: StoredPart, results: Iterable[AnalysisResult]) -> Part:
    return Part(results=tuple(results), pending=part.pending, images=part.images)


def _standing(study: StoredStudy, seen: Aggregate, policies: Policies) -> Standing:
    facts = StudyFacts(
        waiting_since=study.waiting_since,
        generation=study.generation,
        order=study.order,
        analysis=seen.analysis,
        findings=seen.findings,
        decision=study.decision,
    )
    place = effective(facts, study.waiting_since, policies.priority)
    return Standing(
        priority=place.priority,
        flagged=tuple(sorted(seen.flagged_findings)),
        analysis=seen.analysis,
    )


def _count_change(summary: Summary, change: Change) -> None:
    was, would = change.was, change.would
    summary.compared += 1
    summary.changed += was != would
    summary.was_flagged += bool(was.flagged)
    summary.would_flag += bool(would.flagged)
    summary.newly_flagged += bool(would.flagged) and not was.flagged
    summary.no_longer_flagged += bool(was.flagged) and not would.flagged
    summary.raised += urgency(would.priority) < urgency(was.priority)
    summary.lowered += urgency(would.priority) > urgency(was.priority)
    summary.no_longer_analysed += (
        was.analysis is Analysis.ANALYSED and would.analysis is not Analysis.ANALYSED
    )


def _count_scores(
    summary: Summary, replaced: Iterable[AnalysisResult], answer: AnalysisResult
) -> None:
    new = {finding.name: finding.probability for finding in answer.findings}
    for result in replaced:
        for finding in result.findings:
            if result.model and finding.name in new:
                sums = summary.scores.setdefault((result.model, finding.name), ScoreSums())
                sums.add(finding.probability, new[finding.name])
