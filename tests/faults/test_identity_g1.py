"""G1, G2 and G8 through the whole daemon: what comes again is looked at no more often than needed.

One installation with the built-in model takes in, by both doors, the same images three times, the
same with corrected demographics, the same in other transfer syntaxes, other pixels under a known
UID, another patient under a known study, and a late image of an acknowledged study. Bounds: one
result for each image that is new, none for any other object; every object is answered 0x0000 and
has the state of its kind (DESIGN section 4); what a person must know is an alarm.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from sqlalchemy import text

from tests.assurance import Evidence, requirement
from tests.dicom_files import compress, make_dx, to_bytes
from tests.flows.program import Program, until
from triage.database.connection import open_database
from triage.pocket.phantoms import generate

pytestmark = pytest.mark.long_only


@pytest.fixture(scope="module")
def program(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """One installation for the trials of this file: loading the model takes most of their time."""
    folder = tmp_path_factory.mktemp("identity")
    shutil.copyfile(sqlite_template, folder / "triage.sqlite")
    made = Program(folder, f"sqlite:///{folder}/triage.sqlite", caption="never").start()
    yield made
    if made.process is not None:
        made.stop()


def chest(seed: int, **elements: Any) -> Dataset:
    phantom = generate(seed, finding="normal", size_px=256)
    return make_dx(phantom.pixels, bits_stored=phantom.bits_stored, **elements)


def rows(program: Program, statement: str) -> list[tuple[Any, ...]]:
    db = open_database(program.url)
    try:
        with db.read() as connection:
            return [tuple(row) for row in connection.execute(text(statement))]
    finally:
        db.dispose()


def states(program: Program) -> Counter[str]:
    return Counter(state for (state,) in rows(program, "SELECT state FROM object_events"))


def looks(program: Program) -> int:
    """Count the results that were ever committed."""
    return int(rows(program, "SELECT count(*) FROM results")[0][0])


def still(program: Program) -> bool:
    """Whether no job waits or is worked on and no comparison of pixels is open."""
    waiting = "SELECT count(*) FROM jobs WHERE state IN ('queued', 'leased')"
    open_ones = "SELECT count(*) FROM instances WHERE state = 'contested'"
    return rows(program, waiting) == [(0,)] and rows(program, open_ones) == [(0,)]


def settled(program: Program, *, looked: int) -> None:
    until(lambda: looks(program) >= looked and still(program))


@requirement("G1", bound="the same study three times by both doors: one inference for each image")
def test_g1_the_same_study_three_times_is_looked_at_once(
    program: Program, evidence: Evidence, long: bool
) -> None:
    study, known, base = uid.generate_uid(), states(program), looks(program)
    images = [chest(seed, study_instance_uid=study) for seed in range(20 if long else 3)]
    statuses = [*program.send(images), *program.send(images)]
    for number, ds in enumerate(images):
        (program.watched / f"{number}.dcm").write_bytes(to_bytes(ds))
    until(lambda: (states(program) - known).total() >= 3 * len(images))
    settled(program, looked=base + len(images))
    looked = looks(program) - base
    evidence.record(trials=3 * len(images), losses=abs(looked - len(images)))
    assert set(statuses) == {0}
    assert states(program) - known == {"stored": len(images), "duplicate": 2 * len(images)}
    assert looked == len(images)
    assert len([each for each in program.worklist() if each == study]) == 1


@requirement("G1", bound="corrections and other transfer syntaxes: revisions, no inference")
@requirement(
    "G2", bound="other pixels: both held, an alarm, no inference of the newcomer, results unchanged"
)
@requirement("G8", bound="a late image of an acknowledged study puts it back on the list")
def test_g2_what_comes_under_a_known_uid_is_told_by_its_pixels(
    program: Program, evidence: Evidence
) -> None:
    known, base = states(program), looks(program)
    files = len(list((program.store / "objects").rglob("*.dcm")))
    first, late_to = chest(101, patient_id="P1"), chest(102, patient_id="P2")
    assert program.send([first, late_to]) == [0, 0]
    settled(program, looked=base + 2)
    before = rows(program, "SELECT findings FROM results ORDER BY id")

    corrected = deepcopy(first)
    corrected.PatientBirthDate, corrected.StudyDescription = "19600229", "Corrected"
    resent = [compress(deepcopy(first), syntax) for syntax in (uid.RLELossless, uid.JPEGLSLossless)]
    assert set(program.send([*resent, corrected])) == {0}
    until(lambda: (states(program) - known)["revision"] == 3 and still(program))
    assert looks(program) == base + 2
    study = program.worklist()[first.StudyInstanceUID]
    assert study["patient_birth_date"] == "19600229"

    other = chest(
        103, patient_id="P1", study_instance_uid=first.StudyInstanceUID,
        series_instance_uid=first.SeriesInstanceUID, sop_instance_uid=first.SOPInstanceUID,
    )  # fmt: skip
    assert program.send([other]) == [0]
    until(lambda: (states(program) - known)["conflict"] == 1 and still(program))
    study = program.worklist()[first.StudyInstanceUID]
    assert (study["analysis"], looks(program)) == ("failed", base + 2)
    assert rows(program, "SELECT findings FROM results ORDER BY id") == before

    stranger = chest(104, patient_id="P9", study_instance_uid=late_to.StudyInstanceUID)
    assert program.send([stranger]) == [0]
    settled(program, looked=base + 3)
    under = "SELECT patient_id FROM studies WHERE study_instance_uid = '{}' ORDER BY id"
    both = rows(program, under.format(late_to.StudyInstanceUID))
    alarms = {each["alarm"] for each in program.status()["causes"] if each["code"] == "alarm"}
    assert both == [("P2",), ("P9",)]
    assert alarms == {"pixel_conflict", "two_patients"}

    seen = chest(105, patient_id="P5")
    assert program.send([seen]) == [0]
    settled(program, looked=base + 4)
    assert program.call("acknowledge", seen.StudyInstanceUID).returncode == 0
    assert program.worklist()[seen.StudyInstanceUID]["state"] == "acknowledged"
    late = chest(106, patient_id="P5", study_instance_uid=seen.StudyInstanceUID)
    assert program.send([late]) == [0]
    settled(program, looked=base + 5)
    again = program.worklist()[seen.StudyInstanceUID]
    evidence.record(trials=10, losses=abs(looks(program) - base - 5))
    assert again["state"] in ("arriving", "ready")
    assert "new images after acknowledgement" in again["priority_reason"]
    assert looks(program) == base + 5
    assert len(list((program.store / "objects").rglob("*.dcm"))) == files + 9
