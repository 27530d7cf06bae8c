"""Q4: a schedule that is late, doubled or dead for an hour changes nothing but the time.

Series of CT slices arrive while the sweeps run each second, not at all for an hour, or twice at
once; leases end and priorities come due meanwhile. Bounds: each series is closed and queued exactly
once, each lapsed lease is settled once, and after one round of sweeps the house is what it would
have been with a punctual schedule. With real processes: two schedules at once, then none, then one.
No table of the scheduler's exists: work lies in ours alone.
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import inspect, select

from tests.assurance import Evidence, requirement
from tests.builders import make_arrival, make_ct_header, make_policies, new_uid
from tests.database.conftest import Clock
from tests.dicom_files import make_ct_series
from tests.flows.program import Program, until
from triage.database import arrivals, queue
from triage.database.connection import Database, open_database
from triage.database.tables import Series, Study
from triage.database.tables_house import JobRow
from triage.operations.sweeps import standard_sweeps
from triage.records import JobKind, JobState

pytestmark = pytest.mark.long_only

POLICIES = make_policies()
SHORT, LONG = 40, 400  # series
SLICES = 3
HOUR_S = 3600
AT_ONCE = 4  # schedules


@dataclass(frozen=True, slots=True, kw_only=True)
class Houses:
    """Two of one content and one clock: what is tried, and one whose schedule is punctual."""

    tried: Database
    punctual: Database
    clock: Clock


@pytest.fixture
def houses(database_url: str, sqlite_template: Path, tmp_path: Path) -> Iterator[Houses]:
    path = tmp_path / "punctual.sqlite"
    path.write_bytes(sqlite_template.read_bytes())
    clock = Clock()
    made = Houses(
        tried=open_database(database_url, clock=clock),
        punctual=open_database(f"sqlite:///{path}", clock=clock),
        clock=clock,
    )
    yield made
    made.tried.dispose()
    made.punctual.dispose()


def receive(db: Database, count: int) -> None:
    """Series come in, and as many radiographs, half of which a worker takes and then dies."""
    with db.write() as connection:
        now = db.now(connection)
        for _ in range(count):
            study, series = new_uid(), new_uid()
            for _ in range(SLICES):
                header = make_ct_header(study_instance_uid=study, series_instance_uid=series)
                arrivals.record_arrival(
                    connection, make_arrival(header), policies=POLICIES, now=now
                )
            arrivals.record_arrival(connection, make_arrival(), policies=POLICIES, now=now)
    queue.claim(db, kinds=[JobKind.ANALYSE], owner="dead", lease_s=60, limit=count // 2)


def sweep(db: Database) -> None:
    for each in standard_sweeps(db, POLICIES):
        each.run()


def sweep_at_once(db: Database, times: int) -> None:
    """Several schedules on one house, each with its own threads, as on several hosts."""
    with ThreadPoolExecutor(times) as threads:
        for done in [threads.submit(sweep, db) for _ in range(times)]:
            done.result()


def state(db: Database) -> dict[str, Any]:
    """Return what the sweeps decide about, without times of their own."""
    with db.read() as connection:
        jobs = connection.execute(
            select(JobRow.subject, JobRow.subject_id, JobRow.generation, JobRow.state)
        ).all()
        opened = connection.execute(select(Series.id).where(Series.closes_at.is_not(None))).all()
        places = connection.execute(select(Study.priority, Study.sort_key).order_by(Study.id)).all()
    return {
        "jobs": sorted(map(tuple, jobs)),
        "open series": len(opened),
        "places": [tuple(row) for row in places],
    }


def doubled(found: dict[str, Any]) -> int:
    """How many subjects have more than one job of one generation."""
    counts = Counter(job[:3] for job in found["jobs"])
    return sum(count - 1 for count in counts.values())


@requirement("Q4", bound="after an hour without, one round gives what a punctual schedule gave")
@pytest.mark.parametrize("schedules", [1, AT_ONCE])
def test_q4_a_schedule_that_was_dead_for_an_hour_is_caught_up_with(
    houses: Houses, evidence: Evidence, long: bool, schedules: int
) -> None:
    count = LONG if long else SHORT
    receive(houses.tried, count)
    receive(houses.punctual, count)
    for _ in range(60):
        houses.clock.advance(HOUR_S / 60)
        sweep(houses.punctual)
    sweep_at_once(houses.tried, schedules)
    found, expected = state(houses.tried), state(houses.punctual)
    lost = len(set(expected["jobs"]) - set(found["jobs"])) + found["open series"]
    lost += doubled(found) + (found["places"] != expected["places"])
    evidence.record(trials=2 * count, losses=lost, worst=f"{schedules} schedules at once")
    assert lost == 0
    assert {job[3] for job in found["jobs"]} == {JobState.QUEUED}
    assert len(found["jobs"]) == 2 * count


@requirement("Q4", bound="no table of the scheduler's")
def test_q4_no_work_lies_in_a_table_of_the_scheduler(database: Database) -> None:
    sweep(database)
    with database.read() as connection:
        tables = inspect(connection).get_table_names()
    assert tables
    assert not [name for name in tables if "apscheduler" in name]


@requirement("Q4", bound="each series looked for exactly once, with two, no and one schedule")
@pytest.mark.timeout(300)
def test_q4_two_schedules_then_none_then_one(
    sqlite_url: str, tmp_path: Path, evidence: Evidence, long: bool
) -> None:
    rounds = 4 if long else 1
    doors = Program(tmp_path, sqlite_url)
    schedules = [Program(tmp_path, sqlite_url) for _ in range(2)]
    volume = np.zeros((SLICES, 16, 16))
    sent: list[str] = []

    def send() -> None:
        series = make_ct_series(volume)
        assert set(doors.send(series)) == {0x0000}
        sent.append(str(series[0].SeriesInstanceUID))

    try:
        doors.start("--role", "receive")
        for _ in range(rounds):
            for each in schedules:
                each.start("--role", "schedule")
            until(lambda: _running(doors, "schedule") == 2)
            send()
            until(lambda: _jobs(doors) == len(sent))
            for each in schedules:
                each.stop()
            send()
            until(lambda: "role_not_running" in {c["code"] for c in doors.status()["causes"]})
            assert _jobs(doors) == len(sent) - 1
            schedules[0].start("--role", "schedule")
            until(lambda: _jobs(doors) == len(sent))
            schedules[0].stop()
        found = state_of(doors)
        evidence.record(trials=len(sent), losses=abs(len(found["jobs"]) - len(sent)))
        assert len(found["jobs"]) == len(sent)
        assert doubled(found) == 0
    finally:
        for each in (*schedules, doors):
            if each.process is not None:
                each.stop()


def state_of(program: Program) -> dict[str, Any]:
    db = open_database(program.url)
    try:
        return state(db)
    finally:
        db.dispose()


def _jobs(program: Program) -> int:
    return len(state_of(program)["jobs"])


def _running(program: Program, name: str) -> int:
    return sum(row["role"] == name for row in program.status()["roles"])
