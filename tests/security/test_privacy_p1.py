"""P1: no log, metric, temporary file, dump or database error names a patient."""

import io
import json
import os
import re
import signal
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import structlog
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit
from sqlalchemy import text

from tests.assurance import Evidence, requirement
from tests.assurance.plugin import TEMPORARY
from tests.builders import new_uid
from tests.cli.site import ROOT
from tests.conftest import run_on_server
from tests.database.table_rows import add_study
from tests.dicom_files import to_bytes
from tests.flows.program import Program, until
from tests.security.privacy import (
    SEEDS,
    configurations,
    files_below,
    knows_patient,
    leaks,
    leaks_below,
    left_files,
    noise,
    seeded,
    told_by,
)
from triage.database.connection import Database, open_database
from triage.errors import TriageError
from triage.log import configure_logging

CORE_LIMIT = "Max core file size"


def core_limit(pid: int) -> str:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line for line in lines if line.startswith(CORE_LIMIT)).removeprefix(CORE_LIMIT)


def broken_pixels() -> object:
    """An image whose pixels no decoder takes, with the patient's name among them."""
    ds = seeded(noise(3))
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit = 7
    ds.PixelData = encapsulate([b"\xff\xd8\xff" + SEEDS["PatientName"].encode() * 40])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return ds


def ill_formed() -> object:
    ds = seeded(noise(4))
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = SEEDS["PatientID"]
    return ds


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make every process of the test use a temporary directory of its own."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")
    return directory


