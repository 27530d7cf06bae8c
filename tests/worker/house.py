"""A whole house without roles: real store, door, database and decode pool, a clock to turn."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from sqlalchemy import select

from tests.builders import make_policies
from tests.dicom_files import make_dx, to_bytes
from triage.database.arrivals import ArrivalOutcome
from triage.database.connection import Database, open_database
from triage.database.tables import Instance, ResultRow, Study
from triage.database.tables_house import JobRow
from triage.imaging.decode_pool import DecodePool
from triage.ingest.header import HeaderLimits
from triage.ingest.intake import Intake
from triage.records import Source
from triage.rules.policies import Policies
from triage.rules.retry import RetryPolicy
from triage.store import Store, open_store
from triage.worker.loop import AnalysisWorker
from triage.worker.models import LoadedModel
from triage.worker.roster import Roster
from triage.worker.settings import WorkerSettings

MORNING = datetime(2024, 1, 1, 9, 0, tzinfo=UTC)
SETTINGS = WorkerSettings(batch_wait_ms=2000, lease_s=60.0, heartbeat_s=15.0, idle_s=0.01)
POLICIES = make_policies(retry=RetryPolicy(attempts=2, base_s=10.0, max_s=10.0))


class Clock:
    """The database's clock, for tests to turn."""

    def __init__(self) -> None:
        self.now = MORNING

    def __call__(self) -> datetime:
        return self.now

    def turn(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def radiograph(brightness: float, *, seed: int = 0, **elements: Any) -> Dataset:
    """Return a 12-bit DX whose rendering has this mean brightness, with noise so as not blank."""
    noise = np.random.default_rng(seed).uniform(-200, 200, (64, 64))
    pixels = np.clip(brightness * 4095 + noise - noise.mean(), 0, 4095).astype(np.uint16)
    return make_dx(pixels, bits_stored=12, WindowCenter=2048, WindowWidth=4096, **elements)


@dataclass
class House:
    """`clock` moves only when a test turns it."""

    db: Database
    store: Store
    intake: Intake
    pool: DecodePool
    clock: Clock
    policies: Policies = field(default_factory=lambda: POLICIES)

    def receive(self, ds: Dataset) -> ArrivalOutcome:
        return self.intake.accept(to_bytes(ds), source=Source.C_STORE, sender_ae_title="SENDER")

    def worker(
        self,
        *models: LoadedModel,
        owner: str = "one",
        monotonic: Callable[[], float] = time.monotonic,
        **settings: Any,
    ) -> AnalysisWorker:
        return AnalysisWorker(
            self.db,
            self.store,
            Roster(models, monotonic=monotonic),
            self.pool,
            owner=owner,
            policies=self.policies,
            settings=replace(SETTINGS, **settings),
            stop=Event(),
            monotonic=monotonic,
        )

    def study(self, outcome: ArrivalOutcome) -> dict[str, Any]:
        return self.rows(select(Study.__table__).where(Study.id == outcome.study_id))[0]

    def results(self, outcome: ArrivalOutcome) -> list[dict[str, Any]]:
        table = ResultRow.__table__
        return self.rows(
            select(table).where(ResultRow.study_id == outcome.study_id).order_by(ResultRow.id)
        )

    def jobs(self, outcome: ArrivalOutcome) -> list[dict[str, Any]]:
        table = JobRow.__table__
        return self.rows(
            select(table).where(JobRow.study_id == outcome.study_id).order_by(JobRow.id)
        )

    def object_state(self, outcome: ArrivalOutcome) -> str:
        return str(self.instance(outcome)["state"])

    def path(self, outcome: ArrivalOutcome) -> str:
        return str(self.instance(outcome)["path"])

    def instance(self, outcome: ArrivalOutcome) -> dict[str, Any]:
        table = Instance.__table__
        return self.rows(select(table).where(Instance.id == outcome.instance_id))[0]

    def rows(self, statement: Any) -> list[dict[str, Any]]:
        with self.db.read() as connection:
            return [dict(row._mapping) for row in connection.execute(statement)]


@contextmanager
def open_house(url: str, directory: Path, pool: DecodePool) -> Iterator[House]:
    """Open a house on a migrated database, its store under `directory`."""
    clock = Clock()
    db = open_database(url, clock=clock)
    store = open_store(directory / "store", minimum_free_mib=0)
    intake = Intake(db, store, policies=POLICIES, limits=HeaderLimits())
    intake.start()
    try:
        yield House(db=db, store=store, intake=intake, pool=pool, clock=clock)
    finally:
        intake.stop()
        store.close()
        db.dispose()


def drain(worker: AnalysisWorker) -> None:
    """Turn until there is nothing to do, words included."""
    turns = 0
    while worker.turn():
        turns += 1
        assert turns < 200


def look_only(worker: AnalysisWorker) -> None:
    """Turn once over everything that waits: one batch of analyses, no words."""
    assert worker.turn()


def names(rows: Sequence[dict[str, Any]], key: str) -> list[Any]:
    return [row[key] for row in rows]
