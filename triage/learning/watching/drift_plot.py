"""Drift over time as one PNG: a row for each group, a column for each figure.

What has changed in a window is marked by shape and colour. Drawn on matplotlib's Agg canvas alone:
no display, no state between figures.
"""

import io
import math
import textwrap
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from triage.errors import PermanentError
from triage.learning.watching.drift import BANK_LEAST, Window
from triage.learning.watching.drift_words import (
    BANK,
    FIGURES,
    LEGEND,
    Told,
    figure_of,
    worst_first,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_GROUPS: Final = 12
INCHES: Final = (2.4, 1.9)  # of one cell
HEAD_INCHES: Final = 1.1
NAME_CHARACTERS: Final = 110  # so many of the widest letters go on a line
HEAD_CHARACTERS: Final = 190
DOTS_PER_INCH: Final = 120
# The least that an axis spans: what is small must look small.
SPANS: Final = {"images": 0.1, BANK: 0.3, "scores": 0.25, "flag rate": 0.1, "gate rate": 0.05}
LINE: Final = "#0b5fa5"
CHANGED: Final = "#a3123f"
FAINT: Final = "#c3cad4"

Span = tuple[datetime, datetime]


def drift_plot(groups: Sequence[Told], *, note: str) -> bytes:
    """Return the PNG; drift first, MOST_GROUPS groups at most. `note` says how far it reaches.

    Raises PermanentError where no window is complete, or matplotlib is not installed.
    """
    drawable = [each for each in worst_first(groups) if each.judgement.windows]
    some = drawable[:MOST_GROUPS]
    if not some:
        raise PermanentError(
            "no group has a complete window in this time: there is nothing to draw",
            hint="`triage drift` says how many studies are missing; an earlier --since has more.",
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
    size = (wide * len(FIGURES), HEAD_INCHES + high * len(some))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    span = _span(some)
    for row, each in zip(figure.subfigures(len(some), 1, squeeze=False)[:, 0], some, strict=True):
        # What a sender wrote is no formula, though it may hold dollar signs.
        row.suptitle(
            _lines(
                f"{each.judgement.group.name} | model {each.model} | {each.words}",
                NAME_CHARACTERS,
            ),
            x=0.005, ha="left", fontsize=9, parse_math=False,
        )  # fmt: skip
        for axes, name in zip(row.subplots(1, len(FIGURES)), FIGURES, strict=True):
            _draw(axes, each.judgement.windows, name, span)
    head = _head(len(some), len(drawable), note)
    figure.suptitle(head, fontsize=8, x=0.005, ha="left", parse_math=False)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=DOTS_PER_INCH)
    return data.getvalue()


def _head(drawn: int, of: int, note: str) -> str:
    left_out = f" {drawn} of {of} groups, the worst first." if drawn < of else ""
    marks = "red squares: changed in this window; dotted: plainly other than the bank"
    title = f"Drift, window by window (UTC); {marks}.{left_out}"
    return "\n".join(_lines(each, HEAD_CHARACTERS) for each in (title, note, LEGEND))


def _lines(text: str, characters: int) -> str:
    return "\n".join(textwrap.wrap(text, characters))


def _span(some: Sequence[Told]) -> Span:
    """Return the time that all rows show."""
    ends = [window.ended_at for each in some for window in each.judgement.windows]
    margin = max((max(ends) - min(ends)) / 20, timedelta(minutes=10))
    return min(ends) - margin, max(ends) + margin


def _draw(axes: "Axes", windows: Sequence[Window], name: str, span: Span) -> None:
    from matplotlib import dates

    numbered: Any = dates.date2num  # matplotlib gives it no type
    formatter: Any = dates.ConciseDateFormatter
    points = [(window.ended_at, figure_of(window, name), name in window.changed)
              for window in windows]  # fmt: skip
    known = [
        (numbered(at), height, changed)
        for at, height, changed in points
        if height is not None and math.isfinite(height)
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
    if name == BANK:
        axes.axhline(BANK_LEAST, color=CHANGED, linewidth=0.8, linestyle=":")
    highest = max((height for _, height, _ in known), default=0.0)
    axes.set_title(name, fontsize=8)
    axes.set_ylim(0.0, max(1.1 * highest, SPANS.get(name, 0.01)))
    axes.set_xlim(*(numbered(at) for at in span))
    axes.xaxis_date()
    axes.xaxis.set_major_formatter(formatter(axes.xaxis.get_major_locator()))
    axes.grid(color=FAINT, linewidth=0.4)
    axes.xaxis.get_offset_text().set_fontsize(6)
    axes.tick_params(labelsize=6)
    axes.tick_params(axis="x", rotation=30)
