"""Decide how urgent an open study is, where it stands in the reading order, and until when.

Triage may only add attention: what a model says, or fails to say, never puts a study below its
order. A person's decision overrides the model, for what the person saw. Waiting raises rank by
rank, and after the ceiling nothing but a STAT by order or person goes first: moving flagged
studies up makes the others wait longer than in order of arrival (QuCAD, Queueing Systems 2024;
108:579), and the ceiling is what bounds that.

Owns no list membership: `acknowledgement` decides who is on the list. Source: DESIGN section 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Literal

from triage.records import Analysis, Finding, Rank
from triage.rules import checks
from triage.rules.orders import OrderPriority
from triage.rules.ranks import highest, raised, urgency

_TARGET_S = {
    Rank.STAT: 300.0,
    Rank.HIGH: 600.0,
    Rank.MEDIUM: 900.0,
    Rank.ROUTINE: 1800.0,
    Rank.LOW: 3600.0,
}
_AGEING_LIMIT = Rank.HIGH  # waiting is no emergency: STAT stays with order, person and model
_EPOCH = datetime(1, 1, 1, tzinfo=UTC)  # no datetime is earlier, so the key has no sign

_UPS: Mapping[Rank, Literal["HIGH", "MEDIUM", "LOW"]] = {
    Rank.STAT: "HIGH",
    Rank.HIGH: "HIGH",
    Rank.MEDIUM: "MEDIUM",
    Rank.ROUTINE: "LOW",
    Rank.LOW: "LOW",
}


class PrioritySource(StrEnum):
    """What the effective priority rests on."""

    DEFAULT = "default"
    ORDER = "order"
    MODEL = "model"
    PERSON = "person"
    AGEING = "ageing"


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorityPolicy:
    """`[priority]` in triage.toml; raises ConfigError if unusable."""

    ageing_s: float = 28_800.0  # each such wait raises a study by one rank, at most to HIGH
    ceiling_s: float = 86_400.0  # after this wait only STAT by order or person goes before it
    target_s: Mapping[Rank, float] = field(
        default_factory=lambda: dict(_TARGET_S)
    )  # by rank: pending longer than this is shown as late; ranks left out keep their default

    def __post_init__(self) -> None:
        checks.number("priority", "ageing_s", self.ageing_s, above=True)
        checks.number("priority", "ceiling_s", self.ceiling_s, above=True)
        given = {
            checks.rank("priority", "target_s", rank): checks.number(
                "priority", f"target_s.{rank}", seconds, above=True
            )
            for rank, seconds in self.target_s.items()
        }
        object.__setattr__(self, "target_s", {**_TARGET_S, **given})


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A rank that a person gave a study, and what the person saw when giving it."""

    rank: Rank
    generation: int
    flagged_findings: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFacts:
    """An open study, in what its place depends on."""

    waiting_since: datetime  # first image, or later the return to the list
    generation: int
    order: OrderPriority
    analysis: Analysis
    findings: tuple[Finding, ...] = ()  # the study's, as `aggregate` gives them
    decision: Decision | None = None

    @property
    def flagged(self) -> tuple[Finding, ...]:
        """The findings that ask for attention."""
        return tuple(finding for finding in self.findings if finding.flagged)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """Where an open study stands. Constant until `next_change_at` unless its facts change."""

    priority: Rank
    priority_source: PrioritySource
    priority_reason: str
    sort_key: str  # see `_sort_key`; ascending order is reading order
    next_change_at: datetime | None  # None: waiting changes nothing any more


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """The rank before any waiting."""

    rank: Rank
    source: PrioritySource
    reason: str
    human_rank: Rank  # by order or person alone


def effective(facts: StudyFacts, now: datetime, policy: PriorityPolicy) -> Effective:
    """Return the priority, its reason and the place in reading order at `now`.

    Without a person's decision the rank is the higher of order and model; with one, of order and
    person. A decision whose generation or findings have passed keeps raising and no longer
    lowers: a machine does not take back a person's STAT.
    """
    base = _base(facts)
    standing = _at(facts, base, now, policy)
    later = (each for each in _thresholds(facts, base, policy) if each > now)
    for threshold in sorted(later):
        if _at(facts, base, threshold, policy) != standing:
            return replace(standing, next_change_at=threshold)
    return standing


def model_rank(findings: tuple[Finding, ...]) -> Rank | None:
    """Return the highest rank that a flagged finding asks for; None without a flag."""
    ranks = [finding.raises_to for finding in findings if finding.flagged]
    return highest(*ranks) if ranks else None


def decision_holds(decision: Decision, facts: StudyFacts) -> bool:
    """Whether a person's decision still covers the study: same images, no new flagged finding."""
    flagged = {finding.name for finding in facts.flagged}
    return decision.generation == facts.generation and flagged <= decision.flagged_findings


