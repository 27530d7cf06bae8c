"""Another implementation's senders find what they expect: DCMTK against the whole receiver."""

import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import uid
from sqlalchemy import text

from tests.assurance import requirement
from tests.dicom_files import compress, make_ct_series, make_dx, make_sr, to_bytes
from triage.config import ReceiverConfig
from triage.database.connection import Database, open_database
from triage.ingest.intake import Intake
from triage.ingest.storage_scp import StorageReceiver
from triage.store import Store

pytestmark = pytest.mark.skipif(shutil.which("storescu") is None, reason="DCMTK is not installed")


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    opened = open_database(sqlite_url)
    yield opened
    opened.dispose()


@pytest.fixture
def receiver(intake: Intake) -> Iterator[StorageReceiver]:
    listening = StorageReceiver(intake, ReceiverConfig(port=0))
    listening.start()
    yield listening
    listening.stop(drain_s=5)


def tool(
    name: str, receiver: StorageReceiver, *arguments: str | Path, called: str = "TRIAGE"
) -> int:
    options, files = arguments[:-1], arguments[-1:]
    address = ("127.0.0.1", str(receiver.port))
    command = [name, "-aet", "DCMTK", "-aec", called, *map(str, options), *address]
    done = subprocess.run(
        [*command, *map(str, files)], capture_output=True, check=False, timeout=60
    )
    return done.returncode


def rows(database: Database, statement: str) -> list[tuple[Any, ...]]:
    with database.read() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


@requirement("N5")
def test_an_echo_succeeds_for_us_and_fails_for_another(receiver: StorageReceiver) -> None:
    assert tool("echoscu", receiver) == 0
    assert tool("echoscu", receiver, called="OTHER") != 0


@requirement("N4")
def test_a_folder_of_many_kinds_is_held(
    database: Database, receiver: StorageReceiver, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    syntaxes = (
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    )
    objects = [make_dx(), make_sr(), *make_ct_series()]
    objects += [make_dx(transfer_syntax=syntax) for syntax in syntaxes]
    objects += [compress(make_dx(), uid.RLELossless), compress(make_dx(), uid.JPEGLSLossless)]
    for number, ds in enumerate(objects):
        (folder / f"{number}.dcm").write_bytes(to_bytes(ds))
    assert tool("dcmsend", receiver, "--scan-directories", folder) == 0
    held = {row[0] for row in rows(database, "SELECT sop_instance_uid FROM instances")}
    assert held == {ds.SOPInstanceUID for ds in objects}
    assert rows(database, "SELECT DISTINCT sender_ae_title FROM instances") == [("DCMTK",)]


COMPRESSED = {"-xs": uid.JPEGLosslessSV1, "-xt": uid.JPEGLSLossless, "-xv": uid.JPEG2000Lossless}


@requirement("G3")
@pytest.mark.parametrize("option", COMPRESSED)
def test_compressed_images_are_held_as_they_were_sent(
    database: Database, store: Store, receiver: StorageReceiver, option: str
) -> None:
    syntax = COMPRESSED[option]
    ds = compress(make_dx(), syntax)
    path = store.root.parent / "a.dcm"
    path.write_bytes(to_bytes(ds))
    assert tool("storescu", receiver, option, path) == 0
    [(relative, held_syntax)] = rows(database, "SELECT path, transfer_syntax_uid FROM instances")
    assert held_syntax == syntax
    held = pydicom.dcmread(store.resolve(relative))
    assert held.PixelData == ds.PixelData
    assert (held.SOPInstanceUID, held.PatientID) == (ds.SOPInstanceUID, ds.PatientID)


@requirement("G3")
@pytest.mark.parametrize("pdu_bytes", ["4096", "16384", "131072"])
def test_pdus_of_any_size_bring_the_same_bytes(
    database: Database, store: Store, receiver: StorageReceiver, tmp_path: Path, pdu_bytes: str
) -> None:
    ds = make_dx(np.random.default_rng(0).integers(0, 4096, (1200, 1000), dtype=np.uint16))
    sent = to_bytes(ds)
    (tmp_path / "sent.dcm").write_bytes(sent)
    assert tool("storescu", receiver, "--max-send-pdu", pdu_bytes, tmp_path / "sent.dcm") == 0
    ((path,),) = rows(database, "SELECT path FROM instances")
    held = store.resolve(path).read_bytes()
    assert held.endswith(ds.PixelData)
    assert pydicom.dcmread(store.resolve(path)) == pydicom.dcmread(tmp_path / "sent.dcm")


@requirement("G1")
def test_four_senders_at_once_and_a_repeat_are_each_answered(
    database: Database, receiver: StorageReceiver, tmp_path: Path
) -> None:
    folders = [tmp_path / str(number) for number in range(4)]
    for folder in folders:
        folder.mkdir()
        for number, ds in enumerate(make_ct_series()):
            (folder / f"{number}.dcm").write_bytes(to_bytes(ds))
    with ThreadPoolExecutor(8) as senders:
        codes = list(
            senders.map(lambda folder: tool("dcmsend", receiver, "+sd", folder), folders * 2)
        )
    assert codes == [0] * 8
    assert rows(database, "SELECT count(*) FROM instances") == [(16,)]


@requirement("N3")
def test_a_bad_object_does_not_sink_the_good_ones_around_it(
    database: Database, receiver: StorageReceiver, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    good = [make_dx() for _ in range(2)]
    bad = make_dx()
    del bad.StudyInstanceUID
    for number, ds in enumerate((good[0], bad, good[1])):
        (folder / f"{number}.dcm").write_bytes(to_bytes(ds))
    tool("storescu", receiver, "--no-halt", "--scan-directories", folder)
    assert rows(database, "SELECT count(*) FROM instances") == [(2,)]
    assert rows(database, "SELECT reason_code FROM quarantine") == [("identifiers_invalid",)]
