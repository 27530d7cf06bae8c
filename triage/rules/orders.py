"""Decide how urgent the hospital said a study is, before any model has looked.

Statements in order: the first `[orders]` rule that matches, C-STORE Priority (0000,0700), the
sending peer's default; else ROUTINE with source `default`. A person's decision and the model's
flag come on top (`priority`). Source: DESIGN section 4; PS3.7 9.1.1.1 for (0000,0700).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from triage.records import Header, Rank
from triage.rules import checks
from triage.rules.ranks import urgency

DEFAULT_SOURCE = "default"

# PS3.7 E.1-1. Medium and low are what senders put in when nobody chose (DCMTK's storescu and
# pynetdicom write low into everything): no statement, so that a habit never sinks a study.
_C_STORE_PRIORITY = {1: Rank.HIGH}


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRule:
    """One of `[[orders.rules]]`: all given patterns must match; "" = not asked.

    Patterns are regular expressions, found anywhere in the value and in any case.
    """

    priority: Rank
    sender_ae_title: str = ""
    current_patient_location: str = ""
    study_description: str = ""

    def __post_init__(self) -> None:
        rank = checks.rank("orders", "rules.priority", self.priority)
        object.__setattr__(self, "priority", rank)
        checks.patterns("orders.rules", self.conditions())

    def conditions(self) -> dict[str, str]:
        """Return the patterns by the name of the value that they are held against."""
        return {
            "sender_ae_title": self.sender_ae_title,
            "current_patient_location": self.current_patient_location,
            "study_description": self.study_description,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class OrdersPolicy:
    """`[orders]`, and `default_priority` of `[[receiver.peers]]`; raises ConfigError.

    A sender that writes high into (0000,0700) for everything: `use_c_store_priority = false`.
    """

    rules: tuple[OrderRule, ...] = ()  # the first match counts
    use_c_store_priority: bool = True
    peer_priority: Mapping[str, Rank] = field(
        default_factory=dict, metadata={"key": False}
    )  # by AE title, gathered from the peers

    def __post_init__(self) -> None:
        peers = {
            ae_title.strip(): checks.rank("receiver", "peers.default_priority", rank)
            for ae_title, rank in self.peer_priority.items()
        }
        object.__setattr__(self, "peer_priority", peers)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderPriority:
    """What was ordered, and who said so: a text without patient data."""

    rank: Rank = Rank.ROUTINE
    source: str = DEFAULT_SOURCE

    @property
    def is_stated(self) -> bool:
        """False where nobody said anything and the rank is the default."""
        return self.source != DEFAULT_SOURCE


def order_priority(
    header: Header, *, sender_ae_title: str, c_store_priority: int | None, policy: OrdersPolicy
) -> OrderPriority:
    """Return the order priority that one object states for its study."""
    values = {
        "sender_ae_title": sender_ae_title,
        "current_patient_location": header.current_patient_location,
        "study_description": header.study_description,
    }
    for position, rule in enumerate(policy.rules, start=1):
        if checks.matches(rule.conditions(), values):
            return OrderPriority(rank=rule.priority, source=f"[orders] rule {position}")
    if policy.use_c_store_priority and c_store_priority in _C_STORE_PRIORITY:
        return OrderPriority(rank=_C_STORE_PRIORITY[c_store_priority], source="C-STORE priority")
    peer = policy.peer_priority.get(sender_ae_title.strip())
    if peer is not None:
        return OrderPriority(rank=peer, source="default of the sender")
    return OrderPriority()


def combine(held: OrderPriority, new: OrderPriority) -> OrderPriority:
    """Return the study's order priority when another of its objects speaks.

    A statement beats the default; of two statements the more urgent counts, the held one on a tie.
    """
    if not new.is_stated:
        return held
    if not held.is_stated:
        return new
    return min(held, new, key=lambda order: urgency(order.rank))
