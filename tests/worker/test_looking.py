"""Many subjects are embedded together; a failure stays with its subject and its model."""

import numpy as np
import pytest

from tests.assurance import requirement
from tests.worker.toys import SPEC, Toy, picture, poisoned_by
from triage.errors import DeviceFault, DeviceOutOfMemory, InferenceError
from triage.records import Analysis, Mode
from triage.worker.batching import cache_key
from triage.worker.looking import OUT_OF_DISTRIBUTION, Question, keys_of, look
from triage.worker.models import Judgement, LoadedModel


def ask(*brightness: float, model: LoadedModel) -> list[Question]:
    return [Question(decoded=picture(each), models=(model,)) for each in brightness]


def test_views_of_different_subjects_share_a_batch() -> None:
    toy = Toy()
    seen = look(ask(0.1, 0.9, 0.5, model=toy.loaded()), cached={}, batch_size=2)
    assert toy.encoded == [2, 1]
    assert [each.results[0].findings[0].flagged for each in seen] == [False, True, False]
    assert [each.results[0].analysis for each in seen] == [Analysis.ANALYSED] * 3


@requirement("Q3")
def test_an_image_that_spoils_its_batch_fails_alone() -> None:
    model = Toy(poison=poisoned_by(0.5)).loaded()
    good, bad, other = look(ask(0.1, 0.5, 0.9, model=model), cached={}, batch_size=8)
    assert bad.results[0].analysis is Analysis.FAILED
    assert bad.results[0].findings == ()
    assert isinstance(bad.failure(), InferenceError)
    assert [each.results[0].analysis for each in (good, other)] == [Analysis.ANALYSED] * 2
    assert good.failure() is None


def test_an_embedding_at_hand_is_not_computed_again() -> None:
    toy = Toy()
    model = toy.loaded()
    (first,) = look(ask(0.9, model=model), cached={}, batch_size=8)
    (again,) = look(ask(0.9, model=model), cached=first.embeddings, batch_size=8)
    assert toy.encoded == [1]
    assert again.results == first.results
    assert again.embeddings == {}


def test_one_image_in_two_studies_is_computed_once() -> None:
    toy = Toy()
    seen = look(ask(0.9, 0.9, model=toy.loaded()), cached={}, batch_size=8)
    assert toy.encoded == [1]
    assert seen[0].results == seen[1].results


def test_an_embedding_belongs_to_its_encoder_and_arithmetic() -> None:
    toy = Toy()
    question = ask(0.9, model=toy.loaded())
    other = ask(0.9, model=toy.loaded(cache_scope="bfloat16"))
    assert keys_of(question).isdisjoint(keys_of(other))
    assert keys_of(question) == {
        cache_key(question[0].decoded.view_digests[SPEC][0], "scope of toy")
    }


def test_all_views_of_a_subject_are_judged_together() -> None:
    toy = Toy()
    question = Question(decoded=picture(0.9, views=5), models=(toy.loaded(),))
    (seen,) = look([question], cached={}, batch_size=3)
    assert toy.encoded == [3, 2]
    assert len(seen.results[0].embedding_keys) == 5
    assert len(seen.embeddings) == 5


def test_an_image_unlike_the_intended_ones_gets_a_reason_and_no_score() -> None:
    toy = Toy()
    certain = toy.classify(np.ones((1, 4), np.float32)).findings

    def gated(vectors: np.typing.NDArray[np.float32]) -> Judgement:
        return Judgement(findings=certain, distance=1.4, in_distribution=False)

    (seen,) = look(ask(0.9, model=toy.loaded(classify=gated)), cached={}, batch_size=8)
    (result,) = seen.results
    assert (result.analysis, result.reason) == (Analysis.NOT_ELIGIBLE, OUT_OF_DISTRIBUTION)
    assert (result.findings, result.distance) == ((), 1.4)


@requirement("M1")
def test_a_head_that_fails_makes_the_image_failed_and_never_negative() -> None:
    def broken(vectors: np.typing.NDArray[np.float32]) -> Judgement:
        raise InferenceError("not finite")

    (seen,) = look(ask(0.1, model=Toy().loaded(classify=broken)), cached={}, batch_size=8)
    assert seen.results[0].analysis is Analysis.FAILED
    assert not seen.answered


def test_a_refusal_is_no_look_that_makes_up_for_a_model_that_failed() -> None:
    def gated(vectors: np.typing.NDArray[np.float32]) -> Judgement:
        return Judgement(findings=(), distance=1.4, in_distribution=False)

    failing = Toy(name="failing", poison=poisoned_by(0.9)).loaded()
    question = Question(decoded=picture(0.9), models=(failing, Toy().loaded(classify=gated)))
    (seen,) = look([question], cached={}, batch_size=8)
    states = [each.analysis for each in seen.results]
    assert states == [Analysis.FAILED, Analysis.NOT_ELIGIBLE]
    assert not seen.answered


def test_a_failing_shadow_does_not_touch_what_is_served() -> None:
    shadow = Toy(name="shadow", poison=poisoned_by(0.9)).loaded(mode=Mode.SHADOW)
    question = Question(decoded=picture(0.9), models=(Toy().loaded(), shadow))
    (seen,) = look([question], cached={}, batch_size=8)
    assert seen.failure() is None
    assert {each.mode: each.analysis for each in seen.results} == {
        Mode.SERVE: Analysis.ANALYSED,
        Mode.SHADOW: Analysis.FAILED,
    }


def test_the_error_worth_another_attempt_decides() -> None:
    lasting = Toy(name="a", poison=lambda view: InferenceError("no"))
    passing = Toy(name="b", poison=lambda view: DeviceOutOfMemory("full"))
    question = Question(decoded=picture(0.9), models=(lasting.loaded(), passing.loaded()))
    (seen,) = look([question], cached={}, batch_size=8)
    assert isinstance(seen.failure(), DeviceOutOfMemory)


def test_a_broken_device_is_nobodys_result() -> None:
    def fault(views: object) -> list[object]:
        raise DeviceFault("illegal access")

    with pytest.raises(DeviceFault):
        look(ask(0.9, model=Toy().loaded(encode=fault)), cached={}, batch_size=8)
