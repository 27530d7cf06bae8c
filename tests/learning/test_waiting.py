"""Figures over runs are paired, honest about chance and the same for the same seed."""

from dataclasses import replace

import pytest

from tests.learning.rooms import room
from triage.learning.waiting import waiting
from triage.learning.waiting.arrival_pattern import poisson
from triage.learning.waiting.expectation import expected
from triage.learning.waiting.reading_room import Proportion, SimulationError, orders_of, roster_of
from triage.learning.waiting.simulation import Discipline
from triage.learning.waiting.waiting import Outcome, distinct, estimate, simulate
from triage.records import Rank


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return simulate(room(arrivals=poisson(5.4)), runs=8, seed=4)


def test_an_interval_of_four_values_is_students() -> None:
    found = estimate([1.0, 2.0, 3.0, 4.0])
    assert (found.low, found.high) == pytest.approx((0.4457, 4.5543), abs=1e-4)
    assert found.run_low >= 1.0


def test_flagged_gain_and_the_others_pay(outcome: Outcome) -> None:
    change = {group: outcome.changes[group, Discipline.RULE] for group in outcome.counts}
    assert change["flagged"][0].high < 0
    for payer in ("unflagged", "missed"):
        assert change[payer][0].low > 0
    assert outcome.changes["all", Discipline.FIFO][0].mean == 0.0
    assert abs(change["all"][0].mean) < 0.1 * change["unflagged"][0].mean + 5


def test_pairing_makes_differences_sharper_than_the_waits(outcome: Outcome) -> None:
    change, _ = outcome.changes["unflagged", Discipline.RULE]
    wait = outcome.waits["unflagged", Discipline.RULE].mean_s
    assert change.high - change.low < 0.5 * (wait.high - wait.low)


def test_groups_add_up(outcome: Outcome) -> None:
    count = outcome.counts
    assert count["flagged"] + count["unflagged"] == count["all"] == 2000
    assert count["flagged_true"] + count["flagged_false"] == count["flagged"]
    assert count["flagged_true"] + count["missed"] == count["diseased"]


def test_the_same_seed_gives_the_same_figures(outcome: Outcome) -> None:
    again = simulate(outcome.scenario, runs=8, seed=4)
    assert again.changes == outcome.changes
    assert simulate(outcome.scenario, runs=8, seed=5).changes != outcome.changes


def test_disciplines_that_read_alike_are_told_apart_from_those_that_do_not(
    outcome: Outcome,
) -> None:
    assert distinct(outcome)[Discipline.ORDER] is Discipline.FIFO
    assert distinct(outcome)[Discipline.RULE] is Discipline.RULE
    ordered = simulate(room(orders=orders_of("HIGH=0.2")), runs=2, seed=1)
    assert distinct(ordered)[Discipline.ORDER] is Discipline.ORDER


def test_a_finding_that_is_never_there_leaves_its_groups_out() -> None:
    healthy = simulate(room(prevalence=0.0, specificity=Proportion(estimate=1.0)), runs=2, seed=1)
    assert ("flagged", Discipline.RULE) not in healthy.waits
    assert ("all", Discipline.RULE) in healthy.waits


@pytest.mark.parametrize(("runs", "studies"), [(1, 2000), (0, 2000), (3, 10), (3, 10**9)])
def test_too_few_and_too_many_are_refused(runs: int, studies: int) -> None:
    with pytest.raises(SimulationError):
        simulate(room(studies=studies), runs=runs, seed=1)


def test_more_recorded_arrivals_than_a_run_can_read_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "MAXIMUM_STUDIES", 2000)
    recorded = replace(poisson(5.0), recorded_us=tuple(range(2001)))
    with pytest.raises(SimulationError, match="2001 were recorded"):
        simulate(room(arrivals=recorded), runs=2, seed=1)


def test_progress_is_told_run_by_run() -> None:
    told: list[tuple[int, int]] = []
    simulate(room(studies=100), runs=3, seed=1, progress=lambda *done: told.append(done))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_more_work_than_readers_waits_longer_the_longer_it_is_watched() -> None:
    overrun = room(arrivals=poisson(7.2), studies=1000)
    assert overrun.load == pytest.approx(1.2)
    short = simulate(overrun, runs=3, seed=1).waits["all", Discipline.FIFO].mean_s.mean
    long = (
        simulate(room(arrivals=poisson(7.2), studies=4000), runs=3, seed=1)
        .waits["all", Discipline.FIFO]
        .mean_s.mean
    )
    assert long > 3 * short
    assert "no steady state" in expected(overrun).reason


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"roster": roster_of("0-12:4")}, "readers changes"),
        ({"arrivals": poisson(10.0), "roster": roster_of("2")}, ""),
    ],
)
def test_where_formulas_end_is_said(changes: dict[str, object], said: str) -> None:
    theory = expected(room(**changes))
    assert said in theory.reason
    assert bool(theory.reason) == (theory.fifo_s is None)


def test_a_flag_that_asks_for_less_than_the_order_changes_its_place_only_among_equals() -> None:
    theory = expected(room(raises_to=Rank.LOW))
    assert theory.priority_s["flagged"] < theory.priority_s["unflagged"]  # flagged, same rank
