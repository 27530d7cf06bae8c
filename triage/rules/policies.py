"""All policies in one record, so that what a decision needs travels as one argument."""

from dataclasses import dataclass

from triage.rules.completion import CompletionPolicy
from triage.rules.eligibility import EligibilityPolicy
from triage.rules.orders import OrdersPolicy
from triage.rules.priority import PriorityPolicy
from triage.rules.retry import RetryPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """Each policy is explained where its rule is; the defaults are those of triage.toml."""

    completion: CompletionPolicy = CompletionPolicy()
    orders: OrdersPolicy = OrdersPolicy()
    eligibility: EligibilityPolicy = EligibilityPolicy()
    priority: PriorityPolicy = PriorityPolicy()
    retry: RetryPolicy = RetryPolicy()
    site_timezone: str = "UTC"  # IANA name; for objects without (0008,0201)
