"""The table of promises is complete, is what the trials found, and was written by them."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.assurance import table
from tests.assurance.__main__ import MOSTLY_WAITING, Places, Turn, run_all, this_run, turns
from tests.assurance.evidence import Figures, Finding, Outcome, clean, read_findings
from tests.assurance.requirements import REQUIREMENTS, Applies
from tests.assurance.table import Verdict

ROOT = Path(__file__).parents[2]
NUMBERS = {"N": 13, "G": 8, "D": 7, "Q": 5, "I": 4, "M": 7, "W": 7, "O": 4, "S": 7, "P": 6}
PASSED = Finding(
    code="N8",
    test="tests/security/test_x.py::test_n8",
    bound="2 s",
    outcome=Outcome.PASSED,
    long=True,
    figures=(Figures(trials=100, worst="0.4 s", peers={"Orthanc 1": "7 of 100"}),),
)
FAILED = replace(PASSED, test=f"{PASSED.test}_again", outcome=Outcome.FAILED, reason="too late")
SKIPPED = replace(PASSED, outcome=Outcome.SKIPPED, reason="no tool", figures=())
TRIALS = """
import os
import pytest
from tests.assurance import Evidence, requirement

@requirement("N8", bound="2 s")
@requirement("N9")
def test_both(evidence: Evidence, long: bool) -> None:
    evidence.record(trials=3, losses=1, worst="2 s", code="N8")
    assert long

@requirement("N8")
def test_broken(evidence: Evidence) -> None:
    evidence.record(trials=1, losses=1)
    assert False, "it fell in /tmp/somewhere/here"

@requirement("D1")
def test_without_its_tool() -> None:
    pytest.skip("no tool")

@pytest.fixture
def broken() -> None:
    raise RuntimeError

@requirement("D3")
def test_that_could_not_begin(broken: None) -> None: ...

@requirement("D4")
@pytest.mark.xfail(strict=True)
def test_that_is_known_to_fail() -> None:
    assert False

@requirement("Q1")
def test_that_ends_the_process() -> None:
    os._exit(1)
