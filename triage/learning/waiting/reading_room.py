"""The reading room that is simulated: who reads when, how long a reading takes, what a model knows.

Owns these facts and how a person writes them on the command line. Arrivals belong to
`arrival_pattern`, what happens in the room to `simulation`.
"""

import csv
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from triage.errors import PermanentError
from triage.learning.waiting.arrival_pattern import ArrivalPattern
from triage.learning.waiting.queueing import Demand
from triage.records import Rank
from triage.rules.priority import PriorityPolicy

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
HOURS_PER_WEEK = 168
MAXIMUM_READERS = 10_000
MAXIMUM_MEAN_MIN = 10_000.0  # a week of reading one study
MAXIMUM_MEASURED = 1_000_000  # readings in a file of reading times
WILSON_Z = 1.959963984540054  # of a 95 % interval
_SHIFT = re.compile(r"(?:([a-z]{3})(?:-([a-z]{3}))?@)?(\d{1,2})-(\d{1,2}):(\d{1,5})")
_MEASURED = re.compile(r"([^:/]+)(?:/(\d+)|:([^:-]+)-([^:-]+))?")


class SimulationError(PermanentError):
    """The reading room cannot be simulated as it is described."""

    hint = "`triage simulate --help` shows how each fact is written."


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportion:
    """A measured sensitivity or specificity, and on how many studies it rests."""

    estimate: float
    trials: float | None = None  # None: taken as exactly known

    def draw(self, random: np.random.Generator) -> float:
        """Return a value that the measurement does not exclude.

        From Jeffreys' distribution, Beta(successes + 1/2, failures + 1/2), whose central 95 % is an
        interval of good coverage (Brown, Cai, DasGupta, Statistical Science 2001;16:101).
        """
        if self.trials is None:
            return self.estimate
        successes = self.estimate * self.trials
        return float(random.beta(successes + 0.5, self.trials - successes + 0.5))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingTime:
    """How long readings take: exponential, log-normal, fixed, or drawn from measured ones."""

    kind: str  # exponential | lognormal | fixed | measured
    mean_s: float
    sigma: float = 0.0  # of the logarithm, log-normal only
    measured_s: tuple[float, ...] = ()

    @property
    def second_s2(self) -> float:
        """Mean of the square."""
        if self.kind == "exponential":
            return 2 * self.mean_s**2
        if self.kind == "lognormal":
            return self.mean_s**2 * math.exp(self.sigma**2)
        if self.kind == "measured":
            return sum(value**2 for value in self.measured_s) / len(self.measured_s)
        return self.mean_s**2

    def draw(self, random: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Return `count` reading times in seconds."""
        if self.kind == "exponential":
            return random.exponential(self.mean_s, count)
        if self.kind == "lognormal":
            centre = math.log(self.mean_s) - self.sigma**2 / 2
            return random.lognormal(centre, self.sigma, count)
        if self.kind == "measured":
            return random.choice(np.asarray(self.measured_s), count)
        return np.full(count, self.mean_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """How many read, by hour of the week from Monday 00:00 of the site's clock."""

    readers: tuple[int, ...] = field(default=(1,) * HOURS_PER_WEEK)

    @property
    def constant(self) -> int | None:
        """The number of readers where it never changes."""
        return self.readers[0] if len(set(self.readers)) == 1 else None

    @property
    def mean(self) -> float:
        return sum(self.readers) / len(self.readers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything that one simulation depends on, its seed apart."""

    arrivals: ArrivalPattern
    prevalence: float  # share of studies with the finding
    sensitivity: Proportion
    specificity: Proportion
    reading: ReadingTime  # of studies without the finding
    reading_diseased: ReadingTime
    roster: Roster = Roster()
    orders: Mapping[Rank, float] = field(default_factory=lambda: {Rank.ROUTINE: 1.0})
    raises_to: Rank = Rank.HIGH
    analysis_s: float = 60.0  # from arrival to result
    policy: PriorityPolicy = PriorityPolicy()
    studies: int = 10_000  # measured in each run

    @property
    def flag_rate(self) -> float:
        """Share of studies that are flagged, at the measured estimates."""
        false = (1 - self.prevalence) * (1 - self.specificity.estimate)
        return self.prevalence * self.sensitivity.estimate + false

    @property
    def demand(self) -> Demand:
        """What all studies together ask of the readers."""
        sick = self.prevalence
        return Demand(
            rate_per_s=self.arrivals.mean_rate_per_h / 3600,
            mean_s=(1 - sick) * self.reading.mean_s + sick * self.reading_diseased.mean_s,
            second_s2=(1 - sick) * self.reading.second_s2 + sick * self.reading_diseased.second_s2,
        )

    @property
    def load(self) -> float:
        """Work arriving over work that the roster can do: from 1 on the queue has no end."""
        return self.demand.load / self.roster.mean


def share_of(text: str, name: str) -> float:
    """Read a share between 0 and 1, such as a prevalence; raises SimulationError."""
    try:
        share = float(text)
    except ValueError:
        raise SimulationError(f"{name} {text!r} is no number") from None
    if not 0.0 <= share <= 1.0:
        raise SimulationError(f"{name} {text} lies outside 0 to 1")
    return share


def proportion_of(text: str, name: str) -> Proportion:
    """Read `57/60` (measured), `0.95:0.86-0.98` (with its 95 % interval) or `0.95` (as known)."""
    found = _MEASURED.fullmatch(text.strip())
    if not found:
        raise SimulationError(f"{name} {text!r} is written as 57/60, 0.95:0.86-0.98 or 0.95")
    first, trials, low, high = found.groups()
    if trials is not None:
        if not first.isdecimal() or int(trials) < 1 or int(first) > int(trials):
            raise SimulationError(f"{name} {text!r} counts more right answers than studies")
        return Proportion(estimate=int(first) / int(trials), trials=float(trials))
    estimate = share_of(first, name)
    if low is None:
        return Proportion(estimate=estimate)
    bounds = share_of(low, name), share_of(high, name)
    if not bounds[0] <= estimate <= bounds[1] or bounds[0] == bounds[1]:
        raise SimulationError(f"{name} {text!r}: the interval does not hold the estimate")
    return Proportion(estimate=estimate, trials=_trials_of(estimate, bounds[1] - bounds[0]))


def reading_time_of(text: str) -> ReadingTime:
    """Read `exponential:MIN`, `lognormal:MIN:SIGMA`, `fixed:MIN` (means in minutes), `FILE.csv`."""
    kind, *numbers = text.split(":")
    wanted = {"exponential": 1, "fixed": 1, "lognormal": 2}
    if kind not in wanted:
        if not Path(text).is_file():
            raise SimulationError(f"reading time {text!r} is no kind of time and no file")
        return _measured_times(Path(text))
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        raise SimulationError(f"reading time {text!r} has something that is no number") from None
    if len(values) != wanted[kind]:
        raise SimulationError(f"reading time {text!r} needs {wanted[kind]} number(s) after {kind}")
    sigma = values[1] if kind == "lognormal" else 0.0
    if not 0.0 < values[0] <= MAXIMUM_MEAN_MIN or not 0.0 <= sigma <= 3.0:
        raise SimulationError(f"reading time {text!r} is out of range")
    return ReadingTime(kind=kind, mean_s=values[0] * 60, sigma=sigma)


def roster_of(text: str) -> Roster:
    """Read `2`, or shifts `mon-fri@08-18:3,18-24:1` of the site's clock; the last one counts."""
    if text.isdecimal():
        readers = [int(text)] * HOURS_PER_WEEK
    else:
        readers = [0] * HOURS_PER_WEEK
        for part in text.lower().split(","):
            _enter_shift(readers, part.strip())
    if not 0 < max(readers) <= MAXIMUM_READERS:
        raise SimulationError(f"the readers {text!r} are none at any hour, or too many")
    return Roster(readers=tuple(readers))


def orders_of(text: str) -> dict[Rank, float]:
    """Read a mix of order priorities, `STAT=0.02,HIGH=0.1`; what is left is ROUTINE."""
    shares: dict[Rank, float] = {}
    for part in text.split(","):
        name, _, share = part.partition("=")
        if name.strip().upper() not in set(Rank):
            raise SimulationError(f"{name.strip()!r} is no priority: use {', '.join(Rank)}")
        shares[Rank(name.strip().upper())] = share_of(share, "the share of an order priority")
    rest = 1.0 - sum(shares.values())
    if rest < -1e-9 or (Rank.ROUTINE in shares and rest > 1e-9):
        raise SimulationError("the shares of the order priorities do not sum to 1")
    if rest > 1e-9:
        shares[Rank.ROUTINE] = rest
    return shares


def _enter_shift(readers: list[int], text: str) -> None:
    found = _SHIFT.fullmatch(text)
    first, last, start, end, count = found.groups() if found else ("", "", "0", "0", "0")
    names = (first or "mon", last or first or "sun")
    if not found or not int(start) < int(end) <= 24 or not set(names) <= set(DAYS):
        raise SimulationError(f"the shift {text!r} is not written like mon-fri@08-18:3")
    begin, length = DAYS.index(names[0]), (DAYS.index(names[1]) - DAYS.index(names[0])) % 7 + 1
    for day in range(begin, begin + length):
        for hour in range(int(start), int(end)):
            readers[day % 7 * 24 + hour] = int(count)


def _measured_times(path: Path) -> ReadingTime:
    """Read a CSV with a column `reading_s`; raises SimulationError naming the row."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            seconds = list(_seconds(csv.DictReader(file), path))
    except (UnicodeDecodeError, csv.Error) as error:
        raise SimulationError(f"{path} is no CSV in UTF-8") from error
    if not seconds:
        raise SimulationError(f"{path} holds no reading time")
    mean_s = sum(seconds) / len(seconds)
    return ReadingTime(kind="measured", mean_s=mean_s, measured_s=tuple(seconds))


def _seconds(rows: "csv.DictReader[str]", path: Path) -> Iterator[float]:
    if "reading_s" not in (rows.fieldnames or ()):
        raise SimulationError(f"{path} has no column reading_s")
    for count, row in enumerate(rows):
        try:
            value = float(row["reading_s"] or "")
        except ValueError:
            value = math.nan
        if not 0.0 < value <= MAXIMUM_MEAN_MIN * 60 or count >= MAXIMUM_MEASURED:
            raise SimulationError(f"{path}, row {count + 2}: reading_s is out of range")
        yield value


def _trials_of(estimate: float, width: float) -> float:
    """Return how many studies give a Wilson interval of this width (95 %)."""
    low, high = 1e-6, 1e9
    for _ in range(200):
        trials = math.sqrt(low * high)
        spread = estimate * (1 - estimate) / trials + WILSON_Z**2 / (4 * trials**2)
        found = 2 * WILSON_Z * math.sqrt(spread) / (1 + WILSON_Z**2 / trials)
        low, high = (trials, high) if found > width else (low, trials)
    return high
