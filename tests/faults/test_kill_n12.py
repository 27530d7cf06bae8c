"""SIGTERM while dcmsend sends: what has begun is finished, nothing is answered and lost."""

import random
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.assurance import Evidence, requirement
from tests.faults import kill_checks
from tests.faults.killing import BATCH, Daemon, send_once, write_objects
from tests.flows.program import until
from triage.database.connection import Database, migrate, open_database
from triage.database.tables import Instance

pytestmark = pytest.mark.skipif(shutil.which("dcmsend") is None, reason="DCMTK is not installed")
SEED = 23
SENT = 500
DRAIN_S = 20.0  # what the receiver gives to open associations


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    url = f"sqlite:///{tmp_path / 'triage.sqlite'}"
    migrate(url)
    made = Daemon(tmp_path, url)
    yield made
    made.kill()


@pytest.fixture
def db(daemon: Daemon) -> Iterator[Database]:
    opened = open_database(daemon.program.url)
    yield opened
    opened.dispose()


@requirement("N12", bound="SIGTERM during 500 stores: all that was begun is answered, exit 0")
def test_n12_sigterm_lets_a_sender_finish_and_loses_nothing(
    daemon: Daemon, db: Database, tmp_path: Path, evidence: Evidence, long: bool
) -> None:
    draw = random.Random(SEED)
    rounds = 20 if long else 1
    losses, slowest_s, cut, amid = 0, 0.0, 0, 0
    senders = ThreadPoolExecutor(1)
    for number in range(rounds):
        sent = write_objects(tmp_path / str(number), SENT, radiographs_every=0, first=SENT * number)
        daemon.start()
        held = held_by(db)
        paths = [each.path for each in sent]
        told = senders.submit(send_once, "dcmsend", paths, daemon.port)
        until(partial(is_under_way, db, held))
        time.sleep(draw.uniform(0, 0.2))
        amid += held_by(db) < held + SENT
        asked_s = time.monotonic()
        signal_and_see_the_door_closed(daemon)
        code = daemon.stop()
        took_s = time.monotonic() - asked_s
        answered = {uid for uid, status in told.result() if status == "0000"}
        found = kill_checks.examine(db, tmp_path / "store", sent, answered, watched=False)
        # What the limit cuts off has no answer, so its sender keeps it; before, nothing is.
        unfinished = SENT - len(answered)
        cut += unfinished if took_s >= DRAIN_S else 0
        losses += unfinished if took_s < DRAIN_S else 0
        losses += found.missing + found.altered + found.doubled + (code != 0)
        slowest_s = max(slowest_s, took_s)
    worst = f"{slowest_s:.1f} s from SIGTERM to the end, {cut} unanswered at the limit"
    evidence.record(trials=rounds * SENT, losses=losses, worst=worst)
    assert losses == 0
    assert amid > rounds / 2  # or nothing was interrupted
    assert slowest_s < DRAIN_S + 10


def signal_and_see_the_door_closed(daemon: Daemon) -> None:
    """Send SIGTERM; nobody else gets in while the sender goes on."""
    process = daemon.program.process
    assert process is not None
    process.terminate()

    def is_closed() -> bool:
        try:
            socket.create_connection(("127.0.0.1", daemon.port), 1).close()
        except OSError:
            return True
        return False

    until(is_closed, patience_s=5)


def is_under_way(db: Database, held: int) -> bool:
    return held_by(db) >= held + BATCH


def held_by(db: Database) -> int:
    with db.read() as connection:
        return kill_checks.count(connection, Instance.id)
