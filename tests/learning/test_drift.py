"""When drift is said, and when not: seeded simulations of devices that change and that do not."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tests.assurance import Evidence, requirement
from tests.learning.drift_site import GROUP, block, embeddings, features
from triage.learning.watching.drift import LEAST, Block, Judgement, judge, summed, sustained
from triage.learning.watching.drift_plot import drift_plot
from triage.learning.watching.drift_statistics import Cloud, Moments, cloud_of
from triage.learning.watching.drift_words import FIGURES, Told, figure_of, worst_first
from triage.learning.watching.drift_words import told as in_words

FEATURES = features()
SIGNIFICANCE = 0.002  # the default of [drift]
FALSE_ALARMS = 0.002  # share of windows without a change that open an alarm, as is documented


def run(
    *phases: tuple[int, dict[str, float]], seed: int = 0, first: int = 0, size: int = 100
) -> list[Block]:
    """Return the blocks of a device that goes through phases of (blocks, what is different)."""
    random = np.random.default_rng(seed)
    blocks: list[Block] = []
    for count, changes in phases:
        for _ in range(count):
            number = first + len(blocks)
            blocks.append(block(random, number, FEATURES, size=size, **changes))
    return blocks


def told(blocks: Sequence[Block], **more: object) -> Judgement:
    return judge(GROUP, blocks, significance=SIGNIFICANCE, **more)  # type: ignore[arg-type]


def bank(shift: float = 0.0) -> Cloud:
    return cloud_of(FEATURES.of(embeddings(np.random.default_rng(77), 1000, shift=shift)))


@requirement("M7", bound="without a change, an alarm in at most 0.2 % of windows")
def test_where_nothing_changes_there_is_nearly_never_an_alarm(evidence: Evidence) -> None:
    alarms = windows = 0
    for device in range(50):
        judged = told(run((34, {}), seed=1000 + device)).windows
        standing = [bool(sustained(judged[: place + 1])) for place in range(2, len(judged))]
        windows += len(standing)
        alarms += sum(now and not before for before, now in zip([False, *standing], standing))  # noqa: B905
    evidence.record(
        trials=windows,
        losses=alarms if alarms > FALSE_ALARMS * windows else 0,
        worst=f"{alarms} false alarms",
    )
    assert windows == 1350
    assert alarms <= FALSE_ALARMS * windows


@requirement("M7", bound="a change alarms within two windows, by what has changed")
@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"shift": 0.5}, {"images", "distance"}),  # brightness, a new detector
        ({"score_shift": 1.0}, {"scores"}),
        ({"gate_rate": 0.15}, {"gate rate"}),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_a_change_alarms_within_two_windows_of_studies(
    change: dict[str, float], names: set[str], seed: int, evidence: Evidence
) -> None:
    blocks = run((8, {}), (4, change), seed=seed)
    evidence.record(trials=1, losses=int(not names <= set(told(blocks).drift)))
    assert told(blocks[:8]).drift == ()
    assert names <= set(told(blocks).drift)


def test_one_odd_block_is_no_drift() -> None:
    odd = run((8, {}), (1, {"gate_rate": 0.3}), (5, {}), seed=4)
    assert "gate rate" in told(odd[:9]).windows[-1].changed
    assert "gate rate" in told(odd[:10]).windows[-1].changed
    assert all(told(odd[:length]).drift == () for length in range(6, 15))


def test_drift_ends_when_the_change_ends() -> None:
    blocks = run((8, {}), (4, {"shift": 0.5}), (6, {}), seed=2)
    assert told(blocks[:12]).drift
    assert told(blocks).drift == ()


def test_where_the_gate_keeps_everything_back_no_figure_of_the_model_is_made_up() -> None:
    (*_, last) = told(run((8, {}), (2, {"gate_rate": 1.0}), seed=11)).windows
    shown = {name: figure_of(last, name) for name in FIGURES}
    assert (shown["flag rate"], shown["scores"], shown["gate rate"]) == (None, None, 1.0)
    bare = [replace(each, distance=Moments(), cloud=None) for each in run((6, {}), seed=12)]
    (*_, last) = told(bare).windows
    assert [figure_of(last, name) for name in ("images", "bank", "distance")] == [None] * 3


def test_nothing_is_judged_before_the_reference_is_complete() -> None:
    blocks = run((5, {}))
    assert told(blocks).windows == ()
    assert told(blocks).missing_blocks == 1
    assert told([]).missing_blocks == 6
    assert told(run((6, {}))).missing_blocks == 0


@requirement("M7", bound="a new device unlike the others alarms within its first two windows")
def test_a_new_device_that_is_unlike_the_others_alarms_within_its_first_two_windows() -> None:
    others = run((4, {}), seed=5)
    newcomer = run((4, {"shift": 0.5}), seed=6, first=10)
    assert told(newcomer, shared=others).drift
    assert told(newcomer, shared=others).windows[0].reference == "all devices"


def test_a_new_device_that_stays_different_does_not_become_its_own_measure() -> None:
    others = run((4, {}), seed=5)
    newcomer = run((20, {"shift": 0.5}), seed=6, first=10)
    assert told(newcomer, shared=others).drift


def test_a_new_device_like_the_others_becomes_its_own_measure() -> None:
    others = run((4, {}), seed=5)
    newcomer = run((8, {}), seed=7, first=10)
    judged = told(newcomer, shared=others)
    assert judged.drift == ()
    assert [each.reference for each in judged.windows] == ["all devices"] * 3 + ["own"] * 3


def test_a_device_of_the_first_day_is_measured_by_itself_however_it_differs() -> None:
    others = run((4, {}), seed=5)
    judged = told(run((8, {"shift": 0.5}), seed=8), shared=others)
    assert judged.drift == ()
    assert {each.reference for each in judged.windows} == {"own"}


def test_a_new_device_that_was_accepted_is_measured_by_itself() -> None:
    others = run((4, {}), seed=5)
    newcomer = run((8, {"shift": 0.5}), seed=6, first=10)
    assert told(newcomer, shared=others, accepted=True).drift == ()


def test_images_far_from_the_bank_are_told_apart_from_drift_until_they_are_accepted() -> None:
    group = replace(GROUP, device="")
    blocks = run((8, {}), seed=9)

    def judged(**more: object) -> Judgement:
        return judge(group, blocks, significance=SIGNIFICANCE, **more)  # type: ignore[arg-type]

    assert not judged(bank=bank()).unlike_the_bank
    far = judged(bank=bank(shift=2.5))
    assert (far.unlike_the_bank, far.drift) == (True, ())
    assert not judged(bank=bank(shift=2.5), accepted=True).unlike_the_bank
    assert not told(blocks, bank=bank(shift=2.5)).unlike_the_bank  # said of all devices only


def test_the_last_blocks_judge_the_present_as_all_blocks_do() -> None:
    blocks = run((20, {}), (4, {"shift": 0.5}), seed=10)
    short = told([*blocks[:4], *blocks[-6:]])
    assert short.drift == told(blocks).drift
    assert short.windows[-3:] == told(blocks).windows[-3:]


def test_without_embeddings_the_rest_is_still_compared() -> None:
    bare = [replace(each, cloud=None) for each in run((8, {}), (4, {"gate_rate": 0.2}), seed=11)]
    judged = told(bare, bank=bank())
    assert judged.drift == ("gate rate",)
    assert "images" not in judged.windows[-1].comparisons


def test_blocks_add_up() -> None:
    blocks = run((2, {}), seed=12)
    both = summed(blocks)
    assert both.studies == 200
    assert sum(both.scores["opacity"]) == 200 - both.gated
    assert (both.started_at, both.ended_at) == (blocks[0].started_at, blocks[1].ended_at)


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (("CR", "CHEST", "ROOM 1"), "CR/CHEST/ROOM 1"),
        (("CR", "CHEST", ""), "CR/CHEST"),
        (("CR", "", "ROOM 1"), "CR/-/ROOM 1"),
        (("", "", ""), "-/-"),
    ],
)
def test_a_group_is_named_by_kind_and_device(parts: tuple[str, str, str], name: str) -> None:
    modality, body_part, device = parts
    group = replace(GROUP, modality=modality, body_part_examined=body_part, device=device)
    assert group.name == name


def as_told(judgement: Judgement) -> Told:
    return in_words(judgement, model="chest", waiting=0, window=200)


@pytest.mark.parametrize("device", ["A$^$B", r"$\FRAC$"])
def test_a_name_that_looks_like_a_formula_is_drawn_as_it_is(device: str) -> None:
    group = replace(GROUP, device=device)
    drawn = drift_plot([as_told(replace(told(run((6, {}))), group=group))], note="$x^$")
    assert drawn.startswith(b"\x89PNG")


def test_a_group_stands_in_the_same_words_everywhere_and_the_worst_comes_first() -> None:
    drifted = told(run((8, {}), (4, {"gate_rate": 0.2}), seed=11))
    steady = as_told(replace(told(run((8, {}))), group=replace(GROUP, device="A")))
    far = as_told(replace(steady.judgement, unlike_the_bank=True))
    short = as_told(told(run((5, {}))))
    assert as_told(drifted).words == "DRIFT: gate rate; other than before"
    later = replace(drifted, windows=())  # `--since` after the last of them
    assert as_told(later).words == as_told(drifted).words
    assert (steady.words, far.words) == ("as before", "UNLIKE THE BANK of the model")
    assert short.words == "100 more studies needed"
    assert [each.words for each in worst_first([steady, far, as_told(drifted)])] == [
        as_told(drifted).words, far.words, steady.words,
    ]  # fmt: skip
    assert set(FIGURES) == {*LEAST, "bank"}
