"""G7: a connection that is cut at any byte leaves no part of an object, in no folder.

Each association is cut at a random byte of its C-STORE, by an orderly close or by a reset, some
after whole objects that were answered. Bound: after 1,000 cuts (30 in the short form) what is held
is exactly what was answered with success, and no file below the folder of the installation holds
the mark that each cut object carries. A receiver that is killed in the middle of a transfer leaves
nothing either once it has started again.
"""

import random
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from tests.assurance import Evidence, requirement
from tests.faults.moulds import DX, Mould
from tests.flows.program import Program, until
from tests.ingest.raw_peer import RawPeer, established, message, store_rq
from triage.database.connection import open_database
from triage.database.tables import Instance
from triage.database.tables_house import Quarantined

SEED = 20260104
MARK = b"CUT-OBJECT-"  # and 8 digits, in the place of pixels
CHUNK_BYTES = 1 << 20


@pytest.fixture
def program(sqlite_url: str, tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path, sqlite_url).start("--role", "receive", "--role", "schedule")
    yield made
    if made.process is not None:
        made.stop()


def marked(mould: Mould, number: int) -> bytes:
    """A C-STORE whose pixels repeat the mark."""
    data, mark = mould.data_set(number), MARK + f"{number:08}".encode()
    begin = len(data) - mould.pixel_bytes
    filled = data[:begin] + (mark * (mould.pixel_bytes // len(mark) + 1))[: mould.pixel_bytes]
    return message(store_rq(sop_class=DX, instance=mould.instance(number)), filled)


def cut(peer: RawPeer, stream: bytes, chance: random.Random) -> None:
    """Send up to a random byte, never the last one, and go."""
    peer.say(stream[: chance.randrange(len(stream) - 1)])
    if chance.random() < 0.5:  # a reset takes what was not read yet with it
        linger = struct.pack("ii", 1, 0)
        peer.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    peer.connection.close()


def parts(root: Path) -> list[Path]:
    """Files that are being written; each writer that runs has a folder for them."""
    return [path for path in (root / "store" / "incoming").rglob("*") if path.is_file()]


def files_with(mark: bytes, root: Path) -> list[str]:
    """Name the files below `root` in which `mark` stands."""
    found = []
    for path in sorted(root.rglob("*")):
        if path.is_file() and _holds(path, mark):
            found.append(str(path.relative_to(root)))
    return found


def _holds(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file:
        before = b""
        while chunk := file.read(CHUNK_BYTES):
            if mark in before + chunk:
                return True
            before = chunk[-len(mark) :]
    return False


@requirement("G7", bound="no part of an object after 1,000 cuts (short form: 30)")
def test_g7_a_connection_cut_at_any_byte_leaves_no_part_of_an_object(
    program: Program, evidence: Evidence, long: bool, tmp_path: Path
) -> None:
    chance = random.Random(SEED)
    trials = 1000 if long else 30
    whole, broken = Mould(DX, 16), Mould(DX, 128)
    port = program.port()
    answered: set[str] = set()
    for number in range(trials):
        with established(port) as peer:
            if chance.random() < 0.2:
                instance = whole.instance(number)
                command = store_rq(sop_class=DX, instance=instance)
                peer.say(message(command, whole.data_set(number)))
                assert peer.hear_status() == 0
                answered.add(instance)
            # Numbers that no whole object has: an object that was answered may not hide a part.
            cut(peer, marked(broken, 10**6 + number), chance)
    until(lambda: not parts(tmp_path), patience_s=30)
    held, aside = counted(program.url)
    left = files_with(MARK, tmp_path)
    losses = len(left) + len(held ^ answered) + aside
    evidence.record(trials=trials, losses=losses, worst=f"{len(left)} files with a part")
    assert left == []
    assert held == answered
    assert aside == 0
    assert program.process is not None
    assert program.process.poll() is None


@requirement("G7", bound="nothing is left of a transfer during which the receiver was killed")
def test_g7_a_receiver_killed_in_a_transfer_leaves_no_part_once_it_is_back(
    program: Program, evidence: Evidence, long: bool, tmp_path: Path
) -> None:
    chance = random.Random(SEED)
    trials = 20 if long else 2
    broken = Mould(DX, 512)
    for number in range(trials):
        port = program.port()
        with established(port) as peer:
            stream = marked(broken, number)
            peer.say(stream[: chance.randrange(len(stream) // 2, len(stream) - 1)])
            until(lambda: parts(tmp_path))  # some of it is on the disk
            program.end_with(signal.SIGKILL)
        program.start("--role", "receive", "--role", "schedule")
        program.port()
    until(lambda: not parts(tmp_path), patience_s=60)
    left = files_with(MARK, tmp_path)
    evidence.record(trials=trials, losses=len(left), worst=f"{len(left)} files with a part")
    assert left == []
    assert counted(program.url) == (set(), 0)


def counted(url: str) -> tuple[set[str], int]:
    """Return the SOP Instance UIDs that are held, and how many objects are in quarantine."""
    db = open_database(url)
    try:
        with db.read() as connection:
            held = set(connection.execute(select(Instance.sop_instance_uid)).scalars())
            aside = connection.execute(select(func.count()).select_from(Quarantined)).scalar_one()
    finally:
        db.dispose()
    return held, int(aside)
