"""`--since` as people write it: a date, a time, or a span back from now."""

import argparse
import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

SPAN = re.compile(r"(\d{1,5})([hdw])")
FIRST_YEAR, LAST_YEAR = 1900, 9000
HOURS = {"h": 1, "d": 24, "w": 168}
HELP = "a date or time (2026-03-01, 2026-03-01T08:00; of the site) or a span back (12h, 30d, 8w)"


def since(text: str) -> datetime | timedelta:
    """Read the argument; `moment` makes a time of it. A time without a zone stays without one."""
    if found := SPAN.fullmatch(text.strip().lower()):
        return timedelta(hours=int(found[1]) * HOURS[found[2]])
    try:
        named = datetime.fromisoformat(text.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is neither a date nor a span like 30d") from None
    if not FIRST_YEAR <= named.year < LAST_YEAR:  # beyond, no time zone can be reckoned with
        raise argparse.ArgumentTypeError(f"{text} is no date of a study")
    return named


def moment(asked: datetime | timedelta | None, *, zone: str, now: datetime) -> datetime | None:
    """Return the time in UTC that was asked for; None where none was."""
    if asked is None:
        return None
    if isinstance(asked, timedelta):
        return now - asked
    return (asked if asked.tzinfo else asked.replace(tzinfo=ZoneInfo(zone))).astimezone(UTC)
