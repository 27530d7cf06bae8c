"""Decide whether a sender has fallen silent against its own habit.

A scanner that has lost its route looks from here like one that has nothing to do. What tells them
apart is the hour: silence is counted in the sender's busy hours only, those hours of the week in
which it usually sends, so that nights and weekends count for nothing where it is quiet then. The
usual interval is what nineteen of twenty busy hours kept; three times as much busy silence is an
alarm. A sender without enough busy hours (one that sends a few times a week) is measured by the
whole clock instead.

Pure: facts and time in, judgement out. Times are aware; hours of the week are those of the site's
time zone, 0 = Monday 00:00. A clock that steps back shortens a silence and never makes one.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from enum import StrEnum

from triage.errors import ConfigError
from triage.rules import checks

WEEK_HOURS = 168
HOUR = timedelta(hours=1)
HISTORY = timedelta(weeks=8)  # what a habit is learnt from: older habits are forgotten
LEARNING = timedelta(days=14)  # shorter histories have seen each hour of the week once at most
FEWEST_INTERVALS = 20
FEWEST_BUSY_HOURS = 5  # of a week; below, every hour counts
BUSY_SHARE = 1 / 3  # of the weeks seen, and one more: one stray image makes no busy hour
KEPT = 0.95  # the share of busy hours that keep the usual interval
TIMES_USUAL = 3.0
SHORTEST_S = 900.0  # a shorter silence is never an alarm, however fast the sender usually is
GRACE_S = 86_400.0  # busy time after a start of the receiver in which nobody is named, at most


class SenderState(StrEnum):
    LEARNING = "learning"  # too little history to judge
    REGULAR = "regular"  # sends as usual, or it is not its hour
    SILENT = "silent"
    RETIRED = "retired"  # silent for so long that it is taken for gone
    IGNORED = "ignored"  # [senders] ignore
    UNKNOWN = "unknown"  # nothing is being received, so nothing can be said


@dataclass(frozen=True, slots=True, kw_only=True)
class SilencePolicy:
    """`[senders]` in triage.toml; raises ConfigError if unusable."""

    silence_alarm: bool = True
    ignore: tuple[str, ...] = ()  # AE titles that are never named
    retired_after_days: float = 30.0  # silent for longer: gone, no alarm any more

    def __post_init__(self) -> None:
        checks.number("senders", "retired_after_days", self.retired_after_days, above=True)
        if self.retired_after_days > HISTORY.days:
            raise ConfigError(
                f"[senders] retired_after_days must be at most {HISTORY.days}, the days of history"
                " that are kept"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveHour:
    """One hour (beginning at a full hour, UTC) in which a sender sent."""

    hour_at: datetime
    first_at: datetime
    last_at: datetime
    longest_gap_s: float  # between two images within the hour; 0 for a single one


@dataclass(frozen=True, slots=True, kw_only=True)
class Habit:
    """What a sender usually does. `usual_interval_s` is None while too little is known."""

    busy_hours: frozenset[int]  # of the week
    usual_interval_s: float | None  # busy time that it usually sends within


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """The judgement of one sender."""

    state: SenderState
    usual_interval_s: float | None = None
    silent_since: datetime | None = None  # when the silence became unusual; only where SILENT

    @property
    def silent(self) -> bool:
        return self.state is SenderState.SILENT


def learn(hours: Sequence[ActiveHour], zone: tzinfo) -> Habit:
    """Return the habit that shows in a history; `hours` ascend and are not empty.

    The history ends with its last image, so a silence unlearns nothing.
    """
    first, last = hours[0], hours[-1]
    busy = _busy_hours(hours, zone)
    samples = sorted(_longest_busy_gaps(hours, busy, zone))
    if last.last_at - first.first_at < LEARNING or len(samples) < FEWEST_INTERVALS:
        return Habit(busy_hours=busy, usual_interval_s=None)
    usual_s = samples[math.ceil(KEPT * len(samples)) - 1]
    return Habit(busy_hours=busy, usual_interval_s=round(max(1.0, usual_s), 1))


def judge(
    ae_title: str,
    habit: Habit | None,
    *,
    last_image_at: datetime,
    receiving_since: datetime | None,
    policy: SilencePolicy,
    zone: tzinfo,
    now: datetime,
) -> Silence:
    """Judge one sender at `now`.

    `receiving_since` is the start of the receiver, None where none is at work: what we could not
    hear is not held against the sender. A sender of rare images is silent for longer than any
    receiver runs, so a start counts as its last image for GRACE_S and no longer.
    """
    usual_s = habit.usual_interval_s if habit else None
    silent_since: datetime | None = None
    if ae_title in policy.ignore:
        state = SenderState.IGNORED
    elif now - last_image_at > timedelta(days=policy.retired_after_days):
        state = SenderState.RETIRED
    elif habit is None or usual_s is None:
        state = SenderState.LEARNING
    elif receiving_since is None:
        state = SenderState.UNKNOWN
    else:
        allowed_s = allowed_silence_s(usual_s)
        silent_since = _later(
            _runs_out_at(last_image_at, now, allowed_s, busy=habit.busy_hours, zone=zone),
            _runs_out_at(
                max(last_image_at, receiving_since),
                now,
                min(allowed_s, GRACE_S),
                busy=habit.busy_hours,
                zone=zone,
            ),
        )
        state = SenderState.REGULAR if silent_since is None else SenderState.SILENT
    return Silence(state=state, usual_interval_s=usual_s, silent_since=silent_since)


def allowed_silence_s(usual_interval_s: float) -> float:
    """Return the busy time without an image that is an alarm."""
    return max(SHORTEST_S, TIMES_USUAL * usual_interval_s)


def hour_of_week(moment: datetime, zone: tzinfo) -> int:
    """Return the hour of the site's week, 0 = Monday 00:00 to 00:59."""
    local = moment.astimezone(zone)
    return local.weekday() * 24 + local.hour