def to_ups(rank: Rank) -> Literal["HIGH", "MEDIUM", "LOW"]:
    """Return Scheduled Procedure Step Priority (0074,1200), PS3.3 C.30.2."""
    return _UPS[rank]


def _base(facts: StudyFacts) -> _Base:
    order, decision = facts.order, facts.decision
    holds = decision is not None and decision_holds(decision, facts)
    person = decision.rank if decision else None
    model = None if holds else model_rank(facts.findings)
    human_rank = order.rank if person is None else highest(order.rank, person)
    rank = human_rank if model is None else highest(human_rank, model)
    names = ", ".join(finding.name for finding in facts.flagged)
    if person == rank:
        earlier = "" if holds else ", before the newest images or findings"
        source, reason = PrioritySource.PERSON, f"set to {rank} by a person{earlier}"
    elif order.rank != rank:
        source, reason = PrioritySource.MODEL, f"flagged: {names}"
    elif order.is_stated:
        source, reason = PrioritySource.ORDER, f"ordered {rank} ({order.source})"
    else:
        source, reason = PrioritySource.DEFAULT, f"no order priority given: {rank}"
    if names and source is not PrioritySource.MODEL:
        reason = f"{reason}; flagged: {names}"
    if holds and person is not None and person != rank:
        reason = f"{reason}; a person set {person}"
    return _Base(rank=rank, source=source, reason=reason, human_rank=human_rank)


def _thresholds(facts: StudyFacts, base: _Base, policy: PriorityPolicy) -> set[datetime]:
    """Every time at which waiting could change the outcome."""
    steps = [policy.ageing_s * step for step in range(1, len(Rank))]
    waits_s = [*steps, policy.ceiling_s, policy.target_s[base.rank]]
    return {facts.waiting_since + timedelta(seconds=wait_s) for wait_s in waits_s}


def _at(facts: StudyFacts, base: _Base, now: datetime, policy: PriorityPolicy) -> Effective:
    def waited(seconds: float) -> bool:
        return now >= facts.waiting_since + timedelta(seconds=seconds)

    steps = sum(waited(policy.ageing_s * step) for step in range(1, len(Rank)))
    over_ceiling = waited(policy.ceiling_s)
    rank = raised(base.rank, steps, limit=_AGEING_LIMIT)
    if over_ceiling:
        rank = highest(rank, _AGEING_LIMIT)
    late = facts.analysis is Analysis.PENDING and waited(policy.target_s[base.rank])
    notes = [base.reason]
    if over_ceiling:
        longer = f"waits longer than {_spoken(policy.ceiling_s)}"
        notes.append(f"{longer}: only STAT by order or person goes before it")
    elif rank is not base.rank:
        notes.append(f"raised from {base.rank} by waiting")
    notes.extend(_analysis_note(facts.analysis, late=late))
    return Effective(
        priority=rank,
        priority_source=base.source if rank is base.rank else PrioritySource.AGEING,
        priority_reason="; ".join(notes),
        sort_key=_sort_key(facts, base, rank=rank, over_ceiling=over_ceiling, late=late),
        next_change_at=None,
    )


def _analysis_note(analysis: Analysis, *, late: bool) -> list[str]:
    """Say aloud what an unflagged study was not: looked at."""
    notes = {
        Analysis.FAILED: "analysis failed",
        Analysis.PENDING: "analysis is late" if late else "analysis pending",
        Analysis.NOT_ELIGIBLE: "not analysed",
    }
    return [notes[analysis]] if analysis in notes else []


def _sort_key(facts: StudyFacts, base: _Base, *, rank: Rank, over_ceiling: bool, late: bool) -> str:
    """Return 21 digits that sort as text in every collation, smallest read first.

    1 group: 0 STAT by order or person, 1 over the ceiling, 2 the rest
    1 rank: 0 STAT to 4 LOW, aged; 0 over the ceiling, where only waiting counts
    1 attention: 0 over the ceiling, 1 flagged, failed or late, 2 the rest (analysed without a
      flag, in time, out of scope)
    18 waiting since, in microseconds of the proleptic calendar: longest wait first
    Equal keys are equal waits; the list breaks the tie by Study Instance UID.
    """
    group = 0 if base.human_rank is Rank.STAT else 1 if over_ceiling else 2
    wants_attention = bool(facts.flagged) or facts.analysis is Analysis.FAILED or late
    attention = 0 if over_ceiling else 1 if wants_attention else 2
    place = urgency(Rank.STAT if over_ceiling else rank)
    waiting_us = (facts.waiting_since - _EPOCH) // timedelta(microseconds=1)
    return f"{group}{place}{attention}{waiting_us:018d}"


def _spoken(seconds: float) -> str:
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds / 60:g} min"
