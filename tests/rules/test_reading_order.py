"""What holds of priority and reading order for every study, at every time, in every queue."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from tests.assurance import requirement
from tests.rules.studies import NAMES, at, flag, ordered, place, study
from triage.records import Analysis, Rank
from triage.rules.orders import OrderPriority
from triage.rules.priority import (
    Decision,
    Effective,
    PriorityPolicy,
    StudyFacts,
    decision_holds,
    effective,
    model_rank,
)
from triage.rules.ranks import highest, urgency

ranks = st.sampled_from(Rank)
orders = st.just(OrderPriority()) | ranks.map(ordered)
names = st.frozensets(st.sampled_from(NAMES))
decisions = st.none() | st.builds(
    Decision, rank=ranks, generation=st.integers(1, 3), flagged_findings=names
)
findings = st.lists(
    st.builds(
        lambda name, rank, flagged: flag(name, rank=rank, flagged=flagged),
        st.sampled_from(NAMES),
        ranks,
        st.booleans(),
    ),
    max_size=3,
    unique_by=lambda finding: finding.name,
).map(tuple)
studies = st.builds(
    StudyFacts,
    waiting_since=st.floats(-1e5, 1e5).map(at),
    generation=st.integers(1, 3),
    order=orders,
    analysis=st.sampled_from(Analysis),
    findings=findings,
    decision=decisions,
)
seconds = st.floats(1, 1e5)


def waits(ageing_s: float, ceiling_s: float, target_s: float) -> PriorityPolicy:
    targets: dict[Rank, float] = dict.fromkeys(Rank, target_s)
    return PriorityPolicy(ageing_s=ageing_s, ceiling_s=ceiling_s, target_s=targets)


policies = st.builds(waits, seconds, seconds, seconds)
times = st.floats(-1e5, 1e6).map(at)


@requirement("W1")
@given(facts=studies, now=times, policy=policies)
def test_nothing_ever_stands_below_its_order(
    facts: StudyFacts, now: datetime, policy: PriorityPolicy
) -> None:
    assert urgency(effective(facts, now, policy).priority) <= urgency(facts.order.rank)


@requirement("W1")
@given(facts=studies, now=times, policy=policies)
def test_a_model_never_lowers(facts: StudyFacts, now: datetime, policy: PriorityPolicy) -> None:
    silent = study(
        waiting_since=facts.waiting_since,
        generation=facts.generation,
        order=facts.order,
        analysis=facts.analysis,
        decision=facts.decision,
    )
    with_model, without = effective(facts, now, policy), effective(silent, now, policy)
    assert urgency(with_model.priority) <= urgency(without.priority)
    assert with_model.sort_key <= without.sort_key


@given(facts=studies, policy=policies)
def test_rank_is_what_the_rule_says_before_any_waiting(
    facts: StudyFacts, policy: PriorityPolicy
) -> None:
    found = effective(facts, facts.waiting_since, policy).priority
    model, decision = model_rank(facts.findings), facts.decision
    if decision is None:
        assert found is highest(facts.order.rank, model or facts.order.rank)
    elif decision_holds(decision, facts):
        assert found is highest(facts.order.rank, decision.rank)
    else:
        assert found is highest(facts.order.rank, decision.rank, model or decision.rank)


@given(facts=studies, now=times, policy=policies, part=st.floats(0, 1, exclude_max=True))
def test_next_change_is_exact(
    facts: StudyFacts, now: datetime, policy: PriorityPolicy, part: float
) -> None:
    def shown(found: Effective) -> tuple[object, ...]:
        return found.priority, found.priority_source, found.priority_reason, found.sort_key

    found = effective(facts, now, policy)
    until = found.next_change_at or now + timedelta(days=3000)
    assert until > now
    before = now + (until - now) * part
    assert shown(effective(facts, min(before, until - datetime.resolution), policy)) == shown(found)
    assert shown(effective(facts, until - datetime.resolution, policy)) == shown(found)
    if found.next_change_at:
        assert shown(effective(facts, until, policy)) != shown(found)


@requirement("W1")
@given(facts=studies, now=times, later_s=st.floats(0, 1e6), policy=policies)
def test_waiting_never_lowers(
    facts: StudyFacts, now: datetime, later_s: float, policy: PriorityPolicy
) -> None:
    later = effective(facts, now + timedelta(seconds=later_s), policy)
    assert later.sort_key <= effective(facts, now, policy).sort_key
    assert urgency(later.priority) <= urgency(effective(facts, now, policy).priority)


@given(one=studies, other=studies, now=times, policy=policies)
def test_sort_keys_order_as_the_rule_is_told(
    one: StudyFacts, other: StudyFacts, now: datetime, policy: PriorityPolicy
) -> None:
    def told(facts: StudyFacts) -> tuple[object, ...]:
        found = effective(facts, now, policy)
        human = highest(
            facts.order.rank, facts.decision.rank if facts.decision else facts.order.rank
        )
        if human is not Rank.STAT and waited_s(facts) >= timedelta(seconds=policy.ceiling_s):
            return 1, facts.waiting_since
        group = 0 if human is Rank.STAT else 2
        over = waited_s(facts) >= timedelta(seconds=policy.ceiling_s)
        calm = 1 + (not wants_attention(facts)) if not over else 0
        return group, urgency(found.priority), calm, facts.waiting_since

    def waited_s(facts: StudyFacts) -> timedelta:
        return now - facts.waiting_since

    def wants_attention(facts: StudyFacts) -> bool:
        late = waited_s(facts) >= timedelta(seconds=policy.target_s[Rank.STAT])  # one for all
        return (
            bool(facts.flagged)
            or facts.analysis is Analysis.FAILED
            or (facts.analysis is Analysis.PENDING and late)
        )

    keys = [effective(facts, now, policy).sort_key for facts in (one, other)]
    assert (keys[0] < keys[1]) is (told(one) < told(other))
    assert (keys[0] == keys[1]) is (told(one) == told(other))


@given(facts=studies, now=times, policy=policies)
def test_a_sort_key_has_a_fixed_width(
    facts: StudyFacts, now: datetime, policy: PriorityPolicy
) -> None:
    key = effective(facts, now, policy).sort_key
    assert len(key) == 21
    assert key.isdecimal()


def test_a_sort_key_holds_any_year() -> None:
    for year in (1, 1969, 9000):
        assert len(place(study(waiting_since=datetime(year, 1, 1, tzinfo=UTC))).sort_key) == 21


# --- the ceiling, in a queue


@requirement("W3")
@given(
    gaps_s=st.lists(st.integers(30, 600), min_size=30, max_size=60),
    reading_s=st.integers(60, 900),
    unflagged=st.integers(0, 29),
)
def test_the_ceiling_holds_when_every_other_study_is_flagged(
    gaps_s: list[int], reading_s: int, unflagged: int
) -> None:
    """One reader, one LOW unflagged study, all others flagged, also under lasting overload.

    Once over the ceiling, nothing that arrived later is read before it.
    """
    policy = PriorityPolicy(ageing_s=1e6, ceiling_s=1200)
    arrivals_s = [sum(gaps_s[:number]) for number in range(len(gaps_s))]
    waiting = {
        number: study(
            waiting_since=at(arrival_s),
            order=ordered(Rank.LOW if number == unflagged else Rank.ROUTINE),
            findings=() if number == unflagged else (flag(rank=Rank.STAT),),
        )
        for number, arrival_s in enumerate(arrivals_s)
    }
    now_s: float = 0
    overtakers_s = []
    while unflagged in waiting:
        here = {n: facts for n, facts in waiting.items() if arrivals_s[n] <= now_s}
        if not here:
            now_s = min(arrivals_s[n] for n in waiting)
            continue
        read = min(here, key=lambda n: effective(here[n], at(now_s), policy).sort_key)
        if arrivals_s[read] > arrivals_s[unflagged]:
            overtakers_s.append(now_s)
        del waiting[read]
        now_s += reading_s
    assert all(start_s < arrivals_s[unflagged] + 1200 for start_s in overtakers_s)
    earlier = unflagged  # studies that came before it and may all still wait
    assert now_s - reading_s - arrivals_s[unflagged] <= 1200 + reading_s * (earlier + 1)


@requirement("W3")
def test_without_the_ceiling_the_same_study_would_wait_for_all_others() -> None:
    endless = PriorityPolicy(ageing_s=1e9, ceiling_s=1e9)
    unflagged, newest = study(), study(waiting_since=at(1e6), findings=(flag(),))
    keys = [effective(facts, at(1e6), endless).sort_key for facts in (newest, unflagged)]
    assert keys == sorted(keys)
