"""The four plots of a finding as PNG: ROC, precision-recall, reliability, histogram of scores.

Drawn with matplotlib's Agg canvas alone (no display, no pyplot, no state between figures), once in
light and once in dark colours. Colour is never alone: classes differ in hatching, lines in dashes,
the operating point is a shape with a name. Colours after Okabe and Ito, made for colour blindness.
"""

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from triage.learning.judging import statistics as figures
from triage.learning.judging.evaluation import FindingFigures
from triage.learning.judging.scoring import Scored
from triage.learning.judging.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INCHES: Final = (4.6, 3.9)
DOTS_PER_INCH: Final = 144
TITLES: Final[Mapping[str, str]] = {
    "roc": "Receiver operating characteristic",
    "precision-recall": "Precision and recall",
    "reliability": "Reliability",
    "scores": "Scores",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Theme:
    """Colours of one appearance."""

    name: str
    ground: str
    ink: str
    faint: str
    first: str  # curves, images with the finding
    second: str  # images without the finding
    mark: str  # operating point


LIGHT: Final = Theme(
    name="light",
    ground="#ffffff",
    ink="#1c2430",
    faint="#c3cad4",
    first="#0b5fa5",
    second="#c8690a",
    mark="#a3123f",
)
DARK: Final = Theme(
    name="dark",
    ground="#161d27",
    ink="#e6ebf2",
    faint="#46525f",
    first="#6cb8f2",
    second="#f0a24e",
    mark="#ff7fa5",
)


def plots_of(scored: Scored, number: int, found: FindingFigures, theme: Theme) -> dict[str, bytes]:
    """PNG by name (TITLES) of one finding; a plot that lacks a class says so in words."""
    known = scored.known(number)
    truth, said = scored.truth[known, number] == 1.0, scored.probabilities[known, number]
    draw: Mapping[str, Callable[[Axes, Theme], None]] = {
        "roc": lambda axes, theme: _roc(axes, theme, truth, said, found),
        "precision-recall": lambda axes, theme: _precision_recall(axes, theme, truth, said, found),
        "reliability": lambda axes, theme: _reliability(axes, theme, found),
        "scores": lambda axes, theme: _scores(axes, theme, truth, said, found),
    }
    return {name: _picture(name, draw[name], theme) for name in TITLES}


def described(name: str, found: FindingFigures) -> str:
    """What the plot shows, in one sentence, for those who do not see it."""
    point = found.at_point
    match name:
        case "roc":
            return (
                f"ROC curve, area {_number(found.auroc.value)}; at the operating point sensitivity"
                f" {_number(point.sensitivity.value)}, specificity"
                f" {_number(point.specificity.value)}."
            )
        case "precision-recall":
            return (
                f"Precision-recall curve, average precision {_number(found.auprc.value)} against"
                f" {_number(found.prevalence)} by chance."
            )
        case "reliability":
            fitted = found.calibration_of_site
            return (
                f"Observed share against predicted probability in {len(fitted.bins)} bins"
                f"{_where(found)}; slope {_number(fitted.slope.value)}, intercept"
                f" {_number(fitted.intercept.value)}."
            )
        case _:
            return (
                f"Histogram of the probabilities of {found.positives} images with and"
                f" {found.images - found.positives} without the finding, operating point"
                f" {_number(point.threshold)}."
            )


def _where(found: FindingFigures) -> str:
    site = found.at_prevalence
    return f" at a prevalence of {100 * site.prevalence:.3g}%" if site else ""


# --- the plots


def _roc(
    axes: "Axes",
    theme: Theme,
    truth: NDArray[np.bool_],
    said: NDArray[np.float64],
    found: FindingFigures,
) -> None:
    _square(axes, "1 - specificity", "sensitivity")
    axes.plot([0, 1], [0, 1], color=theme.faint, linewidth=1, linestyle=(0, (4, 3)))
    if not 0 < truth.sum() < truth.size:
        _say(axes, theme, "one class only")
        return
    false, true = figures.roc_points(truth, said)
    axes.plot(false, true, color=theme.first, linewidth=2, drawstyle="default")
    axes.fill_between(false, true, color=theme.first, alpha=0.10, linewidth=0)
    point = found.at_point
    _whiskers(axes, theme, _mirrored(point.specificity), point.sensitivity)
    _note(axes, theme, f"AUROC {_with_interval(found.auroc)}", (0.97, 0.04))


def _precision_recall(
    axes: "Axes",
    theme: Theme,
    truth: NDArray[np.bool_],
    said: NDArray[np.float64],
    found: FindingFigures,
) -> None:
    _square(axes, "recall (sensitivity)", "precision (PPV)")
    if not truth.any():
        _say(axes, theme, "no image with the finding")
        return
    axes.axhline(found.prevalence, color=theme.faint, linewidth=1, linestyle=(0, (4, 3)))
    recall, precision = figures.precision_recall_points(truth, said)
    axes.step(recall, precision, where="pre", color=theme.first, linewidth=2)
    point = found.at_point
    if math.isfinite(point.positive_predictive_value.value):
        _whiskers(axes, theme, point.sensitivity, point.positive_predictive_value)
    _note(axes, theme, f"AUPRC {_with_interval(found.auprc)}", (0.03, 0.04), left=True)


def _reliability(axes: "Axes", theme: Theme, found: FindingFigures) -> None:
    _square(axes, "predicted probability", f"observed share{_where(found)}")
    axes.plot([0, 1], [0, 1], color=theme.faint, linewidth=1, linestyle=(0, (4, 3)))
    fitted = found.calibration_of_site
    bins = fitted.bins
    if not bins:
        _say(axes, theme, "too few images")
        return
    x = np.array([each.predicted for each in bins])
    y = np.array([each.observed for each in bins])
    low = np.array([each.interval.low for each in bins])
    high = np.array([each.interval.high for each in bins])
    axes.vlines(x, low, high, color=theme.first, linewidth=1.4, alpha=0.8)
    axes.plot(x, y, color=theme.first, linewidth=1.2, marker="o", markersize=6)
    words = f"slope {_number(fitted.slope.value)}   intercept {_number(fitted.intercept.value)}"
    _note(axes, theme, words, (0.97, 0.04))


def _scores(
    axes: "Axes",
    theme: Theme,
    truth: NDArray[np.bool_],
    said: NDArray[np.float64],
    found: FindingFigures,
) -> None:
    edges = np.linspace(0, 1, 26)
    common: dict[str, Any] = {"bins": edges, "linewidth": 1.4}
    axes.hist(
        said[~truth],
        label=f"without the finding ({int((~truth).sum())})",
        facecolor=(*_rgb(theme.second), 0.28),
        edgecolor=theme.second,
        histtype="stepfilled",
        **common,
    )
    axes.hist(
        said[truth],
        label=f"with the finding ({int(truth.sum())})",
        facecolor=(*_rgb(theme.first), 0.22),
        edgecolor=theme.first,
        hatch="////",
        histtype="stepfilled",
        **common,
    )
    _threshold(axes, theme, found.at_point.threshold)
    axes.set(xlim=(0, 1), xlabel="calibrated probability", ylabel="images")
    axes.margins(y=0.25)
    legend = axes.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=8.5
    )
    for text in legend.get_texts():
        text.set_color(theme.ink)


