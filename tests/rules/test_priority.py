"""Priority of an open study: what order, model, person and waiting make of it."""

from typing import Any

import pytest

from tests.assurance import requirement
from tests.rules.studies import (
    NAMES,
    NINE,
    at,
    decided,
    flag,
    ordered,
    place,
    study,
)
from triage.errors import ConfigError
from triage.records import Analysis, Rank
from triage.rules.priority import (
    PriorityPolicy,
    PrioritySource,
    StudyFacts,
    decision_holds,
    effective,
    to_ups,
)


def spoken(facts: StudyFacts, seconds: float = 0) -> tuple[Rank, str]:
    found = place(facts, seconds)
    return found.priority, found.priority_source


# --- order, model, person


BASE = {
    "nothing stated": (study(), Rank.ROUTINE, "default"),
    "ordered": (study(order=ordered(Rank.STAT)), Rank.STAT, "order"),
    "ordered low": (study(order=ordered(Rank.LOW)), Rank.LOW, "order"),
    "flagged": (study(findings=(flag(),)), Rank.HIGH, "model"),
    "flagged, ordered higher": (
        study(findings=(flag(),), order=ordered(Rank.STAT)),
        Rank.STAT,
        "order",
    ),
    "a score without a flag": (study(findings=(flag(flagged=False),)), Rank.ROUTINE, "default"),
    "raised by a person": (study(decision=decided(Rank.STAT)), Rank.STAT, "person"),
    "lowered by a person": (
        study(findings=(flag(),), decision=decided(Rank.MEDIUM, "pneumothorax")),
        Rank.MEDIUM,
        "person",
    ),
    "a person does not lower an order": (
        study(order=ordered(Rank.HIGH), decision=decided(Rank.LOW)),
        Rank.HIGH,
        "order",
    ),
    "a new finding raises again": (
        study(findings=(flag(),), decision=decided(Rank.LOW, "effusion")),
        Rank.HIGH,
        "model",
    ),
    "a new generation raises again": (
        study(generation=2, findings=(flag(),), decision=decided(Rank.LOW, "pneumothorax")),
        Rank.HIGH,
        "model",
    ),
    "a person's STAT outlives its generation": (
        study(generation=2, findings=(flag(),), decision=decided(Rank.STAT)),
        Rank.STAT,
        "person",
    ),
}


@pytest.mark.parametrize(("facts", "rank", "source"), BASE.values(), ids=BASE)
def test_rank_and_source_before_any_waiting(facts: StudyFacts, rank: Rank, source: str) -> None:
    assert spoken(facts) == (rank, source)


def test_a_decision_holds_while_a_finding_goes_away() -> None:
    decision = decided(Rank.LOW, *NAMES)
    assert decision_holds(decision, study(findings=(flag("nodule"),)))
    assert not decision_holds(decision, study(findings=(flag("edema"),)))


def test_the_reason_names_the_findings_and_never_hides_them() -> None:
    found = (flag("pneumothorax"), flag("nodule"), flag("effusion", flagged=False))
    assert place(study(findings=found)).priority_reason == "flagged: pneumothorax, nodule"
    overruled = study(findings=found, decision=decided(Rank.LOW, *NAMES))
    assert place(overruled).priority_reason == (
        "no order priority given: ROUTINE; flagged: pneumothorax, nodule; a person set LOW"
    )


@pytest.mark.parametrize(
    ("analysis", "words"),
    [
        (Analysis.FAILED, "analysis failed"),
        (Analysis.PENDING, "analysis pending"),
        (Analysis.NOT_ELIGIBLE, "not analysed"),
    ],
)
def test_the_reason_says_when_nobody_looked(analysis: Analysis, words: str) -> None:
    assert place(study(analysis=analysis)).priority_reason.endswith(words)


# --- waiting


def test_waiting_raises_rank_by_rank_up_to_high() -> None:
    low = study(order=ordered(Rank.LOW))
    never = PriorityPolicy(ageing_s=3600, ceiling_s=1e8)
    found = [effective(low, at(hour * 3600), never) for hour in range(6)]
    assert [each.priority for each in found] == ["LOW", "ROUTINE", "MEDIUM", "HIGH", "HIGH", "HIGH"]
    assert found[1].priority_source is PrioritySource.AGEING
    assert "raised from LOW by waiting" in found[1].priority_reason


