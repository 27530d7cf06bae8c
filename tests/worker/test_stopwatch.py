"""The stages of a look add up to what a person waited for."""

from datetime import UTC, datetime, timedelta

from triage.records import Job, JobKind, Subject
from triage.worker.stopwatch import Stopwatch, started

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


def job(*, due_at: datetime, lease_expires_at: datetime) -> Job:
    return Job(
        id=1,
        kind=JobKind.ANALYSE,
        subject=Subject.IMAGE,
        subject_id=1,
        study_id=1,
        generation=1,
        attempts=1,
        fence=1,
        owner="one",
        due_at=due_at,
        lease_expires_at=lease_expires_at,
    )


def test_the_wait_for_a_claim_is_told_by_the_database_clock() -> None:
    claimed_at = NOON + timedelta(seconds=0.25)
    claimed = job(due_at=NOON, lease_expires_at=claimed_at + timedelta(seconds=60))
    assert started(claimed, lease_s=60, claimed_s=0.0).waited_s == 0.25


def test_the_total_runs_from_the_due_time_to_now() -> None:
    watch = Stopwatch(waited_s=0.25, claimed_s=100.0, monotonic=lambda: 100.5)
    watch.decode_s, watch.model_s = 0.2, 0.1
    assert watch.told() == {
        "waited_ms": 250.0,
        "decode_ms": 200.0,
        "model_ms": 100.0,
        "total_ms": 750.0,
    }
