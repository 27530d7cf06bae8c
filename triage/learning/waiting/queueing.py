"""Mean waits of the queues that mathematics can solve, to hold the simulation against.

Poisson arrivals, classes from the most to the least urgent, order of arrival within a class, a
reading that nothing interrupts unless said otherwise. A wait is the time not being read, so for
interrupted readings it contains the interruptions, as in QuCAD. Times in seconds.

Owns formulas only, no randomness and no study. Sources: Erlang C and Pollaczek-Khinchine:
Kleinrock, Queueing Systems 1, 1975; several classes, one reader or many: Cobham, J. Oper. Res. Soc.
Am. 1954;2:70, and Davis, Oper. Res. 1966;14:133; interrupted: White and Christie, Oper. Res. 1958;
6:79; what they mean for triage: QuCAD, Queueing Systems 2024;108:579. A finite value needs a load
below one: at or above it waits grow without limit, which is returned as infinity.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from triage.errors import PermanentError


class NoFormula(PermanentError):
    """This queue has no closed formula here."""

    hint = "Only the simulation answers it: several readers need one exponential reading time."


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one class asks of the readers: Poisson arrivals, independent reading times."""

    rate_per_s: float
    mean_s: float
    second_s2: float  # mean of the squared reading time; 2 mean_s ** 2 if exponential

    @property
    def load(self) -> float:
        """Readers kept busy by this class alone (Erlang)."""
        return self.rate_per_s * self.mean_s


def exponential(rate_per_s: float, mean_s: float) -> Demand:
    """Return the demand of a class whose reading times are exponential."""
    return Demand(rate_per_s=rate_per_s, mean_s=mean_s, second_s2=2 * mean_s**2)


def merged(demands: Sequence[Demand]) -> Demand:
    """Return several classes as one; a mixture of reading times."""
    rate = sum(demand.rate_per_s for demand in demands)
    if not rate:
        return Demand(rate_per_s=0.0, mean_s=0.0, second_s2=0.0)
    return Demand(
        rate_per_s=rate,
        mean_s=sum(each.rate_per_s * each.mean_s for each in demands) / rate,
        second_s2=sum(each.rate_per_s * each.second_s2 for each in demands) / rate,
    )


def utilisation(demands: Sequence[Demand], readers: int) -> float:
    """Return the load per reader: 1 or more cannot be kept up with."""
    return sum(demand.load for demand in demands) / readers


def erlang_c(readers: int, offered: float) -> float:
    """Return the chance that an arrival finds all `readers` busy (M/M/c).

    `offered` is the load in Erlang. By the recursion of Erlang B, which has no factorial to
    overflow.
    """
    if offered >= readers:
        return 1.0
    blocked = 1.0
    for servers in range(1, readers + 1):
        blocked = offered * blocked / (servers + offered * blocked)
    return readers * blocked / (readers - offered * (1 - blocked))


def fifo_wait_s(demands: Sequence[Demand], readers: int) -> float:
    """Return the mean wait in order of arrival, the same for every class.

    W0 / (1 - load), where W0 is the mean time until a reader is free for whoever is next.
    """
    return priority_waits_s([merged(demands)], readers)[0]


def priority_waits_s(demands: Sequence[Demand], readers: int) -> tuple[float, ...]:
    """Return each class's mean wait where the most urgent waiting study is read next.

    W0 / ((1 - load of the classes above) (1 - load of those and its own)).
    """
    residual_s = _residual_s(demands, readers)
    if math.isinf(residual_s):
        return (math.inf,) * len(demands)
    loads = [0.0, *accumulate(demand.load / readers for demand in demands)]
    return tuple(residual_s / ((1 - above) * (1 - own)) for above, own in pairwise(loads))


def interrupted_waits_s(demands: Sequence[Demand], readers: int) -> tuple[float, ...]:
    """Return each class's mean wait where a more urgent arrival interrupts a less urgent reading.

    The interrupted reading goes on later where it stopped (pre-emptive resume): QuCAD's workflow.
    What is less urgent than a class does not exist for it, so all classes down to one make a
    queue of their own.
    """
    if utilisation(demands, readers) >= 1:
        return (math.inf,) * len(demands)
    if readers == 1:
        return tuple(_interrupted_s(demands, position) for position in range(len(demands)))
    waits: list[float] = []
    held_s = 0.0
    for position, demand in enumerate(demands):
        above = demands[: position + 1]
        upto_s = fifo_wait_s(above, readers) * merged(above).rate_per_s
        waits.append((upto_s - held_s) / demand.rate_per_s if demand.rate_per_s else 0.0)
        held_s = upto_s
    return tuple(waits)


def _interrupted_s(demands: Sequence[Demand], position: int) -> float:
    own = demands[position]
    above = sum(demand.load for demand in demands[:position])
    residual_s = sum(each.rate_per_s * each.second_s2 for each in demands[: position + 1]) / 2
    stay_s = own.mean_s / (1 - above) + residual_s / ((1 - above) * (1 - above - own.load))
    return stay_s - own.mean_s


def _residual_s(demands: Sequence[Demand], readers: int) -> float:
    """Return W0, the mean time until the next reader is free."""
    if utilisation(demands, readers) >= 1:
        return math.inf
    if readers == 1:
        return sum(demand.rate_per_s * demand.second_s2 for demand in demands) / 2
    mean_s = merged(demands).mean_s
    for demand in demands:
        same = math.isclose(demand.mean_s, mean_s, rel_tol=1e-9)
        memoryless = math.isclose(demand.second_s2, 2 * mean_s**2, rel_tol=1e-9)
        if demand.rate_per_s and not (same and memoryless):
            raise NoFormula(
                "waits with several readers follow no formula unless all reading times are"
                " exponential with one mean"
            )
    return erlang_c(readers, sum(demand.load for demand in demands)) * mean_s / readers
