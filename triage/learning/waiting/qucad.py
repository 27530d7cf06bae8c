"""Write a simulated room as a configuration of QuCAD, so that a third party can check the claim.

QuCAD (github.com/DIDSR/QuCAD, commit 269e103, 2023) reads `KEY VALUE # comment` lines by
`run_sim.py --configFile`. In that version a number for FPFThresh would stay text, so specificity
travels by `rocFile`: lines `FPF,TPF` without a heading, to which QuCAD fits a bi-normal curve. The
curve written here is bi-normal with equal spreads and passes through the operating point, so the
fit gives the specificity back. `runTimeFile` is read but not used by it. Its own modules lie in
`tools`, which it finds by itself on Windows alone.

QuCAD knows one finding, constant Poisson arrivals, exponential readings, readers who are always
there, and a flag that interrupts a reading; ageing, ceiling and ranks between it does not know.
Owns no simulation; the figures that QuCAD should give are those of `expectation.interrupted_s`.
"""

import os
from pathlib import Path
from statistics import NormalDist

from triage.learning.waiting.expectation import expected
from triage.learning.waiting.reading_room import Scenario, SimulationError
from triage.records import Rank

MAXIMUM_TRAFFIC = 0.95  # QuCAD refuses more
# To 0 and 1: a share on the edge has no place on a bi-normal curve, and QuCAD takes the negative
# predictive value at a sensitivity of 1 for 0.
NEAREST = 1e-4
_NORMAL = NormalDist()
_DEVIATES = [step / 8 for step in range(-10, 11)]  # about the middle of the curve


def write_qucad(path: Path, scenario: Scenario, *, runs: int) -> tuple[Path, Path]:
    """Write the configuration and, beside it, the ROC curve; return both paths.

    Raises SimulationError where QuCAD could not run it.
    """
    roc = path.with_name(f"{path.stem}.roc.dat").resolve()
    text = config_text(scenario, runs=runs, roc_file=roc)
    roc.write_text(roc_text(scenario), "utf-8")
    path.write_text(text, "utf-8")
    return path, roc


def config_text(scenario: Scenario, *, runs: int, roc_file: Path) -> str:
    """Return the configuration; `roc_file` is named in it as given."""
    if scenario.load > MAXIMUM_TRAFFIC:
        raise SimulationError(
            f"QuCAD takes a load of at most {MAXIMUM_TRAFFIC}, and this one is {scenario.load:.3f}",
            hint="Give more readers, shorter readings or fewer arrivals.",
        )
    if any(character.isspace() or character == "#" for character in os.fspath(roc_file)):
        raise SimulationError(
            "QuCAD cannot read a path with spaces or #", hint="Name another file with --qucad."
        )
    keys = {
        "traffic": f"{scenario.load:.6f}",
        "fractionED": f"{scenario.orders.get(Rank.STAT, 0.0):.6f}",
        "nRadiologists": str(max(1, round(scenario.roster.mean))),
        "meanServiceTimeDiseasedMin": f"{scenario.reading_diseased.mean_s / 60:.6f}",
        "meanServiceTimeNonDiseasedMin": f"{scenario.reading.mean_s / 60:.6f}",
        "meanServiceTimeInterruptingMin": f"{scenario.demand.mean_s / 60:.6f}",
        "prevalence": f"{scenario.prevalence:.6f}",
        "TPFThresh": f"{_inside(scenario.sensitivity.estimate):.6f}",
        "FPFThresh": "None",
        "rocFile": os.fspath(roc_file),
        "nTrials": str(runs),
        "nPatientsTarget": str(scenario.studies),
        "verbose": "True",
        "doTrialOnly": "False",
        "statsFile": "../outputs/stats/stats.p",
        "runTimeFile": "../outputs/stats/runTime.txt",
        "plotPath": "../outputs/plots/",
    }
    comments = [f"## {line}" for line in _remarks(scenario)]
    return "\n".join([*comments, *(f"{key} {value}" for key, value in keys.items()), ""])


def roc_text(scenario: Scenario) -> str:
    """Return points `FPF,TPF` of the bi-normal curve through the operating point, rising."""
    false = _inside(1 - scenario.specificity.estimate)
    true = _inside(scenario.sensitivity.estimate)
    apart = _NORMAL.inv_cdf(true) - _NORMAL.inv_cdf(false)
    deviates = sorted([*(each - apart / 2 for each in _DEVIATES), _NORMAL.inv_cdf(false)])
    points = [(_NORMAL.cdf(each), _NORMAL.cdf(apart + each)) for each in deviates]
    return "".join(f"{x:.12f},{y:.12f}\n" for x, y in points)


def _inside(share: float) -> float:
    return min(max(share, NEAREST), 1 - NEAREST)


def _remarks(scenario: Scenario) -> list[str]:
    """Say what QuCAD is not told, and what it should find."""
    remarks = [
        "For QuCAD, github.com/DIDSR/QuCAD, commit 269e103. Run in its scripts folder, with the",
        "packages of its requirements.txt, by the full path of this file:",
        "  PYTHONPATH=tools python run_sim.py --configFile THIS_FILE",
        "The curve in rocFile is named by its full path: correct it where the files are moved.",
        f"sensitivity {scenario.sensitivity.estimate:.4f},"
        f" specificity {scenario.specificity.estimate:.4f} (by the curve in rocFile)",
        "QuCAD's flagged studies interrupt readings and nothing ages; triage does the opposite.",
    ]
    if not scenario.arrivals.is_poisson:
        remarks.append("Arrivals follow the clock here; QuCAD spreads them evenly.")
    if scenario.roster.constant is None:
        remarks.append("The number of readers changes here; QuCAD gets the rounded mean.")
    if {scenario.reading.kind, scenario.reading_diseased.kind} != {"exponential"}:
        remarks.append("Reading times are not exponential here; QuCAD gets their means.")
    if set(scenario.orders) - {Rank.STAT, Rank.ROUTINE}:
        remarks.append("Orders between STAT and ROUTINE are ROUTINE for QuCAD.")
    theory = expected(scenario)
    if (
        theory.interrupted_s
        and theory.fifo_s is not None
        and set(scenario.orders) == {Rank.ROUTINE}
    ):
        flagged, rest = theory.interrupted_s.get("flagged"), theory.interrupted_s.get("unflagged")
        remarks.append(f"Mean waits to expect: without triage {theory.fifo_s / 60:.3f} min")
        remarks += [
            f"  {name} {wait / 60:.3f} min"
            for name, wait in (("AI positive", flagged), ("AI negative", rest))
            if wait is not None
        ]
    return remarks
