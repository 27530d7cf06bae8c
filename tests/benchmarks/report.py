"""Results for people and for programs: tables on a terminal and in the README, one JSON line.

The README holds one section for each bench between markers, so that a run of a few replaces those
and leaves the others with the date at which they were measured.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from tests.benchmarks import BENCHES
from tests.benchmarks.measuring import Limit, Page, Ratio, Row

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
MARK = "<!-- bench: {} -->"
SECTION = re.compile(r"<!-- bench: (\w+) -->\n(.*?)(?=<!-- bench: |\Z)", re.DOTALL)
WORDS = {True: "met", False: "FALLS SHORT", None: ""}
BETWEEN = "; "  # ratios of one row
HEADINGS = ("What", "Median", "Spread", "Limit", "Ratio", "")


class State(StrEnum):
    MEASURED = "measured"
    LEFT_OUT = "left out"  # what it needs is not here
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one bench; a failed one keeps the rows that it gave before."""

    name: str
    title: str
    state: State
    seconds: float
    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    pages: tuple[Page, ...] = ()
    reason: str = ""

    @property
    def falls_short(self) -> bool:
        return any(row.met is False for row in self.rows)

    def document(self) -> dict[str, object]:
        return {
            "bench": self.name,
            "title": self.title,
            "state": str(self.state),
            "reason": self.reason,
            "seconds": round(self.seconds, 1),
            "rows": [row.document() for row in self.rows],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One call of the program."""

    machine: dict[str, str]
    measured_at: datetime
    quick: bool
    results: Sequence[Result] = field(default_factory=tuple)


def json_line(run: Run) -> str:
    return json.dumps(
        {
            "machine": run.machine,
            "measured_at": run.measured_at.isoformat(timespec="seconds"),
            "quick": run.quick,
            "benches": [result.document() for result in run.results],
        }
    )


def for_terminal(result: Result) -> str:
    """One bench as a table of aligned columns."""
    lines = ["", result.title, "-" * len(result.title)]
    if result.rows:
        lines += _aligned([_cells(row) for row in result.rows])
    lines += [f"  {note}" for note in result.notes]
    lines += [f"\n{page.text}" for page in result.pages]
    if result.state is not State.MEASURED:
        lines.append(f"  {result.state}: {result.reason}")
    return "\n".join(lines)


def write(run: Run, path: Path = README) -> None:
    """Replace the sections of what was measured now, in the place where it has results."""
    text = path.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    held, _, after = rest.partition(END)
    sections = dict(SECTION.findall(held))
    sections |= {result.name: _section(result, run) for result in run.results}
    body = "".join(f"{MARK.format(name)}\n{sections[name]}" for name in BENCHES if name in sections)
    path.write_text(f"{before}{BEGIN}\n\n{_machine(run)}\n{body}{END}{after}", "utf-8")
    for page in (page for result in run.results for page in result.pages):
        _write_page(page)


def _write_page(page: Page) -> None:
    """Replace what stands between the markers of a page of its own."""
    before, _, rest = page.path.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    page.path.write_text(f"{before}{BEGIN}\n\n{page.text}\n\n{END}{after}", "utf-8")


def _machine(run: Run) -> str:
    lines = ["| Machine of the latest run | |", "|---|---|"]
    lines += [f"| {label} | {words} |" for label, words in run.machine.items()]
    return "\n".join(lines) + "\n"


def _where(run: Run) -> str:
    """Return what a section's figures hang on most: others may be of another machine."""
    told = (run.machine.get(label, "none") for label in ("Processor", "GPU"))
    return " with ".join(words for words in told if words != "none") or "an unnamed machine"


def _section(result: Result, run: Run) -> str:
    lines = [f"### {result.title}", ""]
    day = run.measured_at.date().isoformat()
    if result.state is State.MEASURED:
        lines += [f"Measured {day} on {_where(run)}, in {result.seconds:.0f} s.", ""]
    else:
        lines += [f"{result.state.capitalize()} on {day}: {result.reason}", ""]
    if result.rows:
        lines += [_line(HEADINGS), "|---|--:|--:|--:|---|---|"]
        lines += [_line(_cells(row)) for row in result.rows] + [""]
    for note in result.notes:
        lines += [note, ""]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    written = (cell.replace("|", "\\|").replace(BETWEEN, "<br>") for cell in cells)
    return "| " + " | ".join(written) + " |"


def _cells(row: Row) -> tuple[str, ...]:
    low, high = row.spread
    spread = f"{_number(low)} to {_number(high)}" if len(row.values) > 1 else ""
    return (
        row.what,
        f"{_number(row.median)} {row.unit}",
        spread,
        _limit(row.limit),
        BETWEEN.join(_ratio(each) for each in row.ratios),
        WORDS[row.met],
    )


def _ratio(each: Ratio) -> str:
    wanted = f" ({_limit(each.limit)})" if each.limit else ""
    return f"{each.value:.2f} of {each.to}{wanted}"


def _limit(limit: Limit | None) -> str:
    return f"{limit.direction} {_number(limit.target)}" if limit else ""


def _number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if abs(value) >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".") if abs(value) >= 1e-4 else f"{value:.1e}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = []
    for row in rows:
        what, median, *rest = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([what, median.strip().rjust(widths[1]), *rest]).rstrip())
    return lines
