"""A job is claimed once, its lease is what a worker may write under, and nothing is lost."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest

from tests.assurance import requirement
from tests.builders import make_arrival, make_ct_header, make_header, make_policies, new_uid
from tests.database.conftest import Room, analysed
from triage.database import queue
from triage.database.connection import Database
from triage.database.retention import expire_study
from triage.database.tables import ResultRow
from triage.database.tables_house import Event, JobEvent, JobRow
from triage.errors import DecodeCrashed, DecodeError, StaleLease
from triage.records import Analysis, Job, JobKind, JobState, ObjectState, Rank, Subject
from triage.rules.orders import OrderRule, OrdersPolicy
from triage.rules.ranks import urgency
from triage.rules.retry import RetryPolicy

LEASE_S = 60
CLAIMER = """
import sys
from triage.database.connection import open_database
from triage.database.queue import claim
from triage.records import JobKind

db = open_database(sys.argv[1])
while jobs := claim(db, kinds=[JobKind.ANALYSE], owner=sys.argv[2], lease_s=600, limit=3):
    print(*(job.id for job in jobs), sep="\\n")
"""


def fail(room: Room, job: Job, error: Exception, *, jitter: float = 0.0) -> JobState:
    with room.db.write() as connection:
        return queue.fail(
            connection,
            job,
            error,  # type: ignore[arg-type]
            policies=room.policies,
            jitter=jitter,
            now=room.clock(),
        )


def sweep(room: Room) -> int:
    with room.db.write() as connection:
        return queue.sweep_expired(connection, policies=room.policies, now=room.clock())


def one_job(room: Room) -> Job:
    room.arrive(make_arrival())
    [job] = room.claim()
    return job


def row(room: Room, job: Job) -> object:
    [found] = room.rows(JobRow, JobRow.id == job.id)
    return found


# --- claims


@requirement("Q1")
def test_processes_that_claim_at_once_never_get_the_same_job(room: Room, database_url: str) -> None:
    for _ in range(40):
        room.arrive(make_arrival())
    claimers = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMER, database_url, f"worker-{number}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    claimed = [int(line) for each in claimers for line in each.communicate()[0].split()]
    assert [each.returncode for each in claimers] == [0, 0, 0]
    assert len(claimed) == 40
    assert len(set(claimed)) == 40


def test_threads_that_claim_at_once_never_get_the_same_job(room: Room) -> None:
    for _ in range(30):
        room.arrive(make_arrival())

    def claim_some(number: int) -> list[int]:
        claimed: list[int] = []
        while jobs := room.claim(owner=f"thread-{number}", limit=2):
            claimed.extend(job.id for job in jobs)
        return claimed

    with ThreadPoolExecutor(8) as threads:
        claimed = [job_id for some in threads.map(claim_some, range(8)) for job_id in some]
    assert len(claimed) == len(set(claimed)) == 30


def test_the_most_urgent_and_then_the_longest_due_come_first(room: Room) -> None:
    stat = OrderRule(priority=Rank.STAT, study_description="trauma")
    room.policies = make_policies(orders=OrdersPolicy(rules=(stat,)))
    studies = []
    for description in ("first", "second", "trauma"):
        header = make_header(study_description=description)
        studies.append(room.arrive(make_arrival(header)).study_id)
        room.clock.advance(1)
    first, second, trauma = studies
    assert [job.study_id for job in room.claim(limit=2)] == [trauma, first]
    assert [job.study_id for job in room.claim()] == [second]


def test_a_job_is_not_claimed_before_it_is_due_nor_as_another_kind(room: Room) -> None:
    job = one_job(room)
    fail(room, job, DecodeCrashed("died"))
    assert room.claim() == []
    room.clock.advance(3600)
    assert room.claim(JobKind.CAPTION, JobKind.DELIVER) == []
    assert [again.id for again in room.claim()] == [job.id]


# --- leases


@requirement("Q1")
@requirement("Q2")
def test_a_lease_that_ran_out_is_claimed_anew_and_the_old_result_is_refused(room: Room) -> None:
    slow = one_job(room)
    room.clock.advance(LEASE_S - 1)
    assert room.claim(owner="other") == []
    room.clock.advance(1)
    [taken] = room.claim(owner="other")
    assert (taken.id, taken.attempts, taken.fence) == (slow.id, 2, slow.fence + 1)

    with pytest.raises(StaleLease):
        room.commit(slow, analysed(0.99))
    assert room.rows(ResultRow) == []
    with pytest.raises(StaleLease):
        fail(room, slow, DecodeError("broken"))
    assert room.commit(taken, analysed(0.1, flagged=False))
    with pytest.raises(StaleLease):
        room.commit(slow)
    [result] = room.rows(ResultRow)
    assert result.findings[0]["probability"] == 0.1


@requirement("Q1")
def test_the_same_worker_with_an_older_fence_is_refused(room: Room) -> None:
    slow = one_job(room)
    room.clock.advance(LEASE_S)
    room.claim(owner=slow.owner)
    with pytest.raises(StaleLease):
        room.commit(slow)


def test_a_heartbeat_extends_a_held_lease_and_tells_which_are_lost(room: Room) -> None:
    room.arrive(make_arrival())
    room.arrive(make_arrival())
    kept, lost = room.claim()
    room.clock.advance(LEASE_S - 1)
    assert queue.heartbeat(room.db, [kept], lease_s=LEASE_S) == {kept.id}
    room.clock.advance(1)
    assert [job.id for job in room.claim(owner="other")] == [lost.id]
    assert queue.heartbeat(room.db, [kept, lost], lease_s=LEASE_S) == {kept.id}


def test_a_released_job_is_due_at_once_and_its_attempt_is_not_counted(room: Room) -> None:
    job = one_job(room)
    assert queue.release(room.db, [job], reason="worker stopped") == 1
    assert queue.release(room.db, [job], reason="worker stopped") == 0
    [again] = room.claim()
    assert (again.id, again.attempts) == (job.id, 1)
    assert again.fence > job.fence


@requirement("Q3")
def test_of_jobs_whose_worker_died_one_is_claimed_at_a_time(room: Room) -> None:
    for _ in range(3):
        room.arrive(make_arrival())
    lapsed = room.claim()
    room.clock.advance(LEASE_S)
    fresh = [room.arrive(make_arrival()).study_id for _ in range(2)]
    claimed = room.claim(owner="other")
    assert [(job.study_id, job.attempts, job.lease_lost) for job in claimed] == [
        (lapsed[0].study_id, 2, True),
        *((study_id, 1, False) for study_id in fresh),
    ]
    assert sweep(room) == 2  # those that nobody has claimed are queued again
    later = room.arrive(make_arrival()).study_id
    with room.db.read() as connection:
        now = room.clock()
        assert queue.is_due(connection, kinds=[JobKind.ANALYSE], now=now)
    assert [job.study_id for job in room.claim(without_suspects=True)] == [later]
    with room.db.read() as connection:
        due = queue.is_due(connection, kinds=[JobKind.ANALYSE], now=now, without_suspects=True)
        assert not due
    assert [job.id for job in room.claim(owner="other")] == [lapsed[1].id]
    assert [job.id for job in room.claim(owner="other")] == [lapsed[2].id]


def test_a_job_whose_lease_was_swept_keeps_its_place(room: Room) -> None:
    room.arrive(make_arrival())
    [first] = room.claim()
    room.clock.advance(LEASE_S / 2)
    second = room.arrive(make_arrival()).study_id
    room.clock.advance(LEASE_S / 2)
    assert sweep(room) == 1
    assert [job.study_id for job in room.claim(limit=1)] == [first.study_id]
    assert [job.study_id for job in room.claim(limit=1)] == [second]


def test_jobs_that_failed_and_killed_nothing_are_claimed_together(room: Room) -> None:
    for _ in range(3):
        room.arrive(make_arrival())
    for job in room.claim():
        fail(room, job, DecodeCrashed("died"))
    room.clock.advance(3600)
    assert [job.attempts for job in room.claim()] == [2, 2, 2]


# --- failures


def test_a_transient_failure_comes_back_later_each_time(room: Room) -> None:
    room.policies = make_policies(retry=RetryPolicy(attempts=3, base_s=10, max_s=100))
    job = one_job(room)
    for delay_s in (10, 20):
        assert fail(room, job, DecodeCrashed("died"), jitter=0.999999) is JobState.QUEUED
        room.clock.advance(delay_s * 0.9)
        assert room.claim() == []
        room.clock.advance(delay_s * 0.1)
        [job] = room.claim()
    assert fail(room, job, DecodeCrashed("died")) is JobState.DEAD
    room.clock.advance(10_000)
    assert room.claim() == []


@requirement("Q3")
def test_a_permanent_failure_is_a_dead_letter_and_the_study_says_failed(room: Room) -> None:
    job = one_job(room)
    assert fail(room, job, DecodeError("the pixels are cut short")) is JobState.DEAD
    dead = row(room, job)
    assert dead.error_kind == "DecodeError"  # type: ignore[attr-defined]
    study = room.study(job.study_id)
    assert study.analysis == Analysis.FAILED
    assert "the pixels are cut short" in study.analysis_reason
    assert "analysis failed" in study.priority_reason
    assert (study.images_eligible, study.images_analysed) == (1, 0)


@requirement("Q3")
def test_what_kills_its_worker_runs_out_of_attempts_too(room: Room) -> None:
    room.policies = make_policies(retry=RetryPolicy(attempts=2))
    room.arrive(make_arrival())
    for _ in range(2):
        claimed = queue.claim(
            room.db,
            kinds=[JobKind.ANALYSE],
            owner="victim",
            lease_s=LEASE_S,
            limit=1,
            maximum_attempts=2,
        )
        assert len(claimed) == 1
        room.clock.advance(LEASE_S)
    assert (
        queue.claim(
            room.db,
            kinds=[JobKind.ANALYSE],
            owner="victim",
            lease_s=LEASE_S,
            limit=1,
            maximum_attempts=2,
        )
        == []
    )
    assert sweep(room) == 1
    assert sweep(room) == 0
    assert row(room, claimed[0]).state == JobState.DEAD  # type: ignore[attr-defined]
    assert room.study(claimed[0].study_id).analysis == Analysis.FAILED


def test_a_lease_that_ran_out_with_attempts_left_is_queued_again(room: Room) -> None:
    job = one_job(room)
    assert sweep(room) == 0
    room.clock.advance(LEASE_S)
    assert sweep(room) == 1
    assert row(room, job).state == JobState.QUEUED  # type: ignore[attr-defined]
    with pytest.raises(StaleLease):
        room.commit(job)


def test_a_failure_of_an_older_generation_counts_for_nothing(room: Room) -> None:
    study, series = new_uid(), new_uid()
    header = make_ct_header(study_instance_uid=study, series_instance_uid=series)
    room.arrive(make_arrival(header))
    room.clock.advance(10)
    room.close()
    [job] = room.claim()
    room.arrive(make_arrival(replace(header, sop_instance_uid=new_uid())))
    assert fail(room, job, DecodeError("broken")) is JobState.SUPERSEDED
    assert room.study(job.study_id).analysis == Analysis.PENDING


# --- a person asks again


def test_a_requeued_study_is_looked_at_again_with_all_attempts(room: Room) -> None:
    job = one_job(room)
    fail(room, job, DecodeError("broken"))
    with room.db.write() as connection:
        made = queue.requeue_study(
            connection, job.study_id, by="admin", policies=room.policies, now=room.clock()
        )
    assert made == 1
    assert room.study(job.study_id).analysis == Analysis.PENDING
    [again] = room.claim()
    assert (again.id, again.attempts) == (job.id, 1)
    room.commit(again, analysed(0.1, flagged=False))
    assert room.study(job.study_id).analysis == Analysis.ANALYSED
    [event] = room.rows(Event)
    assert (event.what, event.by) == ("requeue", "admin")


def test_a_study_that_is_done_can_be_looked_at_again(room: Room) -> None:
    job = one_job(room)
    room.commit(job)
    with room.db.write() as connection:
        values = {"by": "admin", "policies": room.policies, "now": room.clock()}
        assert queue.requeue_study(connection, job.study_id, **values) == 1
        assert queue.requeue_study(connection, job.study_id, **values) == 0
    [again] = room.claim()
    room.commit(again, analysed(0.2, flagged=False))
    assert room.study(job.study_id).findings[0]["probability"] == 0.2


def test_all_dead_letters_can_be_tried_again(room: Room) -> None:
    for _ in range(2):
        room.arrive(make_arrival())
    for job in room.claim():
        fail(room, job, DecodeError("broken"))
    with room.db.write() as connection:
        values = {"by": "admin", "policies": room.policies, "now": room.clock()}
        assert queue.requeue_dead(connection, **values) == 2
    assert len(room.claim()) == 2


def test_a_dead_letter_of_expired_images_is_left_alone(room: Room) -> None:
    job = one_job(room)
    fail(room, job, DecodeError("broken"))
    room.acknowledge(job.study_id)
    with room.db.write() as connection:
        assert expire_study(connection, job.study_id, now=room.clock())
        values = {"by": "admin", "policies": room.policies, "now": room.clock()}
        assert queue.requeue_dead(connection, **values) == 0
        assert queue.requeue_study(connection, job.study_id, **values) == 0
    assert room.claim() == []


def test_of_an_expired_study_that_is_looked_at_again_which_is_held(room: Room) -> None:
    header = make_header()
    held = room.arrive(make_arrival(header))
    room.arrive(make_arrival(make_ct_header(study_instance_uid=header.study_instance_uid)))
    room.clock.advance(10)
    room.close()
    for job in room.claim():
        room.commit(job, analysed(0.1, flagged=False), pixel_digests={held.instance_id: "same"})
    room.acknowledge(held.study_id)
    with room.db.write() as connection:
        expire_study(connection, held.study_id, now=room.clock())
    room.arrive(make_arrival(replace(header, patient_name="NEW^NAME"), content="corrected"))
    [comparison] = room.claim()
    fail(room, comparison, DecodeError("broken"))
    for again in (queue.requeue_dead, partial(queue.requeue_study, study_id=held.study_id)):
        with room.db.write() as connection:
            values = {"by": "admin", "policies": room.policies, "now": room.clock()}
            assert again(connection, **values) == 1
        [job] = room.claim()
        assert job.subject_id == comparison.subject_id
        fail(room, job, DecodeError("broken"))


# --- traces


def test_every_step_leaves_time_from_to_and_reason(room: Room) -> None:
    job = one_job(room)
    room.clock.advance(LEASE_S)
    [job] = room.claim(owner="other")
    fail(room, job, DecodeCrashed("died"))
    room.clock.advance(3600)
    [job] = room.claim()
    room.commit(job)
    steps = [(event.from_state, event.to_state) for event in room.rows(JobEvent)]
    assert steps == [
        (None, "queued"),
        ("queued", "leased"),
        ("leased", "leased"),
        ("leased", "queued"),
        ("queued", "leased"),
        ("leased", "done"),
    ]
    reasons = [event.reason for event in room.rows(JobEvent)]
    assert "lease expired" in reasons[2]
    assert reasons[3] == "died"


def test_one_open_job_per_subject_and_its_depth(room: Room) -> None:
    outcome = room.arrive(make_arrival())
    with room.db.write() as connection:
        again = queue.enqueue(
            connection,
            kind=JobKind.ANALYSE,
            subject=Subject.IMAGE,
            subject_id=outcome.instance_id,
            study_id=outcome.study_id,
            generation=1,
            rank=0,
            due_at=room.clock(),
            now=room.clock(),
        )
        assert again is None
    assert len(room.claim()) == 1
    assert outcome.state is ObjectState.STORED


def test_a_look_into_the_queue_sees_what_is_due_and_nothing_else(room: Room) -> None:
    def is_due(*kinds: JobKind) -> bool:
        with room.db.read() as connection:
            return queue.is_due(connection, kinds=kinds, now=room.clock())

    assert not is_due(JobKind.ANALYSE)
    room.arrive(make_arrival())
    assert is_due(JobKind.ANALYSE)
    assert is_due(JobKind.CAPTION, JobKind.ANALYSE)
    assert not is_due(JobKind.CAPTION)
    [job] = room.claim()
    assert not is_due(JobKind.ANALYSE)
    fail(room, job, DecodeCrashed("it died"))
    assert not is_due(JobKind.ANALYSE)  # it waits for its second attempt
    room.clock.advance(3600)
    assert is_due(JobKind.ANALYSE)


def test_a_claim_tells_how_urgent_each_job_is(room: Room) -> None:
    room.arrive(make_arrival())
    room.arrive(make_arrival(c_store_priority=1))
    assert [job.rank for job in room.claim()] == [urgency(Rank.HIGH), urgency(Rank.ROUTINE)]


def test_a_claim_is_one_statement(room: Room) -> None:
    from sqlalchemy import event

    room.arrive(make_arrival())
    updates: list[str] = []
    engine = writer_of(room.db)
    event.listen(
        engine,
        "before_cursor_execute",
        lambda *arguments: updates.append(arguments[2]),
    )
    room.claim()
    assert sum("UPDATE jobs" in statement for statement in updates) == 1
    assert not any(
        "FROM jobs" in statement and "UPDATE jobs" not in statement for statement in updates
    )


def writer_of(db: Database) -> object:
    with db.write() as connection:
        return connection.engine
