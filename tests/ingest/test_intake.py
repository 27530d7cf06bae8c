"""One door: each object is held, set aside or refused, with its trace; success means durable."""

import os
import re
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydicom import uid
from sqlalchemy import text

from tests.assurance import requirement
from tests.dicom_files import compress, make_ct_series, make_dx, make_sr, to_bytes
from tests.security.bombs import deflated_zeros
from tests.security.watching import growing
from triage.database.connection import Database, open_database
from triage.errors import (
    CommandMismatch,
    DatabaseUnavailable,
    IdentifiersInvalid,
    ObjectRefused,
    ObjectUnparsable,
    OutOfSpace,
    StoreError,
)
from triage.ingest.header import HeaderLimits
from triage.ingest.intake import Intake
from triage.ingest.part10 import file_meta, split
from triage.records import ObjectState, Source
from triage.rules.policies import Policies
from triage.store import Store, open_store


def rows(database: Database, statement: str) -> list[tuple[Any, ...]]:
    with database.read() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def files(store: Store, place: str) -> list[Path]:
    return sorted(path for path in (store.root / place).rglob("*") if path.is_file())


@requirement("G3")
def test_an_accepted_object_is_on_disk_as_received_and_has_its_row(
    database: Database, store: Store, intake: Intake
) -> None:
    ds = make_dx()
    data_set = bytes(split(to_bytes(ds)).encoded[:])
    outcome = intake.accept(
        data_set,
        transfer_syntax_uid=uid.ExplicitVRLittleEndian,
        source=Source.C_STORE,
        sender_ae_title="CT1",
        expected_sop_class_uid=ds.SOPClassUID,
        expected_sop_instance_uid=ds.SOPInstanceUID,
    )
    assert outcome.state is ObjectState.STORED
    [(path, size_bytes)] = rows(database, "SELECT path, size_bytes FROM instances")
    held = store.resolve(path).read_bytes()
    assert held.endswith(data_set)
    assert len(held) == size_bytes
    assert files(store, "incoming") == []


@requirement("G1")
def test_the_same_object_again_is_a_duplicate_by_either_door(
    database: Database, store: Store, intake: Intake
) -> None:
    data = to_bytes(make_dx())
    intake.accept(data, source=Source.FOLDER)
    again = intake.accept(
        bytes(split(data).encoded[:]),
        transfer_syntax_uid=uid.ExplicitVRLittleEndian,
        source=Source.C_STORE,
    )
    assert again.state is ObjectState.DUPLICATE
    assert len(rows(database, "SELECT id FROM instances")) == 1
    assert len(files(store, "objects")) == 1


def test_the_same_image_in_another_syntax_is_held_beside_the_first(
    database: Database, store: Store, intake: Intake
) -> None:
    ds = make_dx()
    intake.accept(to_bytes(ds), source=Source.FOLDER)
    intake.accept(to_bytes(compress(ds, uid.JPEG2000Lossless)), source=Source.FOLDER)
    assert len(files(store, "objects")) == 2


def test_an_object_without_pixels_is_held(database: Database, intake: Intake) -> None:
    assert intake.accept(to_bytes(make_sr()), source=Source.FOLDER).state is ObjectState.STORED


def dicomdir() -> bytes:
    meta = file_meta(
        sop_class_uid="1.2.840.10008.1.3.10",
        sop_instance_uid="1.2",
        transfer_syntax_uid=uid.ExplicitVRLittleEndian,
    )
    return meta + bytes(split(to_bytes(make_dx())).encoded[:])


def without_study() -> bytes:
    ds = make_dx()
    del ds.StudyInstanceUID
    return to_bytes(ds)


