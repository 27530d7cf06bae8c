"""Pixels, embeddings and captions of a study expire together; what nobody has read stays."""

from dataclasses import replace
from datetime import timedelta

import numpy as np

from tests.assurance import requirement
from tests.builders import BASIC_TEXT_SR, make_arrival, make_header, make_policies
from tests.database.conftest import MODEL, Room, analysed
from triage.database import queue, results
from triage.database.retention import expirable_studies, expire_study, still_expired
from triage.database.tables import CaptionRow, Embedding, Instance, ResultRow
from triage.errors import PermanentError
from triage.records import Caption, JobKind, ObjectState, StudyState
from triage.rules.eligibility import EligibilityPolicy


def expirable(room: Room) -> list[int]:
    with room.db.read() as connection:
        before = room.clock() - timedelta(days=30)
        return expirable_studies(connection, before=before, limit=10)


def expire(room: Room, study_id: int) -> list[str]:
    with room.db.write() as connection:
        return expire_study(connection, study_id, now=room.clock())


def seen(room: Room, *, flagged: bool, **header: str) -> int:
    """Receive a radiograph and look at it; returns its study."""
    study_id = room.arrive(make_arrival(make_header(**header))).study_id
    [job] = room.claim()
    room.commit(
        job,
        analysed(flagged=flagged, embedding_keys=("key",)),
        embeddings={"key": np.ones(2, dtype=np.float32)},
        caption_due=True,
    )
    [caption] = room.claim(JobKind.CAPTION)
    words = Caption(text="Words.", prompt_digest="", model=MODEL)
    results.commit_caption(room.db, caption, words)
    return study_id


@requirement("P3")
def test_only_what_a_person_has_read_expires_and_only_after_its_time(room: Room) -> None:
    read, unread = seen(room, flagged=True), seen(room, flagged=True)
    room.acknowledge(read)
    room.clock.advance(29 * 86400)
    assert expirable(room) == []
    room.clock.advance(2 * 86400)
    assert expirable(room) == [read]
    assert expire(room, unread) == []
    assert room.study(unread).state != StudyState.EXPIRED


@requirement("P3")
def test_old_studies_off_the_list_expire_unless_they_are_flagged(room: Room) -> None:
    room.policies = make_policies(eligibility=EligibilityPolicy(maximum_study_age_h=24))
    old = {"study_date": "20200101", "study_time": "0800"}
    plain, flagged = seen(room, flagged=False, **old), seen(room, flagged=True, **old)
    room.clock.advance(31 * 86400)
    assert expirable(room) == [plain]
    assert expire(room, flagged) == []


@requirement("P3")
def test_pixels_embedding_and_caption_go_together_and_the_rows_stay(room: Room) -> None:
    study = seen(room, flagged=True)
    room.acknowledge(study)
    [instance] = room.rows(Instance)
    assert expire(room, study) == [instance.path]
    assert room.rows(Embedding) == []
    assert room.rows(CaptionRow) == []
    row = room.study(study)
    assert (row.state, row.caption) == (StudyState.EXPIRED, "")
    assert row.acknowledged_by == "reader"
    assert len(room.rows(ResultRow)) == 1
    assert expire(room, study) == []
    assert room.claim() == []


@requirement("P3")
def test_nothing_expires_while_its_pixels_wait_to_be_compared(room: Room) -> None:
    header = make_header()
    study = room.arrive(make_arrival(header)).study_id
    [job] = room.claim()
    room.commit(job, analysed(flagged=False))
    room.acknowledge(study)
    room.arrive(make_arrival(replace(header, patient_name="NEW^NAME"), content="corrected"))
    room.clock.advance(31 * 86400)
    assert expirable(room) == []
    assert expire(room, study) == []

    [comparison] = room.claim()
    results.commit_comparison(
        room.db,
        comparison,
        verdict=ObjectState.REVISION,
        pixel_digests={},
        policies=room.policies,
    )
    assert expirable(room) == [study]
    assert len(expire(room, study)) == 2


def test_a_comparison_that_failed_for_good_keeps_nothing_from_expiring(room: Room) -> None:
    header = make_header()
    study = room.arrive(make_arrival(header)).study_id
    [job] = room.claim()
    room.commit(job, analysed(flagged=False))
    room.arrive(make_arrival(replace(header, patient_name="NEW^NAME"), content="corrected"))
    [comparison] = room.claim()
    with room.db.write() as connection:
        error = PermanentError("the decoder died each time", hint="Send it again.")
        now = room.clock()
        queue.fail(connection, comparison, error, policies=room.policies, jitter=0.0, now=now)
    room.acknowledge(study)
    room.clock.advance(31 * 86400)
    assert expirable(room) == [study]
    assert len(expire(room, study)) == 2


def test_a_correction_without_pixels_of_an_expired_study_expires_too(room: Room) -> None:
    header = make_header(modality="SR", sop_class_uid=BASIC_TEXT_SR, has_pixels=False)
    study = room.arrive(make_arrival(header)).study_id
    room.acknowledge(study)
    room.clock.advance(31 * 86400)
    assert len(expire(room, study)) == 1
    room.arrive(make_arrival(replace(header, patient_name="NEW^NAME"), content="corrected"))
    assert room.study(study).state == StudyState.ACKNOWLEDGED
    assert expirable(room) == []
    room.clock.advance(31 * 86400)
    assert expirable(room) == [study]
    assert len(expire(room, study)) == 1


def test_a_file_that_came_again_meanwhile_is_not_to_be_deleted(room: Room) -> None:
    arrival = make_arrival()
    study = room.arrive(arrival).study_id
    room.acknowledge(study)
    paths = expire(room, study)
    with room.db.write() as connection:
        assert still_expired(connection, paths) == [arrival.path]
    room.arrive(arrival)
    with room.db.write() as connection:
        assert still_expired(connection, paths) == []
