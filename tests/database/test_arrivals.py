"""One object becomes rows: what is new, the same, corrected, contested, late, or someone else's."""

from dataclasses import replace

import pytest

from tests.assurance import requirement
from tests.builders import (
    BASIC_TEXT_SR,
    make_arrival,
    make_ct_header,
    make_header,
    make_policies,
    new_uid,
)
from tests.database.conftest import NINE, Room, analysed
from triage.database import results, worklist
from triage.database.arrivals import record_arrival
from triage.database.contests import resolve_contest
from triage.database.retention import expire_study
from triage.database.tables import Instance, ObjectEvent, Series
from triage.database.tables_house import Alarm, JobRow, Sender
from triage.errors import PermanentError, StaleLease
from triage.records import (
    Analysis,
    AnalysisResult,
    Mode,
    ObjectState,
    Rank,
    Source,
    StudyState,
    Subject,
)
from triage.rules.eligibility import EligibilityPolicy
from triage.rules.orders import OrderRule, OrdersPolicy
from triage.rules.ranks import urgency

PRIOR = {"study_date": "20200101", "study_time": "080000"}
TODAY = {"study_date": "20260102", "study_time": "080000"}
TOO_OLD = AnalysisResult(
    model=None,
    mode=Mode.SERVE,
    analysis=Analysis.NOT_ELIGIBLE,
    reason="study was older than 24 h on arrival",
)


def test_a_radiograph_is_stored_and_looked_at_at_once(room: Room) -> None:
    header = make_header(study_description="Chest PA")
    outcome = room.arrive(make_arrival(header))

    assert outcome.state is ObjectState.STORED
    [job] = room.claim()
    assert (job.id,) == outcome.job_ids
    assert (job.subject, job.subject_id) == (Subject.IMAGE, outcome.instance_id)
    study = room.study(outcome.study_id)
    assert study.study_description == "Chest PA"
    assert study.modalities_in_study == ["DX"]
    assert study.number_of_study_related_instances == 1
    assert (study.generation, study.analysis, study.images_eligible) == (1, "pending", 1)
    assert study.state == StudyState.ARRIVING
    assert study.received_at == NINE


def test_every_disposition_leaves_its_trace(room: Room) -> None:
    arrival = make_arrival(source=Source.FOLDER)
    room.arrive(arrival)
    room.arrive(arrival)
    events = room.rows(ObjectEvent)
    assert [event.state for event in events] == ["stored", "duplicate"]
    assert {event.sop_instance_uid for event in events} == {arrival.header.sop_instance_uid}
    assert {event.source for event in events} == {"folder"}


@requirement("G1")
def test_equal_bytes_make_no_second_row_and_no_work(room: Room) -> None:
    arrival = make_arrival()
    first = room.arrive(arrival)
    room.clock.advance(5)
    again = [room.arrive(arrival) for _ in range(3)]

    assert {outcome.state for outcome in again} == {ObjectState.DUPLICATE}
    assert {outcome.instance_id for outcome in again} == {first.instance_id}
    [instance] = room.rows(Instance)
    assert instance.duplicates == 3
    assert len(room.rows(JobRow)) == 1
    assert room.study(first.study_id).generation == 1


def test_a_sender_is_seen_by_each_of_its_images(room: Room) -> None:
    room.arrive(make_arrival(sender_ae_title="CR1"))
    room.clock.advance(60)
    room.arrive(make_arrival(sender_ae_title="CR1"))
    room.arrive(make_arrival(sender_ae_title="", source=Source.FOLDER))
    [sender] = room.rows(Sender)
    assert (sender.ae_title, sender.images) == ("CR1", 2)
    assert sender.last_image_at == room.clock()


@requirement("G8")
def test_a_series_is_looked_at_when_it_has_closed(room: Room) -> None:
    study, series = new_uid(), new_uid()
    for _ in range(3):
        outcome = room.arrive(
            make_arrival(make_ct_header(study_instance_uid=study, series_instance_uid=series))
        )
        room.clock.advance(9)
        assert room.close() == 0
    assert room.claim() == []

    room.clock.advance(1)
    assert room.close() == 1
    assert room.close() == 0
    [job] = room.claim()
    assert job.subject is Subject.SERIES
    assert job.generation == 3
    assert room.study(outcome.study_id).images_eligible == 3
    assert room.study(outcome.study_id).state == StudyState.READY


def test_an_endless_series_closes_by_its_age(room: Room) -> None:
    study, series = new_uid(), new_uid()
    closed = 0
    for _ in range(13):
        room.arrive(
            make_arrival(make_ct_header(study_instance_uid=study, series_instance_uid=series))
        )
        room.clock.advance(5)
        closed += room.close()
    assert closed == 1