REFUSED = {
    "text": (b"no DICOM at all", ObjectUnparsable, "unparsable"),
    "zip": (b"PK\x03\x04" + bytes(300), ObjectUnparsable, "unparsable"),
    "empty": (b"", ObjectUnparsable, "unparsable"),
    "truncated": (to_bytes(make_dx())[:-20], ObjectUnparsable, "unparsable"),
    "no study": (without_study(), IdentifiersInvalid, "identifiers_invalid"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_is_not_taken_in_is_kept_aside_with_its_reason(
    database: Database, store: Store, intake: Intake, case: tuple[bytes, type[ObjectRefused], str]
) -> None:
    data, error, code = case
    with pytest.raises(error) as caught:
        intake.accept(data, source=Source.FOLDER, original_path="/in/a.dcm")
    kept = rows(database, "SELECT path, original_path, reason_code, reason, state FROM quarantine")
    [(path, original_path, reason_code, reason, state)] = kept
    assert store.resolve(path).read_bytes() == data
    assert (original_path, reason_code, state) == ("/in/a.dcm", code, "held")
    assert reason == str(caught.value)
    assert rows(database, "SELECT state FROM object_events") == [("quarantined",)]
    assert rows(database, "SELECT id FROM instances") == []
    assert files(store, "objects") == []


def test_the_same_refused_object_is_kept_once_and_told_each_time(
    database: Database, store: Store, intake: Intake
) -> None:
    for _ in range(3):
        with pytest.raises(ObjectUnparsable):
            intake.accept(b"no DICOM", source=Source.C_STORE)
    assert len(rows(database, "SELECT id FROM quarantine")) == 1
    assert len(files(store, "quarantine")) == 1
    states = rows(database, "SELECT state FROM object_events ORDER BY id")
    assert states == [("quarantined",), ("refused",), ("refused",)]


def test_a_dicomdir_is_refused_and_not_kept(
    database: Database, store: Store, intake: Intake
) -> None:
    with pytest.raises(ObjectRefused, match="DICOMDIR"):
        intake.accept(dicomdir(), source=Source.FOLDER)
    assert rows(database, "SELECT state FROM object_events") == [("refused",)]
    assert files(store, "quarantine") == []


@requirement("N3")
@pytest.mark.parametrize("which", ["expected_sop_class_uid", "expected_sop_instance_uid"])
def test_a_command_that_disagrees_with_its_data_set_is_refused_and_kept_as_a_file(
    database: Database, store: Store, intake: Intake, which: str
) -> None:
    ds = make_dx()
    expected = {
        "expected_sop_class_uid": ds.SOPClassUID,
        "expected_sop_instance_uid": ds.SOPInstanceUID,
        which: "1.2.3",
    }
    with pytest.raises(CommandMismatch):
        intake.accept(
            bytes(split(to_bytes(ds)).encoded[:]),
            transfer_syntax_uid=uid.ExplicitVRLittleEndian,
            source=Source.C_STORE,
            **expected,
        )
    [(path,)] = rows(database, "SELECT path FROM quarantine")
    kept = split(store.resolve(path).read_bytes())
    assert kept.transfer_syntax_uid == uid.ExplicitVRLittleEndian


@requirement("S1")
def test_hostile_identifiers_of_a_command_are_recorded_as_text_only(
    database: Database, store: Store, intake: Intake
) -> None:
    with pytest.raises(ObjectUnparsable):
        intake.accept(
            b"x" * 20,
            transfer_syntax_uid=uid.ExplicitVRLittleEndian,
            source=Source.C_STORE,
            sender_ae_title="A\0B",
            expected_sop_class_uid="é" * 100,
            expected_sop_instance_uid="../../../etc/x\0",
        )
    told = rows(database, "SELECT sop_instance_uid, sender_ae_title FROM quarantine")
    assert told == [("../../../etc/x", "AB")]
    everything = {path.parent.name for path in files(store, "quarantine")}
    assert all(re.fullmatch(r"[0-9a-f]{2}", name) for name in everything)


def test_an_object_above_the_limit_is_refused(
    database: Database, store: Store, tmp_path: Path
) -> None:
    door = Intake(database, store, policies=Policies(), limits=HeaderLimits(maximum_object_mib=1))
    door.start()
    with pytest.raises(ObjectRefused, match="maximum_object_mib"):
        door.accept(to_bytes(make_dx(PixelData=bytes(2 * 1024 * 1024))), source=Source.FOLDER)
    door.refuse_unread(5 * 1024 * 1024, source=Source.FOLDER)
    door.stop()
    reasons = rows(database, "SELECT state, reason FROM object_events ORDER BY id")
    assert reasons[1][0] == "refused"
    assert "5 MiB" in reasons[1][1]


@requirement("N2")
def test_without_space_nothing_is_taken_in_and_the_sender_may_try_again(
    database: Database, tmp_path: Path
) -> None:
    store = open_store(tmp_path / "store", minimum_free_mib=0)
    door = Intake(database, store, policies=Policies())
    door.start()
    store.minimum_free_mib = store.free_mib() + 1000
    data = to_bytes(make_dx())
    with pytest.raises(OutOfSpace):
        door.accept(data, source=Source.FOLDER)
    assert "margin" in door.fault
    store.minimum_free_mib = 0
    assert door.fault == ""
    assert door.accept(data, source=Source.FOLDER).state is ObjectState.STORED
    door.stop()
    store.close()


@requirement("N2")
def test_without_a_database_nothing_is_acknowledged_and_nothing_half_done_is_left(
    sqlite_url: str, store: Store
) -> None:
    database = open_database(sqlite_url, lock_timeout_s=0.1)
    holder = open_database(sqlite_url)
    door = Intake(database, store, policies=Policies())
    door.start()
    data = to_bytes(make_dx())
    with holder.write():
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable):
                door.accept(data, source=Source.FOLDER)
        with pytest.raises(DatabaseUnavailable):
            door.accept(b"no DICOM", source=Source.FOLDER)
        assert door.fault
        assert files(store, "incoming") == []
    assert door.accept(data, source=Source.FOLDER).state is ObjectState.STORED
    assert door.fault == ""
    with pytest.raises(ObjectUnparsable):  # its file lies there, its row does not: it is listed now
        door.accept(b"no DICOM", source=Source.FOLDER)
    assert rows(database, "SELECT state FROM quarantine") == [("held",)]
    door.stop()


def test_after_the_end_nothing_is_taken_in(database: Database, store: Store) -> None:
    door = Intake(database, store, policies=Policies())
    door.start()
    door.stop()
    assert not door.alive
    with pytest.raises(StoreError):
        door.accept(to_bytes(make_dx()), source=Source.FOLDER)
    assert files(store, "incoming") == []


def test_many_senders_at_once_are_all_held(
    database: Database, store: Store, intake: Intake
) -> None:
    objects = [to_bytes(ds) for ds in (*make_ct_series(), *(make_dx() for _ in range(20)))]
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda data: intake.accept(data, source=Source.FOLDER), objects))
    assert {outcome.state for outcome in outcomes} == {ObjectState.STORED}
    assert rows(database, "SELECT count(*) FROM instances") == [(len(objects),)]
    assert len(files(store, "objects")) == len(objects)


