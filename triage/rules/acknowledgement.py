"""Decide whether a study is on the reading list. Only a person takes one off.

An acknowledgement says "I have seen this study as it is": it belongs to the generation, the
flagged findings and the failures that the person saw. What the person cannot have seen brings the
study back: a late image, a new flagged finding, an analysis that failed afterwards. No time is
compared: a clock may have stepped back in between. Expired images change what can be shown, never
whether the study is listed. Source: DESIGN section 4.
"""

from dataclasses import dataclass

from triage.records import StudyState

NEW_IMAGES = "new images after acknowledgement"
NEW_FINDING = "new finding after acknowledgement"
NEW_FAILURE = "analysis failed after acknowledgement"


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """What a person (or, recorded as such, a signed report) took off the list."""

    generation: int
    flagged_findings: frozenset[str]
    failures: frozenset[int]  # by the number of their result


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySeen:
    """The study as it is now, in what an acknowledgement depends on."""

    generation: int
    flagged_findings: frozenset[str]
    failures: frozenset[int]  # that count now, by the number of their result


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Whether the acknowledgement holds; if it no longer does, `reason` says why."""

    holds: bool
    reason: str = ""


def standing(acknowledgement: Acknowledgement | None, study: StudySeen) -> Standing:
    """Decide whether an acknowledgement still covers the study."""
    if acknowledgement is None:
        return Standing(holds=False)
    reasons = []
    if study.generation != acknowledgement.generation:
        reasons.append(NEW_IMAGES)
    if study.flagged_findings - acknowledgement.flagged_findings:
        reasons.append(NEW_FINDING)
    if study.failures - acknowledgement.failures:
        reasons.append(NEW_FAILURE)
    return Standing(holds=not reasons, reason="; ".join(reasons))


def is_listed(*, acknowledged: bool, too_old_on_arrival: bool) -> bool:
    """Whether the study is on the reading list.

    `acknowledged` is `Standing.holds`. A study that was too old when it arrived (a prior, a
    migration) never was on it.
    """
    return not acknowledged and not too_old_on_arrival


def study_state(*, arriving: bool, acknowledged: bool, images_expired: bool) -> StudyState:
    """Return the state shown; an expired study that nobody acknowledged stays listed."""
    if images_expired:
        return StudyState.EXPIRED
    if acknowledged:
        return StudyState.ACKNOWLEDGED
    return StudyState.ARRIVING if arriving else StudyState.READY
