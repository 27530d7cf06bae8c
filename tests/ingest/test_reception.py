"""Objects go to disk chunk by chunk: byte for byte and within limits, or not at all."""

import hashlib
import io
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread, uid
from sqlalchemy import text

from tests.assurance import requirement
from tests.dicom_files import compress, make_dx, to_bytes
from tests.ingest.raw_peer import established, message, store_rq
from triage.config import ReceiverConfig
from triage.database.connection import Database
from triage.errors import CommandMismatch, ObjectRefused, ObjectUnparsable, OutOfSpace
from triage.ingest.header import HeaderLimits
from triage.ingest.intake import Intake
from triage.ingest.part10 import META_BYTES, digest_of, split
from triage.ingest.storage_scp import StorageReceiver
from triage.records import ObjectState, Source
from triage.rules.policies import Policies
from triage.store import MIB, Bytes, Store

EXPLICIT = uid.ExplicitVRLittleEndian


def in_chunks(data: Bytes, size: int) -> Iterator[memoryview]:
    """Yield `data` in chunks that are overwritten as soon as the next one is asked for."""
    buffer = bytearray(size)
    for start in range(0, len(data), size):
        chunk = data[start : start + size]
        buffer[: len(chunk)] = chunk
        yield memoryview(buffer)[: len(chunk)]
        buffer[:] = b"\xaa" * size


def bare(data: bytes) -> bytes:
    return bytes(split(data).encoded[:])


def rows(database: Database, statement: str) -> list[tuple[Any, ...]]:
    with database.read() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def files(store: Store, place: str) -> list[Path]:
    return sorted(path for path in (store.root / place).rglob("*") if path.is_file())


def without_group_length(data: bytes) -> bytes:
    return data[:132] + data[144:]


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "file": lambda data: data,
    "no preamble": lambda data: data[132:],
    "no group length": without_group_length,
    "no meta information": bare,
}


@requirement("G3")
@pytest.mark.parametrize("size", [1, 131, 4096, MIB])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_file_in_chunks_is_held_as_its_data_set_came(
    store: Store, intake: Intake, form: Callable[[bytes], bytes], size: int
) -> None:
    data = form(to_bytes(make_dx()))
    outcome = intake.accept(in_chunks(data, size), source=Source.FOLDER)
    assert outcome.state is ObjectState.STORED
    [path] = files(store, "objects")
    assert path.read_bytes()[META_BYTES:] == bare(data)
    assert path.stem == digest_of(split(data))
    assert files(store, "incoming") == []


@pytest.mark.parametrize("size", [1, 131, 4096, MIB])
def test_a_bare_data_set_in_chunks_is_the_same_object_as_its_file(
    store: Store, intake: Intake, size: int
) -> None:
    data = to_bytes(compress(make_dx(), uid.JPEG2000Lossless))
    intake.accept(data, source=Source.FOLDER)
    again = intake.accept(
        in_chunks(bare(data), size),
        transfer_syntax_uid=uid.JPEG2000Lossless,
        source=Source.C_STORE,
    )
    assert again.state is ObjectState.DUPLICATE
    [path] = files(store, "objects")
    identity = hashlib.sha256(uid.JPEG2000Lossless.encode() + bare(data)).hexdigest()
    assert path.stem == identity


def test_what_is_held_can_be_opened_by_other_programs(store: Store, intake: Intake) -> None:
    ds = make_dx()
    intake.accept(to_bytes(ds), source=Source.FOLDER)
    [path] = files(store, "objects")
    held = dcmread(path)
    assert held.PixelData == ds.PixelData
    assert held.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID


@requirement("G3")
@pytest.mark.skipif(shutil.which("dcmftest") is None, reason="no DCMTK")
def test_what_is_held_is_a_file_for_dcmtk(store: Store, intake: Intake) -> None:
    intake.accept(to_bytes(make_dx()), source=Source.FOLDER)
    [path] = files(store, "objects")
    for command in (["dcmftest", path], ["dcmdump", "+P", "0002,0100", path]):
        said = subprocess.run(command, check=True, capture_output=True, text=True)
        assert not said.stderr


