"""The flag is one commit; a stale result is refused; the words come later and change nothing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.assurance import requirement
from tests.builders import make_arrival, make_ct_header, make_header, new_uid
from tests.database.conftest import MODEL, Room, analysed
from triage.database import queue, results
from triage.database.retention import expire_study
from triage.database.tables import CaptionRow, Embedding, Instance, ResultRow
from triage.database.tables_house import JobRow
from triage.errors import DatabaseRejected, PermanentError
from triage.records import (
    Analysis,
    AnalysisResult,
    Caption,
    Job,
    JobKind,
    Mode,
    ModelIdentity,
    Rank,
    Subject,
)


def words(text: str) -> Caption:
    return Caption(text=text, prompt_digest="p" * 64, model=MODEL)


def one_job(room: Room) -> Job:
    room.arrive(make_arrival())
    [job] = room.claim()
    return job


def test_the_flag_is_on_the_worklist_when_the_commit_returns(room: Room) -> None:
    job = one_job(room)
    room.clock.advance(7)
    assert room.commit(job, analysed(0.93))
    study = room.study(job.study_id)
    assert (study.analysis, study.priority, study.priority_source) == ("analysed", "HIGH", "model")
    assert study.priority_reason == "flagged: pneumothorax"
    assert study.findings == [
        {
            "name": "pneumothorax",
            "code": None,
            "probability": 0.93,
            "operating_point": 0.5,
            "flagged": True,
        }
    ]
    assert study.models == [{"name": "toy", "version": "1", "digest": MODEL.digest}]
    assert study.flagged_at == study.analysed_at == study.first_flagged_at == room.clock()


def test_nothing_of_a_commit_that_breaks_is_kept(room: Room) -> None:
    job = one_job(room)
    twice = analysed()
    with pytest.raises(DatabaseRejected):
        room.commit(job, twice, twice)
    assert room.rows(ResultRow) == []
    [row] = room.rows(JobRow)
    assert row.state == "leased"
    assert room.study(job.study_id).analysis == Analysis.PENDING
    assert room.commit(job, twice)


def test_a_shadow_result_is_kept_and_counts_for_nothing(room: Room) -> None:
    job = one_job(room)
    shadow = analysed(
        mode=Mode.SHADOW, model=ModelIdentity(name="next", version="2", digest="e" * 64)
    )
    room.commit(job, analysed(0.1, flagged=False), shadow)
    study = room.study(job.study_id)
    assert (study.priority, study.flagged_at) == (Rank.ROUTINE, None)
    assert [model["name"] for model in study.models] == ["toy"]
    assert len(room.rows(ResultRow)) == 2


@requirement("G8")
@requirement("P6")
def test_a_later_result_supersedes_and_the_former_one_stays_readable(room: Room) -> None:
    from triage.database.queue import requeue_study

    job = one_job(room)
    room.commit(job, analysed(0.9))
    first_flagged_at = room.clock()
    room.clock.advance(60)
    with room.db.write() as connection:
        requeue_study(
            connection, job.study_id, by="admin", policies=room.policies, now=room.clock()
        )
    [again] = room.claim()
    room.commit(again, analysed(0.2, flagged=False))
    assert [row.current for row in room.rows(ResultRow)] == [False, True]
    study = room.study(job.study_id)
    assert (study.flagged_at, study.first_flagged_at) == (None, first_flagged_at)


def look_again(room: Room, study_id: int, *said: AnalysisResult) -> Any:
    room.clock.advance(60)
    with room.db.write() as connection:
        queue.requeue_study(
            connection, study_id, by="admin", policies=room.policies, now=room.clock()
        )
    [again] = room.claim()
    assert room.commit(again, *said)
    return room.study(study_id)


NEXT = ModelIdentity(name="next", version="2", digest="e" * 64)
REFUSED = AnalysisResult(
    model=NEXT, mode=Mode.SERVE, analysis=Analysis.NOT_ELIGIBLE, reason="other body part"
)
NOBODY = replace(REFUSED, model=None, reason="no model configured")


@requirement("M1")
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        pytest.param(
            analysed(0.1, flagged=False, mode=Mode.SHADOW), "no model serves", id="shadow"
        ),
        pytest.param(REFUSED, "other body part", id="refused"),
        pytest.param(NOBODY, "no model configured", id="nobody"),
    ],
)
def test_a_flag_stays_where_no_served_model_looks_again(
    room: Room, said: AnalysisResult, reason: str
) -> None:
    job = one_job(room)
    room.commit(job, analysed(0.9))
    flagged_at = room.clock()
    for _ in range(2):
        study = look_again(room, job.study_id, said)
        assert (study.priority, study.flagged_at) == (Rank.HIGH, flagged_at)
        assert [each["flagged"] for each in study.findings] == [True]
        assert (study.analysis, study.images_analysed) == ("not_eligible", 0)
        assert study.analysis_reason == f"{reason}; flagged by an earlier look"


def test_a_score_without_a_flag_does_not_outlive_the_look_that_gave_it(room: Room) -> None:
    job = one_job(room)
    room.commit(job, analysed(0.1, flagged=False))
    study = look_again(room, job.study_id, analysed(0.2, flagged=False, mode=Mode.SHADOW))
    assert (study.findings, study.analysis_reason) == ([], "no model serves")


def test_a_flag_gives_way_when_another_served_model_has_looked(room: Room) -> None:
    job = one_job(room)
    room.commit(job, analysed(0.9))
    look_again(room, job.study_id, analysed(0.1, flagged=False, mode=Mode.SHADOW))
    study = look_again(room, job.study_id, analysed(0.1, flagged=False, model=NEXT))
    assert (study.priority, study.flagged_at) == (Rank.ROUTINE, None)


SAME_REFUSED = replace(REFUSED, model=MODEL, reason="unlike its images")
SAME_FAILED = replace(
    SAME_REFUSED, analysis=Analysis.FAILED, reason="memory ran out", not_for_clinical_use=True
)

NOT_LOADED = replace(
    SAME_FAILED, model=ModelIdentity(name="chest", version="", digest="not loaded: chest")
)


@requirement("M1")
@pytest.mark.parametrize(
    ("said", "state", "reason"),
    [
        pytest.param([SAME_REFUSED], "not_eligible", "unlike its images", id="it refuses"),
        pytest.param(
            [SAME_FAILED, analysed(0.1, flagged=False, model=NEXT)],
            "failed",
            "failed: 1 image (memory ran out; flagged by an earlier look)",
            id="it fails and another looks",
        ),
        pytest.param(
            [NOT_LOADED, analysed(0.1, flagged=False, model=NEXT)],
            "failed",
            "failed: 1 image (memory ran out; flagged by an earlier look)",
            id="it may be what could not be loaded",
        ),
        pytest.param(
            [SAME_FAILED, NOBODY, REFUSED],
            "failed",
            "failed: 1 image (memory ran out; flagged by an earlier look)",
            id="it fails and nobody looks",
        ),
    ],
)
def test_a_flag_stays_where_its_own_model_could_not_look(
    room: Room, said: list[AnalysisResult], state: str, reason: str
) -> None:
    job = one_job(room)
    room.commit(job, analysed(0.9), caption_due=True)
    [caption] = room.claim(JobKind.CAPTION)
    assert results.commit_caption(room.db, caption, words("As the model sees it."))
    for _ in range(2):
        study = look_again(room, job.study_id, *said)
        assert (study.priority, study.analysis) == (Rank.HIGH, state)
        assert [each["flagged"] for each in study.findings] == [True]
        assert study.analysis_reason.startswith(reason)
        assert study.caption == "As the model sees it."
    study = look_again(room, job.study_id, analysed(0.2, flagged=False))
    assert (study.priority, study.analysis, study.caption) == (Rank.ROUTINE, "analysed", "")


@requirement("M1")
@pytest.mark.parametrize("flagged", [True, False])
def test_a_look_that_fails_leaves_a_flag_and_its_words_and_no_score_without_one(
    room: Room, flagged: bool
) -> None:
    job = one_job(room)
    said = analysed(0.9 if flagged else 0.1, flagged=flagged, not_for_clinical_use=True)
    room.commit(job, said, caption_due=True)
    [caption] = room.claim(JobKind.CAPTION)
    assert results.commit_caption(room.db, caption, words("As the model sees it."))
    room.clock.advance(60)
    with room.db.write() as connection:
        queue.requeue_study(
            connection, job.study_id, by="admin", policies=room.policies, now=room.clock()
        )
    [again] = room.claim()
    with room.db.write() as connection:
        error = PermanentError("the image cannot be decoded", hint="Send it again.")
        now = room.clock()
        queue.fail(connection, again, error, policies=room.policies, jitter=0.0, now=now)
    study = room.study(job.study_id)
    assert (study.analysis, study.images_analysed) == ("failed", 0)
    assert (study.priority == Rank.HIGH) is flagged
    assert bool(study.findings) is flagged
    assert (study.caption == "As the model sees it.") is flagged
    assert study.not_for_clinical_use is flagged


def test_a_flag_of_a_series_stays_when_late_images_are_seen_by_shadows_alone(room: Room) -> None:
    uids = {"study_instance_uid": new_uid(), "series_instance_uid": new_uid()}
    for late in (False, True):
        room.arrive(make_arrival(make_ct_header(**uids)))
        room.clock.advance(3600)
        assert room.close() == 1
        [job] = room.claim()
        mode = Mode.SHADOW if late else Mode.SERVE
        room.commit(job, analysed(0.9, flagged=not late, mode=mode))
    study = room.study(job.study_id)
    assert (study.priority, study.images_analysed) == (Rank.HIGH, 0)
    assert (study.analysis, study.state) == ("not_eligible", "ready")


def test_a_study_is_pending_until_all_its_images_were_looked_at(room: Room) -> None:
    study = new_uid()
    for _ in range(2):
        room.arrive(make_arrival(make_header(study_instance_uid=study)))
    first, second = room.claim()
    room.commit(first, analysed(0.9))
    half = room.study(first.study_id)
    assert (half.analysis, half.images_analysed, half.images_eligible) == ("pending", 1, 2)
    assert (half.priority, half.analysed_at) == (Rank.HIGH, None)
    flagged_at = room.clock()
    assert half.flagged_at == flagged_at
    room.clock.advance(5)
    room.commit(second, analysed(0.1, flagged=False))
    whole = room.study(first.study_id)
    assert (whole.flagged_at, whole.analysed_at) == (flagged_at, room.clock())
    assert (whole.analysis, whole.images_analysed) == ("analysed", 2)
    assert whole.findings[0]["probability"] == 0.9


def test_what_was_not_looked_at_says_why(room: Room) -> None:
    job = one_job(room)
    declined = AnalysisResult(
        model=None,
        mode=Mode.SERVE,
        analysis=Analysis.NOT_ELIGIBLE,
        reason="no model configured",
    )
    room.commit(job, declined)
    study = room.study(job.study_id)
    assert (study.analysis, study.analysis_reason) == ("not_eligible", "no model configured")
    assert (study.findings, study.models) == ([], [])


def test_demonstration_results_mark_the_study(room: Room) -> None:
    job = one_job(room)
    room.commit(job, analysed(not_for_clinical_use=True))
    assert room.study(job.study_id).not_for_clinical_use is True


# --- captions


def captioned(room: Room, text: str = "Large left pneumothorax.") -> Job:
    job = one_job(room)
    room.commit(job, caption_due=True)
    [caption] = room.claim(JobKind.CAPTION)
    assert results.commit_caption(room.db, caption, words(text))
    return job


def test_a_caption_is_a_later_job_and_changes_nothing_else(room: Room) -> None:
    job = one_job(room)
    room.commit(job, caption_due=True)
    before = room.study(job.study_id)
    [caption] = room.claim(JobKind.CAPTION)
    room.clock.advance(60)
    assert results.commit_caption(room.db, caption, words("Large left pneumothorax."))
    after = room.study(job.study_id)
    assert after.caption == "Large left pneumothorax."
    assert {**after._mapping, "caption": ""} == dict(before._mapping)


def test_no_caption_is_made_where_none_is_due(room: Room) -> None:
    job = one_job(room)
    room.commit(job, caption_due=False)
    assert room.claim(JobKind.CAPTION) == []


def test_captions_of_all_images_are_shown_each_sentence_once(room: Room) -> None:
    study = new_uid()
    for text in ("Small effusion.", "Small effusion.", "Nodule."):
        room.arrive(make_arrival(make_header(study_instance_uid=study)))
        [job] = room.claim()
        room.commit(job, caption_due=True)
        [caption] = room.claim(JobKind.CAPTION)
        results.commit_caption(room.db, caption, words(text))
    assert room.study(1).caption == "Small effusion. Nodule."


def test_a_new_look_retires_the_words_about_the_old_one(room: Room) -> None:
    from triage.database.queue import requeue_study

    job = captioned(room)
    with room.db.write() as connection:
        requeue_study(
            connection, job.study_id, by="admin", policies=room.policies, now=room.clock()
        )
    [again] = room.claim()
    room.commit(again, analysed(0.1, flagged=False))
    assert room.study(job.study_id).caption == ""
    assert [caption.current for caption in room.rows(CaptionRow)] == [False]


def test_a_failed_caption_leaves_the_analysis_alone(room: Room) -> None:
    from triage.database.queue import fail
    from triage.errors import InferenceError

    job = one_job(room)
    room.commit(job, caption_due=True)
    [caption] = room.claim(JobKind.CAPTION)
    with room.db.write() as connection:
        fail(
            connection,
            caption,
            InferenceError("markup in the caption"),
            policies=room.policies,
            jitter=0,
            now=room.clock(),
        )
    study = room.study(job.study_id)
    assert (study.analysis, study.caption) == (Analysis.ANALYSED, "")


# --- what a worker reads


def test_the_contents_of_a_series_are_its_images_in_order_of_arrival(room: Room) -> None:
    study, series = new_uid(), new_uid()
    ids = []
    for number in range(3):
        header = make_ct_header(
            study_instance_uid=study, series_instance_uid=series, instance_number=9 - number
        )
        ids.append(room.arrive(make_arrival(header)).instance_id)
    report = make_ct_header(study_instance_uid=study, series_instance_uid=series, has_pixels=False)
    room.arrive(make_arrival(report))
    with room.db.read() as connection:
        contents = results.subject_contents(connection, Subject.SERIES, 1)
    assert [instance.id for instance in contents.instances] == ids
    assert [instance.header.instance_number for instance in contents.instances] == [9, 8, 7]
    assert contents.generation == 3
    assert contents.instances[0].sender_ae_title == "SENDER"
    assert not contents.too_old


def test_a_header_comes_back_as_it_was_written(room: Room) -> None:
    header = make_header(image_type=("ORIGINAL", "PRIMARY"), patient_name="Ærø^Ünïcode=山田")
    outcome = room.arrive(make_arrival(header))
    with room.db.read() as connection:
        contents = results.subject_contents(connection, Subject.IMAGE, outcome.instance_id)
    assert contents.instances[0].header == header


def test_a_subject_without_images_says_so(room: Room) -> None:
    with room.db.read() as connection, pytest.raises(PermanentError, match="nothing is held"):
        results.subject_contents(connection, Subject.IMAGE, 4711)


def test_embeddings_and_pixel_digests_are_kept_with_the_result(room: Room) -> None:
    job = one_job(room)
    vector = np.arange(5, dtype=np.float32) / 3
    keys = [f"key-{number}" for number in range(1200)]
    room.commit(
        job,
        pixel_digests={job.subject_id: "digest"},
        embeddings=dict.fromkeys(keys, vector),
    )
    with room.db.read() as connection:
        cached = results.cached_embeddings(connection, [*keys, "unknown"])
    assert cached.keys() == set(keys)
    assert cached["key-7"].dtype == np.float32
    np.testing.assert_array_equal(cached["key-7"], vector)
    assert room.rows(Instance)[0].pixel_digest == "digest"


def test_an_embedding_that_is_cached_already_is_kept_once(room: Room) -> None:
    vector = np.ones(3, dtype=np.float32)
    for _ in range(2):
        job = one_job(room)
        room.commit(job, embeddings={"key": vector})
    assert len(room.rows(Embedding)) == 1


@requirement("P3")
def test_words_and_embeddings_of_images_that_expired_meanwhile_are_not_kept(room: Room) -> None:
    job = one_job(room)
    room.commit(job, analysed(), caption_due=True)
    [caption] = room.claim(JobKind.CAPTION)
    expire(room, job.study_id)
    assert not results.commit_caption(room.db, caption, words("Large pneumothorax."))
    assert room.rows(CaptionRow) == []
    assert room.study(job.study_id).caption == ""
    assert room.rows(JobRow, JobRow.id == caption.id)[0].state == "done"


@requirement("P3")
def test_a_look_that_ends_after_the_images_expired_keeps_its_result_alone(room: Room) -> None:
    job = one_job(room)
    expire(room, job.study_id)
    vector = np.ones(4, np.float32)
    assert room.commit(job, analysed(), embeddings={"k": vector}, caption_due=True)
    assert room.rows(Embedding) == []
    assert room.rows(JobRow, JobRow.kind == JobKind.CAPTION) == []
    assert len(room.rows(ResultRow)) == 1


def expire(room: Room, study_id: int) -> None:
    """A person has read the study, and its images are deleted."""
    room.acknowledge(study_id)
    with room.db.write() as connection:
        assert expire_study(connection, study_id, now=room.clock())


def test_captions_that_are_switched_off_leave_no_job_behind(room: Room) -> None:
    job = one_job(room)
    room.commit(job, analysed(), caption_due=True)
    assert queue.retire_captions(room.db, reason="captions are switched off") == 1
    [left] = room.rows(JobRow, JobRow.kind == JobKind.CAPTION)
    assert (left.state, left.reason) == ("superseded", "captions are switched off")
    assert room.claim(JobKind.CAPTION) == []
    assert queue.retire_captions(room.db, reason="captions are switched off") == 0