@requirement("P1")
def test_no_patient_data_is_logged(
    database: Database, intake: Intake, capsys: pytest.CaptureFixture[str]
) -> None:
    ds = make_dx(patient_name="Secret^Name", patient_id="PID-777", AccessionNumber="ACC-888")
    intake.accept(to_bytes(ds), source=Source.FOLDER, original_path="/in/Secret_Name.dcm")
    broken = to_bytes(ds)[:-10]
    with pytest.raises(ObjectUnparsable):
        intake.accept(broken, source=Source.FOLDER, original_path="/in/Secret_Name.dcm")
    said = "".join(capsys.readouterr())
    assert ds.SOPInstanceUID in said
    assert not re.search("Secret|PID-777|ACC-888", said)


@requirement("N1")
@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")
def test_file_sync_rename_directory_sync_and_commit_come_in_this_order(
    sqlite_url: str, tmp_path: Path
) -> None:
    """The kernel's view of one accepted object (DESIGN section 3.3)."""
    (tmp_path / "object.dcm").write_bytes(to_bytes(make_dx()))
    script = f"""
from pathlib import Path
from triage.database.connection import open_database
from triage.ingest.intake import Intake
from triage.records import Source
from triage.rules.policies import Policies
from triage.store import open_store
door = Intake(open_database({sqlite_url!r}),
    open_store(Path({str(tmp_path / "store")!r}), minimum_free_mib=0), policies=Policies())
door.start()
data = Path({str(tmp_path / "object.dcm")!r}).read_bytes()
print("BEGIN", flush=True)
door.accept(data, source=Source.FOLDER)
print("ANSWER", flush=True)
"""
    trace = tmp_path / "trace"
    watched = "trace=openat,fsync,fdatasync,rename,renameat,renameat2,write"
    subprocess.run(
        ["strace", "-f", "-y", "-e", watched, "-o", str(trace), sys.executable, "-c", script],
        check=True,
        timeout=120,
        stdout=subprocess.DEVNULL,
    )
    seen = trace.read_text("utf-8", "replace")
    seen = seen[seen.index('"BEGIN') :]
    steps = [
        r"fsync\([0-9]+<[^>]*incoming/[^>]*\.part>\)",
        r"rename[a-z0-9]*\([^)]*incoming/[^)]*objects/",
        r"fsync\([0-9]+<[^>]*objects/[0-9a-f]{2}>\)",
        r"f(data)?sync\([0-9]+<[^>]*triage\.sqlite-wal>\)",
        r'"ANSWER',
    ]
    places = [match.start() if (match := re.search(step, seen)) else -1 for step in steps]
    assert -1 not in places, places
    assert places == sorted(places), places


class OneAfterTheOther:
    """Chunks of an object; the last one is given when every sender has come so far."""

    def __init__(self, data: bytes, together: threading.Barrier) -> None:
        self._data, self._together = data, together

    def __iter__(self) -> Iterator[bytes]:
        yield self._data
        self._together.wait(30)


@requirement("S2")
def test_deflated_data_sets_that_come_together_are_inflated_two_at_a_time(
    database: Database, store: Store
) -> None:
    senders, size_mib = 12, 24
    head = bytes(split(to_bytes(make_dx())).encoded[:])
    head = head[: head.index(b"\xe0\x7f\x10\x00")]
    head += struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 0, size_mib << 20)
    encoded = deflated_zeros(head, size_mib)
    limits = HeaderLimits(maximum_header_mib=size_mib)
    door = Intake(database, store, policies=Policies(), limits=limits)
    door.start()
    together = threading.Barrier(senders)
    syntax = str(uid.DeflatedExplicitVRLittleEndian)

    def send(_: int) -> None:
        chunks = OneAfterTheOther(encoded, together)
        door.accept(chunks, transfer_syntax_uid=syntax, source=Source.C_STORE)

    with growing(os.getpid()) as growth, ThreadPoolExecutor(senders) as pool:
        list(pool.map(send, range(senders)))
    door.stop()
    assert growth.mib[os.getpid()] < senders * size_mib / 2
