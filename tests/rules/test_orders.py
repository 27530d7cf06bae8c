"""What the hospital ordered: the first rule that matches, (0000,0700), the peer, else ROUTINE."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triage.errors import ConfigError
from triage.records import Header, Rank
from triage.rules.orders import OrderPriority, OrderRule, OrdersPolicy, combine, order_priority
from triage.rules.ranks import urgency

EMERGENCY = OrderRule(priority=Rank.STAT, current_patient_location="^ER|emergency")
NIGHT_SHIFT = OrderRule(priority=Rank.HIGH, sender_ae_title="^XR", study_description="chest")
ANY_CHEST = OrderRule(priority=Rank.MEDIUM, study_description="chest")
RULES = OrdersPolicy(rules=(EMERGENCY, NIGHT_SHIFT, ANY_CHEST), peer_priority={"WARD": Rank.LOW})


def ordered(
    policy: OrdersPolicy = RULES,
    *,
    sender: str = "CT1",
    location: str = "",
    description: str = "",
    c_store_priority: int | None = None,
) -> OrderPriority:
    header = Header(
        sop_class_uid="1.2",
        sop_instance_uid="1.3",
        study_instance_uid="1.4",
        series_instance_uid="1.5",
        transfer_syntax_uid="1.6",
        current_patient_location=location,
        study_description=description,
    )
    return order_priority(
        header, sender_ae_title=sender, c_store_priority=c_store_priority, policy=policy
    )


def test_without_any_statement_the_default_is_routine() -> None:
    assert ordered() == OrderPriority(rank=Rank.ROUTINE, source="default")
    assert not ordered().is_stated


def test_the_first_rule_that_matches_counts() -> None:
    assert ordered(sender="XR2", description="Chest PA").rank is Rank.HIGH
    assert ordered(sender="XR2", description="Chest PA", location="ER 3").rank is Rank.STAT
    assert ordered(sender="CT1", description="Chest PA").source == "[orders] rule 3"


def test_all_patterns_of_a_rule_must_match() -> None:
    assert not ordered(sender="XR2", description="Hand").is_stated


def test_patterns_are_found_anywhere_and_in_any_case() -> None:
    assert ordered(description="THORAX / CHEST 2 views").rank is Rank.MEDIUM
    assert ordered(location="Main Emergency Room").rank is Rank.STAT
    only_xr1 = OrdersPolicy(rules=(OrderRule(priority=Rank.LOW, sender_ae_title="^XR1$"),))
    assert ordered(only_xr1, sender="xr1  ").rank is Rank.LOW
    assert not ordered(only_xr1, sender="XR12").is_stated
    assert not ordered(location="Tower 4").is_stated


@pytest.mark.parametrize(
    ("c_store_priority", "rank"),
    [(1, Rank.HIGH), (2, None), (0, None), (None, None), (9, None)],
)
def test_c_store_priority_speaks_only_where_it_is_high(
    c_store_priority: int | None, rank: Rank | None
) -> None:
    found = ordered(c_store_priority=c_store_priority)
    assert (found.rank if found.is_stated else None) == rank


def test_c_store_priority_can_be_ignored() -> None:
    assert not ordered(OrdersPolicy(use_c_store_priority=False), c_store_priority=1).is_stated


def test_a_rule_is_heard_before_the_sender() -> None:
    assert ordered(description="chest", c_store_priority=2, sender="WARD").rank is Rank.MEDIUM
    assert ordered(c_store_priority=1, sender="WARD").rank is Rank.HIGH
    assert ordered(c_store_priority=0, sender="WARD ").rank is Rank.LOW


statements = st.one_of(
    st.just(OrderPriority()),
    st.builds(OrderPriority, rank=st.sampled_from(Rank), source=st.just("x")),
)


@given(held=statements, new=statements)
def test_a_statement_beats_the_default_and_the_more_urgent_statement_counts(
    held: OrderPriority, new: OrderPriority
) -> None:
    both = combine(held, new)
    stated = [urgency(each.rank) for each in (held, new) if each.is_stated]
    assert urgency(both.rank) == min(stated, default=urgency(Rank.ROUTINE))
    assert both.is_stated is bool(stated)


def test_ranks_are_read_as_written_in_the_file() -> None:
    assert OrderRule(priority="high", study_description="x").priority is Rank.HIGH  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"priority": "HIGH"}, r"\[orders.rules\] needs at least one condition"),
        ({"priority": "URGENT", "study_description": "x"}, r"\[orders\] rules.priority.*URGENT"),
        ({"priority": "HIGH", "study_description": "("}, r"\[orders.rules\] study_description"),
    ],
)
def test_an_unusable_rule_is_refused_by_section_and_key(
    values: Mapping[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        OrderRule(**values)  # type: ignore[arg-type]


def test_an_unusable_peer_priority_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\[receiver\] peers.default_priority"):
        OrdersPolicy(peer_priority={"WARD": "SOON"})  # type: ignore[dict-item]
