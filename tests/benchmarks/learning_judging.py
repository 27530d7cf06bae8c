"""Scores of the test split, by source: areas with intervals, points, differences, damage.

Everything is counted by the functions that `triage evaluate` uses. Sources are never pooled: they
differ in age, hospital and framing, so that a classifier could live on telling them apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.learning_runs import FINDING, SOURCES
from triage.learning.judging.comparing import Difference, compare
from triage.learning.judging.corruption import Corruption, corrupt
from triage.learning.judging.evaluation import FindingFigures, evaluate
from triage.learning.judging.scoring import Scored, score
from triage.learning.judging.statistics import Draws, auroc
from triage.learning.material.embedding import embed_rows
from triage.learning.material.label_columns import Asked
from triage.learning.material.label_reading import read_labels
from triage.learning.material.labels import LabelTable
from triage.learning.material.lens import lens_of_bundle

if TYPE_CHECKING:
    from triage.inference.bundle import Bundle
    from triage.worker.models import Encode

SEVERITIES: Final = (1, 3, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class BySource:
    """One model on one source; `difference` is its AUROC less the reference's, paired."""

    figures: FindingFigures
    difference: Difference | None
    seeds: tuple[float, ...]  # AUROC of each seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Damaged:
    """AUROC without the gate, and the share that the gate turns away."""

    auroc: float
    gated: float


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
    """Rows of one source; of NIH the split holds matched pairs only."""
    wanted = [row for row, each in enumerate(scored.strata) if each["source"] == SOURCES[source]]
    return scored.take(wanted)


def judged(
    seeds: Sequence[Scored],
    threshold: float,
    refusal: str,
    *,
    reference: tuple[Scored, float] | None,
    draws: Draws,
) -> dict[str, BySource]:
    """Figures of the first seed by source, against the reference on the same subjects."""
    found = {}
    for source in SOURCES:
        own = [of_source(each, source) for each in seeds]
        point = {FINDING: threshold}
        difference = None
        if reference is not None:
            other = of_source(reference[0], source)
            (told,) = compare(own[0], other, point, {FINDING: reference[1]}, draws=draws)
            difference = next(each for each in told.differences if each.measure == "AUROC")
        (figures,) = evaluate(own[0], point, refusals={FINDING: refusal}, draws=draws).findings
        found[source] = BySource(
            figures=figures, difference=difference, seeds=tuple(map(_area, own))
        )
    return found


def damaged(
    directory: Path, split: TestSplit
) -> dict[Corruption, dict[int, Mapping[str, Damaged]]]:
    """Every kind of damage to the views of the split, in rising severity, by source."""
    from triage.inference.bundle import load_bundle
    from triage.learning.material.images import views_of

    bundle = load_bundle(directory)
    lens = lens_of_bundle(bundle, device="cpu", dtype="float32")
    rows = [split.table.rows[at] for at in split.rows]
    views = [views_of(split.images / row.subject, bundle.view_spec) for row in rows]
    truth = np.array([row.truth[0] for row in rows]) == 1.0
    source = np.array([row.strata["source"] for row in rows])
    found: dict[Corruption, dict[int, Mapping[str, Damaged]]] = {}
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