@requirement("G8")
def test_a_late_image_opens_a_new_generation_that_supersedes(room: Room) -> None:
    study, series = new_uid(), new_uid()

    def slice_() -> int:
        header = make_ct_header(study_instance_uid=study, series_instance_uid=series)
        return room.arrive(make_arrival(header)).study_id

    study_id = slice_()
    room.clock.advance(10)
    room.close()
    [early] = room.claim()
    slice_()
    assert room.commit(early) is False
    assert room.study(study_id).analysis == Analysis.PENDING

    room.clock.advance(10)
    room.close()
    [late] = room.claim()
    assert late.generation == 2
    assert room.commit(late) is True
    assert room.study(study_id).images_analysed == 2
    assert [job.state for job in room.rows(JobRow)] == ["superseded", "done"]


def test_the_job_of_an_older_generation_is_superseded_while_it_waits(room: Room) -> None:
    study, series = new_uid(), new_uid()
    for _ in range(2):
        room.arrive(
            make_arrival(make_ct_header(study_instance_uid=study, series_instance_uid=series))
        )
        room.clock.advance(10)
        room.close()
    assert [(job.generation, job.state) for job in room.rows(JobRow)] == [
        (1, "superseded"),
        (2, "queued"),
    ]


def test_an_object_without_pixels_is_held_and_makes_no_job(room: Room) -> None:
    header = make_header(sop_class_uid=BASIC_TEXT_SR, modality="SR", has_pixels=False)
    outcome = room.arrive(make_arrival(header))
    room.clock.advance(60)
    room.close()
    assert room.rows(JobRow) == []
    study = room.study(outcome.study_id)
    assert (study.analysis, study.images_eligible) == (Analysis.NOT_ELIGIBLE, 0)
    assert "no image" in study.analysis_reason


# --- the same SOP Instance UID with other bytes


def contest(room: Room, **changes: str) -> tuple[int, int]:
    """Hold an image, then receive other bytes under its UID; returns (held, newcomer)."""
    header = make_header(patient_name="OLD^NAME", study_description="Chest")
    held = room.arrive(make_arrival(header)).instance_id
    [job] = room.claim()
    room.commit(job, pixel_digests={held: "same"})
    newcomer = replace(header, patient_name="NEW^NAME", **changes)
    return held, room.arrive(make_arrival(newcomer, content="corrected")).instance_id


def compare(room: Room, verdict: ObjectState) -> None:
    [job] = room.claim()
    assert verdict in (ObjectState.REVISION, ObjectState.CONFLICT)
    results.commit_comparison(
        room.db,
        job,
        verdict=verdict,  # type: ignore[arg-type]
        pixel_digests={job.subject_id: "same"},
        policies=room.policies,
    )


def test_a_newcomer_waits_for_the_comparison_of_its_pixels(room: Room) -> None:
    held, newcomer = contest(room)
    with room.db.read() as connection:
        contents = results.subject_contents(connection, Subject.IMAGE, newcomer)
    assert [instance.id for instance in contents.instances] == [newcomer]
    assert contents.contested is not None
    assert (contents.contested.id, contents.contested.pixel_digest) == (held, "same")
    study = room.study(1)
    assert (study.analysis, study.patient_name) == (Analysis.PENDING, "OLD^NAME")


def test_equal_pixels_are_a_revision_whose_header_is_shown_without_inference(room: Room) -> None:
    _, newcomer = contest(room, study_description="")
    compare(room, ObjectState.REVISION)

    study = room.study(1)
    assert (study.patient_name, study.study_description) == ("NEW^NAME", "")
    assert (study.analysis, study.generation, study.images_eligible) == ("analysed", 1, 1)
    assert study.number_of_study_related_instances == 1
    [instance] = room.rows(Instance, Instance.id == newcomer)
    assert instance.state == ObjectState.REVISION
    assert room.claim() == []
    assert room.rows(Alarm) == []


@requirement("G2")
def test_other_pixels_are_a_conflict_an_alarm_and_an_unfinished_study(room: Room) -> None:
    contest(room)
    compare(room, ObjectState.CONFLICT)

    study = room.study(1)
    assert study.patient_name == "OLD^NAME"
    assert (study.analysis, study.generation) == (Analysis.FAILED, 2)
    assert (study.images_analysed, study.images_eligible) == (1, 2)
    [alarm] = room.rows(Alarm)
    assert alarm.code == "pixel_conflict"
    assert "NAME" not in alarm.message + alarm.subject


