"""A simulation told to a person and to a program: facts, waits, who pays, what formulas say.

Owns the words. Times are shown in the largest fitting unit; the document has seconds.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from triage.cli.table import Cell, Column, Screen, Style, cell, hanging, render
from triage.cli.text import duration

if TYPE_CHECKING:
    from triage.learning.waiting.arrival_pattern import ArrivalPattern
    from triage.learning.waiting.expectation import Expectation
    from triage.learning.waiting.reading_room import Proportion, ReadingTime, Roster, Scenario
    from triage.learning.waiting.waiting import Estimate, Outcome

GROUPS = {
    "flagged": "flagged",
    "flagged_true": "rightly",
    "flagged_false": "in error",
    "unflagged": "without flag",
    "missed": "missed",
    "all": "all",
}
PARTS = ("flagged_true", "flagged_false", "missed")  # of the group above each
RULES = {
    "fifo": "order of arrival",
    "order": "rule, no model",
    "rule": "rule with model",
    "unbounded": "no ageing, ceiling",
}
SAME = {
    ("order", "fifo"): "Without a model the rule reads in order of arrival here.",
    ("unbounded", "rule"): "Neither ageing nor the ceiling changes anything at these waits.",
    ("rule", "order"): "The model changes nothing here.",
    ("rule", "fifo"): "The model changes nothing here: the rule reads in order of arrival.",
}
MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86_400.0
PAIRED = "Intervals are 95 %, of the mean over runs; every rule reads the same studies."


def report(outcome: "Outcome", theory: "Expectation", on: Screen) -> str:
    """Return everything for a person."""
    from triage.learning.waiting.waiting import distinct

    lines = [_facts(outcome, on), ""]
    for warning in warnings(outcome):
        lines += [*hanging("!  ", warning, on, Style.WARNING), ""]
    lines += [_table(outcome, on), "", *hanging("", PAIRED, on)]
    for pair in distinct(outcome).items():
        if pair in SAME:
            lines += hanging("", SAME[pair], on)
    lines.append("")
    for sentence in statements(outcome):
        lines += hanging("", sentence, on)
    lines.append("")
    told, compared = _against(outcome, theory)
    lines += hanging("", told, on)
    for sentence in compared:
        lines += hanging("- ", sentence, on)
    return "\n".join(lines)


def document(outcome: "Outcome", theory: "Expectation") -> dict[str, Any]:
    """Return everything for a program; seconds throughout."""
    scenario = outcome.scenario
    waits: dict[str, Any] = {}
    for (group, rule), wait in outcome.waits.items():
        change, change_of_maximum = outcome.changes[group, rule]
        waits.setdefault(group, {})[rule.value] = {
            "mean_s": dataclasses.asdict(wait.mean_s),
            "p95_s": dataclasses.asdict(wait.p95_s),
            "maximum_s": dataclasses.asdict(wait.maximum_s),
            "longest_s": wait.longest_s,
            "over_ceiling": wait.over_ceiling,
            "mean_less_fifo_s": dataclasses.asdict(change),
            "maximum_less_fifo_s": dataclasses.asdict(change_of_maximum),
        }
    return {
        "seed": outcome.seed,
        "runs": outcome.runs,
        "studies": dict(outcome.counts),
        "scenario": _assumed(scenario),
        "load": scenario.load,
        "stable": scenario.load < 1,
        "flag_rate": scenario.flag_rate,
        "waits": waits,
        "formulas": dataclasses.asdict(theory),
        "warnings": warnings(outcome),
        "statements": statements(outcome),
    }


def _assumed(scenario: "Scenario") -> dict[str, Any]:
    return {
        "arrivals": scenario.arrivals.source,
        "arrivals_per_h": scenario.arrivals.mean_rate_per_h,
        "rates_per_h": list(scenario.arrivals.rates_per_h),
        "readers": list(scenario.roster.readers),
        "reading_mean_s": scenario.reading.mean_s,
        "reading_diseased_mean_s": scenario.reading_diseased.mean_s,
        "prevalence": scenario.prevalence,
        "sensitivity": dataclasses.asdict(scenario.sensitivity),
        "specificity": dataclasses.asdict(scenario.specificity),
        "orders": {str(rank): share for rank, share in scenario.orders.items()},
        "raises_to": str(scenario.raises_to),
        "analysis_s": scenario.analysis_s,
        "ageing_s": scenario.policy.ageing_s,
        "ceiling_s": scenario.policy.ceiling_s,
    }


def warnings(outcome: "Outcome") -> list[str]:
    """Return what must be known before any figure is believed."""
    scenario, said = outcome.scenario, list(outcome.scenario.arrivals.notes)
    if scenario.load >= 1:
        said.insert(
            0,
            f"UNSTABLE: the load is {scenario.load:.2f}. Studies come faster than they can be read,"
            " so waits grow without end: the figures below depend on how long is simulated, and no"
            " order of reading shortens the queue. More readers are needed, not triage.",
        )
    elif scenario.load > 0.95:
        said.append(
            f"The load is {scenario.load:.3f}: so near to 1 waits vary widely from run to run."
        )
    exact = [
        name
        for name, value in (
            ("sensitivity", scenario.sensitivity),
            ("specificity", scenario.specificity),
        )
        if value.trials is None
    ]
    if exact:
        said.append(
            f"Taken as exactly known, because no number of studies was given: {', '.join(exact)}."
        )
    return said


def statements(outcome: "Outcome") -> list[str]:
    """Return who gains and who pays, in sentences."""
    from triage.learning.waiting.simulation import Discipline

    said = []
    for group, name in (
        ("flagged", "Flagged studies"),
        ("unflagged", "Studies without a flag"),
        ("missed", "Missed studies (with the finding and no flag)"),
    ):
        if (group, Discipline.RULE) in outcome.changes:
            mean, maximum = outcome.changes[group, Discipline.RULE]
            said.append(_mean(name, mean))
            if group == "unflagged":
                before = outcome.waits[group, Discipline.FIFO].maximum_s.mean
                after = outcome.waits[group, Discipline.RULE].maximum_s.mean
                said.append(
                    f"Their longest wait of a run goes from {duration(before)} to"
                    f" {duration(after)}: {_change(maximum)}."
                )
    count = outcome.counts
    if count.get("missed"):
        said.append(
            f"Of {count['diseased']:.0f} studies with the finding in a run {count['missed']:.0f}"
            f" are missed; of {count.get('flagged', 0):.0f} flagged"
            f" {count.get('flagged_false', 0):.0f} do not have it."
        )
    return said + _ceiling(outcome)


def _ceiling(outcome: "Outcome") -> list[str]:
    from triage.learning.waiting.simulation import Discipline

    ruled = outcome.waits["all", Discipline.RULE]
    free = outcome.waits["all", Discipline.UNBOUNDED]
    ceiling = duration(outcome.scenario.policy.ceiling_s)
    said = [
        f"The longest wait of all runs is {duration(ruled.longest_s)}; without ageing and ceiling"
        f" it would be {duration(free.longest_s)}."
    ]
    if ruled.over_ceiling:
        said.append(
            f"{100 * ruled.over_ceiling:.2g} % of studies wait longer than the ceiling of"
            f" {ceiling}: a ceiling orders the queue, and readers empty it."
        )
    flagged = outcome.waits.get(("flagged", Discipline.RULE))
    unheld = outcome.waits.get(("flagged", Discipline.UNBOUNDED))
    if flagged and unheld and flagged.mean_s.low > unheld.mean_s.high:
        said.append(
            f"Here ageing and ceiling protect the others at the cost of flagged studies, which wait"
            f" {short(flagged.mean_s.mean)} on average and would wait {short(unheld.mean_s.mean)}"
            " without them."
        )
    return said


def _mean(name: str, change: "Estimate") -> str:
    if change.low == change.high == 0:
        return f"{name} wait as long as in order of arrival, in every run."
    if change.low <= 0 <= change.high:
        average = f"{_signed(change.mean)} on average"
        return f"{name}: {_change(change)}, {average}, against the order of arrival."
    return f"{name} wait {_change(change)} on average than in order of arrival."


def _change(change: "Estimate") -> str:
    """Return by how much, with the interval; an interval that holds zero shows no difference."""
    if change.low <= 0 <= change.high:
        return f"no difference is shown ({_signed(change.low)} to {_signed(change.high)})"
    low, high = sorted((abs(change.low), abs(change.high)))
    way = "less" if change.mean < 0 else "longer"
    return f"{duration(abs(change.mean))} {way} ({duration(low)} to {duration(high)})"


def _signed(seconds: float) -> str:
    return f"{'-' if seconds < 0 else '+'}{duration(abs(seconds))}"


def _facts(outcome: "Outcome", on: Screen) -> str:
    scenario = outcome.scenario
    orders = ", ".join(f"{rank} {100 * share:.3g} %" for rank, share in scenario.orders.items())
    ageing, ceiling = scenario.policy.ageing_s, scenario.policy.ceiling_s
    facts = {
        "arrivals": _arrivals(scenario.arrivals),
        "readers": _roster(scenario.roster),
        "reading time": _reading(scenario.reading)
        + (
            ""
            if scenario.reading == scenario.reading_diseased
            else f"; with the finding {_reading(scenario.reading_diseased)}"
        ),
        "load": f"{scenario.load:.3f} of what the readers can do",
        "orders": orders,
        "prevalence": f"{100 * scenario.prevalence:.3g} %",
        "sensitivity": _proportion(scenario.sensitivity),
        "specificity": _proportion(scenario.specificity),
        "flagged": f"{100 * scenario.flag_rate:.3g} % of studies, raised to {scenario.raises_to}"
        f" {duration(scenario.analysis_s)} after arrival",
        "rule": f"a rank for each {duration(ageing)} of waiting, ceiling {duration(ceiling)}",
        "simulated": f"{outcome.runs} runs of {outcome.counts['all']:.0f} studies,"
        f" seed {outcome.seed}",
    }
    columns = (Column(title="WHAT"), Column(title="ASSUMED", share=1))
    return render(columns, [[cell(name), cell(text)] for name, text in facts.items()], on)


def _proportion(value: "Proportion") -> str:
    rests = "" if value.trials is None else f", measured on {value.trials:.0f} studies"
    return f"{value.estimate:.4g}{rests}"


def _reading(value: "ReadingTime") -> str:
    spread = f", sigma {value.sigma:g}" if value.sigma else ""
    return f"{value.kind}, mean {duration(value.mean_s)}{spread}"


def _arrivals(value: "ArrivalPattern") -> str:
    rate = "" if value.is_poisson else f"; {value.mean_rate_per_h:.3g} per hour on average"
    return f"{value.source}{rate}"


def _roster(value: "Roster") -> str:
    if value.constant is not None:
        return str(value.constant)
    return f"{min(value.readers)} to {max(value.readers)} by the hour, {value.mean:.2f} on average"


def short(seconds: float) -> str:
    """Return a wait with two or three figures, for a column."""
    if seconds < 0:  # the end of an interval may lie there, though no wait does
        return f"-{short(-seconds)}"
    for unit_s, name in ((DAY_S, "d"), (HOUR_S, "h"), (MINUTE_S, "min")):
        if seconds >= (2 if unit_s == DAY_S else 1.5) * unit_s:
            return f"{seconds / unit_s:.1f} {name}"
    return f"{seconds:.0f} s"


def _range(low_s: float, high_s: float) -> str:
    """Return an interval with its unit once where both ends have the same."""
    (low, low_unit), (high, unit) = short(low_s).split(), short(high_s).split()
    return f"{low} to {high} {unit}" if low_unit == unit else f"{low} {low_unit} to {high} {unit}"


def _table(outcome: "Outcome", on: Screen) -> str:
    from triage.learning.waiting.simulation import Discipline
    from triage.learning.waiting.waiting import distinct

    columns = (
        Column(title="STUDIES"),
        Column(title="READ BY"),
        Column(title="MEAN", right=True),
        Column(title="95 % INTERVAL", right=True, share=1),
        Column(title="P95", right=True),
        Column(title="MAXIMUM", right=True),
    )
    rows: list[Sequence[Cell]] = []
    for group, name in GROUPS.items():
        for rule in dict.fromkeys(distinct(outcome).values()):
            wait = outcome.waits.get((group, rule))
            if wait is None:
                continue
            style = Style.STRONG if rule is Discipline.RULE else Style.PLAIN
            mean = wait.mean_s
            texts = (
                RULES[rule],
                short(mean.mean),
                _range(mean.low, mean.high),
                short(wait.p95_s.mean),
                short(wait.maximum_s.mean),
            )
            title = name if rule is Discipline.FIFO else ""
            named = cell(title, style, indent=2 if group in PARTS else 0)
            rows.append([named, *(cell(text, style) for text in texts)])
    return render(columns, rows, on)


def _against(outcome: "Outcome", theory: "Expectation") -> tuple[str, list[str]]:
    """Return what is compared with the formulas, and each comparison."""
    from triage.learning.waiting.simulation import Discipline

    if theory.fifo_s is None:
        return f"No formula to compare with: {theory.reason}.", []
    pairs = [("all", Discipline.FIFO, "in order of arrival", theory.fifo_s)]
    pairs += [
        (group, Discipline.UNBOUNDED, f"{GROUPS[group]}, by rank alone", theory.priority_s[group])
        for group in ("flagged", "unflagged")
        if group in theory.priority_s
    ]
    said = []
    for group, rule, name, expected_s in pairs:
        wait = outcome.waits.get((group, rule))
        if wait is not None:
            inside = wait.mean_s.low <= expected_s <= wait.mean_s.high
            said.append(
                f"{name}: formula {short(expected_s)}, simulated {short(wait.mean_s.mean)},"
                f" {'within' if inside else 'outside'} its 95 % interval"
            )
    told = "Queueing theory (steady state, no ageing, no ceiling) and this simulation:"
    return told, said + _beyond(outcome)


def _beyond(outcome: "Outcome") -> list[str]:
    """Say what the formulas leave out of this room; such a difference is no fault."""
    scenario, left_out = outcome.scenario, []
    if scenario.analysis_s:
        left_out.append(f"the {duration(scenario.analysis_s)} that analysis takes")
    if scenario.sensitivity.trials or scenario.specificity.trials:
        left_out.append("how surely sensitivity and specificity are known")
    return [f"the formulas do not know {' or '.join(left_out)}"] if left_out else []
