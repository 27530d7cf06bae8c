"""Dates and times as senders write them; what cannot be read is unknown, never an error."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triage.rules.study_time import (
    latest_possible,
    parse_date,
    parse_offset,
    parse_time,
    study_datetime,
)

BERLIN = ZoneInfo("Europe/Berlin")


def made_at(
    day: str, clock: str, offset: str = "", zone: ZoneInfo | None = None
) -> datetime | None:
    return study_datetime(
        study_date=day, study_time=clock, timezone_offset_from_utc=offset, site_timezone=zone
    )


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("20260203", date(2026, 2, 3)),
        (" 20260203 ", date(2026, 2, 3)),
        ("2026.02.03", date(2026, 2, 3)),
        ("20260230", None),
        ("2026020", None),
        ("00000000", None),
        ("", None),
    ],
)
def test_dates(text: str, day: date | None) -> None:
    assert parse_date(text) == day


@pytest.mark.parametrize(
    ("text", "clock"),
    [
        ("091500", time(9, 15)),
        ("09", time(9)),
        ("0915", time(9, 15)),
        ("09:15:30", time(9, 15, 30)),
        ("091530.25", time(9, 15, 30, 250_000)),
        ("235960", time(23, 59, 59)),
        ("250000", None),
        ("9", None),
        ("", None),
    ],
)
def test_times(text: str, clock: time | None) -> None:
    assert parse_time(text) == clock


def test_the_objects_own_offset_is_heard_before_the_site() -> None:
    assert made_at("20260701", "120000", "-0500", BERLIN) == datetime(2026, 7, 1, 17, tzinfo=UTC)
    assert made_at("20260701", "120000", "", BERLIN) == datetime(2026, 7, 1, 10, tzinfo=UTC)
    assert made_at("20260101", "120000", "", BERLIN) == datetime(2026, 1, 1, 11, tzinfo=UTC)


def test_without_time_or_zone_the_moment_is_unknown() -> None:
    assert made_at("20260701", "120000") is None
    assert made_at("20260701", "", "+0000") is None
    assert made_at("", "120000", "+0000") is None


@pytest.mark.parametrize("text", ["+1500", "-1201", "+0060", "0100", "+1", ""])
def test_offsets_outside_the_standard_are_none(text: str) -> None:
    assert parse_offset(text) is None


def test_a_day_ends_last_in_the_far_west() -> None:
    assert latest_possible("20260203") == datetime(2026, 2, 4, 12, tzinfo=UTC)
    assert latest_possible("99991231") is None


def test_the_ends_of_the_calendar_are_no_error() -> None:
    assert made_at("00010101", "000000", "+1400") is None


@given(
    moment=st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2999, 1, 1)),  # noqa: DTZ001
    minutes=st.integers(-720, 840),
)
def test_a_written_time_is_read_back_and_is_within_its_day(moment: datetime, minutes: int) -> None:
    sign, size = "-" if minutes < 0 else "+", abs(minutes)
    offset = f"{sign}{size // 60:02d}{size % 60:02d}"
    read = made_at(f"{moment:%Y%m%d}".zfill(8), f"{moment:%H%M%S.%f}", offset)
    assert read == (moment - timedelta(minutes=minutes)).replace(tzinfo=UTC)
    last = latest_possible(f"{moment:%Y%m%d}".zfill(8))
    assert last is not None
    assert read <= last


@given(text=st.text(max_size=20))
def test_no_text_is_an_error(text: str) -> None:
    made_at(text, text, text, BERLIN)
    latest_possible(text)