# --- parts of plots


def _threshold(axes: "Axes", theme: Theme, threshold: float) -> None:
    """The operating point as a line with its name on the side that has room."""
    left = threshold > 0.5
    axes.axvline(threshold, color=theme.mark, linewidth=1.6, linestyle=(0, (2, 1.5)))
    axes.annotate(
        "operating point",
        (threshold, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if left else 4, -11),
        textcoords="offset points",
        ha="right" if left else "left",
        color=theme.mark,
        fontsize=8.5,
    )


def _picture(name: str, draw: Callable[["Axes", Theme], None], theme: Theme) -> bytes:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"font.size": 9.5, "font.family": "DejaVu Sans", "hatch.linewidth": 0.6}):
        figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
        FigureCanvasAgg(figure)
        figure.set_facecolor(theme.ground)
        axes = figure.add_subplot()
        _dress(axes, theme)
        draw(axes, theme)
        if name == "scores":
            figure.suptitle(TITLES[name], color=theme.ink, fontsize=10.5, fontweight="bold")
        else:
            axes.set_title(TITLES[name], color=theme.ink, fontsize=10.5, fontweight="bold", pad=9)
        file = io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _dress(axes: "Axes", theme: Theme) -> None:
    axes.set_facecolor(theme.ground)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.faint)
    axes.tick_params(colors=theme.ink, labelcolor=theme.ink, color=theme.faint, length=3)
    axes.xaxis.label.set_color(theme.ink)
    axes.yaxis.label.set_color(theme.ink)
    axes.grid(visible=True, color=theme.faint, alpha=0.35, linewidth=0.6)
    axes.set_axisbelow(True)


def _square(axes: "Axes", x: str, y: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), xlabel=x, ylabel=y)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_yticks(np.linspace(0, 1, 6))


def _whiskers(axes: "Axes", theme: Theme, across: Estimate, up: Estimate) -> None:
    """The operating point with the intervals of both figures."""
    x, y = across.value, up.value
    if across.interval and up.interval:
        axes.hlines(y, across.interval.low, across.interval.high, color=theme.mark, linewidth=1.3)
        axes.vlines(x, up.interval.low, up.interval.high, color=theme.mark, linewidth=1.3)
    axes.plot([x], [y], marker="D", markersize=7, color=theme.mark, markeredgecolor=theme.ground)


def _mirrored(estimate: Estimate) -> Estimate:
    from dataclasses import replace

    if estimate.interval is None:
        return estimate
    low, high = 1 - estimate.interval.high, 1 - estimate.interval.low
    return Estimate(
        value=1 - estimate.value, interval=replace(estimate.interval, low=low, high=high)
    )


def _note(
    axes: "Axes", theme: Theme, text: str, at: tuple[float, float], *, left: bool = False
) -> None:
    axes.text(
        *at,
        text,
        transform=axes.transAxes,
        ha="left" if left else "right",
        va="bottom",
        color=theme.ink,
        fontsize=9,
        bbox={"facecolor": theme.ground, "edgecolor": "none", "alpha": 0.85, "pad": 2},
    )


def _say(axes: "Axes", theme: Theme, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=theme.ink)


def _with_interval(estimate: Estimate) -> str:
    if estimate.interval is None:
        return _number(estimate.value)
    interval = estimate.interval
    return f"{_number(estimate.value)} ({_number(interval.low)} to {_number(interval.high)})"


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "n/a"


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue
