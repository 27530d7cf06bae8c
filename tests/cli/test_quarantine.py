"""What was not taken in can be seen, offered again and thrown away, each by a named person."""

import getpass
import hashlib
import json
from typing import Any

import pytest

from tests.cli.site import Site
from triage.cli.command_line import main
from triage.database.connection import open_database
from triage.database.intake_log import record_quarantined
from triage.records import Source
from triage.store import open_store

NO_DICOM = b"no DICOM at all\n" * 20


@pytest.fixture(autouse=True)
def here(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in the site's directory, as a user does."""
    monkeypatch.chdir(site.directory)


def keep_aside(site: Site, data: bytes = NO_DICOM) -> int:
    """Put bytes into quarantine as the intake does, and return their number."""
    store = open_store(site.config.store.path, minimum_free_mib=0)
    staged = store.stage_aside([data], digest=hashlib.sha256(data).hexdigest())
    store.commit([staged])
    store.close()
    database = open_database(site.config.database.url)
    with database.write() as connection:
        number = record_quarantined(
            connection,
            source=Source.FOLDER,
            sender_ae_title="",
            sop_instance_uid="",
            sop_class_uid="",
            path=staged.path,
            original_path="/in/\x1b[2Jodd.dcm",
            size_bytes=len(data),
            reason_code="unparsable",
            reason="no DICOM",
            now=database.now(connection),
        )
    database.dispose()
    return number


def held(capsys: pytest.CaptureFixture[str], *options: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["quarantine", "list", "--json", *options]) == 0
    entries: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["quarantine"]
    return entries


def test_an_empty_quarantine_is_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quarantine", "list"]) == 0
    assert capsys.readouterr().out == "Nothing is in quarantine.\n"


def test_the_list_shows_number_and_reason_and_no_control_character(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    number = keep_aside(site)
    assert main(["quarantine", "list"]) == 0
    text = capsys.readouterr().out
    assert "no DICOM" in text
    assert str(number) in text
    assert "\x1b" not in text


def test_one_object_is_shown_with_its_path(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    number = keep_aside(site)
    assert main(["quarantine", "show", str(number)]) == 0
    text = capsys.readouterr().out
    assert "unparsable" in text
    assert "\x1b" not in text


def test_discard_deletes_the_bytes_and_keeps_the_record(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    number = keep_aside(site)
    (entry,) = held(capsys)
    assert (site.config.store.path / entry["path"]).exists()
    assert main(["quarantine", "discard", str(number)]) == 0
    assert not (site.config.store.path / entry["path"]).exists()
    assert held(capsys) == []
    (entry,) = held(capsys, "--all")
    assert (entry["state"], entry["state_by"]) == ("discarded", getpass.getuser())


def test_bytes_that_another_object_shares_stay(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = keep_aside(site), keep_aside(site)
    main(["quarantine", "discard", str(first)])
    (entry,) = held(capsys)
    assert entry["id"] == second
    assert (site.config.store.path / entry["path"]).read_bytes() == NO_DICOM


def test_what_is_refused_again_stays_in_quarantine(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    number = keep_aside(site)
    done = site.run("quarantine", "release", str(number))
    assert done.returncode == 1
    assert "refused again" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert number in {entry["id"] for entry in held(capsys)}


def test_a_sound_object_is_taken_in_when_released(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    number = keep_aside(site, sound_object())
    done = site.run("quarantine", "release", str(number), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["object"] == "stored"
    assert held(capsys) == []
    assert main(["worklist", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["studies"]) == 1


@pytest.mark.parametrize("verb", ["show", "release", "discard"])
def test_a_number_that_never_was_is_a_plain_sentence(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quarantine", verb, "77"]) == 1
    assert "77" in capsys.readouterr().err


def test_what_was_settled_is_not_settled_again(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    number = keep_aside(site)
    main(["quarantine", "discard", str(number)])
    assert main(["quarantine", "discard", str(number)]) == 1
    assert "discarded" in capsys.readouterr().err


def sound_object() -> bytes:
    """Return a small file that the intake takes in."""
    from io import BytesIO

    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.PatientID, dataset.Modality = "P1", "CT"
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