"""


def bare(folder: Path) -> list[str]:
    """What keeps the settings of the repository away from a pytest of its own."""
    plugins = ["-p", "tests.assurance.plugin", "-p", "no:cacheprovider", "-c", "/dev/null"]
    return [*plugins, f"--rootdir={folder}"]


def pytest_on(folder: Path, text: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    path = folder / "test_trials.py"
    path.write_text(text)
    command = [sys.executable, "-m", "pytest", *bare(folder), *arguments, str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_requirement_stands_once_with_its_sentence() -> None:
    listed = [f"{letter}{n}" for letter, count in NUMBERS.items() for n in range(1, count + 1)]
    assert list(REQUIREMENTS) == listed
    assert len(listed) == 68
    assert sum(row.star for row in REQUIREMENTS.values()) == 15
    for row in REQUIREMENTS.values():
        assert row.promise.endswith(".")
        assert row.applies is Applies.NOW or row.remark, f"{row.code} does not say why"


def test_what_each_test_found_is_written_as_pytest_tells_it(tmp_path: Path) -> None:
    evidence = tmp_path / "evidence"
    pytest_on(tmp_path, TRIALS, f"--evidence={evidence}", "--long")
    found = {(each.code, each.test.partition("::")[2]): each for each in read_findings(evidence)}
    both = found["N8", "test_both"]
    assert (both.outcome, both.bound, both.long) == (Outcome.PASSED, "2 s", True)
    assert both.figures == (Figures(trials=3, losses=1, worst="2 s"),)
    assert found["N9", "test_both"].figures == ()
    broken = found["N8", "test_broken"]
    assert broken.outcome is Outcome.FAILED
    assert broken.figures == (Figures(trials=1, losses=1),)
    assert "it fell in" in broken.reason
    assert "/" not in broken.reason
    skipped = found["D1", "test_without_its_tool"]
    assert (skipped.outcome, skipped.reason) == (Outcome.SKIPPED, "no tool")
    assert found["D3", "test_that_could_not_begin"].outcome is Outcome.FAILED
    assert found["D4", "test_that_is_known_to_fail"].outcome is Outcome.FAILED
    assert found["Q1", "test_that_ends_the_process"].reason == "it ended without a report"


def test_a_test_that_names_an_unknown_requirement_is_refused(tmp_path: Path) -> None:
    done = pytest_on(tmp_path, TRIALS.replace('"Q1"', '"X9"'))
    assert done.returncode == 4
    assert "there is no requirement 'X9'" in done.stdout + done.stderr


def test_only_trials_of_the_named_codes_are_run(tmp_path: Path) -> None:
    done = pytest_on(tmp_path, TRIALS, "--code=N9", "--collect-only", "-q")
    assert "test_both" in done.stdout
    assert "test_broken" not in done.stdout


@pytest.mark.parametrize(
    ("code", "findings", "expected"),
    [
        ("N8", [PASSED], Verdict.MET),
        ("N8", [PASSED, FAILED], Verdict.NOT_MET),
        ("N8", [PASSED, SKIPPED], Verdict.MET),
        ("N8", [SKIPPED], Verdict.NOT_HERE),
        ("N8", [], Verdict.NOT_MET),
        ("O1", [], Verdict.NOT_BUILT),
        ("O1", [PASSED], Verdict.MET),
    ],
)
def test_the_outcome_follows_from_the_trials(
    code: str, findings: list[Finding], expected: Verdict
) -> None:
    assert table.verdict(REQUIREMENTS[code], findings) is expected


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "ASSURANCE.md"
    path.write_text(f"before\n\n{table.BEGIN}{table.sealed('')}\n\nafter\n")
    return path


def test_a_row_that_was_not_tried_again_stays_as_it_is(document: Path) -> None:
    table.write(table.rows([PASSED], run="2026-01-01"), {"Processor": "two"}, document)
    first = document.read_text()
    assert first.startswith("before\n")
    assert first.endswith("\nafter\n")
    (line,) = [line for line in first.splitlines() if line.startswith("| N8 |")]
    for words in ("100 trials, 0 lost", "worst 0.4 s", "2 s", "| met |", "2026-01-01"):
        assert words in line
    assert "| N8 of Orthanc 1 | 7 of 100 |" in first
    again = table.rows([replace(FAILED, code="N9")], run="2026-02-02", codes=["N9"])
    table.write(again, {"Processor": "two"}, document)
    second = document.read_text()
    assert line in second
    assert "| N8 of Orthanc 1 | 7 of 100 |" in second
    (other,) = [each for each in second.splitlines() if each.startswith("| N9 |")]
    assert "**not met**: `test_n8_again`: too late" in other
    table.write(table.rows([FAILED], run="2026-03-03", codes=["N8"]), {}, document)
    assert document.read_text().count("| N8 of Orthanc 1 |") == 1


def test_every_requirement_has_its_row_and_the_summary_counts_them(document: Path) -> None:
    table.write(table.rows([PASSED], run="2026-01-01"), {}, document)
    text = document.read_text()
    assert [match[1] for match in table.ROW.finditer(text)] == list(REQUIREMENTS)
    expected = table.counts(table.rows([PASSED], run=""))
    told = ", ".join(f"{count} {verdict}" for verdict, count in expected.items())
    assert f"68 requirements: {told}." in text


def test_what_was_skipped_shows_nothing_and_is_counted_apart() -> None:
    skipped = replace(SKIPPED, test=f"{SKIPPED.test}_with_a_tool", bound="1 s")
    line = table.body(table.rows([PASSED, skipped], run="2026-01-01"), "", {})
    (row,) = [each for each in line.splitlines() if each.startswith("| N8 |")]
    assert "| `security/test_x.py::test_n8` | 2 s |" in row
    assert "| met: not checked here: no tool |" in row
    assert "68 requirements: 1 met (1 of them with something not checked here), " in line


def test_figures_of_all_parameters_stand_in_one_row() -> None:
    both = [replace(PASSED, test=f"{PASSED.test}[{name}]") for name in ("sqlite", "postgresql")]
    (row,) = table.rows(both, run="2026-01-01", codes=["N8"])
    line = table.body([row], "", {})
    assert "200 trials, 0 lost; worst 0.4 s (sqlite); worst 0.4 s (postgresql)" in line
    assert line.count("`security/test_x.py::test_n8`") == 1


def test_what_another_receiver_did_in_each_parameter_is_told() -> None:
    peers = {"idle": "0 of 2", "a byte a second": "2 of 2"}
    both = [
        replace(
            PASSED,
            test=f"{PASSED.test}[{name}]",
            figures=(Figures(trials=1, peers={"Orthanc 1": told}),),
        )
        for name, told in peers.items()
    ]
    (row,) = table.rows(both, run="2026-01-01", codes=["N8"])
    told = "0 of 2 (idle); 2 of 2 (a byte a second)"
    assert f"| N8 of Orthanc 1 | {told} |" in table.body([row], "", {})


def test_a_run_names_its_day_and_its_commit() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d, ([0-9a-f]{7,}( and changes)?|no checkout)", this_run())


def test_a_run_of_one_code_opens_only_files_that_may_hold_it() -> None:
    names = [word for turn in turns(["S6"]) for word in turn.arguments if word.endswith(".py")]
    assert "tests/deploy/test_units.py" in names
    assert "tests/faults/test_kill_d1.py" not in names
    everything = [word for turn in turns([]) for word in turn.arguments]
    assert "tests/faults/test_kill_d1.py" in everything
    assert everything[-1].endswith("test_privacy_p1.py")


def test_files_that_mostly_wait_stand_together_before_those_that_run_alone() -> None:
    first, *files = turns([])
    assert first.alone
    names = [turn.name.rpartition("/")[2] for turn in files if not turn.alone]
    assert names == list(MOSTLY_WAITING)  # so each of them exists
    assert all(turn.alone for turn in files[len(names) :])


def test_what_does_not_come_to_its_end_is_named_wherever_it_ran(tmp_path: Path) -> None:
    dies = tmp_path / "test_dies.py"
    dies.write_text("import os\ndef test_it(): os._exit(9)\n")
    dies_not = tmp_path / "test_fine.py"
    dies_not.write_text("def test_it(): pass\n")
    listed = [
        Turn(name=f"{path.name} {alone}", arguments=(*bare(tmp_path), str(path)), alone=alone)
        for alone in (False, True)
        for path in (dies, dies_not)
    ]
    (tmp_path / "left").mkdir()
    places = Places(evidence=tmp_path / "evidence", left=tmp_path / "left")
    broken = run_all(listed, places, long=False, codes=())
    assert broken == ["test_dies.py False", "test_dies.py True"]


def test_a_reason_is_one_short_line_without_paths() -> None:
    assert clean("\n  it fell in /tmp/pytest-1/x.py:3\nmore") == "it fell in …:3"
    assert len(clean("x" * 1000)) == 240


def test_the_table_in_the_repository_was_written_by_a_run() -> None:
    text = table.DOCUMENT.read_text("utf-8")
    _, _, rest = text.partition(table.BEGIN)
    held, digest, _ = table.END_PATTERN.split(rest, maxsplit=1)
    assert table.digest(held) == digest
    listed = [match[1] for match in table.ROW.finditer(held)]
    assert listed == [code for code in REQUIREMENTS if code in listed]


def test_figures_survive_the_way_through_their_file(tmp_path: Path) -> None:
    from tests.assurance.evidence import write_finding

    write_finding(tmp_path, PASSED)
    assert read_findings(tmp_path) == [PASSED]
    (path,) = (tmp_path / "figures").iterdir()
    assert json.loads(path.read_text())["figures"][0]["peers"] == {"Orthanc 1": "7 of 100"}