@requirement(
    "P1", bound="no seed in logs, metrics, status, temporary files (a trial: one searched)"
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_p1_a_day_with_everything_that_can_go_wrong_names_no_patient(
    program: Program, temporary: Path, tmp_path: Path, evidence: Evidence
) -> None:
    audit = tmp_path / "audit"
    with program.configuration.open("a") as file:
        file.write(f"\n[audit]\nenabled = true\nspool = {json.dumps(str(audit))}\n")
    program.start()
    worker = until(lambda: next(running(program), None))
    said: list[str] = []

    # By both doors: taken in, sent twice, other pixels and other header under one UID.
    good, broken = seeded(noise(1)), broken_pixels()
    twin = seeded(noise(2), sop_instance_uid=good.SOPInstanceUID)
    twin.StudyInstanceUID, twin.SeriesInstanceUID = good.StudyInstanceUID, good.SeriesInstanceUID
    assert set(program.send([good, good, twin, broken])) == {0x0000}
    (tmp_path / "ill").mkdir()
    (tmp_path / "ill" / "one.dcm").write_bytes(to_bytes(ill_formed()))
    program.call("send", "--to", f"127.0.0.1:{program.port()}", str(tmp_path / "ill"))
    names = SEEDS["PatientName"].replace("^", "_")
    (program.watched / f"{names}.dcm").write_bytes(to_bytes(seeded(noise(5))))
    (program.watched / f"{names}.txt").write_text(f"no DICOM at all: {names}" * 50)
    cut = to_bytes(seeded(noise(6)))
    (program.watched / f"{names}-cut.dcm").write_bytes(cut[: len(cut) // 3])

    # Refused, quarantined, failed: each has left its trace.
    until(lambda: len(program.status()["receive"]["quarantine"]) >= 3)
    until(lambda: settled(program))
    failed = [each for each in program.worklist().values() if each["analysis"] == "failed"]
    assert failed

    # The database held by another process; the worker killed with SIGABRT; a person who decides.
    lock_briefly(program.url.removeprefix("sqlite:///"))
    assert core_limit(program.process.pid).split()[:2] == ["0", "0"]  # type: ignore[union-attr]
    assert core_limit(worker).split()[:2] == ["0", "0"]
    os.kill(worker, signal.SIGABRT)
    until(lambda: next((pid for pid in running(program) if pid != worker), None))
    program.call("acknowledge", good.StudyInstanceUID, "--json")

    verbs = (("status", "--json"), ("status",), ("metrics",), ("check", "--json"))
    for verb in verbs:
        done = program.call(*verb)
        said += leaks(done.stdout + done.stderr, " ".join(verb))
    assert program.end_with(signal.SIGABRT) == -signal.SIGABRT
    for name in ("store", "watched", "ill", "audit"):
        assert (tmp_path / name).is_dir() or name == "audit"
    database = [path for path in tmp_path.iterdir() if path.name.startswith("triage.sqlite")]
    kept = [tmp_path / name for name in ("store", "watched", "ill", "audit")]
    assert program.log.read_text().count("object_quarantined") >= 2
    said += leaks_below([tmp_path], not_in=[*kept, *database])
    searched = len(files_below([tmp_path], not_in=[*kept, *database]))
    evidence.record(trials=searched + len(verbs), losses=len(said))
    assert said == []
    assert temporary.is_dir()
    assert not [path for path in Path.cwd().iterdir() if path.name.startswith("core")]


def running(program: Program):  # type: ignore[no-untyped-def]
    rows = [row for row in program.status()["roles"] if row["role"] == "analyse"]
    return iter(row["pid"] for row in rows if row["state"] == "running")


def settled(program: Program) -> bool:
    studies = program.worklist().values()
    return len(studies) >= 3 and all(each["analysis"] != "pending" for each in studies)


def lock_briefly(path: str) -> None:
    with sqlite3.connect(path, timeout=10) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


def test_p1_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    for number, encoding in enumerate(("utf-8", "utf-16-le")):
        (tmp_path / f"{number}.log").write_bytes(b"\x00" + "zqname".encode(encoding))
    (tmp_path / "ZQPATIENT7.tmp").touch()
    assert len(leaks_below([tmp_path])) == 3
    assert leaks_below([tmp_path], not_in=[tmp_path]) == []


def test_p1_a_date_among_other_digits_is_none() -> None:
    date = SEEDS["PatientBirthDate"]
    assert leaks(f"born={date}.", "log")
    assert leaks(f"1.2.840.{date}1 1.2.7{date}", "log") == []


def test_p1_what_holds_patients_rightly_is_not_searched_where_trials_left_it(
    tmp_path: Path,
) -> None:
    house = tmp_path / "house"
    for place in ("store", "in", "spool", "cluster", "logs"):
        (house / place).mkdir(parents=True)
        (house / place / "plain").write_text(SEEDS["PatientID"])
    (house / "cluster" / "PG_VERSION").touch()
    (house / "triage.toml").write_text(
        '[store]\npath = "store"\n[folders]\nwatch = ["in"]\n[audit]\nspool = "spool"\n'
    )
    (house / "1.audit").write_text(SEEDS["PatientID"])
    (house / "sent").write_bytes(to_bytes(seeded(noise(1))))
    sqlite3.connect(house / "database").execute("CREATE TABLE patients (name)").connection.close()
    names = {path.relative_to(house) for path in left_files(tmp_path, temporary=False)}
    assert names == {Path("triage.toml"), Path("logs/plain")}
    assert len(left_files(tmp_path, temporary=True)) == 8


# --- what the databases say of a row that they refuse


@requirement("P1", bound="no seed in an error of the database")
@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="the same row twice"),
        pytest.param({"patient_id": "1", "state": "ZQSTUDYTEXT"}, id="check"),
        pytest.param({"patient_id": "1", "priority": None}, id="not null"),
    ],
)
def test_p1_an_error_of_the_database_names_no_value(
    database: Database, changes: dict[str, Any], form: str, evidence: Evidence
) -> None:
    printed = io.StringIO()
    configure_logging(level="debug", form=form, stream=printed)
    values = {"patient_name": "ZQNAME", "patient_id": "ZQPATIENT7"}
    add_study(database, **values)
    with pytest.raises(TriageError) as caught:
        add_study(database, **{**values, **changes})
    structlog.get_logger("triage.test").error("write_failed", exc_info=caught.value)
    assert "write_failed" in printed.getvalue()
    found = leaks(printed.getvalue() + str(caught.value), "error")
    evidence.record(trials=1, losses=len(found))
    assert found == []


