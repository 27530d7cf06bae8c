"""The table of results: which rows it learns from, its baselines, and what its page says."""

import csv
import re
from collections import Counter
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from tests.benchmarks import learning_baselines as plain
from tests.benchmarks import learning_judging as judging
from tests.benchmarks import learning_maps, learning_waiting
from tests.benchmarks.learning_cost import Cost
from tests.benchmarks.learning_runs import (
    AT_ONCE,
    FINDING,
    SOURCES,
    reasons,
    side_by_side,
    write_labels,
)
from tests.benchmarks.learning_served import largest_difference
from tests.benchmarks.learning_table import Findings, Line, page
from tests.learning.rooms import room
from triage.cli import explain_words, simulate_words
from triage.inference.bundle import load_bundle
from triage.learning.explaining import trials
from triage.learning.explaining.explanation import Method
from triage.learning.explaining.faithfulness import HITS, Compared, Stayed
from triage.learning.judging.comparing import compare
from triage.learning.judging.corruption import Corruption
from triage.learning.judging.scoring import Scored
from triage.learning.judging.statistics import Draws, Estimate, Interval, auroc
from triage.learning.waiting.expectation import expected
from triage.learning.waiting.reading_room import Proportion
from triage.learning.waiting.waiting import simulate
from triage.pocket import BUNDLE

HEAD = ("file", "group_id", "split", "label", "source", "matched", "original_name")


