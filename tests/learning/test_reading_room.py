"""What a person writes of a reading room is read as meant, or refused in words."""

from pathlib import Path

import numpy as np
import pytest

from tests.learning.rooms import room
from triage.learning.waiting.reading_room import (
    Proportion,
    SimulationError,
    orders_of,
    proportion_of,
    reading_time_of,
    roster_of,
    share_of,
)
from triage.records import Rank


def test_counts_a_bare_share_and_an_interval_are_proportions() -> None:
    assert proportion_of("57/60", "it") == Proportion(estimate=0.95, trials=60.0)
    assert proportion_of("0.9", "it") == Proportion(estimate=0.9)
    # Wilson for 95 of 100, from the tables: 0.888 to 0.978.
    found = proportion_of("0.95:0.8882-0.9785", "it")
    assert found.trials == pytest.approx(100, rel=0.02)


def test_a_perfect_score_on_few_studies_leaves_doubt() -> None:
    drawn = [proportion_of("10/10", "it").draw(np.random.default_rng(seed)) for seed in range(500)]
    assert max(drawn) <= 1.0
    assert np.quantile(drawn, 0.025) == pytest.approx(0.78, abs=0.04)


def test_draws_follow_the_measurement_and_a_known_value_never_moves() -> None:
    random = np.random.default_rng(3)
    drawn = [Proportion(estimate=0.9, trials=100.0).draw(random) for _ in range(4000)]
    assert np.mean(drawn) == pytest.approx(0.9, abs=0.005)
    assert np.quantile(drawn, 0.025) == pytest.approx(0.83, abs=0.01)
    assert Proportion(estimate=0.9).draw(random) == 0.9


@pytest.mark.parametrize(
    "text", ["", "x", "1.2", "61/60", "0/0", "0.9:0.91-0.95", "0.9:0.9-0.9", "0.9:0.8", "nan", "-1"]
)
def test_an_impossible_proportion_is_refused(text: str) -> None:
    with pytest.raises(SimulationError, match="it"):
        proportion_of(text, "it")


@pytest.mark.parametrize("text", ["exponential:12", "fixed:12", "lognormal:12:0.8"])
def test_drawn_reading_times_have_the_moments_that_formulas_use(text: str) -> None:
    reading = reading_time_of(text)
    drawn = reading.draw(np.random.default_rng(1), 400_000)
    assert drawn.mean() == pytest.approx(720, rel=0.01)
    assert (drawn**2).mean() == pytest.approx(reading.second_s2, rel=0.03)


def test_measured_reading_times_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "times.csv"
    file.write_text("reading_s\n60\n120\n", "utf-8")
    reading = reading_time_of(str(file))
    assert (reading.mean_s, reading.second_s2) == (90.0, 9000.0)
    assert set(reading.draw(np.random.default_rng(1), 50)) == {60.0, 120.0}
    file.write_text("reading_s\n60\n-3\n", "utf-8")
    with pytest.raises(SimulationError, match="row 3"):
        reading_time_of(str(file))
    file.write_bytes(b"reading_s\n\xff\xfe\n")
    with pytest.raises(SimulationError, match="no CSV in UTF-8"):
        reading_time_of(str(file))


@pytest.mark.parametrize(
    "text",
    ["exp:10", "exponential", "exponential:0", "exponential:x", "lognormal:10", "fixed:10:3"],
)
def test_an_impossible_reading_time_is_refused(text: str) -> None:
    with pytest.raises(SimulationError, match="reading time"):
        reading_time_of(text)


def test_shifts_are_those_of_the_week() -> None:
    readers = roster_of("0-24:1,mon-fri@08-18:3,sat@08-12:2,fri-mon@20-24:4").readers
    assert len(readers) == 168
    assert readers[10] == 3
    assert readers[5 * 24 + 10] == 2
    assert readers[5 * 24 + 13] == 1
    assert [readers[day * 24 + 21] for day in range(7)] == [4, 1, 1, 1, 4, 4, 4]
    assert roster_of("2").constant == 2
    assert roster_of("0-12:1").mean == 0.5


@pytest.mark.parametrize("text", ["0", "", "mon@18-08:1", "day@8-9:1", "8-25:1", "8-9", "0-24:0"])
def test_an_impossible_roster_is_refused(text: str) -> None:
    with pytest.raises(SimulationError):
        roster_of(text)


def test_orders_left_out_are_routine() -> None:
    assert orders_of("stat=0.1, HIGH=0.2") == pytest.approx(
        {Rank.STAT: 0.1, Rank.HIGH: 0.2, Rank.ROUTINE: 0.7}
    )
    assert orders_of("STAT=1") == {Rank.STAT: 1.0}


@pytest.mark.parametrize("text", ["SOON=1", "STAT=2", "STAT=0.7,HIGH=0.7", "ROUTINE=0.4", "STAT"])
def test_an_impossible_mix_of_orders_is_refused(text: str) -> None:
    with pytest.raises(SimulationError):
        orders_of(text)


def test_load_counts_who_reads_and_what_readings_take() -> None:
    longer = reading_time_of("exponential:20")
    assert room().load == pytest.approx(0.8)
    assert room(reading_diseased=longer).load == pytest.approx(0.88)
    assert room(roster=roster_of("0-12:4")).load == pytest.approx(0.4)
    assert room().flag_rate == pytest.approx(0.1 * 0.9 + 0.9 * 0.1)


def test_a_share_outside_one_is_refused() -> None:
    with pytest.raises(SimulationError, match="the prevalence"):
        share_of("3", "the prevalence")
