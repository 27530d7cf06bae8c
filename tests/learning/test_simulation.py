"""The simulated room reads as the rule says, study by study, and as queueing theory expects."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assurance import Evidence, requirement
from tests.learning.rooms import room
from triage.learning.waiting.arrival_pattern import HOUR_US, poisson
from triage.learning.waiting.expectation import expected
from triage.learning.waiting.reading_room import (
    Proportion,
    Roster,
    Scenario,
    orders_of,
    reading_time_of,
    roster_of,
)
from triage.learning.waiting.simulation import Discipline, Studies, draw_studies, stages, waits_us
from triage.learning.waiting.waiting import simulate
from triage.records import Analysis, Finding, Rank
from triage.rules.orders import OrderPriority
from triage.rules.priority import PriorityPolicy, StudyFacts, effective

RANKS = tuple(Rank)
EPOCH = datetime(2030, 5, 6, tzinfo=UTC)  # a Monday
MINUTE_US = 60_000_000


def drawn(scenario: Scenario, seed: int = 1) -> Studies:
    return draw_studies(scenario, np.random.default_rng(seed))


def facts_of(studies: Studies, study: int, scenario: Scenario, now_us: int) -> StudyFacts:
    """Return what the daemon would know of a study at `now_us`."""
    rank = RANKS[studies.order[study]]
    source = "default" if rank is Rank.ROUTINE else "order"
    analysed_us = int(studies.arrived_us[study]) + round(scenario.analysis_s * 1e6)
    seen = now_us >= analysed_us
    finding = Finding(
        name="finding",
        code=None,
        probability=1.0,
        operating_point=0.5,
        flagged=True,
        raises_to=scenario.raises_to,
    )
    return StudyFacts(
        waiting_since=EPOCH + timedelta(microseconds=int(studies.arrived_us[study])),
        generation=1,
        order=OrderPriority(rank=rank, source=source),
        analysis=Analysis.ANALYSED if seen else Analysis.PENDING,
        findings=(finding,) if seen and studies.flagged[study] else (),
    )


def waits_by_asking(studies: Studies, scenario: Scenario) -> list[int]:
    """Read one study after another, asking the rule about every waiting one at every pick."""
    count, now, waits = studies.arrived_us.size, 0, {}
    waiting: set[int] = set()
    busy: list[int] = []
    readers = scenario.roster.readers
    while len(waits) < count:
        hours = [(now // HOUR_US + step) * HOUR_US for step in range(1, 169)] if waiting else []
        changes = [at for at in hours if readers[at // HOUR_US % 168]][:1]
        comes = [int(at) for at in studies.arrived_us if at > now][:1]
        coming = [s for s in range(count) if studies.arrived_us[s] <= now]
        waiting |= {s for s in coming if s not in waits}
        busy = [end for end in busy if end > now]
        while waiting and len(busy) < readers[now // HOUR_US % 168]:
            at = EPOCH + timedelta(microseconds=now)
            study = min(
                waiting,
                key=lambda s: (
                    effective(facts_of(studies, s, scenario, now), at, scenario.policy).sort_key,
                    s,
                ),
            )
            waiting.remove(study)
            waits[study] = now - int(studies.arrived_us[study])
            busy.append(now + int(studies.reading_us[study]))
        now = min([*comes, *busy, *changes], default=now)
    return [waits[study] for study in range(count)]


SMALL_ROOMS = st.builds(
    room,
    arrivals=st.just(poisson(9.0)),
    policy=st.builds(
        PriorityPolicy,
        ageing_s=st.sampled_from([420.0, 2400.0, 28_800.0]),
        ceiling_s=st.sampled_from([900.0, 5400.0, 86_400.0]),
    ),
    analysis_s=st.sampled_from([0.0, 60.0, 2400.0]),
    raises_to=st.sampled_from([Rank.STAT, Rank.HIGH, Rank.MEDIUM]),
    roster=st.sampled_from(["1", "3", "0-9:2,10-24:1"]).map(roster_of),
    orders=st.just(orders_of("STAT=0.1,HIGH=0.1,LOW=0.2")),
    prevalence=st.just(0.5),
    studies=st.just(40),
)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), scenario=SMALL_ROOMS)
def test_every_study_is_read_when_the_rule_asked_at_each_pick_would_read_it(
    seed: int, scenario: Scenario
) -> None:
    studies = drawn(scenario, seed)
    assert waits_us(studies, scenario, Discipline.RULE).tolist() == waits_by_asking(
        studies, scenario
    )


@requirement("W7", bound="each simulated mean wait has its formula within its 95 % interval")
@pytest.mark.parametrize(
    ("changes", "groups"),
    [
        ({}, ("flagged", "missed", "unflagged")),
        ({"roster": roster_of("3"), "arrivals": poisson(15.3)}, ("flagged", "unflagged")),
        ({"arrivals": poisson(3.0), "prevalence": 0.4}, ("flagged", "missed", "unflagged")),
        (
            {
                "reading": reading_time_of("fixed:8"),
                "reading_diseased": reading_time_of("lognormal:20:0.5"),
            },
            ("flagged", "missed", "unflagged"),
        ),
        ({"orders": orders_of("STAT=0.05,HIGH=0.15")}, ("flagged", "unflagged")),
    ],
    ids=["M/M/1", "M/M/3", "half idle", "M/G/1", "orders and flags"],
)
def test_means_lie_within_their_interval_of_the_formulas(
    changes: dict[str, Any], groups: tuple[str, ...], evidence: Evidence
) -> None:
    scenario = room(studies=4000, **changes)
    # Of so many figures one lies outside 95 % intervals by chance now and then: not with this
    # seed. How often it happens is the next test.
    outcome, theory = simulate(scenario, runs=24, seed=3), expected(scenario)
    assert theory.fifo_s is not None
    pairs = [(outcome.waits["all", Discipline.FIFO], theory.fifo_s)]
    pairs += [(outcome.waits[g, Discipline.UNBOUNDED], theory.priority_s[g]) for g in groups]
    outside = sum(not wait.mean_s.low <= formula_s <= wait.mean_s.high for wait, formula_s in pairs)
    evidence.record(trials=len(pairs), losses=outside)
    for wait, formula_s in pairs:
        assert wait.mean_s.low <= formula_s <= wait.mean_s.high
        assert wait.mean_s.high - wait.mean_s.low < 0.25 * formula_s


@requirement("W7", bound="of 20 intervals at 95 %, at least 16 hold the formula")
def test_intervals_hold_the_formula_as_often_as_they_say(evidence: Evidence) -> None:
    scenario = room(arrivals=poisson(3.6), studies=800)
    theory = expected(scenario)
    inside = 0
    for seed in range(20):
        mean_s = simulate(scenario, runs=6, seed=seed).waits["flagged", Discipline.UNBOUNDED].mean_s
        inside += mean_s.low <= theory.priority_s["flagged"] <= mean_s.high
    evidence.record(trials=20, losses=max(0, 16 - inside), worst=f"{inside} of 20 hold it")
    assert inside >= 16  # of 20 at 95 %: fewer has a chance of 1 in 400


def test_with_one_class_fifo_and_rule_are_the_same() -> None:
    scenario = room(prevalence=0.0, specificity=Proportion(estimate=1.0))
    studies = drawn(scenario)
    fifo = waits_us(studies, scenario, Discipline.FIFO)
    assert (waits_us(studies, scenario, Discipline.RULE) == fifo).all()
    assert (np.diff(studies.arrived_us + fifo) >= 0).all()


def test_a_model_that_flags_everything_helps_nobody() -> None:
    scenario = room(sensitivity=Proportion(estimate=1.0), specificity=Proportion(estimate=0.0))
    studies = drawn(scenario)
    assert studies.flagged.all()
    rule = waits_us(studies, scenario, Discipline.RULE)
    assert (rule == waits_us(studies, scenario, Discipline.FIFO)).all()


def test_no_reader_rests_while_a_study_waits() -> None:
    scenario = room(orders=orders_of("STAT=0.1"), prevalence=0.3)
    studies = drawn(scenario)
    spans = []
    for discipline in Discipline:
        starts = studies.arrived_us + waits_us(studies, scenario, discipline)
        order = np.argsort(starts)
        ends = (starts + studies.reading_us)[order]
        starts = starts[order]
        assert (starts[1:] >= ends[:-1]).all()  # one reader reads one study at a time
        idle = starts[1:] > ends[:-1]
        assert np.isin(
            starts[1:][idle], studies.arrived_us
        ).all()  # and rests only for lack of work
        spans.append(int(ends[-1]))
    assert len(set(spans)) == 1


def test_the_ceiling_holds_where_flags_hardly_end() -> None:
    """Nine of ten are flagged: without a ceiling the tenth waits days, with it as in FIFO."""
    fixed = reading_time_of("fixed:10")
    scenario = room(
        arrivals=poisson(5.5),
        prevalence=0.9,
        sensitivity=Proportion(estimate=1.0),
        specificity=Proportion(estimate=1.0),
        reading=fixed,
        reading_diseased=fixed,
        policy=PriorityPolicy(ageing_s=1e6, ceiling_s=7200.0),
        studies=6000,
    )
    outcome = simulate(scenario, runs=2, seed=2)
    fifo, rule, free = (
        outcome.waits["unflagged", each].longest_s
        for each in (Discipline.FIFO, Discipline.RULE, Discipline.UNBOUNDED)
    )
    assert fifo > scenario.policy.ceiling_s
    assert rule <= fifo + fixed.mean_s
    assert free > 3 * fifo


def test_readers_who_come_later_find_what_waited_for_them() -> None:
    night = Roster(readers=tuple(int(hour % 24 >= 8) for hour in range(168)))
    scenario = room(arrivals=poisson(2.0), roster=night, studies=400)
    studies = drawn(scenario)
    starts = studies.arrived_us + waits_us(studies, scenario, Discipline.RULE)
    assert (starts // HOUR_US % 24 >= 8).all()
    assert (starts % (24 * HOUR_US) == 8 * HOUR_US).any()


def test_a_started_reading_is_never_interrupted() -> None:
    """A flag that arrives during a long reading waits for its end."""
    studies = Studies(
        arrived_us=np.array([0, MINUTE_US, 2 * MINUTE_US]),
        reading_us=np.array([30, 10, 10]) * MINUTE_US,
        diseased=np.array([False, False, True]),
        flagged=np.array([False, False, True]),
        order=np.array([3, 3, 3]),
        measured=slice(0, 3),
    )
    waits = waits_us(studies, room(), Discipline.RULE) // MINUTE_US
    assert waits.tolist() == [0, 39, 28]
    assert (waits_us(studies, room(), Discipline.FIFO) // MINUTE_US).tolist() == [0, 29, 38]


def test_an_analysis_that_ends_too_late_moves_nothing() -> None:
    scenario = room(analysis_s=1e6)
    studies = drawn(scenario)
    free = waits_us(studies, scenario, Discipline.UNBOUNDED)
    assert (free == waits_us(studies, scenario, Discipline.FIFO)).all()


@pytest.mark.parametrize("discipline", [Discipline.RULE, Discipline.ORDER])
@pytest.mark.parametrize("order", RANKS)
def test_waiting_only_ever_raises(discipline: Discipline, order: Rank) -> None:
    for flagged, raises_to in itertools.product((False, True), RANKS):
        found = stages(room(raises_to=raises_to), discipline, order=order, flagged=flagged)
        assert [s.place for s in found] == sorted((s.place for s in found), reverse=True)
        assert found[0].from_us == 0


def test_the_same_seed_gives_the_same_studies_and_another_seed_others() -> None:
    scenario = replace(room(), sensitivity=Proportion(estimate=0.9, trials=50.0))
    one, same, other = drawn(scenario, 1), drawn(scenario, 1), drawn(scenario, 2)
    assert (one.arrived_us == same.arrived_us).all()
    assert (one.flagged == same.flagged).all()
    assert not (one.arrived_us == other.arrived_us).all()


def test_a_sensitivity_measured_on_few_studies_differs_from_run_to_run() -> None:
    def found(trials: float | None) -> list[float]:
        scenario = room(sensitivity=Proportion(estimate=0.9, trials=trials), prevalence=0.5)
        runs = [drawn(scenario, seed) for seed in range(60)]
        return [float(run.flagged[run.diseased].mean()) for run in runs]

    known, unsure = found(None), found(10.0)
    assert np.std(known) == pytest.approx((0.9 * 0.1 / 1200) ** 0.5, rel=0.4)
    assert np.std(unsure) > 5 * np.std(known)
