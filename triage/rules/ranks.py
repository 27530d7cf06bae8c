"""Compare ranks, the terms of Requested Procedure Priority (0040,1003).

`Rank` is a string enumeration, so `<` would compare letters: use these functions.
"""

from triage.records import Rank

_ORDER = tuple(Rank)  # most urgent first


def urgency(rank: Rank) -> int:
    """Return 0 for STAT up to 4 for LOW: smaller is more urgent."""
    return _ORDER.index(rank)


def highest(first: Rank, *others: Rank) -> Rank:
    """Return the most urgent of the given ranks."""
    return min(first, *others, key=urgency) if others else first


def raised(rank: Rank, steps: int, *, limit: Rank) -> Rank:
    """Return `rank` made more urgent by `steps`, at most to `limit`; never less urgent."""
    return highest(rank, _ORDER[max(urgency(rank) - steps, urgency(limit))])
