"""Drift over time as one PNG: a row for each group, a column for each comparison.

What has changed in a window is marked by shape and colour. Drawn on matplotlib's Agg canvas alone:
no display, no state between figures.
"""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from triage.errors import PermanentError
from triage.learning.watching.drift import Judgement, Window

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_GROUPS: Final = 12
INCHES: Final = (2.6, 1.7)  # of one cell
DOTS_PER_INCH: Final = 120
# The least that an axis spans: what is small must look small.
SPANS: Final = {"embedding": 0.1, "scores": 0.25, "flag rate": 0.1, "gate rate": 0.05}
LINE: Final = "#0b5fa5"
CHANGED: Final = "#a3123f"
FAINT: Final = "#c3cad4"

Value = Callable[[Window], float | None]


def _size(name: str) -> Value:
    def value(window: Window) -> float | None:
        return window.comparisons[name].size if name in window.comparisons else None

    return value


COLUMNS: Final[Sequence[tuple[str, str, Value]]] = (
    ("embedding", "images (MMD² / spread)", _size("embedding")),
    ("distance", "distance to the bank", lambda window: window.distance),
    ("scores", "scores (stability index)", _size("scores")),
    ("flag rate", "flag rate", lambda window: window.flag_rate),
    ("gate rate", "gate rate", lambda window: window.gate_rate),
)


def drift_plot(judgements: Sequence[Judgement]) -> bytes:
    """Return the PNG; drift first, MOST_GROUPS groups at most.

    Raises PermanentError where no window is complete, or matplotlib is not installed.
    """
    some = [each for each in judgements if each.windows]
    some.sort(key=lambda each: (not each.drift, not each.unlike_the_bank, each.group.name))
    some = some[:MOST_GROUPS]
    if not some:
        raise PermanentError(
            "no group has a complete window yet: there is nothing to draw",
            hint="`triage drift` says how many studies are missing.",
        )
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PermanentError(
            "plots need matplotlib, which is not installed",
            hint="Install `triage[learning]`.",
        ) from error
    wide, high = INCHES
    figure = Figure(figsize=(wide * len(COLUMNS), 0.6 + high * len(some)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(some), len(COLUMNS), squeeze=False, sharex="all")
    for row, judgement in zip(grid, some, strict=True):
        for axes, (name, title, value) in zip(row, COLUMNS, strict=True):
            _draw(axes, judgement.windows, name, value)
            if judgement is some[0]:
                axes.set_title(title, fontsize=9)
        state = "drift" if judgement.drift else "as before"
        # What a sender wrote is no formula, though it may hold dollar signs.
        row[0].set_ylabel(f"{judgement.group.name}\n{state}", fontsize=8, parse_math=False)
    figure.suptitle(
        "Drift against the reference of each group; red squares: changed in this window",
        fontsize=10,
    )
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=DOTS_PER_INCH)
    return data.getvalue()


def _draw(axes: "Axes", windows: Sequence[Window], name: str, value: Value) -> None:
    from matplotlib import dates

    numbered: Any = dates.date2num  # matplotlib gives it no type
    formatter: Any = dates.ConciseDateFormatter
    points = [(window.ended_at, value(window), name in window.changed) for window in windows]
    known = [
        (numbered(at), height, changed) for at, height, changed in points if height is not None
    ]
    axes.plot(
        [at for at, _, _ in known], [height for _, height, _ in known],
        color=LINE, linewidth=1.2, marker=".", markersize=4,
    )  # fmt: skip
    odd = [(at, height) for at, height, changed in known if changed]
    axes.plot(
        [at for at, _ in odd], [height for _, height in odd],
        color=CHANGED, linestyle="none", marker="s", markersize=5,
    )  # fmt: skip
    highest = max((height for _, height, _ in known), default=0.0)
    axes.set_ylim(0.0, max(1.1 * highest, SPANS.get(name, 0.01)))
    axes.xaxis_date()
    axes.xaxis.set_major_formatter(formatter(axes.xaxis.get_major_locator()))
    axes.grid(color=FAINT, linewidth=0.4)
    axes.xaxis.get_offset_text().set_fontsize(6)
    axes.tick_params(labelsize=6)
    axes.tick_params(axis="x", rotation=30)
