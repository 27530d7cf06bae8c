"""The worklist: what is stored of a study's place in it, and what persons decide about it.

`refresh_study` is the one place that turns facts into the stored columns: it gathers them, asks
`rules.aggregate`, `rules.acknowledgement` and `rules.priority`, and writes the answers. Everyone
who changes a fact of a study calls it in the same transaction. Source: DESIGN section 4.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, update

from triage.database.connection import lock_arrivals
from triage.database.documents import finding_document, model_document
from triage.database.house import record_decision
from triage.database.jobs import job_rank
from triage.database.statements import row_of, update_changed, update_row
from triage.database.study_alarms import close_alarms_of
from triage.database.study_facts import (
    ACKNOWLEDGE,
    StudyContents,
    acknowledgement_of,
    decision_of,
    order_of,
    study_contents,
)
from triage.database.tables import Study
from triage.database.tables_house import JobRow
from triage.database.types import time_text
from triage.errors import PermanentError
from triage.records import Analysis, JobState, Rank
from triage.rules.acknowledgement import Standing, StudySeen, is_listed, standing, study_state
from triage.rules.policies import Policies
from triage.rules.priority import StudyFacts, effective

REFRESHES_PER_TURN = 500
PROGRAM = "triage"  # who acts where no person does
TWO_PATIENTS = "this Study Instance UID is used for more than one patient"


@dataclass(frozen=True, slots=True, kw_only=True)
class Covered:
    """What a person's decision covers: the study as it stood then."""

    generation: int
    number_of_study_related_instances: int
    analysis: Analysis
    images_eligible: int
    images_analysed: int
    flagged: tuple[str, ...]
    unchanged_since: datetime  # when the last image, flag or failure came


def refresh_study(
    connection: Connection, study_id: int, *, policies: Policies, now: datetime
) -> None:
    """Compute the stored columns of a study anew and write them."""
    study = row_of(connection, Study, study_id)
    contents = study_contents(connection, study_id)
    stand = _standing(connection, study, contents)
    changes = _seen(study, contents, now) | _acknowledgement(study, stand, now)
    waiting_since = changes.get("waiting_since", study.waiting_since)
    attention = changes.get("attention", study.attention)
    notes = [attention, TWO_PATIENTS if study.two_patients else ""]
    changes |= _place(
        study,
        contents,
        stand=stand,
        waiting_since=waiting_since,
        notes=notes,
        policies=policies,
        now=now,
    )
    update_changed(connection, Study, study, **changes)
    if "acknowledged_at" in changes:
        detail = {"reason": stand.reason, "acknowledged_by": study.acknowledged_by}
        record_decision(
            connection, study_id=study_id, what="returned", by=PROGRAM, detail=detail, now=now
        )
    if changes["priority"] != study.priority:
        j = JobRow
        connection.execute(
            update(j)
            .where(j.study_id == study_id, j.state == JobState.QUEUED)
            .values(rank=job_rank(Rank(changes["priority"]), too_old=study.too_old))
        )


def refresh_due(connection: Connection, *, policies: Policies, now: datetime) -> int:
    """Refresh studies whose place changes by waiting alone; returns how many were due.

    At most REFRESHES_PER_TURN a call, the longest due first.
    """
    lock_arrivals(connection)
    due = connection.execute(
        select(Study.id)
        .where(Study.next_change_at <= now)
        .order_by(Study.next_change_at)
        .limit(REFRESHES_PER_TURN)
    ).scalars()
    studies = list(due)
    for study_id in studies:
        refresh_study(connection, study_id, policies=policies, now=now)
    return len(studies)


def acknowledge(
    connection: Connection,
    study_id: int,
    *,
    by: str,
    policies: Policies,
    now: datetime,
    reason: str = "",
    as_of: datetime | None = None,
) -> Covered:
    """Take a study off the list: `by` has read it, at this generation and with these findings.

    `reason` is what the person says to it, kept with the decision. A person may read before the
    model has spoken or the last image has come: what comes later puts the study back. `as_of` is
    when the person looked; without it the decision covers what is there. Raises PermanentError
    where it was acknowledged already, or an image, a flag or a failure came after `as_of`.
    """
    study = row_of(connection, Study, study_id)
    if study.acknowledged_at is not None:
        raise PermanentError(
            f"the study was acknowledged already, by {study.acknowledged_by}",
            hint="`triage show STUDY` says when.",
        )
    contents = study_contents(connection, study_id)
    covered = _covered(study, contents, as_of=as_of, now=now)
    flagged = list(covered.flagged)
    update_row(
        connection,
        Study,
        study_id,
        acknowledged_at=now,
        acknowledged_by=by,
        acknowledged_generation=study.generation,
        acknowledged_findings=flagged,
        attention="",
    )
    detail = {"generation": study.generation, "flagged": flagged, "analysis": covered.analysis}
    detail |= {"failures": sorted(contents.failures)} | _remarks(reason, as_of)
    record_decision(connection, study_id=study_id, what=ACKNOWLEDGE, by=by, detail=detail, now=now)
    close_alarms_of(connection, study_id, study.study_instance_uid, now=now)
    refresh_study(connection, study_id, policies=policies, now=now)
    return covered


