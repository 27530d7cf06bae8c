"""Arrivals follow the clock of the site as they were recorded, and say what was never seen."""

from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from triage.learning.waiting import arrival_pattern
from triage.learning.waiting.arrival_pattern import (
    HOUR_US,
    ArrivalError,
    Recorded,
    pattern_of,
    poisson,
    read_arrivals,
)
from triage.records import Rank

MONDAY = datetime(2030, 5, 6, tzinfo=UTC)


def arrivals(*hours: float, rank: Rank = Rank.ROUTINE) -> list[Recorded]:
    return [
        Recorded(received_at=MONDAY + timedelta(hours=hour), order_priority=rank) for hour in hours
    ]


def two_weeks() -> list[Recorded]:
    """Return six studies in every hour from 8 to 18, one in the others, for two weeks and a bit."""
    hours = []
    for hour in range(24 * 14 + 1):
        count = 6 if 8 <= hour % 24 < 18 else 1
        hours += [hour + (part + 0.5) / count for part in range(count)]
    return arrivals(*hours)


def test_a_constant_rate_is_met() -> None:
    drawn = poisson(6.0).draw(np.random.default_rng(1), 60_000)
    assert (np.diff(drawn) >= 0).all()
    assert drawn[-1] / HOUR_US == pytest.approx(10_000, rel=0.02)
    between = np.diff(drawn) / HOUR_US
    assert between.std() == pytest.approx(between.mean(), rel=0.02)  # exponential


def test_the_pattern_of_the_week_is_learnt_and_drawn_again() -> None:
    pattern = pattern_of(two_weeks(), zone="UTC", source="file")
    assert pattern.rates_per_h[24 + 10] == pytest.approx(6.0)
    assert pattern.rates_per_h[24 + 3] == pytest.approx(1.0)
    assert not pattern.notes
    assert not pattern.is_poisson
    drawn = pattern.draw(np.random.default_rng(2), 100_000)
    hours = np.bincount(drawn // HOUR_US % 24, minlength=24)
    assert hours[8:18].sum() / hours.sum() == pytest.approx(60 / 74, abs=0.01)


def test_the_clock_is_the_sites() -> None:
    pattern = pattern_of(two_weeks(), zone="Asia/Tokyo", source="file")
    assert pattern.rates_per_h[24 + 19] == pytest.approx(6.0)  # 10:00 UTC
    assert pattern.rates_per_h[24 + 10] == pytest.approx(1.0)


def test_hours_that_were_not_seen_are_taken_from_other_days_and_told() -> None:
    pattern = pattern_of(two_weeks()[: 24 * 5 * 2], zone="UTC", source="file")
    assert pattern.rates_per_h[6 * 24 + 12] == pytest.approx(6.0)  # no Sunday was seen
    assert "of 168 hours of the week were not seen" in pattern.notes[0]


def test_recorded_times_are_used_as_they_are() -> None:
    recorded = two_weeks()
    pattern = pattern_of(recorded[::-1], zone="UTC", source="file", as_recorded=True)
    assert len(pattern.recorded_us) == len(recorded)
    assert pattern.recorded_us[0] == HOUR_US / 2
    assert pattern.mean_rate_per_h == pytest.approx(len(recorded) / (24 * 14 + 1), rel=0.01)
    assert "as recorded" in pattern.source


def test_the_mix_of_orders_is_that_of_the_arrivals() -> None:
    given = [*arrivals(*range(30)), *arrivals(*range(10), rank=Rank.STAT)]
    pattern = pattern_of(given, zone="UTC", source="file", as_recorded=True)
    assert pattern.orders == {Rank.STAT: 0.25, Rank.ROUTINE: 0.75}
    assert pattern.recorded_orders[:3] == (Rank.ROUTINE, Rank.STAT, Rank.ROUTINE)


def test_a_clock_that_is_set_back_never_runs_backwards() -> None:
    autumn = datetime(2030, 10, 26, 22, tzinfo=UTC)  # 00:00 in Berlin; at 03:00 it is 02:00 again
    given = [
        Recorded(received_at=autumn + timedelta(minutes=10 * step), order_priority=Rank.ROUTINE)
        for step in range(36)
    ]
    pattern = pattern_of(given, zone="Europe/Berlin", source="file", as_recorded=True)
    assert list(pattern.recorded_us) == sorted(pattern.recorded_us)
    assert pattern.recorded_us[0] == 6 * 24 * HOUR_US  # Sunday, from Monday on
    assert pattern.recorded_us[-1] == (6 * 24 + 4) * HOUR_US + 50 * HOUR_US // 60


def test_more_arrivals_than_can_be_held_are_refused_before_they_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arrival_pattern, "MAXIMUM_ARRIVALS", 100)
    endless = (arrivals(hour)[0] for hour in count())
    with pytest.raises(ArrivalError, match="more than 100") as error:
        pattern_of(endless, zone="UTC", source="file")
    assert "--since" in error.value.hint


@pytest.mark.parametrize(
    "given", [[], arrivals(*range(5)), arrivals(*[1.0] * 40), arrivals(*range(30), 1e6)]
)
def test_too_few_or_impossible_arrivals_are_refused(given: list[Recorded]) -> None:
    with pytest.raises(ArrivalError):
        pattern_of(given, zone="UTC", source="file")


@pytest.mark.parametrize("rate", [0.0, -1.0, 1e9, float("nan")])
def test_an_impossible_rate_is_refused(rate: float) -> None:
    with pytest.raises(ArrivalError):
        poisson(rate)


def test_a_file_gives_times_of_the_site_and_order_priorities(tmp_path: Path) -> None:
    file = tmp_path / "arrivals.csv"
    file.write_text(
        "received_at,order_priority\n2030-05-06T08:00:00,stat\n2030-05-06T08:00:00Z,\n", "utf-8"
    )
    found = list(read_arrivals(file, zone="Europe/Berlin"))
    assert [each.order_priority for each in found] == [Rank.STAT, Rank.ROUTINE]
    assert found[1].received_at - found[0].received_at == timedelta(hours=2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("when\n1\n", "no column received_at"),
        ("received_at\n2030-05-06\nyesterday\n", "row 3, column received_at"),
        ("received_at,order_priority\n2030-05-06,SOON\n", "row 2, column order_priority"),
    ],
)
def test_a_wrong_file_is_told_by_row_and_column(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "arrivals.csv"
    file.write_text(text, "utf-8")
    with pytest.raises(ArrivalError, match=said):
        list(read_arrivals(file, zone="UTC"))


def test_a_file_that_is_no_text_is_told_of(tmp_path: Path) -> None:
    file = tmp_path / "arrivals.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    with pytest.raises(ArrivalError, match=r"arrivals\.png is no CSV"):
        list(read_arrivals(file, zone="UTC"))
