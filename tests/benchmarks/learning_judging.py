"""Scores of the test split, by source: areas with intervals, points, differences, damage.

Everything is counted by the functions that `triage evaluate` uses. Areas are never pooled over
sources: they differ in age, hospital and framing, so that a classifier could live on telling them
apart. What a point does is counted on both together too, for it was chosen on both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.learning_runs import FINDING, SOURCES
from triage.learning.judging.comparing import Difference
from triage.learning.judging.corruption import Corruption, corrupt
from triage.learning.judging.evaluation import FindingFigures, evaluate
from triage.learning.judging.scoring import Scored, score
from triage.learning.judging.statistics import Draws, auroc, bootstrap
from triage.learning.material.embedding import embed_rows
from triage.learning.material.label_columns import Asked
from triage.learning.material.label_reading import read_labels
from triage.learning.material.labels import LabelTable
from triage.learning.material.lens import lens_of_bundle

if TYPE_CHECKING:
    from triage.inference.bundle import Bundle
    from triage.worker.models import Encode

BOTH: Final = "both sources"
SEVERITIES: Final = (1, 3, 5)
SURE: Final = 0.95
MORE: Final = 4  # times the rounds, so that a few lie beyond the ends of a wider interval


@dataclass(frozen=True, slots=True, kw_only=True)
class BySource:
    """One model on one source, or on both together.

    `difference` is its AUROC less the reference's, paired; `among_all` the same with the interval
    that all comparisons together allow; `over` is its AUROC less that of each baseline. All of
    them are of single sources only.
    """

    figures: FindingFigures
    seeds: tuple[float, ...]  # AUROC of each seed
    difference: Difference | None = None
    among_all: Difference | None = None
    over: Mapping[str, Difference] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """What a model is held against."""

    reference: Scored | None  # None: it is the reference
    baselines: Mapping[str, Scored] = field(default_factory=dict)
    comparisons: int = 1  # with the reference, of all models on all sources


@dataclass(frozen=True, slots=True, kw_only=True)
class Damaged:
    """AUROC without the gate, and the share that the gate turns away."""

    auroc: float
    gated: float


Damage = dict[Corruption, dict[int, Mapping[str, Damaged]]]  # by severity and source


@dataclass(frozen=True, slots=True, kw_only=True)
class TestSplit:
    """The labelled pictures of one split."""

    table: LabelTable
    images: Path
    rows: tuple[int, ...]


def split_of(labels: Path, images: Path, name: str) -> TestSplit:
    table = read_labels(labels, Asked(positive={"label": FINDING}, strata=["source", "matched"]))
    rows = tuple(at for at, row in enumerate(table.rows) if row.split == name)
    return TestSplit(table=table, images=images, rows=rows)


def scored_by(directory: Path, split: TestSplit, embeddings: Path) -> Scored:
    """Judge the split by a bundle, as `triage evaluate` does."""
    from triage.inference.bundle import load_bundle

    bundle = load_bundle(directory)
    lens = lens_of_bundle(bundle, device="cpu", dtype="float32")
    rows = [split.table.rows[at] for at in split.rows]
    vectors = embed_rows(rows, split.images, lens, embeddings)
    return score(bundle, vectors, split.table, split.rows)


def scored_plainly(split: TestSplit, scores: NDArray[np.float64]) -> Scored:
    """Scores of a baseline, which turns nothing away."""
    rows = [split.table.rows[at] for at in split.rows]
    nothing = np.zeros(len(rows), np.bool_)
    return Scored(
        findings=(FINDING,),
        subjects=tuple(row.subject for row in rows),
        groups=tuple(row.patient for row in rows),
        truth=np.array([row.truth for row in rows]),
        probabilities=scores[:, None],
        gated=nothing,
        failed=nothing,
        reasons=("",) * len(rows),
        strata=tuple(row.strata for row in rows),
    )


def of_source(scored: Scored, source: str) -> Scored:
    """Rows of one source, or of both; of NIH the split holds matched pairs only."""
    if source == BOTH:
        return scored
    wanted = [row for row, each in enumerate(scored.strata) if each["source"] == SOURCES[source]]
    return scored.take(wanted)


def judged(
    seeds: Sequence[Scored],
    threshold: float,
    refusal: str,
    *,
    against: Against,
    draws: Draws,
) -> dict[str, BySource]:
    """Figures of the first seed by source and of BOTH, with differences on the same subjects."""
    found = {}
    for source in (*SOURCES, BOTH):
        own = [of_source(each, source) for each in seeds]
        refusals = {FINDING: refusal}
        (told,) = evaluate(own[0], {FINDING: threshold}, refusals=refusals, draws=draws).findings
        found[source] = BySource(figures=told, seeds=tuple(map(_area, own)))
        if source != BOTH:
            found[source] = _compared(found[source], own[0], source, against, draws)
    return found


def _compared(
    found: BySource, own: Scored, source: str, against: Against, draws: Draws
) -> BySource:
    over = {
        name: _difference(own, of_source(other, source), draws)
        for name, other in against.baselines.items()
    }
    if against.reference is None:
        return replace(found, over=over)
    reference = of_source(against.reference, source)
    sure = 1 - (1 - SURE) / against.comparisons  # Bonferroni
    more = replace(draws, rounds=MORE * draws.rounds)
    return replace(
        found,
        difference=_difference(own, reference, draws),
        among_all=_difference(own, reference, more, confidence=sure),
        over=over,
    )


def _difference(
    first: Scored, second: Scored, draws: Draws, *, confidence: float = SURE
) -> Difference:
    """AUROC of the first less that of the second, as `triage evaluate --against` counts it."""
    use = np.flatnonzero(first.known(0) & second.known(0))
    truth = first.truth[use, 0] == 1.0
    one, other = first.probabilities[use, 0], second.probabilities[use, 0]
    interval = bootstrap(
        [first.groups[row] for row in use],
        lambda rows: auroc(truth[rows], one[rows]) - auroc(truth[rows], other[rows]),
        seed=draws.seed,
        rounds=draws.rounds,
        confidence=confidence,
    )
    areas = auroc(truth, one), auroc(truth, other)
    return Difference(
        measure="AUROC",
        first=areas[0],
        second=areas[1],
        difference=areas[0] - areas[1],
        interval=interval,
    )


def damaged(directory: Path, split: TestSplit) -> Damage:
    """Every kind of damage to the views of the split, in rising severity, by source."""
    from triage.inference.bundle import load_bundle
    from triage.learning.material.images import views_of

    bundle = load_bundle(directory)
    lens = lens_of_bundle(bundle, device="cpu", dtype="float32")
    rows = [split.table.rows[at] for at in split.rows]
    views = [views_of(split.images / row.subject, bundle.view_spec) for row in rows]
    truth = np.array([row.truth[0] for row in rows]) == 1.0
    source = np.array([row.strata["source"] for row in rows])
    found: Damage = {}
    for kind in Corruption:
        found[kind] = {}
        for severity in SEVERITIES:
            worse = [
                corrupt(each, kind, severity=severity, seed=number)
                for number, each in enumerate(views)
            ]
            said, gated = _answers(bundle, lens.encode, worse)
            found[kind][severity] = {
                short: Damaged(
                    auroc=auroc(truth[source == name], said[source == name]),
                    gated=float(gated[source == name].mean()),
                )
                for short, name in SOURCES.items()
            }
    return found


def _answers(
    bundle: "Bundle", encode: "Encode", views: Sequence[NDArray[np.float32]]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Probability without the gate, and whether the gate would have turned it away."""
    from triage.inference.classifier import classify_subject
    from triage.worker.models import Encoded

    open_bundle = replace(bundle, bank=None)
    chances, gated = [], []
    for each in views:
        answers = encode(list(each))
        vectors = np.stack([one.vector for one in answers if isinstance(one, Encoded)])
        (finding,) = classify_subject(open_bundle, vectors).findings
        chances.append(finding.probability)
        gated.append(not classify_subject(bundle, vectors).in_distribution)
    return np.array(chances), np.array(gated)


def _area(scored: Scored) -> float:
    known = scored.known(0)
    return auroc(scored.truth[known, 0] == 1.0, scored.probabilities[known, 0])
