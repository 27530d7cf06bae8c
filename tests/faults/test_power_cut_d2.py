"""D2: after a power cut every acknowledged image is there and the database is whole.

A receiver is traced while four senders store; its changes to files and directories are replayed up
to a moment, without what was not synced by then (tests/faults/power_cut.py): once losing all of
that, once keeping a random half. The moments are those at which an answer leaves, when least time
has passed for anything to reach the disk by itself, and random ones. Bound: at every moment each
object that was answered with success has its row, its job and its file, byte for byte; no row is
without its file; SQLite finds nothing wrong. A daemon that starts on what is left takes in more.
"""

import random
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

from tests.assurance import Evidence, requirement
from tests.faults.moulds import DX, Mould
from tests.faults.power_cut import Recording, strace
from tests.flows.program import Program, until
from tests.ingest.raw_peer import RELEASE_RQ, established, message, store_rq

SEED = 20260105
SENDERS = 4
MOST = 1000  # objects
DATABASE = "triage.sqlite"
STORE = "disk/held/store"  # made by the first start
MOULD = Mould(DX, 32)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    folder = tmp_path / "house"
    folder.mkdir()
    made = house_in(folder)
    assert made.call("migrate").returncode == 0
    yield made
    if made.process is not None:
        made.stop()


def house_in(folder: Path) -> Program:
    """The store is away from the database: its syncs of its own folder would hide a missing one."""
    made = Program(folder, f"sqlite:///{folder / DATABASE}")
    text = made.configuration.read_text()
    made.configuration.write_text(text.replace(str(folder / "store"), str(folder / STORE)))
    return made


def send(port: int, numbers: Sequence[int], refused: list[int]) -> None:
    with established(port) as peer:
        peer.connection.settimeout(60)
        for number in numbers:
            command = store_rq(number % 60000 + 1, sop_class=DX, instance=MOULD.instance(number))
            peer.say(message(command, MOULD.data_set(number)))
            if status := peer.hear_status():
                refused.append(status)
        peer.say(RELEASE_RQ)
        peer.hear()


def traced(program: Program, trace: Path, count: int) -> Recording:
    """Let `count` objects be stored under the tracer, from the first start of a house."""
    root = program.directory
    before = {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }
    program.start("--role", "receive", under=strace(trace))
    port, refused = program.port(), list[int]()
    shares = [range(begin, count, SENDERS) for begin in range(SENDERS)]
    threads = [threading.Thread(target=send, args=(port, share, refused)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == []
    program.stop()
    until(lambda: time.time() - trace.stat().st_mtime > 0.5)
    return Recording(trace, root, before)


def answers(recording: Recording, count: int) -> dict[int, int]:
    """Return object number -> the line at which its answer left."""
    names = {MOULD.instance(number).encode(): number for number in range(count)}
    found: dict[int, int] = {}
    for line, data in recording.said:
        for name, number in names.items():
            if name in data:
                found.setdefault(number, line)
    return found


@cache
def numbers() -> dict[str, int]:
    """SOP Instance UID to number."""
    return {MOULD.instance(number): number for number in range(MOST)}


def losses(house: Path, promised: Sequence[int]) -> list[str]:
    """Say what of the promises is not there, and what else is wrong."""
    found = []
    with sqlite3.connect(house / DATABASE) as database:
        (whole,) = database.execute("PRAGMA integrity_check").fetchone()
        held = dict(database.execute("SELECT sop_instance_uid, path FROM instances").fetchall())
        (jobs,) = database.execute("SELECT count(*) FROM jobs").fetchone()
    database.close()
    if whole != "ok":
        found.append("the database is damaged")
    if jobs != len(held):
        found.append(f"{jobs} jobs for {len(held)} images")
    for number in promised:
        if MOULD.instance(number) not in held:
            found.append("an image without its row")
    known = numbers()
    for instance, path in held.items():
        file = house / STORE / path
        if not file.is_file():
            found.append("a row without its file")
        elif file.read_bytes()[512:] != MOULD.data_set(known[instance]):
            found.append("a file that is not what was sent")
    return found


@requirement("D2", bound="nothing that was answered is lost at any of 150 moments, by replay of a "
             "trace (short form: 24)")  # fmt: skip
def test_d2_what_was_answered_outlives_a_power_cut(
    program: Program, evidence: Evidence, long: bool, tmp_path: Path
) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed (apt-get install strace)")
    chance = random.Random(SEED)
    count, cuts = (120, 150) if long else (16, 24)
    recording = traced(program, tmp_path / "trace", count)
    left_at = answers(recording, count)
    assert len(left_at) == count
    first = min(left_at.values())
    moments = [line + 1 for line in chance.sample(sorted(left_at.values()), min(count, cuts // 2))]
    moments += [chance.randrange(first, recording.lines) for _ in range(cuts - len(moments))]
    wrong: list[str] = []
    for moment in moments:
        promised = [number for number, line in left_at.items() if line < moment]
        for keeping in (None, chance):
            house = tmp_path / "after"
            recording.replayed(moment, house, keeping)
            wrong += losses(house, promised)
            shutil.rmtree(house)
    evidence.record(
        trials=2 * len(moments),
        losses=len(wrong),
        worst="; ".join(sorted(set(wrong))[:3]) or "none",
    )
    assert wrong == []
    goes_on(recording, recording.lines, tmp_path / "after", count)


def goes_on(recording: Recording, line: int, house: Path, count: int) -> None:
    recording.replayed(line, house)
    program = house_in(house).start("--role", "receive")
    try:
        refused: list[int] = []
        send(program.port(), [count], refused)
        assert refused == []
        assert losses(house, range(count + 1)) == []
    finally:
        program.stop()
