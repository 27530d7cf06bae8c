"""Old images leave the disk once they were read; their rows stay, and unread flags keep theirs."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from tests.assurance import requirement
from tests.dicom_files import make_dx, to_bytes
from tests.worker.house import POLICIES, Clock
from triage.database import worklist
from triage.database.arrivals import ArrivalOutcome, instance_paths
from triage.database.connection import Database, open_database
from triage.database.tables import Study
from triage.ingest.header import HeaderLimits
from triage.ingest.intake import Intake
from triage.operations.retention import TURN_S, expire_due
from triage.records import Source
from triage.store import Store, open_store

DAY_S = 86_400.0


class Site:
    """A database, a store and a door between them, on a clock to turn."""

    def __init__(self, url: str, path: Path) -> None:
        self.clock = Clock()
        self.db: Database = open_database(url, clock=self.clock)
        self.store: Store = open_store(path, minimum_free_mib=0)
        self.intake = Intake(self.db, self.store, policies=POLICIES, limits=HeaderLimits())

    def receive(self) -> ArrivalOutcome:
        return self.intake.accept(to_bytes(make_dx()), source=Source.C_STORE)

    def acknowledge(self, outcome: ArrivalOutcome) -> None:
        with self.db.write() as connection:
            worklist.acknowledge(
                connection, outcome.study_id, by="reader", policies=POLICIES, now=self.clock.now
            )

    def files(self) -> int:
        return len(list(self.store.object_paths()))

    def promised(self) -> int:
        with self.db.read() as connection:
            return len(list(instance_paths(connection)))


@pytest.fixture
def site(database_url: str, tmp_path: Path) -> Iterator[Site]:
    made = Site(database_url, tmp_path / "store")
    made.intake.start()
    yield made
    made.intake.stop()
    made.store.close()
    made.db.dispose()


@requirement("P3")
def test_a_study_that_was_read_expires_after_its_days_and_not_before(site: Site) -> None:
    site.acknowledge(site.receive())
    site.clock.turn(30 * DAY_S)
    assert expire_due(site.db, site.store, retention_days=30) == 0
    site.clock.turn(60)
    assert expire_due(site.db, site.store, retention_days=30) == 1
    assert (site.files(), site.promised()) == (0, 0)
    assert expire_due(site.db, site.store, retention_days=30) == 0


@requirement("P3")
def test_a_study_that_nobody_read_keeps_its_images(site: Site) -> None:
    outcome = site.receive()
    with site.db.write() as connection:
        connection.execute(
            update(Study).where(Study.id == outcome.study_id).values(flagged_at=site.clock.now)
        )
    site.clock.turn(400 * DAY_S)
    assert expire_due(site.db, site.store, retention_days=30) == 0
    assert (site.files(), site.promised()) == (1, 1)


def test_many_deletions_leave_the_other_sweeps_their_turn(site: Site) -> None:
    for _ in range(3):
        site.acknowledge(site.receive())
    site.clock.turn(31 * DAY_S)
    slow = itertools.count(step=TURN_S / 2)  # each look at the clock is half a turn later
    assert expire_due(site.db, site.store, retention_days=30, monotonic=lambda: next(slow)) == 1
    assert (site.files(), site.promised()) == (2, 2)
    assert expire_due(site.db, site.store, retention_days=30) == 2


def test_images_that_are_sent_again_are_held_again(site: Site) -> None:
    ds = make_dx()
    site.acknowledge(site.intake.accept(to_bytes(ds), source=Source.C_STORE))
    site.clock.turn(31 * DAY_S)
    assert expire_due(site.db, site.store, retention_days=30) == 1
    site.intake.accept(to_bytes(ds), source=Source.C_STORE)
    assert (site.files(), site.promised()) == (1, 1)


def test_only_what_is_due_goes(site: Site) -> None:
    site.acknowledge(site.receive())
    site.clock.turn(20 * DAY_S)
    site.acknowledge(site.receive())
    site.clock.turn(11 * DAY_S)
    assert expire_due(site.db, site.store, retention_days=30) == 1
    assert (site.files(), site.promised()) == (1, 1)