@requirement("G7")
@pytest.mark.parametrize(
    "error", [ConnectionError("gone"), ObjectUnparsable("by the sender"), OSError(28, "elsewhere")]
)
@pytest.mark.parametrize("syntax", [None, EXPLICIT], ids=["file", "data set"])
def test_an_object_that_breaks_off_leaves_nothing_and_harms_nothing(
    database: Database, store: Store, intake: Intake, error: Exception, syntax: str | None
) -> None:
    data = to_bytes(make_dx(PixelData=bytes(200_000)))
    coming = data if syntax is None else bare(data)

    def broken_off() -> Iterator[Bytes]:
        yield from in_chunks(coming[:-50_000], 10_000)
        assert files(store, "incoming"), "what came is on its way to disk"
        raise error

    with pytest.raises(type(error)) as caught:
        intake.accept(broken_off(), transfer_syntax_uid=syntax, source=Source.C_STORE)
    assert caught.value is error
    assert [files(store, place) for place in ("incoming", "objects", "quarantine")] == [[], [], []]
    assert rows(database, "SELECT id FROM object_events") == []
    assert store.fault == intake.fault == ""
    again = intake.accept(coming, transfer_syntax_uid=syntax, source=Source.C_STORE)
    assert again.state is ObjectState.STORED


def test_an_object_above_the_limit_is_recorded_and_does_not_sink_what_comes_behind_it(
    database: Database, store: Store
) -> None:
    door = Intake(database, store, policies=Policies(), limits=HeaderLimits(maximum_object_mib=1))
    door.start()
    receiver = StorageReceiver(door, ReceiverConfig(port=0, maximum_object_mib=1))
    receiver.start()
    large, small = make_dx(PixelData=bytes(3 * MIB // 2)), make_dx()
    with established(receiver.port) as peer:
        for ds, status in ((large, 0xC002), (small, 0x0000)):
            peer.say(message(store_rq(instance=ds.SOPInstanceUID), bare(to_bytes(ds))))
            assert peer.hear_status() == status
    receiver.stop(drain_s=0)
    door.stop()
    told = rows(database, "SELECT state, sop_instance_uid FROM object_events ORDER BY id")
    assert told == [("refused", large.SOPInstanceUID), ("stored", small.SOPInstanceUID)]
    assert [files(store, place) for place in ("incoming", "quarantine")] == [[], []]


class Flood:
    """An object without an end; counts what was asked for."""

    def __init__(self, beginning: bytes) -> None:
        self.beginning, self.asked_for = beginning, 0

    def __iter__(self) -> Iterator[bytes]:
        yield self.beginning
        while True:
            self.asked_for += 1
            assert self.asked_for < 50, "nobody stops this object"
            yield bytes(MIB)


@pytest.mark.parametrize(
    ("beginning", "syntax", "error"),
    [
        (to_bytes(make_dx()), None, "maximum_object_mib"),
        (bare(to_bytes(make_dx())), EXPLICIT, "maximum_object_mib"),
        (b"no DICOM", None, "no DICOM"),
    ],
    ids=["file", "data set", "anything"],
)
def test_an_object_beyond_the_limit_is_refused_where_it_passes_it(
    database: Database, store: Store, beginning: bytes, syntax: str | None, error: str
) -> None:
    door = Intake(database, store, policies=Policies(), limits=HeaderLimits(maximum_object_mib=3))
    door.start()
    flood = Flood(beginning)
    with pytest.raises(ObjectRefused, match=error):
        door.accept(flood, transfer_syntax_uid=syntax, source=Source.C_STORE)
    door.stop()
    assert flood.asked_for <= 3
    assert rows(database, "SELECT state FROM object_events") == [("refused",)]
    assert [files(store, place) for place in ("incoming", "objects", "quarantine")] == [[], [], []]


@requirement("N2")
def test_an_object_that_would_eat_into_the_margin_is_stopped_while_it_comes(
    database: Database, store: Store, intake: Intake
) -> None:
    flood = Flood(bare(to_bytes(make_dx())))

    def coming() -> Iterator[Bytes]:
        for chunk in flood:
            if flood.asked_for == 2:
                store.minimum_free_mib = store.free_mib() + 1000
            yield chunk

    with pytest.raises(OutOfSpace, match="margin"):
        intake.accept(coming(), transfer_syntax_uid=EXPLICIT, source=Source.C_STORE)
    assert flood.asked_for < 10
    assert files(store, "incoming") == []
    assert rows(database, "SELECT id FROM object_events") == []


def cut(data: bytes) -> bytes:
    return data[:-20]


@pytest.mark.parametrize("size", [100, MIB])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_refused_file_in_chunks_is_kept_as_it_came(
    database: Database, store: Store, intake: Intake, form: Callable[[bytes], bytes], size: int
) -> None:
    data = cut(form(to_bytes(make_dx())))
    with pytest.raises(ObjectUnparsable, match="cut short"):
        intake.accept(in_chunks(data, size), source=Source.FOLDER)
    [path] = files(store, "quarantine")
    assert path.read_bytes() == data
    assert path.stem == hashlib.sha256(data).hexdigest()
    assert rows(database, "SELECT size_bytes FROM quarantine") == [(len(data),)]
    assert files(store, "incoming") == files(store, "objects") == []


def test_a_refused_data_set_is_kept_as_a_file_and_can_be_released(
    database: Database, store: Store, intake: Intake
) -> None:
    ds = make_dx()
    data_set = bare(to_bytes(ds))
    with pytest.raises(CommandMismatch):
        intake.accept(
            in_chunks(data_set, 1000),
            transfer_syntax_uid=EXPLICIT,
            source=Source.C_STORE,
            expected_sop_instance_uid="1.2.3",
        )
    [path] = files(store, "quarantine")
    assert path.stem == hashlib.sha256(path.read_bytes()).hexdigest()
    kept = dcmread(path)
    assert (kept.file_meta.MediaStorageSOPInstanceUID, kept.PatientID) == ("1.2.3", ds.PatientID)
    assert files(store, "incoming") == []
    [(relative, size_bytes)] = rows(database, "SELECT path, size_bytes FROM quarantine")
    assert size_bytes == len(data_set)
    released = intake.accept(store.pieces(relative), source=Source.C_STORE)
    assert released.state is ObjectState.STORED
    [held] = files(store, "objects")
    assert held.read_bytes()[META_BYTES:] == data_set


def test_a_transfer_syntax_that_is_no_uid_is_refused_and_kept(store: Store, intake: Intake) -> None:
    with pytest.raises(ObjectUnparsable, match="transfer syntax"):
        intake.accept(
            bare(to_bytes(make_dx())), transfer_syntax_uid="é" * 200, source=Source.C_STORE
        )
    assert len(files(store, "quarantine")) == 1


def test_meta_information_without_an_end_in_sight_is_refused(store: Store, intake: Intake) -> None:
    data = to_bytes(make_dx())
    huge = struct.pack("<HH2sHL", 2, 0x102, b"OB", 0, 70_000) + bytes(70_000)
    start = len(data) - len(bare(data))
    with pytest.raises(ObjectRefused, match="meta information is cut short"):
        intake.accept(in_chunks(data[:start] + huge + data[start:], 4096), source=Source.FOLDER)
    assert len(files(store, "quarantine")) == 1


GROWTH = """
import itertools, struct, sys
from pathlib import Path
from tests.dicom_files import make_dx, to_bytes
from triage.database.connection import open_database
from triage.ingest.files import chunks_of, open_source, span_of, stamp_of
from triage.ingest.intake import Intake
from triage.ingest.part10 import file_meta, split
from triage.ingest.stability import Candidate
from triage.records import Source
from triage.rules.policies import Policies
from triage.store import MIB, open_store

url, root, size_mib = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
door = Intake(open_database(url), open_store(root, minimum_free_mib=0), policies=Policies())
door.start()
ds = make_dx(NumberOfFrames=size_mib)
raw = bytes(split(to_bytes(ds)).encoded[:])
head = raw[:raw.index(b"\\xe0\\x7f\\x10\\x00")]

def peak_mib():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

def fragments():
    yield head + struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF)
    yield struct.pack("<HHL", 0xFFFE, 0xE000, 0)
    for _ in range(16 * size_mib):
        yield struct.pack("<HHL", 0xFFFE, 0xE000, MIB // 16)
        yield bytes(MIB // 16)
    yield struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)

def frames(path):
    meta = file_meta(sop_class_uid=ds.SOPClassUID, sop_instance_uid=ds.SOPInstanceUID,
        transfer_syntax_uid="1.2.840.10008.1.2.1")
    with path.open("wb") as file:
        file.write(meta + head + struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 0, size_mib * MIB))
        file.truncate(file.tell() + size_mib * MIB)  # sparse: no disk needed
    return Candidate(path=path, stamp=stamp_of(path), unchanged_since_s=0, closed=True)

door.accept(to_bytes(make_dx()), source=Source.FOLDER)
before = peak_mib()
door.accept(fragments(), transfer_syntax_uid="1.2.840.10008.1.2.4.90", source=Source.C_STORE)
large = frames(root / "large.dcm")
with open_source(large, root) as source:
    door.inspect(span_of(source, large))
    door.accept(chunks_of(source, large), source=Source.FOLDER)
print("GROWTH", peak_mib() - before)
door.stop()
"""


def test_large_objects_of_either_door_do_not_make_the_process_grow(
    sqlite_url: str, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, sqlite_url, str(root), "256"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    shutil.rmtree(root)
    assert float(done.stdout.split("GROWTH")[1]) < 24


@requirement("S3")
def test_any_stream_of_bytes_may_be_brought(intake: Intake) -> None:
    data = to_bytes(make_dx())
    stream = io.BytesIO(data)
    outcome = intake.accept(iter(lambda: stream.read(500), b""), source=Source.FOLDER)
    assert outcome.state is ObjectState.STORED
