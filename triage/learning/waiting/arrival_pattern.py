"""When studies arrive in a simulation: at a constant rate, by hour of the week, or as recorded.

A simulated clock starts on a Monday at 00:00 of the site's clock and counts microseconds, so that
order and equality are exact. The pattern of recorded times is a Poisson process whose rate changes
from hour to hour of the week; changes between summer and winter time are walked over. Owns no
database: times come as arguments, or from a file.
"""

import csv
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from triage.errors import PermanentError
from triage.records import Rank

HOUR_US = 3_600_000_000
WEEK_US = 168 * HOUR_US
FEWEST = 20  # recorded arrivals from which a pattern means anything
MAXIMUM_ARRIVALS = 5_000_000
MAXIMUM_SPAN_US = 20 * 366 * 24 * HOUR_US
MAXIMUM_RATE_PER_H = 100_000.0
_RANKS = tuple(Rank)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MONDAY = datetime(2024, 1, 1)  # noqa: DTZ001  # wall clock
_MICROSECOND = timedelta(microseconds=1)


class ArrivalError(PermanentError):
    """The arrivals cannot be used."""

    hint = (
        "Give the worklist, poisson:RATE (studies per hour), or a CSV with the column received_at"
        " (ISO 8601) and, if wished, order_priority."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One recorded arrival."""

    received_at: datetime  # aware
    order_priority: Rank


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalPattern:
    """Studies per hour for each hour of the week, or the recorded times themselves."""

    source: str  # for a person
    rates_per_h: tuple[float, ...]  # 168, from Monday 00:00
    recorded_us: tuple[int, ...] = ()  # ascending; used as they are if there are any
    recorded_orders: tuple[Rank, ...] = ()  # beside them
    orders: Mapping[Rank, float] = field(default_factory=lambda: {Rank.ROUTINE: 1.0})  # shares
    notes: tuple[str, ...] = field(default=())

    @property
    def is_poisson(self) -> bool:
        """Whether the rate never changes, which the formulas ask for."""
        return not self.recorded_us and len(set(self.rates_per_h)) == 1

    @property
    def mean_rate_per_h(self) -> float:
        if self.recorded_us:
            span_us = max(self.recorded_us[-1] - self.recorded_us[0], 1)
            return (len(self.recorded_us) - 1) / span_us * HOUR_US
        return sum(self.rates_per_h) / len(self.rates_per_h)

    def draw(self, random: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Return `count` arrival times in microseconds, ascending."""
        worked = np.concatenate([[0.0], np.cumsum(self.rates_per_h)])
        units = np.cumsum(random.exponential(1.0, count))
        weeks, rest = np.divmod(units, worked[-1])
        hours = np.interp(rest, worked, np.arange(worked.size))
        return (weeks * WEEK_US + hours * HOUR_US).astype(np.int64)


def poisson(rate_per_h: float) -> ArrivalPattern:
    """Return arrivals at a constant rate; raises ArrivalError."""
    if not 0.0 < rate_per_h <= MAXIMUM_RATE_PER_H:
        raise ArrivalError(f"{rate_per_h:g} studies per hour cannot be simulated")
    source = f"Poisson, {rate_per_h:g} per hour"
    return ArrivalPattern(source=source, rates_per_h=(rate_per_h,) * 168)


def pattern_of(
    arrivals: Iterable[Recorded], *, zone: str, source: str, as_recorded: bool = False
) -> ArrivalPattern:
    """Return the pattern of recorded arrivals, in any order, on the clock of `zone` (IANA name).

    With `as_recorded` the very times are used, in every run. Raises ArrivalError.
    """
    at_us, places = _columns(arrivals, ZoneInfo(zone), source)
    if at_us.size < FEWEST:
        raise ArrivalError(
            f"{source} holds {at_us.size} arrivals, and a pattern needs {FEWEST} at least"
        )
    days = float(at_us[-1] - at_us[0]) / HOUR_US / 24
    label = f"{source}: {at_us.size} arrivals in {days:.1f} days"
    rates, notes = _rates(at_us)
    counts = zip(_RANKS, np.bincount(places, minlength=len(_RANKS)), strict=True)
    orders = {rank: float(count) / at_us.size for rank, count in counts if count}
    if not as_recorded:
        return ArrivalPattern(source=label, rates_per_h=rates, orders=orders, notes=notes)
    return ArrivalPattern(
        source=f"{label}, as recorded",
        rates_per_h=rates,
        recorded_us=tuple(at_us.tolist()),
        recorded_orders=tuple(_RANKS[place] for place in places),
        orders=orders,
    )


def read_arrivals(path: Path, *, zone: str) -> Iterator[Recorded]:
    """Read a CSV with `received_at` and, if wished, `order_priority`, a row at a time.

    A time without an offset is one of the site's clock. Raises ArrivalError.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if "received_at" not in (rows.fieldnames or ()):
                raise ArrivalError(f"{path} has no column received_at")
            for line, row in enumerate(rows, start=2):
                yield _row(row, zone, f"{path}, row {line}")
    except (UnicodeDecodeError, csv.Error) as error:
        raise ArrivalError(f"{path} is no CSV in UTF-8") from error


def _columns(
    arrivals: Iterable[Recorded], clock: ZoneInfo, source: str
) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Return, earliest first, the time on the clock of the site and the place in Rank.

    Nothing else of an arrival is kept: the years of a site are millions of them.
    """
    moments_us, clock_us, places = array("q"), array("q"), array("b")
    place_of = {rank: place for place, rank in enumerate(_RANKS)}
    for each in arrivals:
        if len(places) >= MAXIMUM_ARRIVALS:
            raise ArrivalError(
                f"{source} holds more than {MAXIMUM_ARRIVALS} arrivals",
                hint="Take fewer, the latest, with --since.",
            )
        wall = each.received_at.astimezone(clock).replace(tzinfo=None)
        moments_us.append((each.received_at - _EPOCH) // _MICROSECOND)
        clock_us.append((wall - _MONDAY) // _MICROSECOND)
        places.append(place_of[each.order_priority])
    order = np.argsort(np.asarray(moments_us), kind="stable")
    at_us = np.asarray(clock_us)[order]
    at_us -= at_us[:1] // WEEK_US * WEEK_US  # the first one is in the first week
    return np.maximum.accumulate(at_us), np.asarray(places)[order]


def _row(row: Mapping[str, str | None], zone: str, where: str) -> Recorded:
    try:
        moment = datetime.fromisoformat((row["received_at"] or "").strip())
    except ValueError:
        raise ArrivalError(f"{where}, column received_at: no time in ISO 8601") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=ZoneInfo(zone))
    stated = (row.get("order_priority") or Rank.ROUTINE).strip().upper()
    if stated not in set(Rank):
        raise ArrivalError(f"{where}, column order_priority: not one of {', '.join(Rank)}")
    return Recorded(received_at=moment.astimezone(UTC), order_priority=Rank(stated))


def _rates(at_us: NDArray[np.int64]) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Return the rate of each hour of the week; what was not seen comes from what was.

    The first and the last hour are seen in part only, which is counted as such.
    """
    seen_h = np.zeros(168)
    first, last = int(at_us[0]), int(at_us[-1])
    if last - first > MAXIMUM_SPAN_US:
        raise ArrivalError("the recorded arrivals span more than 20 years: is a time mistyped?")
    for hour in range(first // HOUR_US, last // HOUR_US + 1):
        begin, end = max(first, hour * HOUR_US), min(last, (hour + 1) * HOUR_US)
        seen_h[hour % 168] += (end - begin) / HOUR_US
    counts = np.bincount(at_us // HOUR_US % 168, minlength=168).astype(float)
    overall = counts.sum() / max(seen_h.sum(), 1e-9)
    by_hour = counts.reshape(7, 24).sum(axis=0), seen_h.reshape(7, 24).sum(axis=0)
    rates = []
    for hour in range(168):
        count, exposure = counts[hour], seen_h[hour]
        if exposure < 1.0:  # never seen whole: the same hour of other days, else the mean
            count, exposure = by_hour[0][hour % 24], by_hour[1][hour % 24]
        rates.append(float(count / exposure) if exposure >= 1.0 else float(overall))
    if not all(math.isfinite(rate) for rate in rates) or not 0 < max(rates) <= MAXIMUM_RATE_PER_H:
        raise ArrivalError("the recorded arrivals give no usable rate: all at one moment")
    missing = int((seen_h < 1.0).sum())
    note = (
        f"{missing} of 168 hours of the week were not seen: taken from the same hour of other days"
    )
    return tuple(rates), (note,) if missing else ()