def test_acknowledging_a_conflict_takes_it_off_the_list_and_closes_its_alarm(room: Room) -> None:
    contest(room)
    compare(room, ObjectState.CONFLICT)
    room.acknowledge(1)
    assert room.reading_order() == []
    assert (room.study(1).state, room.study(1).analysis) == ("acknowledged", "failed")
    assert room.rows(Alarm, Alarm.cleared_at.is_(None)) == []


def test_a_comparison_is_decided_once(room: Room) -> None:
    _, newcomer = contest(room)
    compare(room, ObjectState.REVISION)
    with room.db.write() as connection, pytest.raises(PermanentError):
        resolve_contest(
            connection,
            newcomer,
            verdict=ObjectState.CONFLICT,
            policies=room.policies,
            now=room.clock(),
        )


def test_a_correction_of_an_object_without_pixels_is_a_revision_at_once(room: Room) -> None:
    header = make_header(modality="SR", sop_class_uid=BASIC_TEXT_SR, has_pixels=False)
    room.arrive(make_arrival(header))
    corrected = replace(header, patient_name="NEW^NAME")
    outcome = room.arrive(make_arrival(corrected, content="corrected"))
    assert outcome.state is ObjectState.REVISION
    assert room.study(outcome.study_id).patient_name == "NEW^NAME"


def test_pixels_where_there_were_none_are_a_conflict_at_once(room: Room) -> None:
    header = make_header(has_pixels=False)
    room.arrive(make_arrival(header))
    outcome = room.arrive(make_arrival(replace(header, has_pixels=True), content="other"))
    assert outcome.state is ObjectState.CONFLICT
    assert room.study(outcome.study_id).analysis == Analysis.FAILED
    assert room.rows(JobRow) == []


def test_an_image_resent_under_a_corrected_patient_is_looked_at_in_its_own_study(
    room: Room,
) -> None:
    contest(room, patient_id="P2")
    compare(room, ObjectState.REVISION)
    wrong, right = room.study(1), room.study(2)
    assert wrong.two_patients
    assert right.two_patients
    assert (wrong.analysis, right.analysis) == (Analysis.ANALYSED, Analysis.PENDING)
    [job] = room.claim()
    room.commit(job)
    assert room.study(2).analysis == Analysis.ANALYSED


def test_a_conflict_in_another_study_leaves_the_held_study_as_it_was(room: Room) -> None:
    contest(room, patient_id="P2")
    compare(room, ObjectState.CONFLICT)
    held, other = room.study(1), room.study(2)
    assert (held.analysis, held.generation) == (Analysis.ANALYSED, 1)
    assert (other.analysis, other.generation) == (Analysis.FAILED, 1)
    assert other.number_of_study_related_instances == 1
    assert room.claim() == []


# --- patients


def test_one_study_uid_under_two_patients_is_held_apart_with_an_alarm(room: Room) -> None:
    study = new_uid()
    first = room.arrive(make_arrival(make_header(study_instance_uid=study, patient_id="P1")))
    second = room.arrive(make_arrival(make_header(study_instance_uid=study, patient_id="P2")))
    assert first.study_id != second.study_id
    for outcome in (first, second):
        assert room.study(outcome.study_id).two_patients
    room.arrive(make_arrival(make_header(study_instance_uid=study, patient_id="P2")))
    [alarm] = room.rows(Alarm)
    assert (alarm.code, alarm.subject) == ("two_patients", study)
    assert room.study(second.study_id).number_of_study_related_instances == 2


def test_two_patients_are_told_on_the_worklist_of_both_until_both_were_acknowledged(
    room: Room,
) -> None:
    study = new_uid()
    outcomes = []
    for patient in ("P1", "P2"):
        header = make_header(study_instance_uid=study, patient_id=patient)
        outcomes.append(room.arrive(make_arrival(header)))
        for job in room.claim():
            room.commit(job)
    with room.db.write() as connection:
        worklist.refresh_due(connection, policies=room.policies, now=room.clock())
    for outcome in outcomes:
        assert worklist.TWO_PATIENTS in room.study(outcome.study_id).priority_reason
    room.acknowledge(outcomes[0].study_id)
    assert len(room.rows(Alarm, Alarm.cleared_at.is_(None))) == 1
    room.acknowledge(outcomes[1].study_id)
    assert room.rows(Alarm, Alarm.cleared_at.is_(None)) == []


