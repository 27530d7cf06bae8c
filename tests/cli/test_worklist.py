"""The worklist shows what was seen, and never lets "not looked" read as "nothing there"."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assurance import requirement
from tests.cli.entries import entry, finding
from tests.cli.site import Site, arrive
from triage.cli import worklist
from triage.cli.table import Screen
from triage.cli.text import cells
from triage.operations.causes import KINDS

NARROW, WIDE = Screen(columns=80), Screen(columns=160)
BOTH = pytest.mark.parametrize("on", [NARROW, WIDE], ids=["80 columns", "160 columns"])


def flat(text: str) -> str:
    """Undo the wrapping of one-column parts."""
    return " ".join(text.split())


@BOTH
def test_a_flag_is_marked_without_colour_and_carries_its_probability(on: Screen) -> None:
    study = entry(
        priority="HIGH",
        findings=[
            finding("pneumothorax", 0.974, flagged=True),
            finding("nodule", 0.02, flagged=False),
        ],
    )
    text = worklist.as_text([study], on)
    assert "! pneumothorax 0.97" in text
    assert "below threshold: nodule 0.02" in flat(text)
    assert "analysed, nothing flagged" not in flat(text)


@requirement("W2")
@BOTH
def test_what_was_not_analysed_says_so_and_why(on: Screen) -> None:
    study = entry(
        analysis="not_eligible", analysis_reason="no pixels", images_eligible=0, images_analysed=0
    )
    text = worklist.as_text([study], on)
    assert "NOT ANALYSED: no pixels" in text
    assert "analysed, nothing flagged" not in text


@requirement("W2")
@BOTH
def test_a_failed_analysis_is_told_from_one_that_found_nothing(on: Screen) -> None:
    failed = worklist.as_text([entry(analysis="failed", analysis_reason="damaged")], on)
    nothing = worklist.as_text([entry()], on)
    assert "ANALYSIS FAILED: damaged" in failed
    assert "analysed, nothing flagged" not in failed
    assert "analysed, nothing flagged" in flat(nothing)


@BOTH
def test_a_pending_study_is_called_not_yet_analysed(on: Screen) -> None:
    assert "NOT YET ANALYSED" in worklist.as_text([entry(analysis="pending")], on)


@BOTH
def test_images_that_were_left_out_are_counted(on: Screen) -> None:
    text = worklist.as_text([entry(images_eligible=3, images_analysed=2)], on)
    assert "2 of 3 images analysed" in flat(text)


@BOTH
def test_caption_waiting_and_reason_are_shown(on: Screen) -> None:
    text = worklist.as_text([entry(caption="Small nodule.", priority_reason="by order")], on)
    assert "Small nodule." in text
    assert "1 min" in text
    assert "by order" in text


def test_results_of_a_demonstration_stand_under_a_banner() -> None:
    assert worklist.BANNER in worklist.as_text([entry(not_for_clinical_use=True)], NARROW)
    assert worklist.BANNER not in worklist.as_text([entry()], NARROW)


def test_a_list_taller_than_the_terminal_has_the_banner_at_its_end_too() -> None:
    studies = [entry(not_for_clinical_use=True)] * 9
    tall, low = (
        worklist.as_text(studies, Screen(columns=80, rows=rows)).count(worklist.BANNER)
        for rows in (99, 20)
    )
    assert (tall, low) == (1, 2)


def test_an_escape_sequence_in_a_name_is_neutralised() -> None:
    text = worklist.as_text([entry(patient_name="EVIL\x1b[2J^ONE")], NARROW)
    assert "\x1b" not in text


def test_studies_stand_in_the_order_given() -> None:
    studies = [entry(reading_order=n, accession_number=f"ACC{n}") for n in (1, 2, 3)]
    text = worklist.as_text(studies, NARROW)
    assert text.index("ACC1") < text.index("ACC2") < text.index("ACC3")


def test_an_empty_list_is_said_in_words() -> None:
    assert worklist.as_text([], NARROW) == "No open studies."


# --- what the list rests on


def standing(health: str = "ok", *codes: str, **counts: int) -> worklist.Standing:
    """Return the state of a daemon whose last image came ten minutes ago."""
    causes = [
        {
            "code": each,
            "weight": KINDS[each].weight.value,
            "message": f"{each}!",
            "next_step": "Do it.",
        }
        for each in codes
    ]
    by_outcome = dict.fromkeys(worklist.COUNTED, 0) | counts
    return worklist.Standing(
        status={
            "health": health,
            "causes": causes,
            "receive": {"last_image_at": "2026-01-02T03:04:05Z"},
            "studies": {"open": sum(counts.values()), "open_by_outcome": by_outcome},
        },
        now=datetime(2026, 1, 2, 3, 14, 5, tzinfo=UTC),
    )


def told(state: worklist.Standing, *studies: dict[str, Any], on: Screen = NARROW) -> str:
    return worklist.as_text(studies, on, standing=state)


@requirement("W2")
@requirement("W4")
@BOTH
def test_the_first_lines_count_what_is_open_and_say_how_fresh_it_is(on: Screen) -> None:
    text = flat(told(standing(flagged=2, pending=1, analysed=9), entry(), on=on))
    assert text.startswith("12 open: 2 flagged, 1 not yet analysed, 9 analysed without a flag;")
    assert "last image 10 min ago" in text


@requirement("W4")
@BOTH
def test_a_daemon_that_does_not_work_is_the_first_and_the_last_thing_said(on: Screen) -> None:
    text = told(standing("failed", "role_not_running", analysed=1), entry(), on=on)
    assert text.startswith(worklist.STALE)
    assert flat(text).endswith(f"{worklist.STALE} See `triage status`.")
    assert "role_not_running!" in text
    assert "next: Do it." in text


@requirement("W4")
def test_an_empty_list_of_a_daemon_that_does_not_work_is_never_silent() -> None:
    text = told(standing("failed", "role_stuck"))
    assert text.startswith(worklist.STALE)
    assert text.endswith(worklist.EMPTY)


@requirement("W4")
def test_a_silent_sender_and_a_late_queue_are_said_above_the_list() -> None:
    text = told(standing("degraded", "sender_silent", "queue_late", "quarantine"), entry())
    assert "sender_silent!" in text
    assert "queue_late!" in text
    assert "quarantine!" not in text
    assert "works with a loss: see `triage status`" in flat(text)
    assert worklist.STALE not in text


@requirement("W4")
def test_a_site_without_a_daemon_says_so_above_its_empty_list(site: Site) -> None:
    done = site.run("worklist")
    assert done.returncode == 0
    assert done.stdout.startswith(worklist.STALE)
    assert worklist.EMPTY in done.stdout


# --- the table


def test_a_wide_screen_shows_a_plain_study_in_one_line() -> None:
    study = entry(findings=[finding("nodule", 0.02, flagged=False)])
    (line,) = [line for line in worklist.as_text([study], WIDE).splitlines() if "DEMO" in line]
    for said in ("1 ", "ROUTINE", "1 min", "default", "P1", "A1", "Chest", "nothing flagged"):
        assert said in line, said
    assert "below threshold" not in worklist.as_text([study], WIDE)


@BOTH
def test_columns_stay_below_their_titles_with_wide_and_combining_characters(on: Screen) -> None:
    names = ("DOE^JANE", "=山田^花子", "Nguye\u0302\u0303n^Thi\u0323", "\u05db\u05d4\u05df^\u05d3")
    studies = [entry(patient_name=name, study_description="胸部") for name in names]
    lines = worklist.as_text(studies, on).splitlines()
    title = next(line for line in lines if "FINDINGS" in line)
    verdicts = [line for line in lines if "analysed, nothing" in line]
    assert len(verdicts) == len(names)
    for line in verdicts:
        before = line[: line.index("analysed, nothing")]
        assert cells(before) == title.index("FINDINGS")


@BOTH
def test_a_study_that_a_person_took_off_the_list_says_who_and_when(on: Screen) -> None:
    study = entry(
        reading_order=None,
        state="acknowledged",
        acknowledged_at="2026-01-02T03:04:05Z",
        acknowledged_by="m.keller",
    )
    assert "2026-01-02 03:04:05Z by m.keller" in flat(worklist.as_text([study], on))


WORDS = st.text(alphabet="ab /-山田e\u0301\u05d3", max_size=90)


@settings(deadline=None)
@given(columns=st.integers(min_value=40, max_value=200), words=WORDS)
def test_no_line_is_wider_than_the_screen(columns: int, words: str) -> None:
    study = entry(
        patient_name=words,
        patient_id=words,
        accession_number=words,
        study_description=words,
        caption=words,
        priority_reason=words,
        not_for_clinical_use=True,
        findings=[finding(words, 0.9, flagged=True), finding(words, 0.1, flagged=False)],
    )
    failed = entry(analysis="failed", analysis_reason=words, waiting_s=10**8)
    text = worklist.as_text(
        [study, failed], Screen(columns=columns), standing=standing("failed", "role_stuck")
    )
    assert max(cells(line) for line in text.splitlines()) <= columns


def test_a_list_that_was_cut_says_that_it_goes_on(site: Site) -> None:
    for accession_number in ("ACC1", "ACC2"):
        arrive(site, accession_number=accession_number)
    cut, whole = (site.run("worklist", "--limit", number).stdout for number in "12")
    assert ("ACC1" in cut, "ACC2" in cut) == (True, False)
    assert "Only the first 1 are shown; 1 more: leave out --limit, or --limit 2." in cut
    assert "Only the first" not in whole
    assert len(json.loads(site.run("worklist", "--json", "--limit", "1").stdout)["studies"]) == 1


@pytest.mark.parametrize("limit", ["0", "-1"])
def test_a_limit_that_would_hide_every_study_is_a_usage_error(site: Site, limit: str) -> None:
    arrive(site)
    done = site.run("worklist", "--limit", limit)
    assert (done.returncode, done.stdout) == (64, "")
    assert "at least 1" in done.stderr


@pytest.mark.parametrize("studies", [(), (entry(analysis="pending"),)], ids=["empty", "pending"])
def test_demonstration_mode_is_told_before_its_model_has_spoken(
    studies: tuple[dict[str, Any], ...],
) -> None:
    assert "demonstration!" in told(standing("ok", "demonstration"), *studies)
    assert worklist.BANNER not in told(standing("ok", "demonstration"), *studies)
    assert "demonstration!" not in told(standing("ok"), *studies)