def set_priority(
    connection: Connection,
    study_id: int,
    rank: Rank | None,
    *,
    by: str,
    policies: Policies,
    now: datetime,
    reason: str = "",
    as_of: datetime | None = None,
) -> Covered:
    """Give a study the rank that a person decided, and why; None withdraws the decision.

    `as_of` as in `acknowledge`.
    """
    study = row_of(connection, Study, study_id)
    covered = _covered(study, study_contents(connection, study_id), as_of=as_of, now=now)
    given = rank is not None
    update_row(
        connection,
        Study,
        study_id,
        person_priority=rank,
        person_priority_by=by if given else None,
        person_priority_at=now if given else None,
        person_priority_generation=study.generation if given else None,
        person_priority_findings=list(covered.flagged) if given else None,
    )
    detail = {"from": study.person_priority, "to": rank, "generation": study.generation}
    detail |= _remarks(reason, as_of)
    record_decision(connection, study_id=study_id, what="priority", by=by, detail=detail, now=now)
    refresh_study(connection, study_id, policies=policies, now=now)
    return covered


def find_study(connection: Connection, text: str) -> list[int]:
    """Return the studies that have this Study Instance UID or accession number, oldest first."""
    if not text:
        return []
    named = (Study.study_instance_uid == text) | (Study.accession_number == text)
    return list(connection.execute(select(Study.id).where(named).order_by(Study.id)).scalars())


# --- what a decision covers


def _covered(
    study: Any, contents: StudyContents, *, as_of: datetime | None, now: datetime
) -> Covered:
    came: dict[str, Collection[datetime]] = {
        "an image": [study.last_instance_at],
        "a flag": contents.flags_at,
        "a failed analysis": contents.failures.values(),
    }
    newest = {what: max(times) for what, times in came.items() if times}
    if as_of is not None:
        _require_seen(newest, as_of=as_of, now=now)
    found = contents.aggregate
    return Covered(
        generation=study.generation,
        number_of_study_related_instances=study.number_of_study_related_instances,
        analysis=found.analysis,
        images_eligible=found.images_eligible,
        images_analysed=found.images_analysed,
        flagged=tuple(sorted(found.flagged_findings)),
        unchanged_since=max(newest.values()),
    )


def _require_seen(newest: Mapping[str, datetime], *, as_of: datetime, now: datetime) -> None:
    """Raise PermanentError unless who looked at `as_of` saw what is there."""
    if as_of > now:
        raise PermanentError(
            f"nobody has looked as of {time_text(as_of)}: the database's clock says"
            f" {time_text(now)}",
            hint="Name when the study was looked at, as `as_of` in `triage show STUDY --json`.",
        )
    later = [f"{what} at {time_text(at)}" for what, at in newest.items() if at > as_of]
    if later:
        raise PermanentError(
            f"after the study was looked at came {', '.join(later)}",
            hint="Look at it again: `triage show STUDY`. Then decide as of that look.",
        )


def _remarks(reason: str, as_of: datetime | None) -> dict[str, str]:
    """Return what was said with a decision, as its event keeps it."""
    said = {"reason": reason} if reason else {}
    return said if as_of is None else said | {"as_of": time_text(as_of)}


# --- from facts to columns


def _standing(connection: Connection, study: Any, contents: StudyContents) -> Standing:
    seen = StudySeen(
        generation=study.generation,
        flagged_findings=contents.aggregate.flagged_findings,
        failures=frozenset(contents.failures),
    )
    return standing(acknowledgement_of(connection, study), seen)


def _seen(study: Any, contents: StudyContents, now: datetime) -> dict[str, Any]:
    """Return what was seen, and since when: times stand while what they tell of stands."""
    found = contents.aggregate
    analysed_at = study.analysed_at
    if found.analysis is not Analysis.ANALYSED:
        analysed_at = None
    elif study.analysis != Analysis.ANALYSED or analysed_at is None:
        analysed_at = now
    flagged_at = None
    if found.flagged_findings:
        # The first flag of this generation; until it has one, that of an earlier one stands.
        own = [at for at in contents.flags_at if at >= study.last_instance_at]
        flagged_at = min(own, default=study.flagged_at or now)
    return {
        "analysis": found.analysis,
        "analysis_reason": found.analysis_reason,
        "images_eligible": found.images_eligible,
        "images_analysed": found.images_analysed,
        "analysed_at": analysed_at,
        "flagged_at": flagged_at,
        "first_flagged_at": study.first_flagged_at or flagged_at,
        "findings": [finding_document(finding) for finding in found.findings],
        "models": [model_document(model) for model in found.models],
        "caption": contents.caption,
        "not_for_clinical_use": found.not_for_clinical_use,
        "modalities_in_study": list(contents.modalities),
    }


def _acknowledgement(study: Any, stand: Standing, now: datetime) -> dict[str, Any]:
    """Return the columns that change where an acknowledgement has lapsed: the study is back."""
    if study.acknowledged_at is None or stand.holds:
        return {}
    return {
        "acknowledged_at": None,
        "acknowledged_by": None,
        "acknowledged_generation": None,
        "acknowledged_findings": None,
        "attention": stand.reason,
        "waiting_since": now,
    }


def _place(
    study: Any,
    contents: StudyContents,
    *,
    stand: Standing,
    waiting_since: datetime,
    notes: list[str],
    policies: Policies,
    now: datetime,
) -> dict[str, Any]:
    facts = StudyFacts(
        waiting_since=waiting_since,
        generation=study.generation,
        order=order_of(study),
        analysis=contents.aggregate.analysis,
        findings=contents.aggregate.findings,
        decision=decision_of(study),
    )
    place = effective(facts, now, policies.priority)
    listed = is_listed(acknowledged=stand.holds, too_old_on_arrival=study.too_old)
    return {
        "state": study_state(
            arriving=study.closes_at is not None,
            acknowledged=stand.holds,
            images_expired=study.images_expired_at is not None,
        ),
        "priority": place.priority,
        "priority_source": place.priority_source,
        "priority_reason": "; ".join(filter(None, [*notes, place.priority_reason])),
        "sort_key": place.sort_key if listed else None,
        "next_change_at": place.next_change_at if listed else None,
    }