def test_a_blank_patient_id_joins_the_study_and_is_filled_in_later(room: Room) -> None:
    study = new_uid()
    blank = room.arrive(make_arrival(make_header(study_instance_uid=study, patient_id="")))
    named = room.arrive(make_arrival(make_header(study_instance_uid=study, patient_id="P7")))
    assert named.study_id == blank.study_id
    assert room.study(blank.study_id).patient_id == "P7"
    other = room.arrive(make_arrival(make_header(study_instance_uid=study, patient_id="P8")))
    assert other.study_id != blank.study_id


# --- what the header says


def test_a_blank_value_of_a_later_object_takes_nothing_away(room: Room) -> None:
    study = new_uid()
    room.arrive(make_arrival(make_header(study_instance_uid=study, accession_number="A7")))
    outcome = room.arrive(
        make_arrival(
            make_header(study_instance_uid=study, accession_number="", patient_name="NEWER^NAME")
        )
    )
    shown = room.study(outcome.study_id)
    assert (shown.accession_number, shown.patient_name) == ("A7", "NEWER^NAME")


def test_the_study_time_is_read_in_its_own_zone_or_the_sites(room: Room) -> None:
    room.policies = make_policies(site_timezone="Europe/Berlin")
    local = make_header(study_date="20260102", study_time="080000")
    zoned = replace(local, study_instance_uid=new_uid(), sop_instance_uid=new_uid())
    zoned = replace(zoned, timezone_offset_from_utc="+0000")
    first, second = room.arrive(make_arrival(local)), room.arrive(make_arrival(zoned))
    assert room.study(first.study_id).study_datetime.hour == 7
    assert room.study(second.study_id).study_datetime.hour == 8


def test_an_old_study_is_held_off_the_list_and_looked_at_last(room: Room) -> None:
    room.policies = make_policies(eligibility=EligibilityPolicy(maximum_study_age_h=24))
    old = room.arrive(make_arrival(make_header(study_date="20200101", study_time="080000")))
    new = room.arrive(make_arrival(make_header(study_date="20260102", study_time="080000")))
    assert room.study(old.study_id).too_old
    assert room.study(old.study_id).sort_key is None
    assert room.reading_order() == [room.study(new.study_id).study_instance_uid]
    assert [job.study_id for job in room.claim()] == [new.study_id, old.study_id]


def test_an_image_with_an_older_date_takes_no_study_off_the_list(room: Room) -> None:
    room.policies = make_policies(eligibility=EligibilityPolicy(maximum_study_age_h=24))
    header = make_header(study_date="20260102", study_time="080000")
    outcome = room.arrive(make_arrival(header))
    later = replace(header, sop_instance_uid=new_uid(), study_date="20200101")
    room.arrive(make_arrival(later))
    assert not room.study(outcome.study_id).too_old
    assert room.reading_order() == [header.study_instance_uid]


def test_a_later_image_with_a_newer_date_has_the_whole_study_looked_at(room: Room) -> None:
    room.policies = make_policies(eligibility=EligibilityPolicy(maximum_study_age_h=24))
    header = make_header(**PRIOR)
    old = room.arrive(make_arrival(header))
    slice_ = make_ct_header(study_instance_uid=header.study_instance_uid, **PRIOR)
    room.arrive(make_arrival(slice_))
    room.clock.advance(10)
    room.close()
    for job in room.claim():
        room.commit(job, TOO_OLD)
    assert room.reading_order() == []

    room.arrive(make_arrival(replace(header, sop_instance_uid=new_uid(), **TODAY)))
    assert room.reading_order() == [header.study_instance_uid]
    assert room.study(old.study_id).analysis == Analysis.PENDING
    assert [(job.subject, job.rank) for job in room.claim()] == [
        (Subject.IMAGE, urgency(Rank.ROUTINE)),
        (Subject.SERIES, urgency(Rank.ROUTINE)),
        (Subject.IMAGE, urgency(Rank.ROUTINE)),
    ]


def test_a_corrected_date_has_the_study_looked_at_that_it_lists(room: Room) -> None:
    room.policies = make_policies(eligibility=EligibilityPolicy(maximum_study_age_h=24))
    header = make_header(**PRIOR)
    seen = room.arrive(make_arrival(header))
    [job] = room.claim()
    room.commit(job, TOO_OLD)
    begun = room.arrive(make_arrival(replace(header, sop_instance_uid=new_uid())))
    [under_way] = room.claim()
    room.arrive(make_arrival(replace(header, **TODAY), content="corrected"))
    [comparison] = room.claim()
    waiting = room.arrive(make_arrival(replace(header, sop_instance_uid=new_uid())))
    results.commit_comparison(
        room.db,
        comparison,
        verdict=ObjectState.REVISION,
        pixel_digests={},
        policies=room.policies,
    )
    assert room.reading_order() == [header.study_instance_uid]
    with pytest.raises(StaleLease):
        room.commit(under_way, TOO_OLD)
    again = room.claim()
    assert {job.subject_id for job in again} == {
        each.instance_id for each in (seen, begun, waiting)
    }
    assert {job.rank for job in again} == {urgency(Rank.ROUTINE)}


