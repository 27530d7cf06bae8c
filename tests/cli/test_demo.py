"""The demonstration does the main job with the real daemon, within its time."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

LIMIT_S = 180.0
SECTIONS = (
    "WORKLIST, IN READING ORDER",
    "NOT ANALYSED, AND WHY",
    "IN QUARANTINE",
    "FROM ARRIVAL TO FLAG",
    "IN SHORT",
    "WHERE TO LOOK NEXT",
)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Run `triage demo` once and return what it printed."""
    directory = tmp_path_factory.mktemp("demo") / "new"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "triage", "demo", "--directory", str(directory)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=LIMIT_S + 60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - began < LIMIT_S
    return done.stdout


def test_every_object_has_the_right_disposition(told: str) -> None:
    assert "Every object has the right disposition." in told


@pytest.mark.parametrize("section", SECTIONS)
def test_every_part_of_the_report_is_there(told: str, section: str) -> None:
    assert section in told


def test_the_worklist_is_marked_as_not_for_clinical_use(told: str) -> None:
    assert "NOT FOR CLINICAL USE" in told


def test_flagged_findings_come_with_probability_and_caption(told: str) -> None:
    assert re.search(r"! (pneumothorax|effusion|consolidation|nodule) [01]\.\d\d", told)
    assert re.search(r'"[A-Z][^"]+\."', told)


def test_a_directory_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep", "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "triage", "demo", "--directory", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
