"""Open studies as the priority rule sees them: at nine, generation 1, analysed, nothing stated."""

from datetime import UTC, datetime, timedelta
from typing import Any

from triage.records import Analysis, Finding, Rank
from triage.rules.orders import OrderPriority
from triage.rules.priority import Decision, Effective, PriorityPolicy, StudyFacts, effective

POLICY = PriorityPolicy(ageing_s=4 * 3600, ceiling_s=10 * 3600, target_s={Rank.ROUTINE: 1800})
NINE = datetime(2026, 1, 1, 9, 0, tzinfo=UTC)
NAMES = ("effusion", "nodule", "pneumothorax")


def at(seconds: float) -> datetime:
    return NINE + timedelta(seconds=seconds)


def flag(name: str = "pneumothorax", *, rank: Rank = Rank.HIGH, flagged: bool = True) -> Finding:
    return Finding(
        name=name,
        code=None,
        probability=0.9 if flagged else 0.1,
        operating_point=0.5,
        flagged=flagged,
        raises_to=rank,
    )


def ordered(rank: Rank) -> OrderPriority:
    return OrderPriority(rank=rank, source="[orders] rule 1")


def decided(rank: Rank, *seen: str, generation: int = 1) -> Decision:
    return Decision(rank=rank, generation=generation, flagged_findings=frozenset(seen))


def study(**values: Any) -> StudyFacts:
    plain = {
        "waiting_since": NINE,
        "generation": 1,
        "order": OrderPriority(),
        "analysis": Analysis.ANALYSED,
    }
    return StudyFacts(**{**plain, **values})


def place(facts: StudyFacts, seconds: float = 0) -> Effective:
    return effective(facts, at(seconds), POLICY)
