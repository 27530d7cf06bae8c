"""Ranks are compared by urgency, never by letters."""

from hypothesis import given
from hypothesis import strategies as st

from triage.records import Rank
from triage.rules.ranks import highest, raised, urgency

ranks = st.sampled_from(Rank)


def test_ranks_run_from_stat_to_low() -> None:
    assert sorted(Rank, key=urgency) == ["STAT", "HIGH", "MEDIUM", "ROUTINE", "LOW"]


@given(first=ranks, others=st.lists(ranks, max_size=3))
def test_the_highest_is_the_most_urgent(first: Rank, others: list[Rank]) -> None:
    assert urgency(highest(first, *others)) == min(urgency(each) for each in [first, *others])


@given(rank=ranks, steps=st.integers(0, 9), limit=ranks)
def test_raising_stops_at_the_limit_and_never_lowers(rank: Rank, steps: int, limit: Rank) -> None:
    found = urgency(raised(rank, steps, limit=limit))
    assert found <= urgency(rank)
    assert found == max(urgency(rank) - steps, min(urgency(limit), urgency(rank)))
