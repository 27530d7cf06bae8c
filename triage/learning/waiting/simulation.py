"""One day after another in a simulated reading room: who is read when, under which rule.

The place of a study comes from `rules.priority` itself, ageing and ceiling included: its key is
asked for each kind of study at every time at which waiting changes it, and because the key's end
is the time of arrival, studies of one kind at one stage are read in order of arrival. A started
reading is never interrupted. Times are whole microseconds, as in the rule.

Owns the disciplines and the event loop; the room belongs to `reading_room`, the figures to
`waiting`. Discrete-event simulation: Law, Simulation Modeling and Analysis, chapter 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from triage.learning.waiting.arrival_pattern import HOUR_US
from triage.learning.waiting.reading_room import HOURS_PER_WEEK, Roster, Scenario
from triage.records import Analysis, Finding, Rank
from triage.rules.orders import DEFAULT_SOURCE, OrderPriority
from triage.rules.priority import PriorityPolicy, StudyFacts, effective

WAITING_DIGITS = 18  # of the sort key: waiting since, in microseconds
NEVER_S = 1e9  # thirty years: ageing and ceiling out of reach
WARM_UP = 0.1  # of the measured studies, before and after them
_SHIFT = 40  # bits for the position of arrival in a key of the queue
_ENDLESS = 1 << 62
_REFERENCE = datetime(2024, 1, 1, tzinfo=UTC)
_RANKS = tuple(Rank)


class Discipline(StrEnum):
    """What decides who is read next."""

    FIFO = "fifo"  # order of arrival alone
    ORDER = "order"  # this project's rule where no model speaks
    RULE = "rule"  # this project's rule
    UNBOUNDED = "unbounded"  # this project's rule if neither ageing nor ceiling were


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """From this wait on, a study stands at this place; smaller is read first."""

    from_us: int
    place: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Studies:
    """One run's studies in order of arrival: the same for every discipline."""

    arrived_us: NDArray[np.int64]
    reading_us: NDArray[np.int64]
    diseased: NDArray[np.bool_]
    flagged: NDArray[np.bool_]
    order: NDArray[np.int64]  # urgency: 0 STAT to 4 LOW
    measured: slice  # without those of the warm-up and the end


def draw_studies(scenario: Scenario, random: np.random.Generator) -> Studies:
    """Draw one run. Sensitivity and specificity are drawn too, from what was measured."""
    recorded = scenario.arrivals.recorded_us
    edge = 0 if recorded else int(np.ceil(scenario.studies * WARM_UP))
    count = len(recorded) or scenario.studies + 2 * edge
    arrived_us = (
        np.asarray(recorded, dtype=np.int64) if recorded else scenario.arrivals.draw(random, count)
    )
    if recorded:
        order = np.array([_RANKS.index(rank) for rank in scenario.arrivals.recorded_orders])
    else:
        shares = np.array([scenario.orders.get(rank, 0.0) for rank in _RANKS])
        order = random.choice(len(_RANKS), count, p=shares / shares.sum())
    diseased = random.random(count) < scenario.prevalence
    found, spared = scenario.sensitivity.draw(random), scenario.specificity.draw(random)
    flagged = random.random(count) < np.where(diseased, found, 1 - spared)
    reading_s = np.where(
        diseased,
        scenario.reading_diseased.draw(random, count),
        scenario.reading.draw(random, count),
    )
    return Studies(
        arrived_us=arrived_us,
        reading_us=np.maximum(1, np.rint(reading_s * 1e6)).astype(np.int64),
        diseased=diseased,
        flagged=flagged,
        order=order.astype(np.int64),
        measured=slice(edge, count - edge),
    )


def waits_us(studies: Studies, scenario: Scenario, discipline: Discipline) -> NDArray[np.int64]:
    """Return how long each study waits until its reading starts."""
    table = [
        stages(scenario, discipline, order=rank, flagged=flagged)
        for rank in _RANKS
        for flagged in (False, True)
    ]
    kinds = (studies.order * 2 + studies.flagged).tolist()
    return _read(
        studies.arrived_us.tolist(),
        studies.reading_us.tolist(),
        [table[kind] for kind in kinds],
        scenario.roster,
    )


def stages(
    scenario: Scenario, discipline: Discipline, *, order: Rank, flagged: bool
) -> tuple[Stage, ...]:
    """Return where a study stands as it waits, as `rules.priority` says; from 0 on."""
    if discipline is Discipline.FIFO:
        return (Stage(from_us=0, place=0),)
    policy = scenario.policy
    if discipline is Discipline.UNBOUNDED:
        policy = replace(policy, ageing_s=NEVER_S, ceiling_s=NEVER_S)
    source = DEFAULT_SOURCE if order is Rank.ROUTINE else "order"
    facts = StudyFacts(
        waiting_since=_REFERENCE,
        generation=1,
        order=OrderPriority(rank=order, source=source),
        analysis=Analysis.NOT_ELIGIBLE,
    )
    if discipline is Discipline.ORDER:
        return _distinct(_asked(facts, policy, from_us=0))
    analysed_us = round(scenario.analysis_s * 1e6)
    pending = _asked(replace(facts, analysis=Analysis.PENDING), policy, from_us=0)
    findings = (_finding(scenario.raises_to),) if flagged else ()
    seen = replace(facts, analysis=Analysis.ANALYSED, findings=findings)
    before = [stage for stage in pending if stage.from_us < analysed_us]
    return _distinct(before + _asked(seen, policy, from_us=analysed_us))


