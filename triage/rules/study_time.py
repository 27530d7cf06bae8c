"""Read when a study was made, from text that the sender wrote.

Study Date (0008,0020) and Time (0008,0030) are local times without a zone; Timezone Offset From
UTC (0008,0201) gives it, else the site's zone does. Reading is tolerant: what cannot be read is
unknown (None), never an error. Source: PS3.5 6.2 (DA, TM), PS3.3 C.12.1.1.8.
"""

import re
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo

_DATE = re.compile(r"(\d{4})[.]?(\d{2})[.]?(\d{2})", re.ASCII)  # the dotted form is of ACR-NEMA
_TIME = re.compile(r"(\d{2}):?(\d{2})?:?(\d{2})?(?:\.(\d{1,6}))?", re.ASCII)
_OFFSET = re.compile(r"([+-])(\d{2})(\d{2})", re.ASCII)

_WEST_OF_ALL = timezone(timedelta(hours=-12))  # where a calendar day ends last


def parse_date(text: str) -> date | None:
    """Return the day of a DA value, None if it is none."""
    found = _DATE.fullmatch(text.strip())
    try:
        return date(*(int(part) for part in found.groups())) if found else None
    except ValueError:
        return None


def parse_time(text: str) -> time | None:
    """Return the time of day of a TM value; a leap second counts as the second before."""
    found = _TIME.fullmatch(text.strip())
    if not found:
        return None
    hour, minute, second = (int(part or 0) for part in found.groups()[:3])
    microsecond = int((found[4] or "").ljust(6, "0"))
    try:
        return time(hour, minute, min(second, 59) if second == 60 else second, microsecond)
    except ValueError:
        return None


def parse_offset(text: str) -> tzinfo | None:
    """Return the zone of a Timezone Offset From UTC (&ZZXX) between -1200 and +1400."""
    found = _OFFSET.fullmatch(text.strip())
    if not found or int(found[3]) > 59:
        return None
    minutes = int(found[2]) * 60 + int(found[3])
    minutes = -minutes if found[1] == "-" else minutes
    return timezone(timedelta(minutes=minutes)) if -720 <= minutes <= 840 else None


def study_datetime(
    *,
    study_date: str,
    study_time: str,
    timezone_offset_from_utc: str,
    site_timezone: tzinfo | None,
) -> datetime | None:
    """Return the study's time in UTC; None without a date, a time, or any zone."""
    day, clock = parse_date(study_date), parse_time(study_time)
    zone = parse_offset(timezone_offset_from_utc) or site_timezone
    if day is None or clock is None or zone is None:
        return None
    try:
        return datetime.combine(day, clock, zone).astimezone(UTC)
    except OverflowError:
        return None


def latest_possible(study_date: str) -> datetime | None:
    """Return the last moment (UTC) that has this date anywhere on Earth; None without a date."""
    day = parse_date(study_date)
    if day is None:
        return None
    try:
        return datetime.combine(day + timedelta(days=1), time(), _WEST_OF_ALL).astimezone(UTC)
    except OverflowError:
        return None
