"""The worklist: what is stored of a study's place in it, and what persons decide about it.

`refresh_study` is the one place that turns facts into the stored columns: it gathers them, asks
`rules.aggregate`, `rules.acknowledgement` and `rules.priority`, and writes the answers. Everyone
who changes a fact of a study calls it in the same transaction. Source: DESIGN section 4.
"""

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
    StudyContents,
    acknowledgement_of,
    decision_of,
    order_of,
    study_contents,
)
from triage.database.tables import Study
from triage.database.tables_house import JobRow
from triage.errors import PermanentError
from triage.records import Analysis, JobState, Rank
from triage.rules.acknowledgement import Standing, StudySeen, is_listed, standing, study_state
from triage.rules.policies import Policies
from triage.rules.priority import StudyFacts, effective

REFRESHES_PER_TURN = 500
PROGRAM = "triage"  # who acts where no person does
TWO_PATIENTS = "this Study Instance UID is used for more than one patient"


def refresh_study(
    connection: Connection, study_id: int, *, policies: Policies, now: datetime
) -> None:
    """Compute the stored columns of a study anew and write them."""
    study = row_of(connection, Study, study_id)
    contents = study_contents(connection, study_id)
    stand = _standing(study, contents)
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
) -> None:
    """Take a study off the list: `by` has read it, at this generation and with these findings.

    `reason` is what the person says to it, kept with the decision. A person may read before the
    model has spoken or the last image has come: what comes later puts the study back. Raises
    PermanentError where it was acknowledged already.
    """
    study = row_of(connection, Study, study_id)
    if study.acknowledged_at is not None:
        raise PermanentError(
            f"the study was acknowledged already, by {study.acknowledged_by}",
            hint="`triage show STUDY` says when.",
        )
    flagged = flagged_names(study.findings)
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
    detail = {"generation": study.generation, "flagged": flagged, "analysis": study.analysis}
    detail |= {"reason": reason} if reason else {}
    record_decision(
        connection, study_id=study_id, what="acknowledge", by=by, detail=detail, now=now
    )
    close_alarms_of(connection, study_id, study.study_instance_uid, now=now)
    refresh_study(connection, study_id, policies=policies, now=now)


def set_priority(
    connection: Connection,
    study_id: int,
    rank: Rank | None,
    *,
    by: str,
    policies: Policies,
    now: datetime,
    reason: str = "",
) -> None:
    """Give a study the rank that a person decided, and why; None withdraws the decision."""
    study = row_of(connection, Study, study_id)
    given = rank is not None
    flagged = flagged_names(study.findings)
    update_row(
        connection,
        Study,
        study_id,
        person_priority=rank,
        person_priority_by=by if given else None,
        person_priority_at=now if given else None,
        person_priority_generation=study.generation if given else None,
        person_priority_findings=flagged if given else None,
    )
    detail = {"from": study.person_priority, "to": rank, "generation": study.generation}
    detail |= {"reason": reason} if reason else {}
    record_decision(connection, study_id=study_id, what="priority", by=by, detail=detail, now=now)
    refresh_study(connection, study_id, policies=policies, now=now)


def find_study(connection: Connection, text: str) -> list[int]:
    """Return the studies that have this Study Instance UID or accession number, oldest first."""
    if not text:
        return []
    named = (Study.study_instance_uid == text) | (Study.accession_number == text)
    return list(connection.execute(select(Study.id).where(named).order_by(Study.id)).scalars())


def flagged_names(findings: list[dict[str, Any]]) -> list[str]:
    """Return the names of the flagged findings, as decisions keep them."""
    return sorted(finding["name"] for finding in findings if finding["flagged"])


# --- from facts to columns


def _standing(study: Any, contents: StudyContents) -> Standing:
    seen = StudySeen(
        generation=study.generation,
        flagged_findings=contents.aggregate.flagged_findings,
        failed_at=contents.failed_at,
    )
    return standing(acknowledgement_of(study), seen)


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