def hour_begin(moment: datetime) -> datetime:
    """Return the full hour (UTC minutes) that `moment` lies in."""
    return moment.replace(minute=0, second=0, microsecond=0)


# --- the busy clock


def _busy_hours(hours: Sequence[ActiveHour], zone: tzinfo) -> frozenset[int]:
    """Return the hours of the week in which the sender sent in enough of the weeks seen."""
    sent = Counter(hour_of_week(each.hour_at, zone) for each in hours)
    seen: Counter[int] = Counter()
    hour_at = hours[0].hour_at
    while hour_at <= hours[-1].hour_at:
        seen[hour_of_week(hour_at, zone)] += 1
        hour_at += HOUR
    busy = frozenset(hour for hour, count in sent.items() if count / (seen[hour] + 1) > BUSY_SHARE)
    return busy if len(busy) >= FEWEST_BUSY_HOURS else frozenset(range(WEEK_HOURS))


def _longest_busy_gaps(
    hours: Sequence[ActiveHour], busy: frozenset[int], zone: tzinfo
) -> Iterator[float]:
    """Yield, for each active hour, the longest busy time without an image that ended in it."""
    before: datetime | None = None
    for each in hours:
        inside_s = each.longest_gap_s if hour_of_week(each.hour_at, zone) in busy else 0.0
        ahead_s = 0.0
        if before is not None:
            ahead_s = sum(
                (end - begin).total_seconds()
                for begin, end in _busy_spans(before, each.first_at, busy, zone)
            )
        if (longest_s := max(inside_s, ahead_s)) > 0:
            yield longest_s
        before = each.last_at


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return None if one is None or other is None else max(one, other)


def _runs_out_at(
    begin: datetime, now: datetime, allowed_s: float, *, busy: frozenset[int], zone: tzinfo
) -> datetime | None:
    """Return when `allowed_s` of busy time have passed since `begin`; None where not by `now`."""
    left_s = allowed_s
    for span_begin, span_end in _busy_spans(begin, now, busy, zone):
        span_s = (span_end - span_begin).total_seconds()
        if span_s >= left_s:
            return span_begin + timedelta(seconds=left_s)
        left_s -= span_s
    return None


def _busy_spans(
    begin: datetime, end: datetime, busy: frozenset[int], zone: tzinfo
) -> Iterator[tuple[datetime, datetime]]:
    """Yield the parts of [begin, end] that lie in busy hours, hour by hour."""
    hour_at = hour_begin(begin)
    while hour_at < end:
        if hour_of_week(hour_at, zone) in busy:
            span = max(begin, hour_at), min(end, hour_at + HOUR)
            if span[0] < span[1]:
                yield span
        hour_at += HOUR
