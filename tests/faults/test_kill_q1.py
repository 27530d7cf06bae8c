"""Two workers on one queue: killed in the middle of a batch, stopped longer than their lease."""

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.assurance import Evidence, requirement
from tests.faults import kill_checks
from tests.faults.killing import Daemon, Sent, Worker, send_once, write_objects
from tests.flows.program import until
from triage.database.connection import migrate, open_database
from triage.pocket import BUNDLE

pytestmark = [
    pytest.mark.long_only,
    pytest.mark.skipif(shutil.which("storescu") is None, reason="DCMTK is not installed"),
]
SEED = 21
SETTLE_S = 900.0
JOBS = 1000
SHARE = 20  # jobs sent at a time
PATIENCE_S = 60.0
LEASE_S = 3.0  # as in the configuration of the flows
TWO_DEVICES = f"""
[[models]]
name = "pocket"
bundle = "{BUNDLE}"
devices = ["cpu", "cpu"]
"""


class House:
    """A receiver with its queue, and two workers that nobody restarts."""

    def __init__(self, daemon: Daemon, workers: Sequence[Worker]) -> None:
        self.daemon = daemon
        self.workers = workers
        self.db = open_database(daemon.program.url)
        self.sent: list[Sent] = []

    def send(self, count: int) -> None:
        """Put so many more radiographs on the queue."""
        folder = self.daemon.program.directory / "sent"
        share = write_objects(folder, count, radiographs_every=1, first=len(self.sent))
        told = send_once("dcmsend", [each.path for each in share], self.daemon.port)
        assert [status for _, status in told] == ["0000"] * len(share)
        self.sent += share

    def worker_in_the_middle(self, draw: random.Random) -> Worker:
        """Send until some worker has jobs in hand, and a moment later still has."""
        while True:
            self.send(SHARE)
            ends_s = time.monotonic() + PATIENCE_S
            while time.monotonic() < ends_s and not self.is_settled():
                busy = [worker for worker in self.workers if self._in_hand(worker)]
                if busy:
                    worker = draw.choice(busy)
                    time.sleep(draw.uniform(0, 0.2))
                    if self._in_hand(worker):
                        return worker
                time.sleep(0.01)

    def is_settled(self) -> bool:
        return kill_checks.is_settled(self.db)

    def examine(self) -> kill_checks.Findings:
        store = self.daemon.program.directory / "store"
        uids = [each.uid for each in self.sent]
        return kill_checks.examine(self.db, store, self.sent, uids, watched=True)

    def _in_hand(self, worker: Worker) -> bool:
        return kill_checks.leased_to(self.db, worker.pid) > 0


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A receiver and two workers that are being started."""
    url = f"sqlite:///{tmp_path / 'triage.sqlite'}"
    migrate(url)
    daemon = Daemon(tmp_path, url, demonstration=True, more=TWO_DEVICES)
    workers = [Worker(daemon, number) for number in (1, 2)]
    made = House(daemon, workers)
    kill_checks.watch_embeddings(made.db)
    daemon.program.start("--role", "receive", "--role", "schedule")
    try:
        for worker in workers:
            worker.start()
        until(lambda: daemon.program.role("receive"))
        yield made
    finally:
        for worker in workers:
            worker.kill()
        daemon.kill()
        made.db.dispose()


@requirement("Q1", bound="two workers, 1,000 jobs, each result recorded once")
@requirement("D1", bound="100 kills of a worker in the middle of a batch, no loss")
def test_q1_workers_killed_in_the_middle_of_a_batch_record_each_result_once(
    house: House, evidence: Evidence, long: bool
) -> None:
    kills = 100 if long else 3
    draw = random.Random(SEED)
    for _ in range(kills):
        worker = house.worker_in_the_middle(draw)
        worker.kill()
        worker.start()
    if long and len(house.sent) < JOBS:
        house.send(JOBS - len(house.sent))
    until(house.is_settled, patience_s=SETTLE_S)
    assert all(worker.stop() == 0 for worker in house.workers)
    found = house.examine()
    dead = kill_checks.dead_letters(house.db)
    evidence.record(
        trials=kills,
        losses=found.losses,
        worst=f"broken: {found}; {len(house.sent):,} jobs, {dead} dead letters",
    )
    assert found == kill_checks.Findings()
    assert dead == 0


@requirement("Q2", bound="paused longer than the lease: no loss, no double result")
def test_q2_a_worker_paused_longer_than_its_lease_adds_nothing(
    house: House, evidence: Evidence, long: bool
) -> None:
    pauses = 20 if long else 1
    draw = random.Random(SEED)
    for _ in range(pauses):
        worker = house.worker_in_the_middle(draw)
        os.kill(worker.pid, signal.SIGSTOP)
        time.sleep(LEASE_S + draw.uniform(1, 2))
        os.kill(worker.pid, signal.SIGCONT)
    until(house.is_settled, patience_s=SETTLE_S)
    assert all(worker.stop() == 0 for worker in house.workers)
    refused = sum(worker.told("result_dropped") for worker in house.workers)
    found = house.examine()
    evidence.record(
        trials=pauses,
        losses=found.losses,
        worst=f"broken: {found}; {refused} results of a lost lease refused",
    )
    assert found == kill_checks.Findings()
    assert refused or not long
