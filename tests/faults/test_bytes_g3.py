"""G3: the stored data set is the sent one, byte for byte, by either door.

Radiographs in each transfer syntax that the test tools write, and ones with what a careless writer
leaves: private elements, group lengths, trailing padding, bytes of no declared character set, empty
items, sequences of undefined length, a preamble of another format. Each goes to the daemon as one
C-STORE and as one dropped file. Bound: what is held after the file meta information is what was
sent, to the last byte; the preamble is zeros.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from sqlalchemy import select

from tests.assurance import Evidence, requirement
from tests.dicom_files import make_dx, to_bytes
from tests.flows.program import Program, until
from tests.ingest.raw_peer import DX, established, message, store_rq
from triage.database.connection import open_database
from triage.database.tables import Instance

SYNTAXES = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
    uid.JPEG2000Lossless,
)
GROUP_LENGTH = struct.pack("<HH2sHL", 0x0008, 0x0000, b"UL", 4, 1234)  # a wrong one
PADDING = struct.pack("<HH2sHL", 0xFFFC, 0xFFFC, b"OB", 0, 10) + bytes(10)
TIFF = b"II*\0" + bytes(range(124))


@pytest.fixture
def program(sqlite_url: str, tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path, sqlite_url).start("--role", "receive", "--role", "watch")
    yield made
    if made.process is not None:
        made.stop()


def private() -> Dataset:
    ds = make_dx()
    block = ds.private_block(0x0009, "ACME 1.0", create=True)
    block.add_new(0x01, "UN", b"\x00\xff\x7f\x80" * 9)
    block.add_new(0x02, "OB", bytes(range(256)))
    return ds


def nested() -> Dataset:
    ds, item = make_dx(), Dataset()
    item.CodeValue = "T-D3000"
    item.is_undefined_length_sequence_item = True
    ds.AnatomicRegionSequence = Sequence([item, Dataset()])
    ds["AnatomicRegionSequence"].is_undefined_length = True
    ds.ProcedureCodeSequence = Sequence([])
    return ds


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One object: `meta` is its file meta information with the prefix."""

    instance: str
    syntax: str
    meta: bytes
    data: bytes


def variants() -> list[Sent]:
    """Return objects of every kind, with UIDs of their own."""
    made = [make_dx(transfer_syntax=syntax) for syntax in SYNTAXES]
    made += [private(), nested(), make_dx(np.full((65, 65), 7, np.uint16))]
    sent = [_sent(ds) for ds in made]
    for begin, end in ((GROUP_LENGTH, b""), (b"", PADDING), (GROUP_LENGTH, PADDING)):
        plain = _sent(make_dx())
        sent.append(replace(plain, data=begin + plain.data + end))
    undeclared = _sent(make_dx(patient_name="XXXXXX"))
    latin = undeclared.data.replace(b"XXXXXX", b"M\xfcll\xe9r")
    return [*sent, replace(undeclared, data=latin)]


def _sent(ds: Dataset) -> Sent:
    whole = to_bytes(ds)
    begin = 144 + int.from_bytes(whole[140:144], "little")
    syntax = str(ds.file_meta.TransferSyntaxUID)
    return Sent(
        instance=str(ds.SOPInstanceUID), syntax=syntax, meta=whole[128:begin], data=whole[begin:]
    )


def send(program: Program, objects: list[Sent]) -> list[int]:
    contexts = [(2 * number + 1, DX, (each.syntax,)) for number, each in enumerate(objects)]
    statuses = []
    with established(program.port(), contexts) as peer:
        for (number, _, _), each in zip(contexts, objects, strict=True):
            command = store_rq(sop_class=DX, instance=each.instance)
            peer.say(message(command, each.data, context_id=number))
            statuses.append(peer.hear_status())
    return statuses


def drop(program: Program, objects: list[Sent]) -> None:
    for number, each in enumerate(objects):
        (program.watched / f"{number}.dcm").write_bytes(TIFF + each.meta + each.data)


def held(program: Program) -> dict[str, bytes]:
    """Return what is held, by SOP Instance UID: the whole file."""
    db = open_database(program.url)
    try:
        with db.read() as connection:
            rows = connection.execute(select(Instance.sop_instance_uid, Instance.path)).all()
    finally:
        db.dispose()
    return {row.sop_instance_uid: (program.store / row.path).read_bytes() for row in rows}


def as_sent(file: bytes, each: Sent) -> bool:
    begin = 144 + int.from_bytes(file[140:144], "little")
    return file[:132] == bytes(128) + b"DICM" and file[begin:] == each.data


@requirement("G3", bound="the data set byte for byte, by C-STORE and by folder; the preamble zeros")
def test_g3_what_is_held_is_what_was_sent(program: Program, evidence: Evidence, long: bool) -> None:
    rounds = 20 if long else 1
    sent, dropped = ([each for _ in range(rounds) for each in variants()] for _ in range(2))
    statuses = [status for part in batched(sent) for status in send(program, part)]
    drop(program, dropped)
    until(lambda: len(held(program)) >= len(sent) + len(dropped))
    files = held(program)
    other = [
        (each.syntax, number)
        for number, each in enumerate([*sent, *dropped])
        if each.instance not in files or not as_sent(files[each.instance], each)
    ]
    evidence.record(trials=len(sent) + len(dropped), losses=len(other))
    assert set(statuses) == {0}
    assert other == []


def batched(objects: list[Sent]) -> Iterator[list[Sent]]:
    """As many as one association has contexts for."""
    for start in range(0, len(objects), 128):
        yield objects[start : start + 128]