def _asked(facts: StudyFacts, policy: PriorityPolicy, *, from_us: int) -> list[Stage]:
    """Ask the rule at `from_us` of waiting, then at each time at which it says that it changes."""
    found = []
    now: datetime | None = facts.waiting_since + timedelta(microseconds=from_us)
    while now is not None:
        standing = effective(facts, now, policy)
        waited_us = (now - facts.waiting_since) // timedelta(microseconds=1)
        found.append(Stage(from_us=waited_us, place=int(standing.sort_key[:-WAITING_DIGITS])))
        now = standing.next_change_at
    return found


def _distinct(found: Sequence[Stage]) -> tuple[Stage, ...]:
    """Leave out the times at which the reason changes and the place does not."""
    kept = [found[0]]
    for stage in found[1:]:
        if stage.place != kept[-1].place:
            kept.append(stage)
    return tuple(kept)


def _finding(raises_to: Rank) -> Finding:
    return Finding(
        name="finding",
        code=None,
        probability=1.0,
        operating_point=0.5,
        flagged=True,
        raises_to=raises_to,
    )


class _Queue:
    """The studies that wait. A study that changes its place is entered again; the old entry, no
    longer at its place, is passed over.
    """

    def __init__(self, arrived_us: list[int], stages_of: list[tuple[Stage, ...]]) -> None:
        self._arrived_us = arrived_us
        self._stages = stages_of
        self._place = [-1] * len(arrived_us)  # -1: not waiting
        self._entries: list[int] = []  # place, then position of arrival
        self._changes: list[tuple[int, int, int]] = []  # time, study, stage
        self.count = 0

    def enter(self, study: int) -> None:
        self.count += 1
        self._stand(study, 0)

    def take(self, now: int) -> int:
        """Return the study to be read next at `now`; only where one waits."""
        changes = self._changes
        while changes and changes[0][0] <= now:
            _, study, stage = heappop(changes)
            if self._place[study] >= 0:
                self._stand(study, stage)
        while True:
            entry = heappop(self._entries)
            study = entry & ((1 << _SHIFT) - 1)
            if self._place[study] == entry >> _SHIFT:
                self._place[study] = -1
                self.count -= 1
                return study

    def _stand(self, study: int, position: int) -> None:
        own = self._stages[study]
        place = own[position].place
        self._place[study] = place
        heappush(self._entries, place << _SHIFT | study)
        if position + 1 < len(own):
            change_us = self._arrived_us[study] + own[position + 1].from_us
            heappush(self._changes, (change_us, study, position + 1))


def _read(
    arrived_us: list[int],
    reading_us: list[int],
    stages_of: list[tuple[Stage, ...]],
    roster: Roster,
) -> NDArray[np.int64]:
    """Go from event to event (arrival, end of a reading, change of shift) until all are read."""
    queue, shifts = _Queue(arrived_us, stages_of), _Shifts(roster)
    waits = np.zeros(len(arrived_us), dtype=np.int64)
    busy: list[int] = []  # when each reading ends
    arrivals = [*arrived_us, _ENDLESS]
    come = 0
    while come < len(arrived_us) or queue.count:
        now = arrivals[come]
        if queue.count:
            now = min(now, busy[0] if busy else _ENDLESS, shifts.next_us)
        while arrivals[come] <= now:
            queue.enter(come)
            come += 1
        while busy and busy[0] <= now:
            heappop(busy)
        readers = shifts.at(now)
        while queue.count and len(busy) < readers:
            study = queue.take(now)
            waits[study] = now - arrived_us[study]
            heappush(busy, now + reading_us[study])
    return waits


class _Shifts:
    """How many read at a time that only goes forward; who ends a shift ends the reading first."""

    def __init__(self, roster: Roster) -> None:
        self._readers = roster.readers
        self._constant = roster.constant
        self.next_us = _ENDLESS if self._constant else 0  # when the number changes next

    def at(self, now: int) -> int:
        if self._constant:
            return self._constant
        hour = now // HOUR_US
        present = self._readers[hour % HOURS_PER_WEEK]
        while self._readers[(hour := hour + 1) % HOURS_PER_WEEK] == present:
            pass
        self.next_us = hour * HOUR_US
        return present
