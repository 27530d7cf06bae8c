"""What was just looked at is remembered briefly, and only for its own generation."""

from datetime import UTC, datetime

import numpy as np

from triage.records import Job, JobKind, Subject
from triage.worker.memory import Memory
from triage.worker.models import Remembered

NOW = datetime(2024, 1, 1, tzinfo=UTC)


def job(subject_id: int, generation: int = 1) -> Job:
    return Job(
        id=subject_id,
        kind=JobKind.ANALYSE,
        subject=Subject.IMAGE,
        subject_id=subject_id,
        study_id=1,
        generation=generation,
        attempts=1,
        fence=1,
        owner="me",
        due_at=NOW,
        lease_expires_at=NOW,
    )


def entry(name: str) -> Remembered:
    return Remembered(bundle_digest=name, view=np.zeros((1, 2, 2), np.float32), features=None)


def test_an_entry_is_taken_once() -> None:
    memory = Memory()
    memory.keep(job(1), entry("a"))
    taken = memory.take(job(1))
    assert taken is not None
    assert taken.bundle_digest == "a"
    assert memory.take(job(1)) is None


def test_a_newer_generation_does_not_see_the_older_image() -> None:
    memory = Memory()
    memory.keep(job(1, generation=1), entry("a"))
    assert memory.take(job(1, generation=2)) is None


def test_the_oldest_is_forgotten_first() -> None:
    memory = Memory(size=2)
    for number in (1, 2, 3):
        memory.keep(job(number), entry(str(number)))
    assert memory.take(job(1)) is None
    assert memory.take(job(3)) is not None
