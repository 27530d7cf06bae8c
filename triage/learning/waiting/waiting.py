"""What a model does to waiting: many simulated runs, each group under each discipline.

Every run draws its studies once and reads them under every discipline (common random numbers), so
that differences are paired and their intervals are narrow. Owns the figures and what they say;
the picture belongs to `waiting_plot`, the formulas beside them to `expectation`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triage.errors import PermanentError
from triage.learning.waiting.reading_room import Scenario, SimulationError
from triage.learning.waiting.simulation import Discipline, Studies, draw_studies, waits_us

CURVE = np.concatenate([np.linspace(0.0, 0.95, 96), np.linspace(0.951, 0.999, 49), [1.0]])
MAXIMUM_STUDIES = 2_000_000  # measured in one run
MAXIMUM_RUNS = 10_000
CONFIDENCE = 0.95

Progress = Callable[[int, int], None]  # runs done, runs in all


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure over runs: its mean, the 95 % interval of that mean, the middle 95 % of runs."""

    mean: float
    low: float
    high: float
    run_low: float  # what one run of this length may show: chance, and what the measured
    run_high: float  # sensitivity and specificity leave open


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """How long one group waits under one discipline, in seconds."""

    mean_s: Estimate
    p95_s: Estimate
    maximum_s: Estimate
    longest_s: float  # of all runs
    over_ceiling: float  # share of studies
    curve_s: NDArray[np.float64]  # wait at each share of CURVE, mean over runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All that was simulated."""

    scenario: Scenario
    seed: int
    runs: int
    counts: Mapping[str, float]  # studies of each group in a run, mean
    waits: Mapping[tuple[str, Discipline], Wait]  # group; groups that never occur are absent
    # The discipline less FIFO, study by study of the same run.
    changes: Mapping[tuple[str, Discipline], tuple[Estimate, Estimate]]  # mean, maximum


def distinct(outcome: Outcome) -> dict[Discipline, Discipline]:
    """Return for each discipline the first one that reads every study at the same time."""
    first: dict[Discipline, Discipline] = {}
    for discipline in Discipline:
        first[discipline] = next(
            (earlier for earlier in first if _alike(outcome, earlier, discipline)), discipline
        )
    return first


def _alike(outcome: Outcome, one: Discipline, other: Discipline) -> bool:
    pairs = [
        (outcome.waits[name, one], outcome.waits[name, other])
        for name in outcome.counts
        if (name, one) in outcome.waits
    ]
    return all(a.mean_s == b.mean_s and a.maximum_s == b.maximum_s for a, b in pairs)


def groups_of(studies: Studies) -> dict[str, NDArray[np.bool_]]:
    """Return which measured studies belong to each group.

    `missed` have the finding and no flag: they are among `unflagged`, all that have no flag.
    """
    diseased, flagged = studies.diseased[studies.measured], studies.flagged[studies.measured]
    return {
        "flagged": flagged,
        "flagged_true": flagged & diseased,
        "flagged_false": flagged & ~diseased,
        "missed": ~flagged & diseased,
        "unflagged": ~flagged,
        "diseased": diseased,
        "all": np.ones_like(flagged),
    }


def simulate(
    scenario: Scenario, *, runs: int, seed: int, progress: Progress | None = None
) -> Outcome:
    """Simulate `runs` independent runs; the same seed gives the same figures.

    Raises SimulationError for a scenario that cannot be simulated.
    """
    if not 2 <= runs <= MAXIMUM_RUNS:
        raise SimulationError(f"{runs} runs give no interval: 2 to {MAXIMUM_RUNS}")
    if not 100 <= scenario.studies <= MAXIMUM_STUDIES:
        raise SimulationError(f"a run measures 100 to {MAXIMUM_STUDIES} studies")
    if (recorded := len(scenario.arrivals.recorded_us)) > MAXIMUM_STUDIES:
        raise SimulationError(
            f"a run reads at most {MAXIMUM_STUDIES} studies, and {recorded} were recorded",
            hint="Take fewer, the latest, with --since, or leave out --as-recorded.",
        )
    rows: list[dict[tuple[str, Discipline], _Run]] = []
    for done, child in enumerate(np.random.SeedSequence(seed).spawn(runs), start=1):
        studies = draw_studies(scenario, np.random.default_rng(child))
        rows.append(_one_run(studies, scenario))
        if progress is not None:
            progress(done, runs)
    return _outcome(scenario, rows, seed=seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One group under one discipline in one run."""

    count: int
    mean_s: float
    p95_s: float
    maximum_s: float
    over_ceiling: int
    curve_s: NDArray[np.float64]


def _one_run(studies: Studies, scenario: Scenario) -> dict[tuple[str, Discipline], _Run]:
    groups = groups_of(studies)
    found = {}
    for discipline in Discipline:
        waits_s = waits_us(studies, scenario, discipline)[studies.measured] / 1e6
        for name, members in groups.items():
            if members.any():
                found[name, discipline] = _measure(waits_s[members], scenario.policy.ceiling_s)
    return found


def _measure(waits_s: NDArray[np.float64], ceiling_s: float) -> _Run:
    return _Run(
        count=waits_s.size,
        mean_s=float(waits_s.mean()),
        p95_s=float(np.quantile(waits_s, 0.95)),
        maximum_s=float(waits_s.max()),
        over_ceiling=int((waits_s > ceiling_s).sum()),
        curve_s=np.quantile(waits_s, CURVE),
    )


def _outcome(
    scenario: Scenario, rows: list[dict[tuple[str, Discipline], _Run]], *, seed: int
) -> Outcome:
    waits, changes = {}, {}
    counts: dict[str, float] = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        name = key[0]
        runs = [row[key] for row in rows if key in row]  # rare groups are absent from some runs
        counts[name] = sum(run.count for run in runs) / len(rows)
        if len(runs) < 2:
            continue
        waits[key] = Wait(
            mean_s=estimate([run.mean_s for run in runs]),
            p95_s=estimate([run.p95_s for run in runs]),
            maximum_s=estimate([run.maximum_s for run in runs]),
            longest_s=max(run.maximum_s for run in runs),
            over_ceiling=sum(r.over_ceiling for r in runs) / sum(r.count for r in runs),
            curve_s=np.mean([run.curve_s for run in runs], axis=0),
        )
        base = [row[name, Discipline.FIFO] for row in rows if key in row]
        pairs = list(zip(runs, base, strict=True))
        changes[key] = (
            estimate([run.mean_s - before.mean_s for run, before in pairs]),
            estimate([run.maximum_s - before.maximum_s for run, before in pairs]),
        )
    return Outcome(
        scenario=scenario, seed=seed, runs=len(rows), counts=counts, waits=waits, changes=changes
    )


def estimate(values: list[float]) -> Estimate:
    """Return the mean, its 95 % interval (Student) and the middle 95 % of two or more values."""
    figures = np.asarray(values, dtype=np.float64)
    mean = float(figures.mean())
    half = _student(figures.size - 1) * float(figures.std(ddof=1)) / math.sqrt(figures.size)
    low, high = np.quantile(figures, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(
        mean=mean, low=mean - half, high=mean + half, run_low=float(low), run_high=float(high)
    )


def _student(freedom: int) -> float:
    try:
        from scipy.stats import t
    except ImportError as error:
        raise PermanentError(
            "intervals need scipy, which is not installed", hint="Install `triage[learning]`."
        ) from error
    return float(t.ppf((1 + CONFIDENCE) / 2, freedom))
