"""A sender that stops in its busy hours is named; one that keeps its own quiet hours is not."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triage.errors import ConfigError
from triage.rules.silence import (
    FEWEST_INTERVALS,
    HOUR,
    LEARNING,
    SHORTEST_S,
    TIMES_USUAL,
    WEEK_HOURS,
    ActiveHour,
    Habit,
    SenderState,
    Silence,
    SilencePolicy,
    allowed_silence_s,
    hour_begin,
    hour_of_week,
    judge,
    learn,
)

MONDAY = datetime(2026, 1, 5, 0, 0, tzinfo=UTC)
PARIS = ZoneInfo("Europe/Paris")
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
POLICY = SilencePolicy()


def shift(
    *, days: int, seed: int, minutes: float = 8.0, zone: tzinfo = UTC, begin: datetime = MONDAY
) -> Iterator[datetime]:
    """Yield the studies of a scanner that works on weekdays from half past seven to six.

    Studies come by chance, `minutes` apart in the mean, with an hour for lunch; each is a burst.
    """
    chance = random.Random(seed)
    for day in range(days):
        local = (begin + day * DAY).replace(tzinfo=zone)
        if local.weekday() >= 5:
            continue
        moment = local + timedelta(hours=7.5)
        while True:
            moment += chance.expovariate(1 / minutes) * MINUTE
            hour = moment.hour + moment.minute / 60
            if hour >= 18:
                break
            if not 12 <= hour < 13:
                yield from (moment.astimezone(UTC) + timedelta(seconds=n) for n in (0, 5))


def hours_of(moments: list[datetime]) -> list[ActiveHour]:
    by_hour: dict[datetime, list[datetime]] = {}
    for moment in moments:
        by_hour.setdefault(hour_begin(moment), []).append(moment)
    return [
        ActiveHour(
            hour_at=hour_at,
            first_at=some[0],
            last_at=some[-1],
            longest_gap_s=max(((b - a).total_seconds() for a, b in pairwise(some)), default=0.0),
        )
        for hour_at, some in by_hour.items()
    ]


def judged(habit: Habit | None, last: datetime, now: datetime, **changes: object) -> Silence:
    values: dict[str, object] = {
        "last_image_at": last,
        "receiving_since": MONDAY - 365 * DAY,
        "policy": POLICY,
        "zone": UTC,
        "now": now,
    }
    return judge("CT1", habit, **values | changes)  # type: ignore[arg-type]


def habit_of(moments: list[datetime], zone: tzinfo = UTC) -> Habit:
    return learn(hours_of(moments), zone)


@pytest.fixture(scope="module")
def regular() -> tuple[Habit, list[datetime]]:
    """Four weeks of a day shift and what was learnt from them."""
    moments = list(shift(days=28, seed=1))
    return habit_of(moments), moments


@pytest.mark.parametrize(("seed", "minutes"), [(2, 4.0), (3, 10.0), (4, 45.0)])
@pytest.mark.parametrize("zone", [UTC, PARIS], ids=["utc", "paris"])
def test_a_month_of_day_shifts_gives_no_false_alarm(
    seed: int, minutes: float, zone: tzinfo
) -> None:
    # In Paris the clocks go forward on 29 March, within the month that is judged.
    begin = datetime(2026, 2, 2, tzinfo=UTC)
    moments = list(shift(days=63, seed=seed, minutes=minutes, zone=zone, begin=begin))
    now, end, position = begin + 28 * DAY, begin + 63 * DAY, 0
    habit: Habit | None = None
    while now < end:
        while position + 1 < len(moments) and moments[position + 1] <= now:
            position += 1
        if habit is None or now.hour == 3:  # learnt each night
            habit = habit_of(moments[: position + 1], zone)
        silence = judged(habit, moments[position], now, zone=zone)
        assert silence.state is SenderState.REGULAR, (now, silence, habit)
        now += 20 * MINUTE


def test_a_sender_that_stops_at_work_is_named_within_three_usual_intervals(
    regular: tuple[Habit, list[datetime]],
) -> None:
    habit, _ = regular
    usual_s = habit.usual_interval_s
    assert usual_s is not None
    assert 8 * 60 < usual_s < 90 * 60
    last = MONDAY + 28 * DAY + timedelta(hours=13, minutes=30)  # a Monday after lunch
    named = last + timedelta(seconds=TIMES_USUAL * usual_s)
    assert judged(habit, last, named - MINUTE).state is SenderState.REGULAR
    assert judged(habit, last, named + MINUTE).silent
    assert judged(habit, last, named + MINUTE).silent_since == named
    assert named.hour < 18


def test_a_night_and_a_weekend_are_no_silence_but_the_next_morning_is(
    regular: tuple[Habit, list[datetime]],
) -> None:
    habit, _ = regular
    friday = MONDAY + 32 * DAY + timedelta(hours=17, minutes=50)
    for hours in (1, 8, 24, 48, 61):
        assert judged(habit, friday, friday + hours * HOUR).state is SenderState.REGULAR
    monday_noon = MONDAY + 35 * DAY + timedelta(hours=12)
    silence = judged(habit, friday, monday_noon)
    assert silence.silent
    assert silence.silent_since is not None
    assert hour_of_week(silence.silent_since, UTC) in habit.busy_hours


def test_the_busy_hours_are_those_of_the_shift_and_no_others(
    regular: tuple[Habit, list[datetime]],
) -> None:
    habit, _ = regular
    assert {hour % 24 for hour in habit.busy_hours} <= set(range(7, 18))
    assert {hour // 24 for hour in habit.busy_hours} == {0, 1, 2, 3, 4}
    assert len(habit.busy_hours) >= 5 * 9


def test_one_stray_image_at_night_makes_no_busy_hour() -> None:
    moments = sorted([*shift(days=28, seed=5), MONDAY + 8 * DAY + 3 * HOUR])
    assert 24 + 3 not in habit_of(moments).busy_hours


def test_too_short_a_history_says_that_it_is_still_learning() -> None:
    moments = list(shift(days=12, seed=6))
    habit = habit_of(moments)
    assert habit.usual_interval_s is None
    later = judged(habit, moments[-1], moments[-1] + 3 * DAY)
    assert (later.state, later.silent) == (SenderState.LEARNING, False)
    assert judged(None, moments[-1], moments[-1] + DAY).state is SenderState.LEARNING


def test_a_few_images_over_weeks_are_no_habit() -> None:
    moments = [MONDAY + 3 * week * DAY for week in range(FEWEST_INTERVALS - 1)]
    assert moments[-1] - moments[0] > LEARNING
    assert habit_of(moments).usual_interval_s is None


def test_a_sender_of_a_few_studies_a_week_is_measured_by_the_whole_clock() -> None:
    chance = random.Random(7)
    moments = [MONDAY + 2 * n * DAY + chance.random() * DAY for n in range(28)]
    habit = habit_of(moments)
    assert habit.busy_hours == frozenset(range(WEEK_HOURS))
    assert judged(habit, moments[-1], moments[-1] + 4 * DAY).state is SenderState.REGULAR
    assert judged(habit, moments[-1], moments[-1] + 10 * DAY).silent


def test_a_silence_unlearns_nothing(regular: tuple[Habit, list[datetime]]) -> None:
    habit, moments = regular
    assert habit_of(moments) == habit
    assert judged(habit, moments[-1], moments[-1] + 29 * DAY).silent


def test_one_lost_day_in_the_history_does_not_stretch_the_usual_interval(
    regular: tuple[Habit, list[datetime]],
) -> None:
    habit, moments = regular
    gone = (MONDAY + 15 * DAY).date()
    without = habit_of([moment for moment in moments if moment.date() != gone])
    assert habit.usual_interval_s is not None
    assert without.usual_interval_s is not None
    assert without.usual_interval_s <= 1.25 * habit.usual_interval_s


def test_what_we_could_not_hear_is_not_held_against_the_sender(
    regular: tuple[Habit, list[datetime]],
) -> None:
    habit, _ = regular
    last = MONDAY + 28 * DAY + 9 * HOUR
    now = last + 6 * HOUR
    assert judged(habit, last, now).silent
    assert judged(habit, last, now, receiving_since=now - 5 * MINUTE).state is SenderState.REGULAR
    assert judged(habit, last, now, receiving_since=None).state is SenderState.UNKNOWN


def test_a_receiver_that_is_restarted_every_week_misses_no_rare_sender() -> None:
    """One morning a week: three weeks of silence are an alarm, and no receiver runs for so long."""
    weeks = [MONDAY + 7 * week * DAY + 8 * HOUR for week in range(8)]
    habit = habit_of([at + number * HOUR for at in weeks for number in range(4)])
    last = weeks[-1] + 3 * HOUR
    for days in range(7, 29):
        now = last + days * DAY
        restarted = MONDAY + (now - MONDAY) // (7 * DAY) * 7 * DAY
        said = judged(habit, last, now, receiving_since=restarted)
        if days <= 20:
            assert not said.silent
        elif now - restarted > 2 * DAY:
            assert said.silent


def test_a_sender_that_is_gone_for_good_is_named_no_more(
    regular: tuple[Habit, list[datetime]],
) -> None:
    habit, moments = regular
    last = moments[-1]
    assert judged(habit, last, last + 31 * DAY).state is SenderState.RETIRED
    soon = SilencePolicy(retired_after_days=2)
    assert judged(habit, last, last + 3 * DAY, policy=soon).state is SenderState.RETIRED
    ignored = SilencePolicy(ignore=("CT1",))
    assert judged(habit, last, last + 10 * DAY, policy=ignored).state is SenderState.IGNORED


def test_a_clock_that_stepped_back_makes_no_silence(
    regular: tuple[Habit, list[datetime]],
) -> None:
    habit, moments = regular
    assert judged(habit, moments[-1], moments[-1] - DAY).state is SenderState.REGULAR


@pytest.mark.parametrize("days", [0.0, -1.0, 57.0])
def test_an_unusable_time_of_retirement_is_refused(days: float) -> None:
    with pytest.raises(ConfigError, match="retired_after_days"):
        SilencePolicy(retired_after_days=days)


HABITS = st.builds(
    Habit,
    busy_hours=st.frozensets(st.integers(0, WEEK_HOURS - 1), min_size=1),
    usual_interval_s=st.floats(1.0, 86_400.0),
)
SECONDS = st.integers(0, 20 * 86_400)


@settings(max_examples=60, deadline=None)
@given(habit=HABITS, begin=SECONDS, waited=SECONDS, more=SECONDS)
def test_silence_begins_in_a_busy_hour_and_lasts_until_an_image(
    habit: Habit, begin: int, waited: int, more: int
) -> None:
    never_retired = SilencePolicy(retired_after_days=56)
    last = MONDAY + timedelta(seconds=begin)
    now = last + timedelta(seconds=waited)
    sooner = judged(habit, last, now, policy=never_retired, zone=PARIS)
    later = judged(habit, last, now + timedelta(seconds=more), policy=never_retired, zone=PARIS)
    if sooner.silent:
        assert later.silent_since == sooner.silent_since
        assert sooner.silent_since is not None
        assert habit.usual_interval_s is not None
        # Just before the end of the allowance it was a busy hour.
        at = sooner.silent_since - timedelta(microseconds=1)
        assert hour_of_week(at, PARIS) in habit.busy_hours
        allowed = timedelta(seconds=allowed_silence_s(habit.usual_interval_s))
        assert last + allowed <= sooner.silent_since + timedelta(milliseconds=1)
    assert waited >= SHORTEST_S or not sooner.silent
    assert judged(habit, now, now, policy=never_retired, zone=PARIS).state is SenderState.REGULAR
