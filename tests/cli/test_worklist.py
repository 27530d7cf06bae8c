"""The worklist shows what was seen, and never lets "not looked" read as "nothing there"."""

import json

import pytest

from tests.cli.entries import entry, finding
from tests.cli.site import Site, arrive
from triage.cli import worklist
from triage.cli.table import Screen

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


@BOTH
def test_what_was_not_analysed_says_so_and_why(on: Screen) -> None:
    study = entry(
        analysis="not_eligible", analysis_reason="no pixels", images_eligible=0, images_analysed=0
    )
    text = worklist.as_text([study], on)
    assert "NOT ANALYSED: no pixels" in text
    assert "analysed, nothing flagged" not in text


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
    assert "1 min 12 s" in text
    assert "by order" in text


def test_results_of_a_demonstration_stand_under_a_banner() -> None:
    assert worklist.BANNER in worklist.as_text([entry(not_for_clinical_use=True)], NARROW)
    assert worklist.BANNER not in worklist.as_text([entry()], NARROW)


def test_an_escape_sequence_in_a_name_is_neutralised() -> None:
    text = worklist.as_text([entry(patient_name="EVIL\x1b[2J^ONE")], NARROW)
    assert "\x1b" not in text


def test_studies_stand_in_the_order_given() -> None:
    studies = [entry(reading_order=n, accession_number=f"ACC{n}") for n in (1, 2, 3)]
    text = worklist.as_text(studies, NARROW)
    assert text.index("ACC1") < text.index("ACC2") < text.index("ACC3")


def test_an_empty_list_is_said_in_words() -> None:
    assert worklist.as_text([], NARROW) == "No open studies."


def test_a_list_that_was_cut_says_that_it_goes_on(site: Site) -> None:
    for accession_number in ("ACC1", "ACC2"):
        arrive(site, accession_number=accession_number)
    cut, whole = (site.run("worklist", "--limit", number).stdout for number in "12")
    assert ("ACC1" in cut, "ACC2" in cut) == (True, False)
    assert "Only the first 1 are shown" in cut
    assert "Only the first" not in whole
    assert len(json.loads(site.run("worklist", "--json", "--limit", "1").stdout)["studies"]) == 1


@pytest.mark.parametrize("limit", ["0", "-1"])
def test_a_limit_that_would_hide_every_study_is_a_usage_error(site: Site, limit: str) -> None:
    arrive(site)
    done = site.run("worklist", "--limit", limit)
    assert (done.returncode, done.stdout) == (64, "")
    assert "at least 1" in done.stderr
