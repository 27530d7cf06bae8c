"""A table fits its screen, keeps every character and says nothing by colour alone."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triage.cli.table import Column, Line, Screen, Style, beside, cell, half, render
from triage.cli.text import cells

COLUMNS = (
    Column(title="N", right=True),
    Column(title="NAME", share=1),
    Column(title="TEXT", share=3),
)
ROWS = [
    [cell(1), cell("山田 太郎"), cell("word " * 40)],
    [cell(23), cell("short"), cell("unbroken" * 20, Style.ALARM)],
]
SGR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize("columns", [40, 80, 160])
def test_no_line_is_wider_than_the_screen(columns: int) -> None:
    text = render(COLUMNS, ROWS, Screen(columns=columns))
    assert max(cells(line) for line in text.splitlines()) <= columns


def test_a_table_that_fits_is_not_stretched() -> None:
    text = render(COLUMNS, [[cell(1), cell("a"), cell("b")]], Screen(columns=160))
    assert text.splitlines() == ["N  NAME  TEXT", "-  ----  ----", "1  a     b"]


def test_nothing_of_a_wrapped_cell_is_lost() -> None:
    text = render(COLUMNS, ROWS, Screen(columns=40))
    assert text.count("word") == 40
    assert "".join(text.split()).count("unbroken") >= 1


def test_without_colour_only_text_is_written() -> None:
    assert "\x1b" not in render(COLUMNS, ROWS, Screen(columns=80, colour=False))


def test_colour_changes_no_character() -> None:
    plain = render(COLUMNS, ROWS, Screen(columns=80, colour=False))
    painted = render(COLUMNS, ROWS, Screen(columns=80, colour=True))
    assert painted != plain
    assert SGR.sub("", painted) == plain


def test_escape_sequences_in_a_cell_never_reach_the_screen() -> None:
    assert "\x1b" not in render(COLUMNS, [[cell("\x1b[2J"), cell(""), cell("")]], Screen())


def test_an_indented_cell_stays_so_where_it_is_wrapped() -> None:
    column = (Column(title="NAME", share=1),)
    text = render(column, [[cell("word " * 9, indent=2)]], Screen(columns=40))
    assert text.splitlines()[2:] == ["  " + " ".join(["word"] * 7), "  word word"]


def test_the_lines_of_a_cell_stand_below_each_other() -> None:
    stacked = (Line(text="above"), Line(text="below"))
    text = render(COLUMNS, [[cell(1), stacked, cell("x")]], Screen())
    assert text.splitlines()[2:] == ["1  above  x", "   below"]


@settings(deadline=None)  # examples share a busy machine
@given(
    columns=st.integers(min_value=40, max_value=200),
    words=st.lists(st.text(alphabet="ab 山e\u0301-", max_size=80), min_size=7, max_size=7),
)
def test_rigid_columns_give_way_before_the_screen_does(columns: int, words: list[str]) -> None:
    heads = [Column(title=f"TITLE {n}", share=n % 2) for n in range(7)]
    text = render(
        heads,
        [[cell(word) for word in words]],
        Screen(columns=columns),
        notes=[cell(words[0])],
        notes_from=1,
    )
    assert max(cells(line) for line in text.splitlines()) <= columns


def test_a_note_stands_below_its_row_from_its_column_to_the_edge() -> None:
    text = render(
        COLUMNS,
        [[cell(1), cell("a"), cell("b")], [cell(2), cell("c"), cell("d")]],
        Screen(columns=40),
        notes=[cell("word " * 12), ()],
        notes_from=1,
    )
    assert text.splitlines()[2:] == [
        "1  a     b",
        "   word word word word word word word",
        "   word word word word word",
        "",
        "2  c     d",
    ]


def test_two_blocks_stand_side_by_side_whatever_their_paint() -> None:
    on = Screen(columns=22, colour=True)
    assert half(on).columns == 10
    left = [on.paint("left", Style.ALARM), "below"]
    lines = beside(left, ["right"], on)
    assert [SGR.sub("", line) for line in lines] == ["left        right", "below"]
