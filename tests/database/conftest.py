"""A database whose clock the test moves, and shorthand for what happens to it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from tests.builders import make_policies
from triage.database import arrivals, queue, results, worklist
from triage.database.base import Base
from triage.database.connection import Database, open_database
from triage.database.tables import Study
from triage.records import (
    Analysis,
    AnalysisResult,
    Arrival,
    Finding,
    Job,
    JobKind,
    Mode,
    ModelIdentity,
    Rank,
)
from triage.rules.policies import Policies

NINE = datetime(2026, 1, 2, 9, 0, tzinfo=UTC)
MODEL = ModelIdentity(name="toy", version="1", digest="d" * 64)


@dataclass
class Clock:
    """The time, moved by hand."""

    now: datetime = NINE

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def analysed(probability: float = 0.9, *, flagged: bool = True, **changes: Any) -> AnalysisResult:
    """Return what a bundle says that found (or did not find) a pneumothorax."""
    finding = Finding(
        name="pneumothorax",
        code=None,
        probability=probability,
        operating_point=0.5,
        flagged=flagged,
        raises_to=Rank.HIGH,
    )
    values: dict[str, Any] = {
        "model": MODEL,
        "mode": Mode.SERVE,
        "analysis": Analysis.ANALYSED,
        "findings": (finding,),
    }
    return AnalysisResult(**values | changes)


@dataclass
class Room:
    """One database with a clock and policies: each method is one transaction."""

    db: Database
    clock: Clock
    policies: Policies = field(default_factory=make_policies)

    def arrive(self, arrival: Arrival) -> arrivals.ArrivalOutcome:
        with self.db.write() as connection:
            return arrivals.record_arrival(
                connection, arrival, policies=self.policies, now=self.clock()
            )

    def close(self) -> int:
        with self.db.write() as connection:
            series = arrivals.close_due_series(connection, policies=self.policies, now=self.clock())
            arrivals.close_due_studies(connection, policies=self.policies, now=self.clock())
            return series

    def claim(
        self,
        *kinds: JobKind,
        owner: str = "worker",
        limit: int = 100,
        without_suspects: bool = False,
    ) -> list[Job]:
        return queue.claim(
            self.db,
            kinds=kinds or [JobKind.ANALYSE],
            owner=owner,
            lease_s=60,
            limit=limit,
            without_suspects=without_suspects,
        )

    def commit(self, job: Job, *said: AnalysisResult, **changes: Any) -> bool:
        values: dict[str, Any] = {
            "pixel_digests": {},
            "embeddings": {},
            "policies": self.policies,
            "caption_due": False,
        }
        return results.commit_analysis(self.db, job, said or [analysed()], **values | changes)

    def acknowledge(self, study_id: int, by: str = "reader") -> None:
        with self.db.write() as connection:
            worklist.acknowledge(
                connection, study_id, by=by, policies=self.policies, now=self.clock()
            )

    def study(self, study_id: int) -> Any:
        return self.rows(Study, Study.id == study_id)[0]

    def rows(self, table: type[Base], *conditions: Any) -> list[Any]:
        columns = table.__table__
        statement = select(columns).where(*conditions).order_by(*columns.primary_key)
        with self.db.read() as connection:
            return list(connection.execute(statement))

    def reading_order(self) -> list[str]:
        """Return the Study Instance UIDs of the open studies as they should be read."""
        with self.db.read() as connection:
            return list(
                connection.exec_driver_sql(
                    "SELECT study_instance_uid FROM worklist"
                    " WHERE reading_order IS NOT NULL ORDER BY reading_order"
                ).scalars()
            )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def room(database_url: str, clock: Clock) -> Iterator[Room]:
    db = open_database(database_url, clock=clock)
    yield Room(db=db, clock=clock)
    db.dispose()


@pytest.fixture
def sqlite_room(sqlite_url: str, clock: Clock) -> Iterator[Room]:
    """Return a room on SQLite alone: PostgreSQL scans small tables whatever their indices are."""
    db = open_database(sqlite_url, clock=clock)
    yield Room(db=db, clock=clock)
    db.dispose()
