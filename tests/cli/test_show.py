"""`triage show` begins with who, what was seen and what to do, and tells the rest in order."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cli.entries import entry, finding
from triage.cli.show import as_text
from triage.cli.table import Screen
from triage.cli.text import cells
from triage.cli.timeline import Moment, folded, timeline

NOW = datetime(2026, 1, 1, 12, 10, tzinfo=UTC)
NARROW, WIDE = Screen(columns=80), Screen(columns=160)
BOTH = pytest.mark.parametrize("on", [NARROW, WIDE], ids=["80 columns", "160 columns"])
UID = "1.2.840.113619.2.55.3.604688119.971.1448960000.467"


def at(second: float) -> str:
    return f"2026-01-01T12:00:{second:09.6f}Z"


def image(number: int) -> dict[str, Any]:
    stored = {"at": at(number), "state": "stored", "source": "c-store", "sender_ae_title": "CR1"}
    return {
        "sop_instance_uid": f"{UID}.{number}",
        "state": "stored",
        "duplicates": 0,
        "source": "c-store",
        "sender_ae_title": "CR1",
        "received_at": at(number),
        "events": [stored | {"reason": ""}],
    }


def result(number: int, **changes: Any) -> dict[str, Any]:
    plain = {
        "subject": "image",
        "subject_uid": f"{UID}.{number}",
        "bundle_name": "chest",
        "bundle_version": "7",
        "mode": "serve",
        "analysis": "analysed",
        "reason": "",
        "findings": [finding("nodule", 0.91, flagged=True)],
        "current": True,
    }
    return plain | changes


def job(number: int, *states: str) -> dict[str, Any]:
    events = [
        {"at": at(number + 10 + step), "to_state": state, "reason": f"because {state}"}
        for step, state in enumerate(states)
    ]
    return {
        "id": number,
        "kind": "analyse",
        "subject": "image",
        "subject_uid": f"{UID}.{number}",
        "state": states[-1],
        "attempts": 1,
        "due_at": at(number),
        "reason": "",
        "events": events,
    }


def document(images: int = 2, **changes: Any) -> dict[str, Any]:
    study = entry(id=5, attention="", **changes.pop("study", {}))
    plain: dict[str, Any] = {
        "study": study,
        "series": [
            {
                "modality": "DX", "series_instance_uid": UID, "images": images, "generation": 1,
                "closes_at": None,
            }
        ],
        "instances": [image(number) for number in range(1, images + 1)],
        "results": [result(1)],
        "captions": [],
        "jobs": [job(1, "queued", "done")],
        "events": [
            {"at": at(50), "what": "acknowledge", "by": "m.keller", "detail": {"generation": 1}}
        ],
    }  # fmt: skip
    return plain | changes


@BOTH
def test_the_first_lines_say_who_how_urgent_and_how_long(on: Screen) -> None:
    first, second, *_ = as_text(document(), on, now=NOW).splitlines()
    assert first == "DEMO, ONE | ID P1 | acc A1 | DX CHEST Chest"
    assert second == "ROUTINE, number 1 to be read, waiting 1 min"


@BOTH
@pytest.mark.parametrize(
    ("study", "said"),
    [
        ({"analysis": "failed"}, "`triage requeue A1`"),
        ({"analysis": "pending"}, "`triage status` says whether work goes on"),
        ({"analysis": "not_eligible"}, "no model has looked at it"),
        (
            {"analysis": "not_eligible", "findings": [finding("nodule", 0.9, flagged=True)]},
            "Read it now",
        ),
        ({"findings": [finding("nodule", 0.9, flagged=True)]}, "Read it now"),
        ({}, "no flag does not mean normal"),
        ({"reading_order": None, "state": "acknowledged"}, "off the reading list"),
    ],
    ids=["failed", "pending", "not eligible", "flagged earlier", "flagged", "plain", "read"],
)
def test_each_state_has_its_next_step(study: dict[str, Any], said: str, on: Screen) -> None:
    assert said in " ".join(as_text(document(study=study), on, now=NOW).split())


@pytest.mark.parametrize("accession", ["A1; reboot", "$(reboot)", "A 1", "-A1", "A1`", "\u00c41"])
def test_a_command_to_paste_names_the_study_by_what_a_shell_takes_as_one_word(
    accession: str,
) -> None:
    text = as_text(document(study={"accession_number": accession}), WIDE, now=NOW)
    assert "`triage acknowledge 1.2.3`" in text


def test_a_finding_stands_beside_its_model_and_its_threshold() -> None:
    text = as_text(document(), WIDE, now=NOW)
    (line,) = [line for line in text.splitlines() if "chest 7" in line]
    assert "image 1" in line
    assert "! nodule 0.91 (0.50)" in line


def test_what_does_not_count_says_so() -> None:
    results = [result(1, mode="shadow"), result(2, current=False)]
    text = as_text(document(results=results), WIDE, now=NOW)
    assert "no: shadow" in text
    assert "no: superseded" in text


def test_a_result_without_a_score_says_why() -> None:
    lost = result(1, analysis="not_eligible", findings=[], reason="image is blank")
    assert "not eligible: image is blank" in as_text(document(results=[lost]), WIDE, now=NOW)


def test_the_history_is_in_order_of_time_and_names_images_by_number() -> None:
    told = [(each.what, each.detail) for each in timeline(document())]
    assert told == [
        ("image 1 stored", "c-store from CR1"),
        ("image 2 stored", "c-store from CR1"),
        ("analyse image 1: queued", "because queued"),
        ("analyse image 1: done", "because done"),
        ("acknowledge", "by m.keller, generation 1"),
    ]


def test_many_events_of_one_kind_become_one_line() -> None:
    run = [Moment(at=at(n), kind="image stored", what=f"image {n} stored", detail="") for n in
           range(1, 31)]  # fmt: skip
    last = Moment(at=at(40), kind="analyse done", what="analyse image 1: done", detail="")
    assert [each.what for each in folded([*run, last])] == [
        "image stored, 30 times within 29 s",
        "analyse image 1: done",
    ]
    assert folded(run[:3]) == run[:3]


def test_a_study_of_many_images_lists_the_first_and_says_how_many_there_are() -> None:
    text = as_text(document(images=50), NARROW, now=NOW)
    assert "INSTANCES: 50, the first 20 shown; all: --json" in text
    assert f"{UID}.21" not in "".join(text.split())


WORDS = st.text(alphabet="ab /-山田e\u0301\u05d3", max_size=90)


@settings(deadline=None)
@given(columns=st.integers(min_value=40, max_value=200), words=WORDS)
def test_no_line_is_wider_than_the_screen(columns: int, words: str) -> None:
    study = {"patient_name": words, "caption": words, "priority_reason": words}
    told = document(
        study=study | {"patient_id": words, "not_for_clinical_use": True},
        results=[result(1, bundle_name=words, findings=[finding(words, 0.5, flagged=True)])],
        captions=[{"subject": "image", "subject_uid": UID, "current": True, "text": words}],
    )
    text = as_text(told, Screen(columns=columns), now=NOW)
    assert max(cells(line) for line in text.splitlines()) <= columns
