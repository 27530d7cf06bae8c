"""Tables for a terminal of any width: cells wrap, columns share the room, rows stay apart.

Knows no study and no status. A cell is a list of styled lines, so that one row can hold a
finding above its caption. Colour is an addition: every style has its meaning in words too, and
without a terminal (or with NO_COLOR, https://no-color.org) nothing but text is written.
"""

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import zip_longest

from triage.cli.text import cells, clean, closed, pad, wrap

GAP = "  "
SGR = re.compile(r"\x1b\[[0-9;]*m")
MINIMUM_COLUMNS = 40
NARROWEST = 2  # cells of one wide character
DEFAULT_COLUMNS = 80  # width assumed where there is no terminal


class Style(StrEnum):
    """SGR parameters (ECMA-48 section 8.3.117) of the few emphases in use."""

    PLAIN = ""
    STRONG = "1"
    FAINT = "2"
    ALARM = "1;31"
    WARNING = "33"
    GOOD = "32"
    CAUTION = "1;33"
    FINE = "1;32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a cell, before it is wrapped."""

    text: str
    style: Style = Style.PLAIN
    indent: int = 0  # cells before it, and before what is wrapped of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column is as wide as its content, unless the table is too wide: then it shrinks.

    `share` says how much of the room that is left after the rigid columns (share 0) it gets.
    """

    title: str
    share: int = 0
    right: bool = False


Cell = Sequence[Line]


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """Where text goes: how large it is and whether it shows colour."""

    columns: int = DEFAULT_COLUMNS
    colour: bool = False
    rows: int | None = None  # height of the terminal; None where there is none

    def paint(self, text: str, style: Style) -> str:
        """Return `text` in `style`; the text must be clean already."""
        return f"\x1b[{style}m{text}\x1b[0m" if self.colour and style and text else text


def screen(environ: Mapping[str, str] = os.environ) -> Screen:
    """Return the screen behind standard output."""
    terminal = sys.stdout.isatty()
    size = shutil.get_terminal_size((DEFAULT_COLUMNS, 24))
    colour = terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    return Screen(
        columns=max(MINIMUM_COLUMNS, size.columns),
        colour=colour,
        rows=size.lines if terminal else None,
    )


def cell(text: object, style: Style = Style.PLAIN, *, indent: int = 0) -> Cell:
    """Return a cell of one line; text from outside is cleaned here."""
    return (Line(text=clean(text), style=style, indent=indent),)


def hanging(head: str, text: str, on: Screen, style: Style = Style.PLAIN) -> list[str]:
    """Return `text` in lines after `head`, which indents all but the first."""
    first, *rest = wrap(clean(text), on.columns - cells(head))
    indent = " " * cells(head)
    return [head + on.paint(first, style), *(indent + on.paint(line, style) for line in rest)]


def render(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    on: Screen,
    *,
    spaced: bool = False,
    notes: Sequence[Cell] = (),
    notes_from: int = 0,
) -> str:
    """Return the table as text without a final newline; `spaced` sets a blank line between rows.

    `notes` has a cell for each row, written below it from column `notes_from` to the right edge of
    the screen. A row with a note is set apart by a blank line below it.
    """
    widths = _widths(columns, rows, on.columns)
    heads = [(Line(text=column.title, style=Style.STRONG),) for column in columns]
    head, *blocks = [_block(columns, row, widths, on) for row in (heads, *rows)]
    if any(notes):
        indent = sum(widths[:notes_from]) + len(GAP) * notes_from
        blocks = [
            "\n".join([block, *_note(note, indent, on)])
            for block, note in zip(blocks, notes, strict=True)
        ]
    rule = on.paint(GAP.join("-" * width for width in widths), Style.FAINT)
    if any(notes) and not spaced:
        # Rows of several lines need room between them, rows of one line do not.
        blocks = [f"{block}\n" if "\n" in block else block for block in blocks]
    body = ("\n\n" if spaced else "\n").join(blocks).rstrip("\n")
    return "\n".join(part for part in (head, rule, body) if part)


def _note(note: Cell, indent: int, on: Screen) -> list[str]:
    return [row for line in note for row in hanging(" " * indent, line.text, on, line.style)]


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], available: int) -> list[int]:
    natural = [
        max(
            [cells(column.title)]
            + [line.indent + cells(line.text) for row in rows for line in row[at]]
        )
        for at, column in enumerate(columns)
    ]
    room = available - len(GAP) * (len(columns) - 1)
    if sum(natural) <= room:
        return natural
    rigid = sum(width for width, column in zip(natural, columns, strict=True) if not column.share)
    return _squeezed(_shared(columns, natural, max(room - rigid, 0)), room)


def _squeezed(widths: list[int], room: int) -> list[int]:
    """Take from the widest columns what a narrow screen lacks; a cell needs room for two."""
    while sum(widths) > room and max(widths) > NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return widths


def _shared(columns: Sequence[Column], natural: list[int], room: int) -> list[int]:
    """Give flexible columns their share of `room`, what one does not need to the others."""
    widths = list(natural)
    open_ = [at for at, column in enumerate(columns) if column.share]
    while open_:
        shares = sum(columns[at].share for at in open_)
        content = [at for at in open_ if natural[at] <= room * columns[at].share // shares]
        if not content:
            for at in open_:
                widths[at] = max(cells(columns[at].title), room * columns[at].share // shares)
            break
        room -= sum(natural[at] for at in content)
        open_ = [at for at in open_ if at not in content]
    return widths


def _block(
    columns: Sequence[Column], row: Sequence[Cell], widths: Sequence[int], on: Screen
) -> str:
    wrapped = [
        [(part, line.style) for line in content for part in _wrapped(line, width)]
        for content, width in zip(row, widths, strict=True)
    ]
    height = max(len(lines) for lines in wrapped)
    return "\n".join(
        GAP.join(
            _padded(lines[at] if at < len(lines) else ("", Style.PLAIN), column, width, on)
            for lines, column, width in zip(wrapped, columns, widths, strict=True)
        ).rstrip()
        for at in range(height)
    )


def _wrapped(line: Line, width: int) -> list[str]:
    indent = min(line.indent, max(width - NARROWEST, 0))
    return [" " * indent + part for part in wrap(line.text, width - indent)]


def _padded(part: tuple[str, Style], column: Column, width: int, on: Screen) -> str:
    text, style = part
    # Spaces stay outside the paint, so that trailing ones can be stripped.
    blank = pad("", width - cells(text))
    painted = on.paint(closed(text), style)
    return blank + painted if column.right else painted + blank


def beside(left: Sequence[str], right: Sequence[str], on: Screen) -> list[str]:
    """Return two finished blocks side by side; the right one begins at the middle of the screen.

    The blocks must have been made for a screen of `half(on)`.
    """
    start = half(on).columns + len(GAP)
    rows = zip_longest(_rows(left), _rows(right), fillvalue="")
    return [f"{a}{' ' * (start - shown_cells(a))}{b}".rstrip() for a, b in rows]


def half(on: Screen) -> Screen:
    """Return the screen of each of two blocks that stand side by side."""
    return replace(on, columns=(on.columns - len(GAP)) // 2)


def _rows(block: Sequence[str]) -> list[str]:
    return "\n".join(block).split("\n")


def shown_cells(text: str) -> int:
    """Return how many cells painted text takes."""
    return cells(SGR.sub("", text))
