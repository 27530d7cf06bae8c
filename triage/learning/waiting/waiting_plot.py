"""The picture of a simulation: who waits how long under which rule, and who pays.

Owns the drawing alone; every figure in it is one of `waiting`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from triage.errors import PermanentError
from triage.learning.waiting.simulation import Discipline
from triage.learning.waiting.waiting import CURVE, Outcome, distinct

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GROUPS = {
    "flagged": "flagged",
    "missed": "missed\n(finding, no flag)",
    "unflagged": "all without flag",
    "all": "all",
}
LABELS = {
    Discipline.FIFO: "order of arrival",
    Discipline.ORDER: "rule without a model",
    Discipline.RULE: "rule with the model",
    Discipline.UNBOUNDED: "the same, no ageing or ceiling",
}
# Okabe and Ito's colours, told apart with any colour vision.
COLOURS = {
    Discipline.FIFO: "#999999",
    Discipline.ORDER: "#E69F00",
    Discipline.RULE: "#0072B2",
    Discipline.UNBOUNDED: "#D55E00",
}
CURVES = (("flagged", "-"), ("unflagged", "--"))
MARKS = (
    ("mean_s", "o", "mean"),
    ("p95_s", "D", "95 % wait less"),
    ("maximum_s", "^", "longest wait of a run"),
)
_LEAST_MIN = 0.05  # of the logarithmic axes: three seconds
_LEAST_SHARE = 1e-3


def plot(outcome: Outcome, path: Path) -> None:
    """Draw `outcome` as a PNG at `path`; raises PermanentError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PermanentError(
            "a plot needs matplotlib, which is not installed", hint="Install `triage[learning]`."
        ) from error
    figure = Figure(figsize=(13, 6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(5, 4))
    _draw_groups(left, outcome)
    _draw_curves(right, outcome)
    scenario = outcome.scenario
    unstable = ", UNSTABLE: waits grow without end" if scenario.load >= 1 else ""
    figure.suptitle(
        f"Waiting before the reading starts. Load {scenario.load:.2f}{unstable},"
        f" {100 * scenario.flag_rate:.1f} % flagged,"
        f" {outcome.runs} runs of {outcome.counts['all']:.0f} studies"
    )
    figure.savefig(path, format="png", metadata={"Software": None})


def _draw_groups(axes: "Axes", outcome: Outcome) -> None:
    groups = [name for name in GROUPS if (name, Discipline.FIFO) in outcome.waits]
    shown = list(dict.fromkeys(distinct(outcome).values()))
    for step, discipline in enumerate(shown):
        at = [place + (step - (len(shown) - 1) / 2) * 0.19 for place in range(len(groups))]
        waits = [outcome.waits[name, discipline] for name in groups]
        for field, marker, _ in MARKS:
            figures = [getattr(wait, field) for wait in waits]
            middle = [max(each.mean / 60, _LEAST_MIN) for each in figures]
            low = [max(each.low / 60, _LEAST_MIN) for each in figures]
            high = [max(each.high / 60, _LEAST_MIN) for each in figures]
            axes.errorbar(
                at,
                middle,
                yerr=[
                    [max(0.0, m - each) for m, each in zip(middle, low, strict=True)],
                    [max(0.0, each - m) for m, each in zip(middle, high, strict=True)],
                ],
                fmt=marker,
                color=COLOURS[discipline],
                markersize=7,
                capsize=3,
                label=LABELS[discipline] if field == "mean_s" else None,
            )
    _minutes(axes.yaxis, axes.set_yscale)
    axes.set_xticks(range(len(groups)), [GROUPS[name] for name in groups])
    for boundary in range(1, len(groups)):
        axes.axvline(boundary - 0.5, color="#dddddd", linewidth=0.8)
    for _, marker, label in MARKS:
        axes.plot([], [], marker, color="black", label=label)
    axes.set_ylabel("wait (bars: 95 % interval of the mean over runs, cut off at 3 s)")
    axes.set_title("By group")
    axes.grid(axis="y", alpha=0.25)
    axes.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))


def _draw_curves(axes: "Axes", outcome: Outcome) -> None:
    longer = 1 - CURVE
    shown = set(distinct(outcome).values()) - {Discipline.ORDER}
    for discipline in sorted(shown, key=list(Discipline).index):
        for group, line in CURVES:
            wait = outcome.waits.get((group, discipline))
            if wait is None:
                continue
            axes.plot(
                [max(each / 60, _LEAST_MIN) for each in wait.curve_s],
                [max(each, _LEAST_SHARE) for each in longer],
                line,
                color=COLOURS[discipline],
                label=f"{group}, {LABELS[discipline]}",
            )
    ceiling_min = outcome.scenario.policy.ceiling_s / 60
    axes.axvline(ceiling_min, color="black", linewidth=0.8, linestyle=":", label="ceiling")
    _minutes(axes.xaxis, axes.set_xscale)
    axes.set_xlim(left=2 * _LEAST_MIN)
    axes.set_yscale("log")
    axes.set_ylim(_LEAST_SHARE, 1.05)
    axes.set_yticks([1, 0.1, 0.01, 0.001], ["100 %", "10 %", "1 %", "0.1 %"])
    axes.set_xlabel("wait")
    axes.set_ylabel("share of the group that waits longer")
    axes.set_title("Who still waits")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))


def _minutes(axis: Any, scale: Any) -> None:
    """Mark a logarithmic axis in the units that people use."""
    from matplotlib.ticker import NullFormatter

    scale("log")
    marks = {0.1: "6 s", 1: "1 min", 5: "5 min", 20: "20 min", 60: "1 h", 180: "3 h", 480: "8 h"}
    marks |= {1440: "1 d", 4320: "3 d", 10080: "1 w"}
    axis.set_ticks(list(marks), list(marks.values()))
    axis.set_minor_formatter(NullFormatter())