@requirement("P1", bound="no seed in an error of the database")
def test_p1_a_statement_that_cannot_run_names_no_value(
    database: Database, evidence: Evidence
) -> None:
    printed = io.StringIO()
    configure_logging(level="debug", form="console", stream=printed)
    query = text("SELECT nothing FROM studies WHERE patient_id = :patient_id")
    with pytest.raises(TriageError) as caught, database.write() as connection:
        connection.execute(query, {"patient_id": SEEDS["PatientID"]})
    structlog.get_logger("triage.test").error("write_failed", exc_info=caught.value)
    found = leaks(printed.getvalue() + str(caught.value), "error")
    evidence.record(trials=1, losses=len(found))
    assert found == []


# --- what a PostgreSQL server logs of them, with the settings of INSTALL.md


@requirement("P1", bound="no seed in a PostgreSQL server's log, with the settings of INSTALL.md")
def test_p1_the_log_of_the_server_names_no_value(postgres_url: str, evidence: Evidence) -> None:
    advice = (ROOT / "deploy" / "INSTALL.md").read_text("utf-8")
    settings = re.findall(r"^    ALTER DATABASE triage (SET log_.*);$", advice, re.MULTILINE)
    assert len(settings) == 3
    name = urlsplit(postgres_url).path.removeprefix("/")
    server = postgres_url.replace(f"/{name}?", "/postgres?")
    log = Path(parse_qs(urlsplit(postgres_url).query)["host"][0]) / "log"
    told = [quoted_after(log, postgres_url)]
    settings.append("SET log_min_duration_statement = 0")
    run_on_server(server, *(f"ALTER DATABASE {name} {each}" for each in settings))
    told.append(quoted_after(log, postgres_url))
    evidence.record(trials=len(REFUSED_ROWS), losses=len(told[1]))
    assert told[0]  # as shipped it does
    assert told[1] == []


REFUSED_ROWS: tuple[dict[str, Any], ...] = ({}, {"state": "ZQSTUDYTEXT"}, {"priority": None})


def quoted_after(log: Path, url: str) -> list[str]:
    """Have the server refuse rows; return what its log says of them."""
    begun = log.stat().st_size
    db = open_database(url)
    values = {"patient_name": "ZQNAME", "patient_id": new_uid()}
    try:
        add_study(db, **values)
        for changes in REFUSED_ROWS:
            with pytest.raises(TriageError):
                add_study(db, **{**values, **changes})
    finally:
        db.dispose()
    said = log.read_bytes()[begun:]
    assert said.count(b"ERROR") >= len(REFUSED_ROWS)
    return leaks(said, "log of the server")


# --- what all other trials left, in `make faults`


@pytest.mark.long_only
@requirement("P1", bound="no seed in what all trials of the run left, nor in what its houses tell")
def test_p1_what_the_other_trials_left_names_no_patient(
    left_behind: tuple[Path, ...], evidence: Evidence
) -> None:
    said: list[str] = []
    searched = seen = 0
    for folder in left_behind:
        for path in left_files(folder, temporary=folder.name == TEMPORARY):
            said += leaks(path.name, f"name of {path}") + leaks(path.read_bytes(), str(path))
            searched += 1
        for configuration in configurations(folder):
            seen += knows_patient(configuration)
            if (configuration.parent / "daemon.log").exists():  # else its rows are made by hand
                said += leaks(told_by(configuration), f"told by {configuration.parent}")
    evidence.record(
        trials=searched,
        losses=len(said),
        worst=f"{searched:,} files searched; {seen} databases hold the patient",
    )
    assert said == []
    if not seen:
        pytest.skip("no trial before this one held a patient")
