"""Header text reaches the terminal without control over it, and is measured as it is shown."""

from datetime import UTC, datetime

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


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"),
        (-3, "0 s"),
        (1.24, "1 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (3599, "59 min"),
        (7800, "2 h 10 min"),
        (86400 + 7200, "1 d 02 h"),
    ],
)
def test_a_rough_wait_has_no_seconds_beside_minutes(seconds: float | None, shown: str) -> None:
    assert text.about(seconds) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        ("", "-"),
        ("2026-01-02T03:01:05Z", "3 min ago"),
        ("2026-01-02T03:04:05.4Z", "0 s ago"),
        ("2026-01-02T03:14:05Z", "in 10 min"),
    ],
)
def test_a_time_is_told_from_now(value: str | None, shown: str) -> None:
    assert text.ago(value, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) == shown


@pytest.mark.parametrize(
    ("count_bytes", "shown"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (75_517 << 20, "74 GiB"),
        (1 << 60, "1024 PiB"),
    ],
)
def test_a_size_has_its_largest_unit(count_bytes: int, shown: str) -> None:
    assert text.size(count_bytes) == shown


def test_a_letter_and_its_mark_are_shown_as_one_character() -> None:
    assert text.clean("e\u0301") == "\u00e9"
    assert text.cells(text.clean("\u1112\u1161\u11ab")) == 2


def test_right_to_left_text_is_closed_and_takes_no_more_cells() -> None:
    name = "\u05db\u05d4\u05df"
    assert text.closed(name) == name + text.LEFT_TO_RIGHT
    assert text.cells(text.closed(name)) == 3
    assert text.closed("Cohen") == "Cohen"


def test_a_long_word_is_cut_after_a_hyphen_or_a_dot() -> None:
    assert text.wrap("MACALLISTER-FITZGERALD", 14) == ["MACALLISTER-", "FITZGERALD"]
    assert text.wrap("1.2.840.113619", 10) == ["1.2.840.", "113619"]