def labels(folder: Path) -> Path:
    """Two sources, two labels, three splits; every third NIH row is of no pair."""
    rows = []
    for number in range(240):
        source = list(SOURCES.values())[number % 2]
        matched = "no" if source == SOURCES["NIH"] and number % 3 == 0 else "yes"
        split = ("train", "val", "test")[number % 5 % 3]
        label = ("normal", FINDING)[number // 2 % 2]
        rows.append([f"{number}.png", f"p{number}", split, label, source, matched, "name-says-it"])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([HEAD, *rows])
    return folder


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_of_no_pair_are_neither_learnt_from_nor_judged(tmp_path: Path) -> None:
    rows = read(write_labels(labels(tmp_path), tmp_path / "used.csv"))
    assert len(rows) == 200
    assert {row["matched"] for row in rows} == {"yes"}
    assert "original_name" not in rows[0]  # it says the class


def test_a_small_run_keeps_rows_of_every_split_source_and_label(tmp_path: Path) -> None:
    rows = read(write_labels(labels(tmp_path), tmp_path / "used.csv", factor=0.01))
    counts = Counter((row["split"], row["source"], row["label"]) for row in rows)
    assert len(counts) == 12
    assert set(counts.values()) <= set(range(1, 11))


# --- baselines


def test_pixels_are_means_of_blocks() -> None:
    views = np.arange(64, dtype=np.float32).reshape(1, 8, 8)
    np.testing.assert_allclose(plain.shrunk(views), [[13.5, 17.5, 45.5, 49.5]])


@pytest.mark.parametrize(("axis", "bins"), [(2, {0, 8}), (1, {4})])
def test_histograms_tell_the_direction_of_an_edge(axis: int, bins: set[int]) -> None:
    ramp = np.linspace(0, 1, 16, dtype=np.float32)
    views = np.broadcast_to(ramp[:, None] if axis == 1 else ramp, (1, 16, 16))
    found = plain.oriented_gradients(views).reshape(4, plain.ANGLES).sum(axis=0)
    assert set(np.flatnonzero(found > found.max() / 2)) == bins


def test_histograms_do_not_change_with_exposure() -> None:
    views = np.random.default_rng(0).random((2, 32, 32)).astype(np.float32)
    darker = np.asarray(0.3 * views + 0.2, np.float32)
    np.testing.assert_allclose(
        plain.oriented_gradients(views), plain.oriented_gradients(darker), atol=1e-3
    )


def test_every_baseline_finds_what_is_plainly_there() -> None:
    random = np.random.default_rng(1)

    def split(count: int) -> plain.Split:
        truth = np.arange(count) % 2 == 0
        views = 0.1 * random.random((count, 32, 32))
        views[truth, 8:20, 8:20] += 0.8
        return plain.Split(
            views=views.astype(np.float32), truth=truth, groups=tuple(map(str, range(count)))
        )

    train, val, test = split(64), split(24), split(24)
    for each in plain.baselines(train, val, test.views, seeds=(1,)):
        assert auroc(test.truth, each.scores[0]) > 0.95, each.name
        assert "12 patients" in each.refusal  # too few for a sensitivity of 0.95


# --- the page


def scored(seed: int, *, told: float = 0.3) -> Scored:
    """Of both sources; `told` is how much of a score comes from the truth, the rest is chance."""
    random = np.random.default_rng(seed)
    truth = (np.arange(80) // 2 % 2).astype(np.float64)
    nothing = np.zeros(80, np.bool_)
    return Scored(
        findings=(FINDING,),
        subjects=tuple(f"{number}.png" for number in range(80)),
        groups=tuple(f"p{number}" for number in range(80)),
        truth=truth[:, None],
        probabilities=(told * truth + (1 - told) * random.random(80))[:, None],
        gated=nothing,
        failed=nothing,
        reasons=("",) * 80,
        strata=tuple({"source": list(SOURCES.values())[number % 2]} for number in range(80)),
    )


def line(
    name: str,
    *,
    seed: int,
    refusal: str = "",
    reference: Scored | None = None,
    comparisons: int = 2,
    told: float = 0.3,
) -> Line:
    return Line(
        number="1",
        name=name,
        by_source=judging.judged(
            [scored(seed, told=told), scored(seed + 100)],
            0.5,
            refusal,
            against=judging.Against(
                reference=reference, baselines={"pixels": scored(7)}, comparisons=comparisons
            ),
            draws=Draws(rounds=100),
        ),
        refusal=refusal,
        validation_auroc=0.8,
        training_s=12.0,
        cost=Cost(model_ms=5.0, decode_ms=2.0, disk_mib=4.5, memory_mib=400.0),
        reference=reference is None,
    )


@cache
def logistic() -> Line:
    """The reference of most pages here."""
    return line("logistic", seed=1)


def findings(*lines: Line) -> Findings:
    step = {source: judging.Damaged(auroc=0.7, gated=0.25) for source in SOURCES}
    damage = {kind: dict.fromkeys(judging.SEVERITIES, step) for kind in Corruption}
    return Findings(
        lines=lines,
        counts={"test": "test: some"},
        refusals={"NIH alone": "11 patients cannot show it."},
        damage={"logistic": damage},
        maps=["Maps hold."],
        waiting=["Some wait."],
        served="They agree.",
        measured="Measured.",
    )


def test_areas_of_sources_stand_apart_and_the_point_on_both_together() -> None:
    told = page(findings(logistic()))
    assert told.count("### Test split, ") == 2
    by_source = logistic().by_source
    images = {source: each.figures.images for source, each in by_source.items()}
    assert images == {"NIH": 40, "Kermany": 40, judging.BOTH: 80}
    assert by_source["NIH"].figures.auroc.value != by_source["Kermany"].figures.auroc.value
    both = by_source[judging.BOTH].figures
    at_point = told.split("### At the point, both sources together")[1].split("###")[0]
    assert "AUROC" not in at_point
    assert f"| logistic | {both.at_point.sensitivity.value:.2f} (" in at_point


def test_the_page_says_what_was_refused_and_what_it_tests() -> None:
    told = page(findings(line("logistic", seed=1, refusal="68 patients cannot show it")))
    assert "(refused)" in told
    assert "NIH alone: 11 patients cannot show it." in told
    assert "test the tools, not the papers" in told


def test_a_method_without_a_gain_is_said_to_bring_none_and_to_be_off() -> None:
    reference = logistic()
    same = replace(line("mlp", seed=1, reference=scored(1)), reference=False)
    told = page(findings(reference, same))
    assert "- mlp brings no gain over the reference (NIH: no difference shown" in told
    assert "off by default" in told


def test_a_gain_that_many_comparisons_may_show_by_chance_is_called_none() -> None:
    gain = partial(line, "queries", seed=5, reference=scored(1), told=0.42)
    one, many = (replace(gain(comparisons=count), reference=False) for count in (1, 10_000))
    assert {one.by_source[source].difference for source in SOURCES} == {
        many.by_source[source].difference for source in SOURCES
    }
    reference = logistic()
    assert "- queries brings a gain over the reference (" in page(findings(reference, one))
    told = page(findings(reference, many))
    assert "- queries brings no gain over the reference that holds among all comparisons (" in told
    assert "gain if looked at alone" in told
    before, _ = told.split("- queries brings")
    assert "2 comparisons" in before  # the caveat comes first


def test_differences_of_areas_are_those_of_an_evaluation_against_another_bundle() -> None:
    first, second, draws = scored(5), scored(1), Draws(rounds=50)
    point = {FINDING: 0.5}
    against = judging.Against(reference=second, baselines={"pixels": second})
    own = judging.judged([first], 0.5, "", against=against, draws=draws)["NIH"]
    pair = (judging.of_source(each, "NIH") for each in (first, second))
    (told,) = compare(*pair, point, point, draws=draws)
    areas = next(each for each in told.differences if each.measure == "AUROC")
    assert own.difference == own.over["pixels"] == areas


def test_every_method_stands_beside_every_baseline() -> None:
    told = page(findings(logistic()))
    assert "| Method | NIH: pixels | Kermany: pixels |" in told
    difference = logistic().by_source["NIH"].over["pixels"]
    assert f"| logistic | {difference.difference:+.2f} (" in told


def test_every_seed_stands_in_the_table() -> None:
    seeds = logistic().by_source["NIH"].seeds
    assert len(seeds) == 2
    assert f"| {seeds[1]:.2f} |" in page(findings(logistic()))


def test_damage_is_told_with_the_share_that_the_gate_turns_away() -> None:
    assert "| noise | 0.70, 0.70, 0.70 (25%) |" in page(findings(logistic()))


@pytest.mark.parametrize(
    ("served", "evaluated", "expected"),
    [
        ({"a": 0.5, "b": None}, {"a": 0.4, "b": None}, 0.1),
        ({"a": None}, {"a": 0.4}, float("inf")),
        ({"a": 0.4}, {"a": 0.4, "b": 0.4}, float("inf")),
    ],
)
def test_a_score_on_one_side_only_is_no_agreement(
    served: dict[str, float | None], evaluated: dict[str, float | None], expected: float
) -> None:
    assert largest_difference(served, evaluated) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("refusal", "patients", "said"),
    [
        ("", 80, ""),
        ("they do not rise", 80, "they do not rise"),
        ("they do not rise", 13, "they do not rise; and 13 patients with the finding cannot"),
    ],
)
def test_patients_that_are_too_few_are_told_beside_any_other_reason(
    refusal: str, patients: int, said: str
) -> None:
    finding = {"refusal": refusal, "positive_patients": patients}
    document = {"findings": [finding], "target_sensitivity": 0.95, "confidence": 0.95}
    assert reasons(document).startswith(said)
    assert reasons(document).count("patients") == (0 if patients == 80 else 1)


def test_verbs_are_waited_for_side_by_side_and_told_in_order() -> None:
    together = Barrier(AT_ONCE, timeout=10)  # of one after the other, the first would wait alone

    def called(number: int) -> int:
        together.wait()
        return number

    assert side_by_side([partial(called, number) for number in range(AT_ONCE)]) == [0, 1]


# --- sections of their own


def interval(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, interval=Interval(low=low, high=high, confidence=0.95))


def mapped(name: str, *, better: bool) -> learning_maps.Mapped:
    """As the verb tells of two measures: one a lesion's place is needed for, and one not."""
    difference = interval(0.5, 0.2, 0.9) if better else interval(0.1, -0.1, 0.3)
    compared = tuple(
        Compared(
            measure=measure,
            method="additive",
            baseline="random",
            value=interval(1.0, 0.5, 1.5),
            baseline_value=0.5,
            difference=difference,
            cases=8,
        )
        for measure in ("deletion, blur", HITS)
    )
    stayed = tuple(
        Stayed(method="additive", shuffled=what, correlation=interval(0.3, 0.2, 0.4), cases=8)
        for what in (trials.HEAD, trials.LAST_BLOCK, trials.TOWER)
    )
    report = trials.Report(
        trial=trials.Trial(methods=(Method.ADDITIVE,), seed=1),
        pictures=8,
        patients=8,
        positives={FINDING: 8},
        planted=True,
        left_out=0,
        same={"gradient": "additive"},
        compared=compared,
        stayed=stayed,
    )
    document = explain_words.document(report, load_bundle(BUNDLE, check_encoder=False))
    return learning_maps.Mapped(name=name, real=document, planted=document)


def test_maps_are_told_with_what_they_are_better_than() -> None:
    found = [mapped("logistic", better=True), mapped("queries", better=False)]
    told = "\n".join(learning_maps.section(found))
    hits = "additive | hits | 8 | 1.00"
    assert f"| logistic | {hits} | +0.50 (+0.20 to +0.90) better |  |  |" in told
    assert f"| queries | {hits} | +0.10 (-0.10 to +0.30) no better |  |  |" in told
    assert told.count("| hits |") == 2  # on phantoms, and on radiographs never
    assert "Of these 4 differences 2 are better than the baseline, 0 worse and 2 not shown" in told
    assert f"| queries | additive |{3 * ' 0.30 (0.20 to 0.40) falls |'}" in told
    assert "gradient maps of queries order the patches as its additive maps" in told


def simulated(**changes: Any) -> dict[str, Any]:
    scenario = room(studies=300, **changes)
    return simulate_words.document(simulate(scenario, runs=3, seed=1), expected(scenario))


def test_waits_are_told_by_group_and_held_against_the_formulas() -> None:
    measured = Proportion(estimate=0.9, trials=40.0)
    known = [simulated() for _ in learning_waiting.CHECKED]
    wrong = simulated()
    wrong["formulas"] = wrong["formulas"] | {"fifo_s": 1e6}
    told = "\n".join(
        learning_waiting.section(
            "queries",
            simulated(sensitivity=measured, specificity=measured),
            [*known[1:], wrong],
        )
    )
    for group in ("flagged", "missed", "all without a flag"):
        assert f"| {group} | order of arrival | " in told
        assert f"| {group} | rule with the bundle | " in told
    assert "Flagged studies wait " in told
    within = re.search(r"(\d+) of the (\d+) means", told)
    assert within
    inside, means = map(int, within.groups())
    assert means == 4 * len(known)
    assert told.count("**outside**") == means - inside >= 1
