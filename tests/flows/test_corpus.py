"""Every file of the development corpus ends where it should, by each door.

Without the corpus there is nothing to send: $TRIAGE_TEST_DATA, or `shared/data` beside the
repository, holds it where the project is tested.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.assurance import Evidence, requirement
from tests.dicom_files import corpus_root
from tests.flows import corpus
from tests.flows.corpus import NOT_SENT, Ledger, Sample
from tests.flows.program import Program, until
from triage.errors import ObjectRefused
from triage.ingest.part10 import digest_of, split

ROOT = corpus_root()
pytestmark = pytest.mark.skipif(ROOT is None, reason="the development corpus is not here")


@pytest.fixture(scope="module")
def files() -> list[Sample]:
    assert ROOT is not None
    return corpus.samples(ROOT)


@pytest.fixture
def without_model(sqlite_url: str, tmp_path: Path) -> Iterator[Program]:
    """Return a program that receives and compares; where files end needs no model."""
    program = Program(tmp_path, sqlite_url, demonstration=False)
    yield program
    if program.process is not None:
        program.stop()


@requirement("N4", bound="each file of the development data ends in the state that is its own")
@requirement("I4")
@pytest.mark.parametrize("tool", ["dcmsend", pytest.param("storescu", marks=pytest.mark.long_only)])
def test_each_file_sent_by_c_store_ends_where_it_should(
    without_model: Program, files: list[Sample], tool: str, evidence: Evidence
) -> None:
    program = without_model.start()
    port = program.port()
    ledger = Ledger(program.directory / "triage.sqlite")
    came: dict[str, tuple[str, int | None]] = {}
    for sample in files:
        corpus.send(tool, sample, port)
        newest = ledger.newest("c-store")
        if newest is not None:
            came[sample.name] = newest
    until(lambda: not ledger.busy())
    actual = {sample.name: _final(ledger, came.get(sample.name)) for sample in files}
    ledger.close()
    corpus.write_down(program.directory / f"{tool}.csv", actual)
    wrong = _wrong(actual, corpus.allowed(files, actual, tool))
    evidence.record(code="N4", trials=len(files), losses=len(wrong))
    assert wrong == {}
    assert actual == corpus.recorded(tool)
    _assert_sound(program)


@requirement("N4", bound="each file of the development data ends in the state that is its own")
def test_each_file_dropped_into_the_folder_ends_where_it_should(
    without_model: Program, files: list[Sample], evidence: Evidence
) -> None:
    program = without_model
    for number, sample in enumerate(files):
        target = program.watched / f"{number % 7}" / sample.name.replace("/", "_")
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(sample.path.read_bytes())
    program.start()
    ledger = Ledger(program.directory / "triage.sqlite")
    until(lambda: len(ledger.folder_outcomes()) == len(files))
    until(lambda: not ledger.busy())
    outcomes = {Path(path).name: state for path, state in ledger.folder_outcomes().items()}
    actual = {}
    for sample in files:
        state = outcomes[sample.name.replace("/", "_")]
        actual[sample.name] = _state_of_bytes(ledger, sample) if state == "stored" else state
    ledger.close()
    corpus.write_down(program.directory / "folder.csv", actual)
    wrong = _wrong(actual, corpus.allowed_in_any_order(files))
    evidence.record(trials=len(files), losses=len(wrong))
    assert wrong == {}
    alone = {each.name for each in files if not corpus.same_uid(files, each)}
    record = corpus.recorded("folder")
    assert {name: actual[name] for name in alone} == {name: record[name] for name in alone}
    _assert_sound(program)


def _final(ledger: Ledger, came: tuple[str, int | None] | None) -> str:
    """Return where a file ended: its first disposition, or what the comparison made of it."""
    if came is None:
        return NOT_SENT
    state, instance_id = came
    return ledger.instance_state(instance_id) if state == "stored" and instance_id else state


def _wrong(
    actual: dict[str, str], right: dict[str, frozenset[str]]
) -> dict[str, tuple[str, frozenset[str]]]:
    return {
        name: (state, right[name])
        for name, state in actual.items()
        if state != NOT_SENT and state not in right[name]
    }


def _state_of_bytes(ledger: Ledger, sample: Sample) -> str:
    try:
        digest = digest_of(split(sample.path.read_bytes()))
    except ObjectRefused:
        return "stored"
    instance_id = ledger.instance_of(digest)
    return "stored" if instance_id is None else ledger.instance_state(instance_id)


def _assert_sound(program: Program) -> None:
    """No file may have harmed the daemon."""
    roles = {row["role"]: row for row in program.status()["roles"]}
    assert {name: row["state"] for name, row in roles.items()} == dict.fromkeys(
        ("receive", "watch", "schedule", "analyse"), "running"
    )
    log = program.log.read_text()
    assert "child_ended" not in log
    assert "Traceback" not in log
    assert program.stop() == 0
