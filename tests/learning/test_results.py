"""The table of results: which rows it learns from, its baselines, and what its page says."""

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import learning_baselines as plain
from tests.benchmarks import learning_judging as judging
from tests.benchmarks.learning_cost import Cost
from tests.benchmarks.learning_runs import FINDING, SOURCES, write_labels
from tests.benchmarks.learning_served import largest_difference
from tests.benchmarks.learning_table import Findings, Line, page
from triage.learning.judging.corruption import Corruption
from triage.learning.judging.scoring import Scored
from triage.learning.judging.statistics import Draws, auroc

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


def scored(seed: int) -> Scored:
    random = np.random.default_rng(seed)
    truth = (np.arange(80) // 2 % 2).astype(np.float64)
    nothing = np.zeros(80, np.bool_)
    return Scored(
        findings=(FINDING,),
        subjects=tuple(f"{number}.png" for number in range(80)),
        groups=tuple(f"p{number}" for number in range(80)),
        truth=truth[:, None],
        probabilities=np.clip(0.3 * truth + 0.7 * random.random(80), 0, 1)[:, None],
        gated=nothing,
        failed=nothing,
        reasons=("",) * 80,
        strata=tuple({"source": list(SOURCES.values())[number % 2]} for number in range(80)),
    )


def line(name: str, *, seed: int, refusal: str = "", reference: Scored | None = None) -> Line:
    return Line(
        number="1",
        name=name,
        by_source=judging.judged(
            [scored(seed), scored(seed + 100)],
            0.5,
            refusal,
            reference=None if reference is None else (reference, 0.5),
            draws=Draws(rounds=100),
        ),
        refusal=refusal,
        validation_auroc=0.8,
        training_s=12.0,
        training_mib=500.0,
        cost=Cost(model_ms=5.0, decode_ms=2.0, disk_mib=4.5, memory_mib=400.0),
        reference=reference is None,
    )


def findings(*lines: Line) -> Findings:
    step = {source: judging.Damaged(auroc=0.7, gated=0.25) for source in SOURCES}
    damage = {kind: dict.fromkeys(judging.SEVERITIES, step) for kind in Corruption}
    return Findings(
        lines=lines,
        counts={"test": "test: some"},
        refusals={"NIH alone": "11 patients cannot show it."},
        damage={"logistic": damage},
        served="They agree.",
        measured="Measured.",
    )


def test_sources_stand_apart_and_never_pooled() -> None:
    told = page(findings(line("logistic", seed=1)))
    assert told.count("### Test split, ") == 2
    by_source = line("logistic", seed=1).by_source
    assert {each.figures.images for each in by_source.values()} == {40}
    assert by_source["NIH"].figures.auroc.value != by_source["Kermany"].figures.auroc.value


def test_the_page_says_what_was_refused_and_what_was_not_measured() -> None:
    told = page(findings(line("logistic", seed=1, refusal="68 patients cannot show it")))
    assert "(refused)" in told
    assert "NIH alone: 11 patients cannot show it." in told
    assert "not measured here: needs gated weights" in told
    assert "test the tools, not the papers" in told


def test_a_method_without_a_gain_is_said_to_bring_none_and_to_be_off() -> None:
    reference = line("logistic", seed=1)
    same = replace(line("mlp", seed=1, reference=scored(1)), reference=False)
    told = page(findings(reference, same))
    assert "- mlp brings no gain over the reference (NIH: no difference shown" in told
    assert "off by default" in told


def test_every_seed_stands_in_the_table() -> None:
    seeds = line("logistic", seed=1).by_source["NIH"].seeds
    assert len(seeds) == 2
    assert f"| {seeds[1]:.2f} |" in page(findings(line("logistic", seed=1)))


def test_damage_is_told_with_the_share_that_the_gate_turns_away() -> None:
    assert "| noise | 0.70, 0.70, 0.70 (25%) |" in page(findings(line("logistic", seed=1)))


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
