"""The worker on real databases, real files and real decoding, with toy models."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate
from sqlalchemy import Connection, select

from tests.assurance import requirement
from tests.dicom_files import make_ct_series, make_dx, make_image
from tests.worker.house import House, drain, look_only, names, radiograph
from tests.worker.toys import Toy, poisoned_by
from triage.database import arrivals, queue
from triage.database.connection import Database
from triage.database.tables import Embedding
from triage.errors import (
    DatabaseUnavailable,
    DeviceFault,
    DeviceOutOfMemory,
    InferenceError,
    KnownAnswerError,
    TriageError,
)
from triage.records import Mode, Rank, ViewSpec
from triage.rules.eligibility import IntendedUse
from triage.worker.loop import UNSERVED_S
from triage.worker.models import Encoded, Judgement, View
from triage.worker.roster import RECHECK_S


class FailingLine:
    """A database whose reads fail while the line is cut; writes are left alone."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.cut = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def read(self) -> AbstractContextManager[Connection]:
        if self.cut:
            raise DatabaseUnavailable("the line is cut")
        return self._db.read()


class CountingWrites:
    """A database that counts the write transactions asked of it."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def write(self) -> AbstractContextManager[Connection]:
        self.count += 1
        return self._db.write()


@requirement("M5")
def test_the_flag_comes_before_the_words_and_the_words_change_nothing(house: House) -> None:
    toy = Toy()
    outcome = house.receive(radiograph(0.9))
    worker = house.worker(toy.loaded())
    look_only(worker)
    flagged = house.study(outcome)
    assert (flagged["priority"], flagged["priority_source"]) == (Rank.HIGH, "model")
    assert flagged["flagged_at"] is not None
    assert flagged["caption"] == ""
    drain(worker)
    described = house.study(outcome)
    assert described["caption"] == "Bright lung."
    assert described | {"caption": ""} == flagged


def test_the_words_reuse_what_the_encoder_made(house: House) -> None:
    toy = Toy()
    house.receive(radiograph(0.9))
    drain(house.worker(toy.loaded()))
    assert [entry.features for entry in toy.described] == ["kept 0.90"]
    assert toy.encoded == [1]


def test_the_words_are_written_by_a_worker_that_never_saw_the_image(house: House) -> None:
    toy = Toy()
    outcome = house.receive(radiograph(0.9))
    look_only(house.worker(toy.loaded()))
    drain(house.worker(toy.loaded(), owner="two"))
    assert house.study(outcome)["caption"] == "Bright lung."
    assert toy.described[0].features is None
    assert abs(float(toy.described[0].view.mean()) - 0.9) < 0.01


@pytest.mark.parametrize("other", ["shadow", "gated"])
def test_a_model_that_did_not_judge_the_image_never_describes_it(house: House, other: str) -> None:
    first, second = Toy(name="first"), Toy(name="second")
    stranger = Judgement(findings=(), distance=9.0, in_distribution=False)
    ahead = (
        first.loaded(mode=Mode.SHADOW)
        if other == "shadow"
        else first.loaded(classify=lambda vectors: stranger)
    )
    outcome = house.receive(radiograph(0.9))
    look_only(house.worker(ahead, second.loaded()))
    drain(house.worker(ahead, second.loaded(), owner="two"))  # remembers nothing of it
    assert house.study(outcome)["caption"] == "Bright lung."
    assert (len(first.described), len(second.described)) == (0, 1)


def test_a_shadow_rendering_that_does_not_fit_takes_no_look_away(house: House) -> None:
    volume = ViewSpec(rendering="mr-volume", size_px=16)
    shadow = Toy(name="shadow").loaded(mode=Mode.SHADOW, view_spec=volume)
    noise = np.random.default_rng(0).integers(200, 255, (64, 64, 3), np.uint8)
    outcome = house.receive(make_image(noise, photometric="RGB", Modality="DX"))
    drain(house.worker(shadow, Toy().loaded()))
    assert house.study(outcome)["analysis"] == "analysed"
    assert house.study(outcome)["priority"] == "HIGH"
    told = {row["bundle_name"]: row["reason"] for row in house.results(outcome)}
    assert "grey" in told["shadow"]
    assert told["toy"] == ""


@pytest.mark.parametrize(
    ("when", "brightness", "words"),
    [
        ("flagged", 0.2, ""),
        ("all", 0.2, "Bright lung."),
        ("never", 0.9, ""),
    ],
)
def test_words_are_written_when_configured(
    house: House, when: str, brightness: float, words: str
) -> None:
    outcome = house.receive(radiograph(brightness))
    drain(house.worker(Toy().loaded(), caption_when=when))
    assert house.study(outcome)["caption"] == words


def test_studies_share_a_batch(house: House) -> None:
    toy = Toy()
    outcomes = [house.receive(radiograph(level)) for level in (0.1, 0.9, 0.5)]
    drain(house.worker(toy.loaded()))
    assert toy.encoded == [3]
    assert [house.study(each)["analysis"] for each in outcomes] == ["analysed"] * 3
    assert [house.study(each)["priority"] for each in outcomes] == ["ROUTINE", "HIGH", "ROUTINE"]


@requirement("Q3")
@requirement("M1")
def test_a_poisonous_image_fails_alone_and_never_reads_as_negative(house: House) -> None:
    outcomes = [house.receive(radiograph(level)) for level in (0.1, 0.5, 0.9)]

    def poison(view: View) -> InferenceError | None:
        return InferenceError("not finite") if 0.45 < np.mean(view) < 0.55 else None

    drain(house.worker(Toy(poison=poison).loaded()))
    assert [house.study(each)["analysis"] for each in outcomes] == [
        "analysed",
        "failed",
        "analysed",
    ]
    failed = house.study(outcomes[1])
    assert "not finite" in failed["analysis_reason"]
    assert failed["images_eligible"] == 1
    assert failed["images_analysed"] == 0
    assert names(house.jobs(outcomes[1]), "state") == ["dead"]


@requirement("Q3")
def test_trouble_that_may_pass_is_tried_again_and_then_a_dead_letter(house: House) -> None:
    outcome = house.receive(radiograph(0.9))
    toy = Toy(poison=lambda view: DeviceOutOfMemory("full"))
    worker = house.worker(toy.loaded())
    drain(worker)
    assert names(house.jobs(outcome), "state") == ["queued"]
    assert house.study(outcome)["analysis"] == "pending"
    house.clock.turn(11)
    drain(worker)
    assert names(house.jobs(outcome), "state") == ["dead"]
    assert house.study(outcome)["analysis"] == "failed"
    assert toy.encoded == [1, 1]


def test_trouble_that_passes_leaves_no_trace_in_the_result(house: House) -> None:
    outcome = house.receive(radiograph(0.9))
    toy = Toy(poison=lambda view: DeviceOutOfMemory("full"))
    worker = house.worker(toy.loaded())
    drain(worker)
    toy.poison = lambda view: None
    house.clock.turn(11)
    drain(worker)
    assert house.study(outcome)["analysis"] == "analysed"
    assert house.study(outcome)["priority"] == "HIGH"


@requirement("Q1")
def test_a_result_that_comes_too_late_is_dropped(house: House) -> None:
    outcome = house.receive(radiograph(0.9))
    slow, quick = Toy(name="slow"), Toy(name="quick")
    other = house.worker(quick.loaded(), owner="two", caption_when="never")

    def outlasts_its_lease(views: Sequence[View]) -> list[object]:
        house.clock.turn(61)
        drain(other)
        return list(slow.encode(views))

    drain(house.worker(slow.loaded(encode=outlasts_its_lease), caption_when="never"))
    assert names(house.results(outcome), "bundle_name") == ["quick"]
    assert names(house.jobs(outcome), "state") == ["done"]
    assert names(house.study(outcome)["models"], "name") == ["quick"]


def test_an_embedding_is_computed_once_for_the_same_pixels(house: House) -> None:
    toy = Toy()
    worker = house.worker(toy.loaded())
    house.receive(radiograph(0.9))
    drain(worker)
    again = house.receive(radiograph(0.9, StudyDescription="Another study"))
    drain(worker)
    assert toy.encoded == [1]
    assert house.study(again)["priority"] == "HIGH"


def test_a_shadow_model_is_recorded_and_does_not_count(house: House) -> None:
    shadow = Toy(name="shadow").loaded(mode=Mode.SHADOW)
    calm = Toy(name="calm")
    served = calm.loaded(classify=lambda vectors: calm.classify(vectors * 0.1))
    outcome = house.receive(radiograph(0.9))
    drain(house.worker(served, shadow))
    study = house.study(outcome)
    assert (study["priority"], study["analysis"]) == ("ROUTINE", "analysed")
    assert names(study["models"], "name") == ["calm"]
    flags = {row["mode"]: row["findings"][0]["flagged"] for row in house.results(outcome)}
    assert flags == {"serve": False, "shadow": True}


def test_a_flag_of_one_model_survives_the_failure_of_another(house: House) -> None:
    broken = Toy(name="broken", poison=lambda view: InferenceError("not finite"))
    outcome = house.receive(radiograph(0.9))
    drain(house.worker(broken.loaded(), Toy().loaded()))
    study = house.study(outcome)
    assert study["priority"] == "HIGH"
    assert study["analysis"] == "failed"


def test_corrected_demographics_are_a_revision_without_another_look(house: House) -> None:
    toy = Toy()
    worker = house.worker(toy.loaded())
    first = radiograph(0.9)
    house.receive(first)
    drain(worker)
    first.PatientBirthDate = "19700101"
    corrected = house.receive(first)
    drain(worker)
    assert house.object_state(corrected) == "revision"
    assert house.study(corrected)["patient_birth_date"] == "19700101"
    assert toy.encoded == [1]


@requirement("G2")
def test_other_pixels_under_one_uid_are_a_conflict_and_the_study_says_so(house: House) -> None:
    toy = Toy()
    worker = house.worker(toy.loaded())
    first = radiograph(0.9)
    kept = house.receive(first)
    drain(worker)
    other = radiograph(
        0.2,
        study_instance_uid=first.StudyInstanceUID,
        series_instance_uid=first.SeriesInstanceUID,
        sop_instance_uid=first.SOPInstanceUID,
    )
    newcomer = house.receive(other)
    drain(worker)
    assert house.object_state(newcomer) == "conflict"
    assert house.object_state(kept) == "stored"
    assert house.study(kept)["analysis"] == "failed"
    assert toy.encoded == [1]


@requirement("M1")
def test_without_a_model_the_study_says_that_nothing_looked(house: House) -> None:
    outcome = house.receive(radiograph(0.9))
    drain(house.worker())
    study = house.study(outcome)
    assert study["analysis"] == "not_eligible"
    assert "no model configured" in study["analysis_reason"]
    assert study["images_analysed"] == 0


@requirement("I4")
def test_a_blank_image_gets_a_reason_and_no_score(house: House) -> None:
    outcome = house.receive(make_dx(np.full((64, 64), 100, np.uint16), bits_stored=12))
    toy = Toy()
    drain(house.worker(toy.loaded()))
    assert "blank" in house.study(outcome)["analysis_reason"]
    assert house.study(outcome)["analysis"] == "not_eligible"
    assert toy.encoded == []


@requirement("N4")
def test_a_video_is_held_and_gets_a_reason_and_no_score(house: House) -> None:
    ds = radiograph(0.9)
    ds.file_meta.TransferSyntaxUID = uid.MPEG4HP41
    ds.PixelData = encapsulate([b"no one here reads this"])
    ds["PixelData"].is_undefined_length = True
    outcome = house.receive(ds)
    drain(house.worker(Toy().loaded()))
    assert house.object_state(outcome) == "stored"
    assert house.study(outcome)["analysis"] == "not_eligible"
    assert "no decoder" in house.study(outcome)["analysis_reason"]
    assert names(house.jobs(outcome), "state") == ["done"]


def test_words_that_no_model_writes_any_more_keep_no_worker_busy(house: House) -> None:
    outcome = house.receive(radiograph(0.9))
    look_only(house.worker(Toy().loaded()))
    writes = CountingWrites(house.db)
    silent = replace(house, db=writes).worker(Toy().loaded(describe=None), owner="two")
    assert not any(silent.turn() for _ in range(20))
    assert writes.count < 10  # it tries a claim at its start, then once in a second
    assert names(house.jobs(outcome), "state") == ["done", "queued"]


@requirement("M1")
def test_an_image_that_cannot_be_decoded_is_a_failure_with_its_reason(house: House) -> None:
    ds = radiograph(0.9)
    ds.PixelData = ds.PixelData[:-100]
    outcome = house.receive(ds)
    drain(house.worker(Toy().loaded()))
    assert house.study(outcome)["analysis"] == "failed"
    assert names(house.jobs(outcome), "state") == ["dead"]


@pytest.mark.parametrize("harm", ["cut short", "not finite"])
def test_what_only_a_shadow_was_to_look_at_stands_as_it_would_without_it(
    house: House, harm: str
) -> None:
    ds = radiograph(0.9)
    if harm == "cut short":
        ds.PixelData = ds.PixelData[:-100]
    else:
        ds = make_image(np.full((64, 64), np.nan, np.float32), Modality="DX")
    outcome = house.receive(ds)
    elsewhere = Toy().loaded(intended_use=IntendedUse(modalities=("MG",)))
    shadow = Toy(name="shadow").loaded(mode=Mode.SHADOW)
    drain(house.worker(elsewhere, shadow))
    assert house.study(outcome)["analysis"] == "not_eligible"
    assert names(house.jobs(outcome), "state") == ["done"]
    told = {row["bundle_name"]: row["analysis"] for row in house.results(outcome)}
    assert told == {"toy": "not_eligible", "shadow": "failed"}


def test_an_image_whose_file_is_gone_fails_with_a_reason_and_harms_no_other(
    house: House,
) -> None:
    gone, there = house.receive(radiograph(0.9)), house.receive(radiograph(0.8))
    for path in house.store.object_paths():
        if path == house.path(gone):
            house.store.delete(path)
    worker = house.worker(Toy().loaded())
    drain(worker)
    house.clock.turn(11)
    drain(worker)
    assert house.study(there)["analysis"] == "analysed"
    assert house.study(gone)["analysis"] == "failed"
    assert house.study(gone)["analysis_reason"]


@requirement("G8")
def test_a_series_is_looked_at_once_when_it_closes(house: House) -> None:
    toy = Toy()
    model = toy.loaded(intended_use=IntendedUse(modalities=("CT",)))
    volume = np.random.default_rng(0).uniform(-900, 900, (4, 64, 64))
    outcomes = [house.receive(each) for each in make_ct_series(volume)]
    worker = house.worker(model)
    drain(worker)
    assert toy.encoded == []
    house.clock.turn(11)
    with house.db.write() as connection:
        arrivals.close_due_series(connection, policies=house.policies, now=house.clock.now)
        arrivals.close_due_studies(connection, policies=house.policies, now=house.clock.now)
    drain(worker)
    study = house.study(outcomes[0])
    assert (study["analysis"], study["state"]) == ("analysed", "ready")
    assert len(house.results(outcomes[0])) == 1


def test_a_worker_whose_models_all_fail_takes_no_job(house: House) -> None:
    outcome = house.receive(radiograph(0.9))
    worker = house.worker(Toy(checks=[KnownAnswerError("another answer")]).loaded())
    assert not worker.turn()
    assert names(house.jobs(outcome), "state") == ["queued"]
    assert house.study(outcome)["analysis"] == "pending"


@requirement("M2")
def test_a_broken_device_ends_the_loop_and_costs_no_image(house: House) -> None:
    outcomes = [house.receive(radiograph(level)) for level in (0.1, 0.9)]

    def fault(views: Sequence[View]) -> list[Encoded]:
        raise DeviceFault("illegal access")

    worker = house.worker(Toy().loaded(encode=fault))
    with pytest.raises(DeviceFault):
        worker.run()
    assert [names(house.jobs(each), "state") for each in outcomes] == [["queued"]] * 2
    house.clock.turn(11)
    toy = Toy()
    drain(house.worker(toy.loaded(), owner="two"))
    assert toy.encoded == [1, 1]  # what failed before is looked at alone
    assert [house.study(each)["analysis"] for each in outcomes] == ["analysed"] * 2


def test_an_image_is_looked_at_after_the_database_was_away_in_between(house: House) -> None:
    outcome = house.receive(radiograph(0.9))
    line = FailingLine(house.db)
    worker = replace(house, db=line).worker(Toy().loaded())
    worker.claim()
    line.cut = True
    with pytest.raises(DatabaseUnavailable):
        worker.turn()
    line.cut = False
    drain(worker)
    assert house.study(outcome)["analysis"] == "analysed"
    assert names(house.jobs(outcome), "attempts")[0] == 1


def test_a_stopped_worker_gives_back_what_it_has_not_begun(house: House) -> None:
    outcomes = [house.receive(radiograph(level)) for level in (0.1, 0.5, 0.9)]
    worker = house.worker(Toy().loaded(), batch_size=2)
    look_only(worker)
    worker.give_back()
    states = sorted(state for each in outcomes for state in names(house.jobs(each), "state"))
    assert states.count("queued") >= 1
    left = [row for each in outcomes for row in house.jobs(each) if row["state"] == "queued"]
    assert {row["attempts"] for row in left} == {0}


@requirement("Q2")
def test_the_lease_of_a_killed_worker_ends_and_another_one_looks(house: House) -> None:
    outcome = house.receive(radiograph(0.9))
    dead = house.worker(Toy(poison=poisoned_by(2)).loaded())
    dead.claim()
    assert names(house.jobs(outcome), "state") == ["leased"]
    house.clock.turn(61)
    drain(house.worker(Toy().loaded(), owner="two"))
    assert house.study(outcome)["analysis"] == "analysed"


@requirement("I2")
@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.RLELossless])
def test_compressed_images_are_looked_at_as_they_came(house: House, syntax: str) -> None:
    outcome = house.receive(radiograph(0.9, transfer_syntax=syntax))
    drain(house.worker(Toy().loaded()))
    assert house.study(outcome)["priority"] == "HIGH"


@requirement("M1")
def test_an_image_whose_only_model_is_not_served_waits_and_is_never_a_dead_letter(
    house: House,
) -> None:
    broken = Toy(name="ct", checks=[KnownAnswerError("another answer")])
    model = broken.loaded(intended_use=IntendedUse(modalities=("DX",)))
    other = Toy(name="mammography").loaded(intended_use=IntendedUse(modalities=("MG",)))
    outcome = house.receive(radiograph(0.9))
    worker = house.worker(model, other)
    drain(worker)
    (job,) = house.jobs(outcome)
    assert (job["state"], job["attempts"]) == ("queued", 0)
    assert house.study(outcome)["analysis"] == "pending"
    house.clock.turn(UNSERVED_S + 1)
    drain(house.worker(Toy(name="ct").loaded(), other, owner="two"))  # mended and started again
    assert house.study(outcome)["priority"] == "HIGH"


@requirement("M2")
def test_what_a_model_has_in_hand_when_it_drifts_is_handed_back_untold(house: House) -> None:
    toy, clock = Toy(), Seconds()
    outcome = house.receive(radiograph(0.1))
    worker = house.worker(toy.loaded(), monotonic=clock)
    worker.claim()
    toy.checks = [KnownAnswerError("another answer")]
    clock.now_s += RECHECK_S
    drain(worker)
    assert toy.encoded == []
    assert names(house.jobs(outcome), "state") == ["queued"]
    assert names(house.jobs(outcome), "attempts") == [0]
    assert house.study(outcome)["analysis"] == "pending"


@requirement("M1")
@requirement("M2")
def test_what_a_model_said_before_its_drift_was_seen_is_looked_at_again(house: House) -> None:
    toy, clock = Toy(), Seconds()
    long_ago = house.receive(radiograph(0.1))
    worker = house.worker(toy.loaded(), monotonic=clock, caption_when="never")
    drain(worker)
    turn_both(house, clock, RECHECK_S)
    worker.turn()  # asked, and sound
    turn_both(house, clock, 20)
    lately = house.receive(radiograph(0.2))
    drain(worker)
    assert house.study(lately)["analysis"] == "analysed"
    toy.checks = [KnownAnswerError("another answer")]
    turn_both(house, clock, RECHECK_S)
    drain(worker)
    assert house.study(lately)["analysis"] == "pending"
    assert house.study(long_ago)["analysis"] == "analysed"
    sound = Toy()
    drain(house.worker(sound.loaded(), owner="two", caption_when="never"))
    assert sound.encoded == [1]  # no embedding of those days is used again
    assert house.study(lately)["analysis"] == "analysed"


def test_a_shadow_that_drifts_has_no_study_looked_at_again(house: House) -> None:
    toy, clock = Toy(name="shadow"), Seconds()
    outcome = house.receive(radiograph(0.2))
    models = (Toy().loaded(), toy.loaded(mode=Mode.SHADOW))
    worker = house.worker(*models, monotonic=clock, caption_when="never")
    drain(worker)
    before = house.study(outcome)
    toy.checks = [KnownAnswerError("another answer")]
    turn_both(house, clock, RECHECK_S)
    drain(worker)
    assert house.study(outcome) == before
    assert names(house.jobs(outcome), "state") == ["done"]
    served, _ = house.results(outcome)
    kept = names(house.rows(select(Embedding.key)), "key")
    assert kept == served["embedding_keys"]  # what drifted has made is forgotten


def turn_both(house: House, clock: "Seconds", seconds: float) -> None:
    house.clock.turn(seconds)
    clock.now_s += seconds


def test_words_that_wait_when_captions_are_switched_off_wait_no_more(house: House) -> None:
    outcome = house.receive(radiograph(0.9))
    look_only(house.worker(Toy().loaded()))
    drain(house.worker(Toy().loaded(describe=None), owner="two", caption_when="never"))
    assert names(house.jobs(outcome), "state") == ["done", "superseded"]


@requirement("M1")
def test_pixels_that_are_no_numbers_are_a_failure_and_no_darkness(house: House) -> None:
    pixels = np.random.default_rng(0).uniform(0, 4000, (64, 64)).astype(np.float32)
    pixels[:32] = np.nan
    outcome = house.receive(make_dx(pixels))
    toy = Toy()
    drain(house.worker(toy.loaded()))
    assert toy.encoded == []
    assert house.study(outcome)["analysis"] == "failed"
    assert "not finite" in house.study(outcome)["analysis_reason"]
    assert names(house.jobs(outcome), "state") == ["dead"]


@requirement("M1")
def test_an_error_that_nobody_foresaw_ends_the_worker_and_never_reads_as_negative(
    house: House,
) -> None:
    def breaks(views: Sequence[View]) -> list[Encoded]:
        raise ZeroDivisionError("nobody foresaw this")

    outcome = house.receive(radiograph(0.2))
    for number in range(house.policies.retry.attempts):
        worker = house.worker(Toy().loaded(encode=breaks), owner=f"worker {number}")
        with pytest.raises(ZeroDivisionError):
            drain(worker)
        assert house.study(outcome)["analysis"] == "pending"
        house.clock.turn(61)
    with house.db.write() as connection:
        queue.sweep_expired(connection, policies=house.policies, now=house.clock.now)
    assert names(house.jobs(outcome), "state") == ["dead"]
    assert house.study(outcome)["analysis"] == "failed"
    assert "its worker died or hung each time" in house.study(outcome)["analysis_reason"]


@requirement("Q3")
def test_an_image_that_kills_its_worker_each_time_takes_no_other_with_it(house: House) -> None:
    def deadly(views: Sequence[View]) -> list[Encoded | TriageError]:
        if any(view.mean() > 0.8 for view in views):
            raise ZeroDivisionError("this one ends the process")
        return Toy().encode(views)

    killer = house.receive(radiograph(0.9))
    others = [house.receive(radiograph(0.05 * number)) for number in range(1, 9)]
    for number in range(house.policies.retry.attempts):
        with pytest.raises(ZeroDivisionError):
            drain(house.worker(Toy().loaded(encode=deadly), owner=f"worker {number}"))
        house.clock.turn(61)
    with house.db.write() as connection:
        queue.sweep_expired(connection, policies=house.policies, now=house.clock.now)
    drain(house.worker(Toy().loaded(encode=deadly), owner="last"))
    assert names(house.jobs(killer), "state") == ["dead"]
    assert {house.study(each)["analysis"] for each in others} == {"analysed"}


class Seconds:
    """A monotonic clock for tests to turn."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s
