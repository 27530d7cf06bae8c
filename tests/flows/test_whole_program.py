"""Images in by both doors, a worklist out; nothing acknowledged is lost, whatever is killed."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from tests.assurance import requirement
from tests.dicom_files import make_dx, to_bytes
from tests.flows.program import Program, until
from triage.pocket.phantoms import generate

SECRETS = ("SECRETNAME", "SECRETID", "SECRETACCESSIO", "19010203", "SECRETDESCRIPTION")


def chest(seed: int, finding: str) -> Dataset:
    phantom = generate(seed, finding=finding, size_px=256)
    return make_dx(
        phantom.pixels,
        bits_stored=phantom.bits_stored,
        patient_name="SECRETNAME",
        patient_id="SECRETID",
        PatientBirthDate="19010203",
        AccessionNumber="SECRETACCESSIO",
        StudyDescription="SECRETDESCRIPTION",
    )


def looked_at(program: Program, *objects: Dataset) -> bool:
    """Whether every study has its result; the gate may have stopped some of the phantoms."""
    studies = program.worklist()
    return all(
        studies.get(str(ds.StudyInstanceUID), {}).get("analysis") in ("analysed", "not_eligible")
        for ds in objects
    )


def running_worker(program: Program) -> dict[str, Any]:
    def probe() -> dict[str, Any] | None:
        row = program.role("analyse")
        return row if row and row["state"] == "running" else None

    return until(probe)


def test_images_come_in_by_both_doors_and_the_worklist_tells_of_them(
    program_on_both: Program,
) -> None:
    program = program_on_both.start()
    sent, dropped = chest(1, "pneumothorax"), chest(2, "normal")
    assert program.send([sent]) == [0x0000]
    (program.watched / "two.dcm").write_bytes(to_bytes(dropped))
    until(lambda: looked_at(program, sent, dropped))
    until(lambda: all(study["caption"] for study in program.worklist().values()))
    document = json.loads(program.call("worklist", "--all", "--json").stdout)
    studies = {study["study_instance_uid"]: study for study in document["studies"]}
    flagged = studies[sent.StudyInstanceUID]
    assert flagged["priority_source"] == "model"
    assert any(each["flagged"] for each in flagged["findings"])
    assert flagged["flagged_at"] is not None
    assert flagged["not_for_clinical_use"] is True
    assert flagged["sender_ae_title"] == "MODALITY"
    calm = studies[dropped.StudyInstanceUID]
    assert (calm["priority"], calm["images_analysed"]) == ("ROUTINE", 1)
    assert flagged["reading_order"] < calm["reading_order"]
    up = program.call("status")
    assert up.returncode == 0, up.stdout
    assert program.stop() == 0
    assert program.call("status").returncode == 2
    log = program.log.read_text()
    assert not [secret for secret in SECRETS if secret in log]


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_text_where_a_uid_should_be_is_refused_and_reaches_no_log(
    program: Program, tmp_path: Path
) -> None:
    ill_formed = chest(3, "normal")
    ill_formed.SOPInstanceUID = ill_formed.file_meta.MediaStorageSOPInstanceUID = "SECRETNAME"
    (tmp_path / "ill.dcm").write_bytes(to_bytes(ill_formed))
    port = program.start("--role", "receive").port()
    done = program.call("send", "--to", f"127.0.0.1:{port}", str(tmp_path / "ill.dcm"))
    assert "0xC001" in done.stdout
    assert [each["reason_code"] for each in program.status()["receive"]["quarantine"]] == [
        "identifiers_invalid"
    ]
    assert program.stop() == 0
    log = program.log.read_text()
    assert "object_quarantined" in log
    assert not [secret for secret in SECRETS if secret in log]


def test_the_receiver_answers_before_any_model_is_loaded(program: Program) -> None:
    program.start()
    port = program.port()
    begun = time.monotonic()
    assert program.echo(port)
    assert time.monotonic() - begun < 2.0


@pytest.mark.long_only
@requirement("D1")
def test_a_killed_worker_comes_back_and_loses_no_image(program: Program) -> None:
    program.start()
    worker = running_worker(program)
    objects = [chest(seed, "normal") for seed in range(12)]
    assert set(program.send(objects)) == {0x0000}
    os.kill(worker["pid"], signal.SIGKILL)
    until(lambda: looked_at(program, *objects))
    again = program.role("analyse")
    assert again is not None
    assert again["pid"] != worker["pid"]
    assert program.stop() == 0


@pytest.mark.long_only
@requirement("D1")
def test_what_was_acknowledged_survives_the_death_of_the_whole_daemon(program: Program) -> None:
    program.start()
    objects = [chest(seed, "normal") for seed in range(6)]
    assert set(program.send(objects)) == {0x0000}
    program.end_with(signal.SIGKILL)
    held = {str(ds.StudyInstanceUID) for ds in objects}
    assert held <= set(program.worklist())
    program.start()
    until(lambda: looked_at(program, *objects))
    assert program.stop() == 0


def test_an_orderly_stop_leaves_no_process_and_no_role_behind(program: Program) -> None:
    program.start()
    worker = running_worker(program)
    assert program.stop() == 0
    until(lambda: not _alive(worker["pid"]), patience_s=10)
    assert program.status()["roles"] == []


def test_a_worker_ends_when_its_supervisor_was_killed(program: Program) -> None:
    program.start()
    worker = running_worker(program)
    program.end_with(signal.SIGKILL)
    until(lambda: not _alive(worker["pid"]), patience_s=45)


def test_another_revision_stops_the_start_and_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "new.sqlite").touch()
    program = Program(tmp_path, f"sqlite:///{tmp_path}/new.sqlite")
    done = program.call("run")
    assert done.returncode == 1
    assert "triage migrate" in done.stderr


def test_a_taken_port_is_one_sentence_and_no_traceback(program: Program) -> None:
    program.start("--role", "receive")
    port = program.port()
    text = program.configuration.read_text().replace("port = 0", f"port = {port}")
    program.configuration.write_text(text)
    second = program.call("run", "--role", "receive")
    assert second.returncode == 1
    assert str(port) in second.stderr.splitlines()[-1]
    assert "Traceback" not in second.stderr


def test_roles_may_run_as_separate_processes(program: Program) -> None:
    program.start("--role", "receive", "--role", "schedule")
    ds = chest(1, "normal")
    assert program.send([ds]) == [0x0000]
    roles = {row["role"] for row in program.status()["roles"]}
    assert roles == {"receive", "schedule"}
    second = Program(program.directory, program.url)
    second.start("--role", "analyse")
    until(lambda: looked_at(program, ds))
    assert second.stop() == 0
    assert program.stop() == 0


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_daemon_with_success(program: Program, signal_number: int) -> None:
    program.start("--role", "receive")
    program.port()
    assert program.end_with(signal_number) == 0


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
