"""What the best bundle would do to waiting, and whether the simulation agrees with the formulas.

`triage simulate` with the sensitivity and specificity that `triage evaluate` has counted, then in
rooms of which queueing theory knows the mean waits. Makes a section of the page of results from
the documents of the verb.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from tests.benchmarks.learning_runs import FINDING, Made, side_by_side, verb
from tests.benchmarks.measuring import say

GROUPS: Final = {"flagged": "flagged", "missed": "missed", "unflagged": "all without a flag"}
RULES: Final = {"fifo": "order of arrival", "rule": "rule with the bundle"}
FIGURES: Final = ("mean_s", "p95_s", "maximum_s")
READING_MIN: Final = 8
READERS, ARRIVALS_PER_H, PREVALENCE = 2, 12, 0.1
# Of a room that the formulas know: exactly known shares, a result at once, one rate, one number.
KNOWN: Final = ("--sensitivity", "0.9", "--specificity", "0.9", "--analysis-s", "0")
CHECKED: Final = tuple((readers, load) for readers in (1, 2, 4) for load in (0.5, 0.8))
EXPECTED: Final = {  # of the formulas' groups, under the rule that they describe
    ("all", "fifo"): "all, order of arrival",
    ("flagged", "unbounded"): "flagged, by rank",
    ("missed", "unbounded"): "missed, by rank",
    ("unflagged", "unbounded"): "without a flag, by rank",
}


def waiting_section(best: Made, *, studies: int) -> list[str]:
    """Simulate runs of `studies` studies; `best` has been evaluated. Return Markdown."""
    say("  waiting")
    evaluation = ("--evaluation", str(best.report / "evaluation.json"), "--finding", FINDING)
    rooms = [(READERS, ARRIVALS_PER_H, evaluation)]
    rooms += [(readers, load * readers * 60 / READING_MIN, KNOWN) for readers, load in CHECKED]
    told = side_by_side(
        [
            partial(
                verb,
                *("simulate", "--json", "--studies", str(studies), *model),
                *("--arrivals", f"poisson:{rate:g}", "--readers", str(readers)),
                *("--reading-time", f"exponential:{READING_MIN}"),
                *("--prevalence", str(PREVALENCE)),
            )
            for readers, rate, model in rooms
        ]
    )
    outcome, *known = (each.document for each in told)
    return section(best.trial.name, outcome, known)


def section(name: str, outcome: Mapping[str, Any], known: Sequence[Mapping[str, Any]]) -> list[str]:
    """The tables with what they mean; `known` are rooms of CHECKED."""
    return [*_waits(name, outcome), "", *_against_formulas(known)]


def _waits(name: str, outcome: Mapping[str, Any]) -> Iterator[str]:
    room = outcome["scenario"]
    sensitivity, specificity = room["sensitivity"], room["specificity"]
    yield (
        f"{name} in a room of {READERS} readers, {ARRIVALS_PER_H} studies an hour and readings of"
        f" {READING_MIN} minutes on average (load {outcome['load']:.2f}), where"
        f" {room['prevalence']:.0%} have the finding: sensitivity {sensitivity['estimate']:.2f},"
        f" specificity {specificity['estimate']:.2f} as counted on the test split of both sources"
        " (a positive without a score is missed),"
        f" and as unsure as {sensitivity['trials']:.0f} and {specificity['trials']:.0f} images"
        f" leave them. {outcome['flag_rate']:.0%} of all studies are flagged. Waits in minutes,"
        f" means over {outcome['runs']} runs of {outcome['studies']['all']:.0f} studies with their"
        " 95 % intervals; p95 and maximum are those of a run."
    )
    yield ""
    yield "| Studies | Read by | Mean | p95 | Maximum |"
    yield "|---|---|---|---|---|"
    for group, words in GROUPS.items():
        for rule, read_by in RULES.items():
            waits = outcome["waits"].get(group, {}).get(rule)
            cells = [_minutes(waits[each]) if waits else "-" for each in FIGURES]
            yield "| " + " | ".join([words, read_by, *cells]) + " |"
    yield ""
    yield " ".join(outcome["statements"])


def _against_formulas(known: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    rows, inside, means = [], 0, 0
    for (readers, _), outcome in zip(CHECKED, known, strict=True):
        cells = [str(readers), f"{outcome['load']:.2f}"]
        for group, rule in EXPECTED:
            mean = outcome["waits"][group][rule]["mean_s"]
            formulas = outcome["formulas"]
            wanted = formulas["fifo_s"] if rule == "fifo" else formulas["priority_s"][group]
            within = mean["low"] <= wanted <= mean["high"]
            inside, means = inside + within, means + 1
            mark = "" if within else " **outside**"
            cells.append(f"{wanted / 60:.2f}: {_minutes(mean, 2)}{mark}")
        rows.append("| " + " | ".join(cells) + " |")
    yield (
        "The simulation against the queueing formulas (M/M/1 and M/M/c, two classes, no"
        " interruption) in rooms that these know: each cell is the mean of the formula, then that"
        " of the simulation with its 95 % interval, in minutes."
    )
    yield ""
    yield "| Readers | Load | " + " | ".join(EXPECTED.values()) + " |"
    yield "|--:|--:|" + "---|" * len(EXPECTED)
    yield from rows
    yield ""
    yield (
        f"{inside} of the {means} means of the formulas lie within the interval of the simulation;"
        f" by chance {means * 0.05:.0f} would not, and those of one room err together."
    )


def _minutes(figure: Mapping[str, float], digits: int = 1) -> str:
    ends = (figure["mean"], max(0.0, figure["low"]), figure["high"])
    mean, low, high = (f"{seconds / 60:.{digits}f}" for seconds in ends)
    return f"{mean} ({low} to {high})"
