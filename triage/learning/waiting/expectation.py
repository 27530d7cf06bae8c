"""What the formulas expect of a simulated room, where they apply, and where they do not why.

The classes are the places that `rules.priority` gives when nothing but order and flag counts, so a
disagreement with the simulation is a fault of one of the two. Formulas: `queueing`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from triage.learning.waiting.queueing import (
    Demand,
    NoFormula,
    fifo_wait_s,
    interrupted_waits_s,
    merged,
    priority_waits_s,
)
from triage.learning.waiting.reading_room import ReadingTime, Scenario
from triage.learning.waiting.simulation import Discipline, stages
from triage.records import Rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """Mean waits in seconds by group; without them `reason` says why there are none."""

    fifo_s: float | None = None
    priority_s: Mapping[str, float] = field(default_factory=dict)  # this rule without ageing
    interrupted_s: Mapping[str, float] = field(default_factory=dict)  # as QuCAD reads
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """Studies that differ in nothing that matters here."""

    place: int
    diseased: bool
    flagged: bool
    demand: Demand


def expected(scenario: Scenario) -> Expectation:
    """Return what queueing theory expects of a room in its steady state."""
    readers = scenario.roster.constant
    if not scenario.arrivals.is_poisson:
        return Expectation(reason="arrivals follow the clock, and formulas know no clock")
    if readers is None:
        return Expectation(reason="the number of readers changes, and formulas know one number")
    if scenario.load >= 1:
        return Expectation(reason="there is no steady state at this load")
    kinds = _kinds(scenario)
    places = sorted({kind.place for kind in kinds})
    classes = [merged([kind.demand for kind in kinds if kind.place == place]) for place in places]
    try:
        fifo_s = fifo_wait_s(classes, readers)
        plain_s = dict(zip(places, priority_waits_s(classes, readers), strict=True))
        cut_s = dict(zip(places, interrupted_waits_s(classes, readers), strict=True))
    except NoFormula as error:
        return Expectation(reason=str(error))
    return Expectation(
        fifo_s=fifo_s,
        priority_s=_by_group(kinds, plain_s),
        interrupted_s=_by_group(kinds, cut_s),
    )


def _kinds(scenario: Scenario) -> list[_Kind]:
    rate = scenario.demand.rate_per_s
    kinds = []
    for order, share in scenario.orders.items():
        for diseased, flagged, part in _truth_table(scenario):
            kinds.append(
                _Kind(
                    place=_place(scenario, order, flagged=flagged),
                    diseased=diseased,
                    flagged=flagged,
                    demand=_demand(
                        scenario.reading_diseased if diseased else scenario.reading,
                        rate * share * part,
                    ),
                )
            )
    return [kind for kind in kinds if kind.demand.rate_per_s > 0]


def _truth_table(scenario: Scenario) -> list[tuple[bool, bool, float]]:
    sick, found = scenario.prevalence, scenario.sensitivity.estimate
    spared = scenario.specificity.estimate
    return [
        (True, True, sick * found),
        (True, False, sick * (1 - found)),
        (False, True, (1 - sick) * (1 - spared)),
        (False, False, (1 - sick) * spared),
    ]


def _place(scenario: Scenario, order: Rank, *, flagged: bool) -> int:
    """Return where a study stands once it is analysed; formulas know no delay."""
    found = stages(scenario, Discipline.UNBOUNDED, order=order, flagged=flagged)
    analysed_us = round(scenario.analysis_s * 1e6)
    return [stage.place for stage in found if stage.from_us <= analysed_us][-1]


def _demand(reading: ReadingTime, rate_per_s: float) -> Demand:
    return Demand(rate_per_s=rate_per_s, mean_s=reading.mean_s, second_s2=reading.second_s2)


def _by_group(kinds: list[_Kind], waits_s: Mapping[int, float]) -> dict[str, float]:
    groups = {
        "flagged": [kind for kind in kinds if kind.flagged],
        "missed": [kind for kind in kinds if kind.diseased and not kind.flagged],
        "unflagged": [kind for kind in kinds if not kind.flagged],
        "diseased": [kind for kind in kinds if kind.diseased],
        "all": kinds,
    }
    return {name: _mean_s(members, waits_s) for name, members in groups.items() if members}


def _mean_s(kinds: list[_Kind], waits_s: Mapping[int, float]) -> float:
    rates = [kind.demand.rate_per_s for kind in kinds]
    waits = [waits_s[kind.place] for kind in kinds]
    return math.fsum(r * w for r, w in zip(rates, waits, strict=True)) / math.fsum(rates)
