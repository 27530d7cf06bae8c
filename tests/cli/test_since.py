"""`--since` is read as people write it."""

import argparse
from datetime import UTC, datetime

import pytest

from triage.cli.since import moment, since

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("30d", datetime(2026, 2, 8, 12, 0, tzinfo=UTC)),
        ("12h", datetime(2026, 3, 10, 0, 0, tzinfo=UTC)),
        ("1W", datetime(2026, 3, 3, 12, 0, tzinfo=UTC)),
        ("2026-03-01", datetime(2026, 2, 28, 23, 0, tzinfo=UTC)),  # midnight of the site
        ("2026-03-01T08:00", datetime(2026, 3, 1, 7, 0, tzinfo=UTC)),
        ("2026-03-01T08:00+00:00", datetime(2026, 3, 1, 8, 0, tzinfo=UTC)),
    ],
)
def test_dates_times_and_spans_become_a_moment(text: str, meant: datetime) -> None:
    assert moment(since(text), zone="Europe/Berlin", now=NOW) == meant


def test_without_it_there_is_no_limit() -> None:
    assert moment(None, zone="UTC", now=NOW) is None


@pytest.mark.parametrize(
    "text", ["", "yesterday", "30", "d", "2026-13-01", "0001-01-01", "9999-12-31"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        since(text)
