"""The queue under a clock that jumps: leases end early or late, results are written once.

Rows, transactions and statements are the real ones; only the clock is moved by hand, as no test
may set that of the machine. Workers are played by this test: they claim, renew, forget and commit.
"""

import random
from collections import Counter
from collections.abc import Iterator

import pytest
from sqlalchemy import func, select

from tests.assurance import Evidence, requirement
from tests.builders import make_arrival, make_policies
from tests.database.conftest import Clock, Room
from triage.database import queue
from triage.database.connection import open_database
from triage.database.tables import ResultRow
from triage.database.tables_house import JobEvent, JobRow
from triage.errors import StaleLease
from triage.records import Job, JobKind, JobState
from triage.rules.retry import RetryPolicy

pytestmark = pytest.mark.long_only

SEED = 24
HOUR_S = 3600.0
JUMPS_S = (HOUR_S, -HOUR_S, -HOUR_S, HOUR_S)
WORKERS = ("one", "two")
LEASE_S = 60.0
ATTEMPTS = 1000  # here no worker dies of its job


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def room(database_url: str, clock: Clock) -> Iterator[Room]:
    policies = make_policies(retry=RetryPolicy(attempts=ATTEMPTS))
    db = open_database(database_url, clock=clock)
    yield Room(db=db, clock=clock, policies=policies)
    db.dispose()


@requirement("Q2", bound="clock jumps of an hour, both ways: each result once, stale ones refused")
def test_q2_clocks_that_jump_an_hour_lose_and_double_nothing(
    room: Room, evidence: Evidence, long: bool
) -> None:
    draw = random.Random(SEED)
    jobs = 500 if long else 40
    in_hand: dict[str, list[Job]] = {worker: [] for worker in WORKERS}
    told: Counter[str] = Counter()
    for _ in range(jobs):
        room.arrive(make_arrival())
        one_step(room, in_hand, draw, told)
    room.clock.advance(3 * HOUR_S)  # what a step back made wait is due again
    while unfinished(room):
        one_step(room, in_hand, draw, told)
        room.clock.advance(1)
    losses = jobs - with_one_result(room) + finished_twice(room)
    evidence.record(
        trials=told["jumps"],
        losses=losses,
        worst=f"{jobs} jobs, {told['committed']} committed, {told['refused']} stale ones refused",
    )
    assert losses == 0
    assert told["committed"] == jobs
    assert told["jumps"]
    assert told["refused"]


def one_step(
    room: Room, in_hand: dict[str, list[Job]], draw: random.Random, told: Counter[str]
) -> None:
    """One worker does one thing; now and then the clock jumps."""
    if draw.random() < 0.15:
        room.clock.advance(JUMPS_S[told["jumps"] % len(JUMPS_S)])
        told["jumps"] += 1
    worker = draw.choice(WORKERS)
    held = in_hand[worker]
    if draw.random() < 0.4:
        held += queue.claim(
            room.db,
            kinds=[JobKind.ANALYSE],
            owner=worker,
            lease_s=LEASE_S,
            limit=4,
            maximum_attempts=ATTEMPTS,
        )
    if draw.random() < 0.2 and held:
        queue.heartbeat(room.db, held, lease_s=LEASE_S)
    if draw.random() < 0.1:
        with room.db.write() as connection:
            queue.sweep_expired(connection, policies=room.policies, now=room.clock())
    if held and draw.random() < 0.8:
        job = held.pop(draw.randrange(len(held)))
        try:
            told["committed"] += room.commit(job)
        except StaleLease:
            told["refused"] += 1


def unfinished(room: Room) -> int:
    return len(room.rows(JobRow, JobRow.state.in_((JobState.QUEUED, JobState.LEASED))))


def with_one_result(room: Room) -> int:
    counted = select(ResultRow.subject_id).group_by(ResultRow.subject, ResultRow.subject_id)
    return _rows_of(room, counted.having(func.count() == 1).subquery())


def finished_twice(room: Room) -> int:
    ended = select(JobEvent.job_id).where(JobEvent.to_state == JobState.DONE)
    return _rows_of(room, ended.group_by(JobEvent.job_id).having(func.count() > 1).subquery())


def _rows_of(room: Room, found: object) -> int:
    with room.db.read() as connection:
        return int(connection.execute(select(func.count()).select_from(found)).scalar_one())  # type: ignore[arg-type]