def test_orders_decide_the_first_rank_and_a_later_image_may_raise_it(room: Room) -> None:
    stat = OrderRule(priority=Rank.STAT, current_patient_location="^ED")
    room.policies = make_policies(orders=OrdersPolicy(rules=(stat,)))
    study = new_uid()
    outcome = room.arrive(make_arrival(make_header(study_instance_uid=study)))
    assert room.study(outcome.study_id).order_priority == Rank.ROUTINE
    room.arrive(
        make_arrival(make_header(study_instance_uid=study, current_patient_location="ED 3"))
    )
    raised = room.study(outcome.study_id)
    assert (raised.order_priority, raised.priority) == (Rank.STAT, Rank.STAT)
    assert {job.rank for job in room.rows(JobRow)} == {0}


def test_a_savepoint_keeps_a_bad_object_from_its_neighbours(room: Room) -> None:
    good, bad = make_arrival(), make_arrival()
    with room.db.write() as connection:
        record_arrival(connection, good, policies=room.policies, now=room.clock())
        savepoint = connection.begin_nested()
        record_arrival(connection, bad, policies=room.policies, now=room.clock())
        savepoint.rollback()
    assert [instance.digest for instance in room.rows(Instance)] == [good.digest]


def test_images_that_expired_are_held_and_looked_at_again_when_they_are_resent(
    room: Room,
) -> None:
    arrival = make_arrival()
    study_id = room.arrive(arrival).study_id
    [job] = room.claim()
    room.commit(job, analysed(0.1, flagged=False))
    room.acknowledge(study_id)
    with room.db.write() as connection:
        assert expire_study(connection, study_id, now=room.clock()) == [arrival.path]
    assert room.study(study_id).state == StudyState.EXPIRED

    outcome = room.arrive(arrival)
    assert outcome.state is ObjectState.STORED
    assert len(room.claim()) == 1
    study = room.study(study_id)
    assert (study.images_expired_at, study.acknowledged_at) == (None, None)
    assert study.state == StudyState.ARRIVING


def test_of_a_series_that_expired_only_what_comes_again_is_counted(room: Room) -> None:
    study, series = new_uid(), new_uid()
    arrivals = [
        make_arrival(make_ct_header(study_instance_uid=study, series_instance_uid=series))
        for _ in range(4)
    ]
    for arrival in arrivals[:3]:
        study_id = room.arrive(arrival).study_id
    look_at_the_series(room)
    assert counts(room, study_id) == (3, 3, "")
    room.acknowledge(study_id)
    with room.db.write() as connection:
        assert len(expire_study(connection, study_id, now=room.clock())) == 3

    room.arrive(arrivals[3])
    look_at_the_series(room)
    assert counts(room, study_id) == (1, 1, "expired before the last look: 3 images")
    room.arrive(arrivals[0])
    look_at_the_series(room)
    assert counts(room, study_id) == (2, 2, "expired before the last look: 2 images")


def look_at_the_series(room: Room) -> None:
    room.clock.advance(10)
    room.close()
    [job] = room.claim()
    room.commit(job, analysed(0.1, flagged=False))


def counts(room: Room, study_id: int) -> tuple[int, int, str]:
    study = room.study(study_id)
    return study.images_eligible, study.images_analysed, study.analysis_reason


def test_a_series_that_has_expired_closes_without_a_look(room: Room) -> None:
    study_id = room.arrive(make_arrival(make_ct_header())).study_id
    room.acknowledge(study_id)
    with room.db.write() as connection:
        expire_study(connection, study_id, now=room.clock())
    room.clock.advance(10)
    assert room.close() == 1
    assert room.claim() == []


def test_series_of_one_study_are_told_apart(room: Room) -> None:
    study = new_uid()
    for _ in range(2):
        room.arrive(make_arrival(make_ct_header(study_instance_uid=study)))
    room.arrive(make_arrival(make_header(study_instance_uid=study)))
    assert [series.modality for series in room.rows(Series)] == ["CT", "CT", "DX"]
    assert room.study(1).modalities_in_study == ["CT", "DX"]
