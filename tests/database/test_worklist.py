"""The worklist: its order, who leaves it, what brings a study back, and what persons decide."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from tests.assurance import requirement
from tests.builders import make_arrival, make_ct_header, make_header, make_policies, new_uid
from tests.database.conftest import Room, analysed
from triage.database import worklist
from triage.database.tables_house import Event, JobRow
from triage.errors import DecodeError, PermanentError
from triage.records import Analysis, Rank, StudyState
from triage.rules.acknowledgement import NEW_FAILURE, NEW_FINDING, NEW_IMAGES
from triage.rules.eligibility import EligibilityPolicy
from triage.rules.priority import PriorityPolicy

HOUR_S = 3600


def arrive(room: Room, **header: object) -> int:
    """Receive a radiograph; returns its study."""
    return room.arrive(make_arrival(make_header(**header))).study_id


def look(room: Room, *, flagged: bool) -> None:
    for job in room.claim():
        room.commit(job, analysed(0.9 if flagged else 0.1, flagged=flagged))


def refresh(room: Room) -> int:
    with room.db.write() as connection:
        return worklist.refresh_due(connection, policies=room.policies, now=room.clock())


def give(
    room: Room, study_id: int, rank: Rank | None, as_of: datetime | None = None
) -> worklist.Covered:
    with room.db.write() as connection:
        return worklist.set_priority(
            connection,
            study_id,
            rank,
            by="reader",
            policies=room.policies,
            now=room.clock(),
            as_of=as_of,
        )


def read(room: Room, study_id: int, as_of: datetime | None = None) -> worklist.Covered:
    with room.db.write() as connection:
        return worklist.acknowledge(
            connection,
            study_id,
            by="reader",
            policies=room.policies,
            now=room.clock(),
            as_of=as_of,
        )


def lower(room: Room, study_id: int, as_of: datetime) -> worklist.Covered:
    return give(room, study_id, Rank.LOW, as_of)


def break_look(room: Room) -> None:
    """Have the next look fail for good."""
    from triage.database.queue import fail

    job = room.claim(limit=1)[0]
    with room.db.write() as connection:
        fail(
            connection,
            job,
            DecodeError("broken"),
            policies=room.policies,
            jitter=0,
            now=room.clock(),
        )


def requeue(room: Room, study_id: int) -> None:
    from triage.database.queue import requeue_study

    with room.db.write() as connection:
        requeue_study(connection, study_id, by="admin", policies=room.policies, now=room.clock())


def order(room: Room) -> list[int]:
    uids = {study.study_instance_uid: study.id for study in map(room.study, all_studies(room))}
    return [uids[uid] for uid in room.reading_order()]


def all_studies(room: Room) -> list[int]:
    from triage.database.tables import Study

    return [study.id for study in room.rows(Study)]


# --- order of reading


def test_flagged_studies_are_read_first_then_the_longest_waiting(room: Room) -> None:
    first = arrive(room)
    room.clock.advance(60)
    look(room, flagged=False)
    second = arrive(room)
    room.clock.advance(60)
    look(room, flagged=True)
    third = arrive(room)
    look(room, flagged=False)
    assert order(room) == [second, first, third]


@requirement("Q4")
def test_a_study_rises_by_waiting_alone_when_its_time_has_come(room: Room) -> None:
    room.policies = make_policies(priority=PriorityPolicy(ageing_s=HOUR_S, ceiling_s=2.5 * HOUR_S))
    waiting = arrive(room)
    look(room, flagged=False)
    room.clock.advance(HOUR_S - 1)
    assert refresh(room) == 0
    room.clock.advance(1)
    assert refresh(room) == 1
    aged = room.study(waiting)
    assert (aged.priority, aged.priority_source) == (Rank.MEDIUM, "ageing")

    room.clock.advance(1.5 * HOUR_S)
    refresh(room)
    newcomer = arrive(room)
    look(room, flagged=True)
    assert order(room) == [waiting, newcomer]
    assert refresh(room) == 0


def test_queued_jobs_follow_the_rank_of_their_study(room: Room) -> None:
    study = arrive(room)
    give(room, study, Rank.STAT)
    assert [job.rank for job in room.rows(JobRow)] == [0]


# --- leaving the list takes a person


@requirement("W6")
def test_an_acknowledged_study_leaves_the_list_and_says_who_and_when(room: Room) -> None:
    study = arrive(room)
    look(room, flagged=True)
    room.clock.advance(20)
    room.close()
    room.acknowledge(study, by="dr-reader")
    row = room.study(study)
    assert (row.state, row.acknowledged_by) == (StudyState.ACKNOWLEDGED, "dr-reader")
    assert row.acknowledged_at == room.clock()
    assert (row.sort_key, row.next_change_at) == (None, None)
    assert order(room) == []
    [event] = room.rows(Event)
    assert (event.what, event.by, event.study_id) == ("acknowledge", "dr-reader", study)


def test_a_study_is_acknowledged_once(room: Room) -> None:
    study = arrive(room)
    room.acknowledge(study)
    with pytest.raises(PermanentError, match="already"):
        room.acknowledge(study)


@requirement("W1")
def test_neither_time_nor_an_empty_result_takes_a_study_off_the_list(room: Room) -> None:
    study = arrive(room)
    look(room, flagged=False)
    for _ in range(10):
        room.clock.advance(24 * HOUR_S)
        room.close()
        refresh(room)
    assert order(room) == [study]


@requirement("G8")
def test_a_late_image_puts_an_acknowledged_study_back_at_its_new_wait(room: Room) -> None:
    uid = new_uid()
    study = arrive(room, study_instance_uid=uid)
    look(room, flagged=False)
    room.acknowledge(study)
    room.clock.advance(HOUR_S)
    arrive(room, study_instance_uid=uid)
    row = room.study(study)
    assert (row.acknowledged_at, row.acknowledged_by) == (None, None)
    assert row.attention == NEW_IMAGES
    assert row.priority_reason.startswith(NEW_IMAGES)
    assert row.waiting_since == room.clock()
    assert order(room) == [study]
    assert [event.what for event in room.rows(Event)] == ["acknowledge", "returned"]

    room.acknowledge(study)
    assert room.study(study).attention == ""
    assert order(room) == []


def test_a_further_slice_puts_an_acknowledged_study_back_while_its_series_is_open(
    room: Room,
) -> None:
    header = {"study_instance_uid": new_uid(), "series_instance_uid": new_uid()}
    study = room.arrive(make_arrival(make_ct_header(**header))).study_id
    room.acknowledge(study)
    room.arrive(make_arrival(make_ct_header(**header)))
    assert order(room) == [study]


@requirement("G8")
def test_a_late_slice_makes_an_analysed_study_pending_at_once(room: Room) -> None:
    header = {"study_instance_uid": new_uid(), "series_instance_uid": new_uid()}
    study = room.arrive(make_arrival(make_ct_header(**header))).study_id
    room.clock.advance(10)
    room.close()
    look(room, flagged=True)
    flagged_at = room.clock()
    room.clock.advance(5)
    room.arrive(make_arrival(make_ct_header(**header)))
    row = room.study(study)
    assert (row.analysis, row.images_analysed, row.images_eligible) == ("pending", 0, 2)
    # What was flagged stays flagged until it is looked at anew.
    assert (row.priority, row.flagged_at) == (Rank.HIGH, flagged_at)
    room.clock.advance(10)
    room.close()
    look(room, flagged=True)
    row = room.study(study)
    assert (row.flagged_at, row.first_flagged_at) == (room.clock(), flagged_at)


def test_a_new_finding_puts_an_acknowledged_study_back(room: Room) -> None:
    study = arrive(room)
    look(room, flagged=False)
    room.acknowledge(study)
    requeue(room, study)
    assert order(room) == []
    look(room, flagged=True)
    assert room.study(study).attention == NEW_FINDING
    assert order(room) == [study]


@pytest.mark.parametrize("later_s", [60, -HOUR_S], ids=["later", "the clock stepped back"])
def test_a_failed_new_look_puts_an_acknowledged_study_back(room: Room, later_s: float) -> None:
    study = arrive(room)
    look(room, flagged=True)
    room.acknowledge(study)
    room.clock.advance(later_s)
    requeue(room, study)
    break_look(room)
    row = room.study(study)
    assert (row.analysis, row.attention) == (Analysis.FAILED, NEW_FAILURE)
    assert order(room) == [study]


def test_a_served_model_that_fails_on_a_new_look_puts_an_acknowledged_study_back(
    room: Room,
) -> None:
    study = arrive(room)
    look(room, flagged=True)
    room.acknowledge(study)
    room.clock.advance(-HOUR_S)
    requeue(room, study)
    [job] = room.claim()
    room.commit(job, analysed(analysis=Analysis.FAILED, reason="memory ran out", findings=()))
    assert room.study(study).attention == NEW_FAILURE
    assert order(room) == [study]


def test_a_failure_that_the_person_saw_does_not_bring_a_study_back(room: Room) -> None:
    study = arrive(room)
    break_look(room)
    room.clock.advance(-HOUR_S)
    room.acknowledge(study)
    assert order(room) == []
    requeue(room, study)
    assert order(room) == []
    break_look(room)
    assert room.study(study).attention == NEW_FAILURE


# --- what a decision covers


def late_image(room: Room, study: int) -> None:
    arrive(room, study_instance_uid=room.study(study).study_instance_uid)


CAME_LATER = {
    "an image": late_image,
    "a flag": lambda room, _: look(room, flagged=True),
    "a failed analysis": lambda room, _: break_look(room),
}


@requirement("W6")
@pytest.mark.parametrize("decide", [read, lower], ids=["acknowledge", "priority"])
@pytest.mark.parametrize(("what", "happen"), CAME_LATER.items(), ids=CAME_LATER)
def test_nobody_decides_about_what_came_after_the_look(
    room: Room,
    what: str,
    happen: Callable[[Room, int], None],
    decide: Callable[[Room, int, datetime], worklist.Covered],
) -> None:
    study = arrive(room)
    room.clock.advance(60)
    looked_at = room.clock()
    room.clock.advance(540)
    happen(room, study)
    came_at = room.clock()
    room.clock.advance(60)
    with pytest.raises(PermanentError, match=f"came {what} at 2026-01-02T09:10:00") as refused:
        decide(room, study, looked_at)
    assert "Look at it again" in refused.value.hint
    assert (order(room), room.rows(Event)) == ([study], [])
    assert room.study(study).person_priority is None

    assert decide(room, study, came_at).unchanged_since == came_at
    assert room.rows(Event)[0].detail["as_of"] == "2026-01-02T09:10:00.000000Z"


def test_what_a_look_would_have_shown_the_same_does_not_stop_a_decision(room: Room) -> None:
    study = arrive(room)
    looked_at = room.clock()
    room.clock.advance(60)
    look(room, flagged=False)
    assert read(room, study, looked_at).unchanged_since == looked_at


def test_nobody_has_looked_in_the_future(room: Room) -> None:
    study = arrive(room)
    with pytest.raises(PermanentError, match="clock says 2026-01-02T09:00:00"):
        read(room, study, room.clock() + timedelta(seconds=1))


def test_a_decision_tells_what_it_covers(room: Room) -> None:
    uid = new_uid()
    study = arrive(room, study_instance_uid=uid)
    arrive(room, study_instance_uid=uid)
    room.clock.advance(30)
    [job, _] = room.claim()
    room.commit(job, analysed(0.9))
    covered = worklist.Covered(
        generation=2,
        number_of_study_related_instances=2,
        analysis=Analysis.PENDING,
        images_eligible=2,
        images_analysed=1,
        flagged=("pneumothorax",),
        unchanged_since=room.clock(),
    )
    assert give(room, study, Rank.LOW) == covered
    assert read(room, study) == covered


def test_a_duplicate_and_a_revision_do_not_bring_a_study_back(room: Room) -> None:
    header = make_header(has_pixels=False, modality="SR")
    study = room.arrive(make_arrival(header)).study_id
    room.acknowledge(study)
    room.arrive(make_arrival(header))
    room.arrive(make_arrival(header, content="corrected"))
    assert order(room) == []


# --- a person's priority


@requirement("W6")
def test_a_persons_priority_counts_until_a_new_finding_comes(room: Room) -> None:
    study = arrive(room)
    give(room, study, Rank.LOW)
    row = room.study(study)
    assert (row.priority, row.person_priority, row.person_priority_by) == (
        Rank.ROUTINE,
        Rank.LOW,
        "reader",
    )
    look(room, flagged=True)
    assert room.study(study).priority == Rank.HIGH
    give(room, study, Rank.STAT)
    assert (room.study(study).priority, room.study(study).priority_source) == ("STAT", "person")
    give(room, study, None)
    assert (room.study(study).priority, room.study(study).priority_source) == ("HIGH", "model")
    assert [event.detail["to"] for event in room.rows(Event)] == ["LOW", "STAT", None]


# --- finding, and the view


def test_a_study_is_found_by_its_uid_or_its_accession_number(room: Room) -> None:
    uid = new_uid()
    first = arrive(room, study_instance_uid=uid, accession_number="A7")
    second = arrive(room, accession_number="A7")
    blank = arrive(room, accession_number="")
    with room.db.read() as connection:
        assert worklist.find_study(connection, uid) == [first]
        assert worklist.find_study(connection, "A7") == [first, second]
        assert worklist.find_study(connection, "") == []
        assert worklist.find_study(connection, "' OR 1=1 --") == []
    assert blank


def test_the_view_numbers_open_studies_and_keeps_the_others_without_a_number(room: Room) -> None:
    room.policies = make_policies(eligibility=EligibilityPolicy(maximum_study_age_h=24))
    opened = arrive(room)
    read = arrive(room)
    old = arrive(room, study_date="20100101", study_time="0800")
    room.acknowledge(read)
    with room.db.read() as connection:
        rows = connection.exec_driver_sql(
            "SELECT study_instance_uid, reading_order FROM worklist"
        ).all()
    numbers = {row.study_instance_uid: row.reading_order for row in rows}
    assert {study: numbers[room.study(study).study_instance_uid] for study in (opened, read, old)}
    assert numbers[room.study(opened).study_instance_uid] == 1
    assert numbers[room.study(read).study_instance_uid] is None
    assert numbers[room.study(old).study_instance_uid] is None


def test_a_study_of_many_series_is_analysed_when_each_of_them_is(room: Room) -> None:
    uid = new_uid()
    for _ in range(2):
        room.arrive(make_arrival(make_ct_header(study_instance_uid=uid)))
    study = arrive(room, study_instance_uid=uid)
    look(room, flagged=False)
    assert room.study(study).analysis == Analysis.PENDING
    room.clock.advance(10)
    room.close()
    look(room, flagged=False)
    row = room.study(study)
    assert (row.analysis, row.images_analysed, row.state) == ("analysed", 3, "ready")
