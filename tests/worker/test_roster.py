"""A model serves only while it holds its known answer."""

import numpy as np

from tests.assurance import requirement
from tests.worker.toys import Toy
from triage.errors import BundleError, KnownAnswerError
from triage.records import Mode
from triage.worker.batching import cache_key
from triage.worker.roster import RECHECK_S, SOON_S, Roster

WRONG = KnownAnswerError("another answer than recorded")
VIEW = np.zeros((1, 16, 16), np.float32)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@requirement("M1")
@requirement("M2")
def test_a_model_with_a_wrong_answer_gives_errors_instead_of_findings() -> None:
    toy = Toy(checks=[WRONG])
    roster = Roster([toy.loaded()])
    (answer,) = roster.models[0].encode([VIEW])
    assert isinstance(answer, BundleError)
    assert toy.encoded == []
    assert roster.models[0].describe is None
    assert roster.detail()[0]["served"] is False
    assert roster.detail()[0]["reason"] == str(WRONG)


def test_embeddings_from_better_days_do_not_speak_for_a_barred_model() -> None:
    model = Toy(checks=[WRONG]).loaded()
    barred = Roster([model]).models[0]
    assert cache_key("view", barred.cache_scope) != cache_key("view", model.cache_scope)


@requirement("M2")
def test_no_job_is_taken_when_no_model_may_serve() -> None:
    assert not Roster([Toy(checks=[WRONG]).loaded()]).may_claim
    assert Roster([Toy(checks=[WRONG]).loaded(), Toy(name="b").loaded()]).may_claim


def test_without_any_model_jobs_are_taken_so_that_studies_are_told_so() -> None:
    assert Roster([]).may_claim
    assert Roster([Toy(checks=[WRONG]).loaded(mode=Mode.SHADOW)]).may_claim


@requirement("M2")
def test_the_known_answer_is_asked_again_now_and_then_and_soon_after_an_error() -> None:
    clock, toy = Clock(), Toy()
    roster = Roster([toy.loaded()], monotonic=clock)
    toy.checks = [WRONG]
    clock.now_s = SOON_S
    roster.recheck_if_due()
    assert roster.may_claim
    roster.recheck_soon()
    roster.recheck_if_due()
    assert not roster.may_claim
    clock.now_s += RECHECK_S
    roster.recheck_if_due()
    assert roster.may_claim


def test_on_slow_hardware_known_answers_take_a_bounded_share_of_the_time() -> None:
    clock, toy = Clock(), Toy()

    def slow() -> None:
        clock.now_s += 9.0
        toy.check()

    roster = Roster([toy.loaded(check=slow)], monotonic=clock)
    clock.now_s += RECHECK_S  # the first one, which warms up, does not count
    roster.recheck_if_due()
    toy.checks = [WRONG]
    clock.now_s += 89.0
    assert not roster.recheck_if_due()
    clock.now_s += 2.0
    assert roster.recheck_if_due()
    assert not roster.may_claim
