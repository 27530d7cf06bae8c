"""Header text reaches the terminal without control over it, and is measured as it is shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triage.cli import text

HOSTILE = "a\x1b[31mb\x07c\x9bd\u202ee\u2066f\u2028g\x7fh"


def test_control_and_direction_characters_are_shown_as_replacements() -> None:
    cleaned = text.clean(HOSTILE)
    assert cleaned == "a�[31mb�c�d�e�f g�h"


def test_line_breaks_and_tabs_become_spaces() -> None:
    assert text.clean("a\r\nb\tc") == "a b c"


@given(st.text())
def test_cleaned_text_holds_only_printable_characters(raw: str) -> None:
    assert text.clean(raw).isprintable()


def test_wide_characters_take_two_cells_and_combining_marks_none() -> None:
    assert text.cells("山田") == 4
    assert text.cells("e\u0301") == 1


@given(st.text(alphabet="ab 山e\u0301", max_size=40), st.integers(min_value=2, max_value=12))
def test_no_wrapped_line_is_wider_than_asked(raw: str, columns: int) -> None:
    lines = text.wrap(raw, columns)
    assert all(text.cells(line) <= columns for line in lines)
    assert "".join(lines).replace(" ", "") == "".join(raw.split())


@given(st.text(alphabet="ab山", max_size=20), st.integers(min_value=0, max_value=12))
def test_fitted_text_is_never_wider_than_asked(raw: str, columns: int) -> None:
    fitted = text.fit(raw, columns)
    assert text.cells(fitted) <= columns
    assert fitted == raw or fitted.endswith(text.ELLIPSIS) or columns < 1


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"),
        (-3, "0.0 s"),
        (1.24, "1.2 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (60, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 00 min"),
        (86400 * 2 + 3600, "2 d 01 h"),
    ],
)
def test_a_wait_is_shown_in_its_two_largest_units(seconds: float | None, shown: str) -> None:
    assert text.duration(seconds) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("DEMO^ONE", "DEMO, ONE"),
        ("DEMO^ONE^MIDDLE^^JR", "DEMO, ONE MIDDLE JR"),
        ("DEMO", "DEMO"),
        ("=山田^太郎=やまだ^たろう", "山田, 太郎"),
        ("^ONE", "ONE"),
        ("^^=", ""),
    ],
)
def test_a_person_name_is_read_from_its_first_filled_group(value: str, shown: str) -> None:
    assert text.person_name(value) == shown


def test_a_time_is_shown_to_the_second_in_utc() -> None:
    assert text.instant("2026-01-02T03:04:05.123456Z") == "2026-01-02 03:04:05Z"
    assert text.instant(None) == "-"
