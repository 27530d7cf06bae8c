"""The verbs `backup` and `restore`: what they say, how they end, and that they say no more."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.site import Site, make_site
from tests.dicom_files import make_dx, to_bytes
from triage.database.connection import open_database
from triage.ingest.intake import Intake
from triage.records import Source
from triage.store import open_store

SECRETS = ("Geheim", "SECRET-ID", "19331224", "ACC-4711", "old fracture")


def receive(site: Site) -> Path:
    """Take in one radiograph full of secrets; returns where its file lies."""
    ds = make_dx(
        np.arange(256, dtype=np.uint16).reshape(16, 16),
        patient_name="Geheim^Name",
        patient_id="SECRET-ID",
        PatientBirthDate="19331224",
        AccessionNumber="ACC-4711",
        StudyDescription="old fracture",
    )
    db = open_database(site.config.database.url)
    store = open_store(site.config.store.path, minimum_free_mib=0)
    door = Intake(db, store, policies=site.config.policies)
    door.start()
    try:
        door.accept(to_bytes(ds), source=Source.C_STORE, sender_ae_title="SENDER")
        (path,) = store.object_paths()
        return store.resolve(path)
    finally:
        door.stop()
        store.close()
        db.dispose()


@pytest.fixture
def empty(tmp_path: Path) -> Site:
    """Return another installation, without database and store."""
    directory = tmp_path / "other"
    directory.mkdir()
    return make_site(directory, f"sqlite:///{directory}/triage.sqlite")


def test_a_house_is_backed_up_verified_and_restored(site: Site, empty: Site) -> None:
    receive(site)
    backup = str(site.directory / "backup")
    made = site.run("backup", backup)
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith(f"Backup made in {backup}: 1 study, 1 object as of ")
    assert made.stderr == ""
    verified = empty.run("restore", backup, "--verify-only")
    assert (verified.returncode, verified.stderr) == (0, "")
    assert verified.stdout.startswith("The backup is whole: 1 study, 1 object as of ")
    assert not empty.config.store.path.exists()
    restored = empty.run("restore", backup)
    assert restored.returncode == 0, restored.stderr
    assert "triage check" in restored.stdout
    listed = json.loads(empty.run("worklist", "--json").stdout)["studies"]
    assert [each["accession_number"] for each in listed] == ["ACC-4711"]
    again = empty.run("restore", backup)
    assert again.returncode == 1
    assert again.stderr.startswith("triage: the database holds data")
    assert len(again.stderr.splitlines()) == 1


def test_json_is_one_document_and_nothing_else(site: Site, empty: Site) -> None:
    receive(site)
    made = json.loads(site.run("backup", "backup", "--json").stdout)
    assert made["complete"] is True
    assert made["manifest"]["rows"]["instances"] == 1
    backup = str(site.directory / "backup")
    verified = json.loads(empty.run("restore", backup, "--verify-only", "--json").stdout)
    assert verified["manifest"] == made["manifest"]
    restored = json.loads(empty.run("restore", backup, "--json").stdout)
    assert (restored["with_objects"], restored["leases_returned"]) == (True, 0)


def test_a_loss_in_the_house_is_told_and_ends_with_1_though_the_rest_is_kept(
    site: Site, empty: Site
) -> None:
    lost = receive(site)
    lost.unlink()
    made = site.run("backup", "backup")
    assert made.returncode == 1
    assert "NOT IN THE BACKUP: 1 file in the database, but not in the store" in made.stdout
    assert lost.name in made.stdout
    assert json.loads(site.run("backup", "backup", "--json").stdout)["complete"] is False
    verified = empty.run("restore", str(site.directory / "backup"), "--verify-only")
    assert verified.returncode == 0
    assert verified.stdout.startswith("The backup is as it was made, which is not whole: 1 study")
    assert lost.name in verified.stdout
    assert empty.run("restore", str(site.directory / "backup")).returncode == 0


def test_what_is_whole_of_a_damaged_backup_is_restored_on_request(site: Site, empty: Site) -> None:
    lost = receive(site)
    backup = site.directory / "backup"
    site.run("backup", str(backup))
    for kept in (backup / "store").rglob(lost.name):
        kept.unlink()
    refused = empty.run("restore", str(backup))
    assert refused.returncode == 1
    assert "--partial" in refused.stderr
    restored = empty.run("restore", str(backup), "--partial")
    assert restored.returncode == 1
    assert "NOT RESTORED: 1 file damaged in the backup: objects/" in restored.stdout
    listed = json.loads(empty.run("worklist", "--json").stdout)["studies"]
    assert [each["accession_number"] for each in listed] == ["ACC-4711"]


def test_a_first_backup_that_failed_is_not_called_a_backup(site: Site, empty: Site) -> None:
    receive(site)
    site.config.store.path.rename(site.directory / "elsewhere")
    backup = site.directory / "backup"
    assert site.run("backup", str(backup)).returncode == 1
    assert [each.name for each in backup.iterdir()] == ["backup.lock"]
    refused = empty.run("restore", str(backup))
    assert refused.returncode == 1
    assert "holds no finished backup" in refused.stderr
    (site.directory / "elsewhere").rename(site.config.store.path)
    assert site.run("backup", str(backup)).returncode == 0


def test_neither_verb_tells_a_persons_data(site: Site, empty: Site) -> None:
    path = receive(site)
    said = [site.run("backup", "backup"), site.run("backup", "backup", "--json")]
    backup = site.directory / "backup"
    said += [empty.run("restore", str(backup), "--verify-only"), empty.run("restore", str(backup))]
    path.unlink()
    said += [site.run("backup", "backup"), site.run("restore", "backup")]
    told = "".join(each.stdout + each.stderr for each in said)
    told += "".join(
        each.read_text("ascii") for each in backup.iterdir() if each.suffix in (".json", ".sha256")
    )
    assert [secret for secret in SECRETS if secret in told] == []


def test_a_house_is_not_restored_over_an_audit_trail_that_waits(site: Site, empty: Site) -> None:
    receive(site)
    assert site.run("backup", "backup").returncode == 0
    spool = empty.directory / "audit"
    spool.mkdir()
    segment = spool / "000000000001-audit_objects-0-7.audit"
    segment.write_text("<AuditMessage/>\n")
    audited = {"TRIAGE_AUDIT__ENABLED": "true", "TRIAGE_AUDIT__SPOOL": str(spool)}
    backup = str(site.directory / "backup")
    refused = empty.run("restore", backup, more=audited)
    assert refused.returncode == 1
    assert "audit trail waits in" in refused.stderr
    segment.rename(empty.directory / "collected.audit")
    assert empty.run("restore", backup, more=audited).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["backup"], 64),
        (["restore"], 64),
        (["restore", "nowhere"], 64),
        (["restore", "nowhere", "--verify-only"], 64),
        (["restore", ".", "--verify-only", "--no-objects"], 64),
        (["restore", ".", "--verify-only", "--partial"], 64),
        (["backup", "store/inside"], 1),
        (["restore", "."], 1),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_sentence(
    site: Site, arguments: list[str], code: int
) -> None:
    done = site.run(*arguments)
    assert done.returncode == code
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
