"""The whole daemon killed while several senders store: what was answered is there, once."""

import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.assurance import Evidence, requirement
from tests.benchmarks.measuring import LeftOut, free_port, postgres, wait_for_port
from tests.faults import kill_checks, peers
from tests.faults.killing import (
    RADIOGRAPHS_EVERY,
    Daemon,
    Receiver,
    Senders,
    Sent,
    descendants,
    finish,
    send_once,
    storm,
    write_objects,
)
from tests.flows.program import until
from triage.database.connection import Database, migrate, open_database

pytestmark = pytest.mark.skipif(shutil.which("storescu") is None, reason="DCMTK is not installed")
SEED = 20
FULL, SHORT, BESIDE = (200, 10_000), (5, 160), (40, 2_000)  # kills, objects
SETTLE_S = 900.0
SEEN_BEFORE = 20  # pictures that come once more, as other images


@pytest.fixture
def db(durable_url: str) -> Iterator[Database]:
    opened = open_database(durable_url)
    yield opened
    opened.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def durable_url(request: pytest.FixtureRequest, tmp_path: Path, long: bool) -> Iterator[str]:
    """An empty, migrated database that syncs what it commits; PostgreSQL in the long form."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            url = f"sqlite:///{tmp_path / 'triage.sqlite'}"
        elif not long:
            pytest.skip("PostgreSQL is tried in the long form")
        else:
            try:
                url = stack.enter_context(postgres(tmp_path))
            except LeftOut as missing:
                pytest.skip(str(missing))
        migrate(url)
        yield url


@requirement("D1", bound="200 kills of the daemon, 10,000 stores, no loss; then no picture is "
             "encoded again whose embedding was committed")  # fmt: skip
def test_d1_what_was_answered_survives_the_daemons_death_at_any_moment(
    durable_url: str, db: Database, tmp_path: Path, evidence: Evidence, long: bool
) -> None:
    kills, count = FULL if long else SHORT
    more = '[logging]\nlevel = "debug"\n' if long else ""
    daemon = Daemon(tmp_path, durable_url, demonstration=long, more=more)
    sent = write_objects(tmp_path / "sent", count)
    twins: list[Sent] = []
    try:
        with Senders(sent, daemon.port, seed=SEED) as senders:
            storm(
                daemon,
                senders,
                kills=kills,
                draw=random.Random(SEED),
                longest_s=0.4,  # in which the 50 objects of one life take about half
                at_work=partial(worker_at_work, daemon) if long else None,
                at_work_every=20,
            )
            daemon.start()
            finish(daemon, senders, patience_s=SETTLE_S)
        until(lambda: kill_checks.is_settled(db), patience_s=SETTLE_S)
        until(lambda: not list((tmp_path / "store" / "incoming").rglob("*.part")), patience_s=60)
        if long:
            twins = send_again_as_others(tmp_path / "twins", daemon.port)
            until(lambda: kill_checks.is_settled(db), patience_s=SETTLE_S)
        assert daemon.stop() == 0
    finally:
        daemon.kill()
    log = daemon.program.log if long else None
    answered = senders.answered.keys() | {each.uid for each in twins}
    store, everything = tmp_path / "store", [*sent, *twins]
    found = kill_checks.examine(db, store, everything, answered, watched=False, log=log)
    evidence.record(
        trials=kills,
        losses=found.losses,
        worst=f"broken: {found}; {senders.stores:,} stores answered 0x0000,"
        f" {kill_checks.dead_letters(db)} dead letters; studies by outcome"
        f" {kill_checks.studies_by_analysis(db)}",
    )
    assert found == kill_checks.Findings()
    assert len(senders.answered) == count
    assert log is None or kill_checks.ENCODED in log.read_text("utf-8", errors="replace")


@requirement("D1", bound="the same of other receivers, beside ours")
@pytest.mark.skipif(not peers.installed(), reason="no other receiver is installed")
def test_d1_beside_other_receivers(tmp_path: Path, evidence: Evidence, long: bool) -> None:
    if not long:
        pytest.skip("other receivers are tried in the long form")
    kills, count = BESIDE
    sent = write_objects(tmp_path / "sent", count, radiographs_every=0)
    told = {}
    for kind in peers.installed():
        peer = kind(tmp_path / kind.program)
        answered = _answered_in_a_storm(peer, sent, kills)
        peer.start()
        try:
            held = peer.held()
        finally:
            peer.kill()
        lost = sum(1 for each in sent if each.uid in answered and held.get(each.uid) != each.pixels)
        told[kind.name()] = f"{kills} kills: {lost} of {len(answered):,} answered objects lost"
    daemon = Daemon(tmp_path, f"sqlite:///{tmp_path / 'triage.sqlite'}")
    migrate(daemon.program.url)
    answered = _answered_in_a_storm(daemon, sent, kills)
    db = open_database(daemon.program.url)
    found = kill_checks.examine(db, tmp_path / "store", sent, answered, watched=False)
    db.dispose()
    losses = found.missing + found.altered + found.doubled
    evidence.record(trials=kills, losses=losses, worst=f"{len(answered):,} answered", peers=told)
    assert losses == 0


def test_a_lost_object_does_not_come_back_by_being_sent_again(tmp_path: Path) -> None:
    sent = write_objects(tmp_path / "sent", 24, radiographs_every=0)
    port = free_port()
    receiver = subprocess.Popen(["storescp", "--ignore", str(port)])
    try:
        wait_for_port(port, receiver)
        with Senders(sent, port, seed=SEED) as senders:
            senders.release(len(sent))
            until(lambda: senders.stores >= 3 * len(sent))
    finally:
        receiver.kill()
        receiver.wait()
    assert len(senders.answered) == len(sent)
    assert sum(1 for count in senders.answered.values() if count == 1) >= len(sent) // 2


def send_again_as_others(folder: Path, port: int) -> list[Sent]:
    """Send pictures that were looked at before, each as another image of another study."""
    made = [
        each
        for number in range(SEEN_BEFORE)
        for each in write_objects(folder, 1, first=RADIOGRAPHS_EVERY * number)
    ]
    told = send_once("storescu", [each.path for each in made], port)
    assert [status for _, status in told] == ["0000"] * len(made)
    return made


def _answered_in_a_storm(receiver: Receiver, sent: Sequence[Sent], kills: int) -> set[str]:
    try:
        with Senders(sent, receiver.port, seed=SEED) as senders:
            storm(receiver, senders, kills=kills, draw=random.Random(SEED), longest_s=1.0)
            return set(senders.answered)
    finally:
        receiver.kill()


def worker_at_work(daemon: Daemon) -> None:
    """Wait until the worker of this life serves; rows of killed ones stay for a while."""
    process = daemon.program.process
    assert process is not None

    def serves() -> bool:
        mine = descendants(process.pid)
        return any(
            row["role"] == "analyse" and row["state"] == "running" and row["pid"] in mine
            for row in daemon.program.status()["roles"]
        )

    until(serves)