def test_a_step_comes_at_its_time_and_not_before() -> None:
    assert spoken(study(), 4 * 3600 - 0.000001) == (Rank.ROUTINE, "default")
    assert spoken(study(), 4 * 3600) == (Rank.MEDIUM, "ageing")


def test_the_ceiling_goes_before_everything_but_stat_by_order_or_person() -> None:
    eleven_h = 11 * 3600
    waited = place(study(order=ordered(Rank.LOW)), eleven_h)
    later = {"waiting_since": at(eleven_h - 60)}
    model_stat = study(findings=(flag(rank=Rank.STAT),), **later)
    assert waited.sort_key < place(model_stat, eleven_h).sort_key
    for stat in ({"order": ordered(Rank.STAT)}, {"decision": decided(Rank.STAT)}):
        assert place(study(**stat, **later), eleven_h).sort_key < waited.sort_key
    assert waited.priority is Rank.HIGH
    assert "waits longer than 10 h" in waited.priority_reason


def test_over_the_ceiling_only_waiting_counts() -> None:
    first = place(study(), 12 * 3600)
    flagged = place(study(findings=(flag(),), waiting_since=at(1)), 12 * 3600)
    assert first.sort_key < flagged.sort_key


def test_a_clock_that_steps_back_raises_nobody() -> None:
    assert spoken(study(), -5) == (Rank.ROUTINE, "default")


def test_the_next_change_is_announced_until_waiting_changes_nothing_more() -> None:
    never = PriorityPolicy(ageing_s=3600, ceiling_s=36_000, target_s={Rank.LOW: 60})
    low = study(order=ordered(Rank.LOW), analysis=Analysis.PENDING)
    changes_s, now = [], NINE
    while (found := effective(low, now, never)).next_change_at:
        now = found.next_change_at
        changes_s.append((now - NINE).total_seconds())
    assert changes_s == [60, 3600, 7200, 10_800, 36_000]


# --- reading order within a rank


@requirement("W2")
def test_failed_and_late_go_before_analysed_without_a_flag() -> None:
    unflagged = place(study(waiting_since=at(-600)), 1800)
    failed = place(study(analysis=Analysis.FAILED, waiting_since=at(1799)), 1800)
    late = place(study(analysis=Analysis.PENDING), 1800)
    assert max(failed.sort_key, late.sort_key) < unflagged.sort_key
    assert "analysis is late" in late.priority_reason


def test_pending_in_time_and_out_of_scope_keep_the_place_of_their_arrival() -> None:
    kinds = [Analysis.ANALYSED, Analysis.PENDING, Analysis.NOT_ELIGIBLE, Analysis.ANALYSED]
    keys = [
        place(study(analysis=kind, waiting_since=at(second)), 1000).sort_key
        for second, kind in enumerate(kinds)
    ]
    assert keys == sorted(keys)


def test_an_earlier_arrival_is_read_first() -> None:
    assert place(study()).sort_key < place(study(waiting_since=at(0.000001))).sort_key


# --- policy


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"ageing_s": 0}, "ageing_s"),
        ({"ceiling_s": -1}, "ceiling_s"),
        ({"ceiling_s": float("nan")}, "ceiling_s"),
        ({"target_s": {"SOON": 5}}, "target_s"),
        ({"target_s": {"STAT": 0}}, r"target_s\.STAT"),
    ],
)
def test_an_unusable_policy_is_refused_by_section_and_key(values: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"\[priority\] {key}"):
        PriorityPolicy(**values)


def test_ranks_left_out_keep_their_target() -> None:
    policy = PriorityPolicy(target_s={"stat": 60})  # type: ignore[dict-item]
    assert policy.target_s[Rank.STAT] == 60
    assert policy.target_s[Rank.LOW] == PriorityPolicy().target_s[Rank.LOW]


def test_ranks_are_told_to_ups_in_its_three_terms() -> None:
    assert [to_ups(rank) for rank in Rank] == ["HIGH", "HIGH", "MEDIUM", "LOW", "LOW"]
