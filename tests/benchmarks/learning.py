"""All ways to train, beside three plain baselines, on the development radiographs.

Bundles are made by the program's own verbs on the matched training rows, chosen by the validation
split, and judged on the test split, source by source. The best one is then served by a daemon that
gets the same pictures by C-STORE, its maps are put to the test beside the reference's, and what it
does to waiting is simulated. `--write` puts the page into triage/learning/RESULTS.md.
"""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from tests.benchmarks import learning_judging as judging
from tests.benchmarks.learning_baselines import Plain, Split, baselines
from tests.benchmarks.learning_cost import cost
from tests.benchmarks.learning_maps import map_section
from tests.benchmarks.learning_runs import (
    FINDING,
    POCKET,
    SOURCES,
    Made,
    Trial,
    Workshop,
    radiographs,
    reasons,
    side_by_side,
    unfreezing,
    words_of,
    write_labels,
)
from tests.benchmarks.learning_served import (
    evaluated_scores,
    largest_difference,
    served_scores,
    write_dicom,
)
from tests.benchmarks.learning_table import TITLE as TABLE_TITLE
from tests.benchmarks.learning_table import Findings, Line, page
from tests.benchmarks.learning_twin import HELD, LEARNT, MATCHES, Twin, make_twin, zero_shot_words
from tests.benchmarks.learning_waiting import waiting_section
from tests.benchmarks.machine import describe
from tests.benchmarks.measuring import Conditions, Note, Page, Row, at_least, at_most, say
from triage.inference.bundle import load_bundle
from triage.learning.judging.scoring import Scored
from triage.learning.judging.statistics import Draws
from triage.learning.material.images import views_of
from triage.records import ViewSpec

TITLE: Final = TABLE_TITLE
RESULTS: Final = Path(__file__).parents[2] / "triage" / "learning" / "RESULTS.md"
AGREE: Final = 1e-4  # scores of the daemon and of `triage evaluate`
BLOCKS: Final = 4  # of the pocket encoder
TIMED: Final = 30  # images of a serving process
REFERENCE: Final = "1"  # among the methods
SPREAD: Final = (2, 3)  # further seeds of the adapted encoder
MAPPED: Final = 30  # pictures whose maps are measured
READ: Final = 10_000  # studies of a simulated run
LEAST_PHANTOMS: Final = 100  # of a twin in a small run
VIEW: Final = ViewSpec(rendering="dicom", size_px=112)
LESS: Final = ("--epochs", "2", "--folds", "2", "--l2", "0.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A made bundle with the scores of the test split, one set for each seed."""

    made: Made
    scored: tuple[Scored, ...]
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """What each model stands beside in the table."""

    reference: Judged
    best: Judged
    baselines: Mapping[str, Scored]
    comparisons: int  # with the reference, of all models on all sources


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What all parts of the run share."""

    shop: Workshop
    test: judging.TestSplit
    draws: Draws
    timed: list[Path]
    quick: bool


def measure(conditions: Conditions) -> Iterator[Row | Note | Page]:
    """Yield the areas of all methods with their seeds, the daemon's difference, and the page."""
    root = radiographs()
    with conditions.folder() as folder:
        study = _study(conditions, root, folder)
        twin = _twin(conditions, folder / "medsiglip-twin")
        yield from _matched(twin)
        models, plain = [_zero_shot(study, twin), *_models(study)], _baselines(study)
        peers = _peers(study, models, plain)
        lines = [_line(study, each, peers) for each in models]
        lines += [_plain_line(study, each, peers) for each in plain]
        for line in lines:
            for source in SOURCES:
                seeds = line.by_source[source].seeds
                yield Row(what=f"{line.name}: AUROC, {source}", values=seeds, unit="")
        difference, served = _served(study, peers, folder / "daemon")
        yield Row(
            what="daemon against `triage evaluate`, largest difference of a score",
            values=(difference,),
            unit="",
            limit=at_most(AGREE),
        )
        shown = {each.made.trial.name: each.made for each in (peers.reference, peers.best)}
        found = Findings(
            lines=lines,
            counts=_counts(study),
            refusals=_refusals(study, peers.reference),
            damage=_damage(study, shown),
            maps=map_section(study.shop, shown, pictures=conditions.count(MAPPED, least=4)),
            waiting=waiting_section(peers.best.made, studies=conditions.count(READ, least=200)),
            served=served,
            measured=_measured(conditions, twin),
        )
    yield Page(path=RESULTS, text=page(found))


def _peers(study: Study, models: Sequence[Judged], plain: Sequence[Plain]) -> Peers:
    return Peers(
        reference=next(each for each in models if each.made.trial.number == REFERENCE),
        best=max(models, key=lambda each: each.made.validation_auroc),
        baselines={each.name: judging.scored_plainly(study.test, each.scores[0]) for each in plain},
        comparisons=len(SOURCES) * (len(models) - 1),
    )


def _study(conditions: Conditions, root: Path, folder: Path) -> Study:
    labels = write_labels(root, folder / "labels.csv", factor=conditions.factor)
    less = LESS if conditions.quick else ()
    shop = Workshop(folder=folder / "bundles", images=root, labels=labels, less=less)
    shop.folder.mkdir()
    test = judging.split_of(labels, root, "test")
    rows = [test.table.rows[at] for at in test.rows[: conditions.count(TIMED, least=5)]]
    timed = write_dicom([root / row.subject for row in rows], folder / "timed")
    return Study(
        shop=shop,
        test=test,
        draws=Draws(rounds=100 if conditions.quick else 1000),
        timed=list(timed.values()),
        quick=conditions.quick,
    )


# --- models


def _twin(conditions: Conditions, out: Path) -> Twin:
    say("  train a twin of MedSigLIP on phantoms")
    learnt, held = (
        seeds[: conditions.count(len(seeds), least=LEAST_PHANTOMS)] for seeds in (LEARNT, HELD)
    )
    return make_twin(out, learnt=learnt, held=held)


def _matched(twin: Twin) -> Iterator[Row]:
    for name, area in twin.aurocs.items():
        what = f"zero-shot on phantoms: AUROC, {name}"
        yield Row(what=what, values=(area,), unit="", limit=at_least(MATCHES))


def _zero_shot(study: Study, twin: Twin) -> Judged:
    words = words_of("--method", "zero-shot", *zero_shot_words(), encoder=twin.directory)
    trial = Trial(number="0", name="zero-shot by a twin", words=words, seeds=(1,), keeps=True)
    return _judged(study, study.shop.make(trial))


def _models(study: Study) -> list[Judged]:
    """Each method in its order, the reference first; of one with variants, all of them."""
    logistic = Trial(number=REFERENCE, name="logistic", words=_named("logistic"), keeps=True)
    mlp = Trial(number="2", name="mlp", words=_named("mlp"), keeps=True)
    queries = Trial(number="4", name="queries", words=_named("queries"))
    focal = Trial(number="5", name="focal 2 x 2", words=_named("focal"), keeps=True)
    depths = (0, BLOCKS) if study.quick else tuple(range(BLOCKS + 1))
    early = [logistic, mlp, *unfreezing(depths), queries, focal]
    first, second, *rest = side_by_side(_makers(study, early))
    unfrozen, others = rest[: len(depths)], rest[len(depths) :]
    adapted = max(unfrozen[1:], key=lambda each: each.validation_auroc)
    more = partial(study.shop.with_seeds, adapted, () if study.quick else SPREAD)
    spread, *late = side_by_side([more, *_makers(study, _upon(adapted))])
    unfrozen[unfrozen.index(adapted)] = spread
    return [_judged(study, each) for each in (first, second, *unfrozen, *others, *late)]


def _makers(study: Study, trials: Sequence[Trial]) -> list[Callable[[], Made]]:
    fewer = [replace(trial, seeds=trial.seeds[:1]) if study.quick else trial for trial in trials]
    return [partial(study.shop.make, trial) for trial in fewer]


def _upon(adapted: Made) -> list[Trial]:
    """What needs the encoder that was adapted to the training split, and the slow ablation."""
    encoder = load_bundle(adapted.trained, check_encoder=False).encoder_directory
    mixture = (*_named("mixture"), "--encoder2", str(encoder))
    words = (*_named("caption-fusion"), "--maximum-new-tokens", "24")
    queries = words_of("--method", "queries", encoder=encoder)
    return [
        Trial(number="6", name="mixture with adapted", words=mixture, keeps=True),
        Trial(number="7", name="caption fusion", words=words, seeds=(1,)),
        Trial(number="3, 4", name="queries on adapted", words=queries),
    ]


def _named(method: str) -> tuple[str, ...]:
    return words_of("--method", method, encoder=POCKET)


def _judged(study: Study, made: Made) -> Judged:
    trial = made.trial
    say(f"  judge {trial.name}")
    bundles = {trial.seeds[0]: made.calibrated, **made.further}
    (point,) = load_bundle(made.calibrated, check_encoder=False).manifest.findings
    return Judged(
        made=made,
        scored=tuple(
            judging.scored_by(bundle, study.test, study.shop.embeddings(trial, seed))
            for seed, bundle in bundles.items()
        ),
        threshold=point.operating_point,
    )


def _line(study: Study, judged: Judged, peers: Peers) -> Line:
    made = judged.made
    refusal = str(made.calibration["findings"][0]["refusal"])
    is_reference = judged is peers.reference
    against = judging.Against(
        reference=None if is_reference else peers.reference.scored[0],
        baselines=peers.baselines,
        comparisons=peers.comparisons,
    )
    return Line(
        number=made.trial.number,
        name=made.trial.name,
        by_source=judging.judged(
            judged.scored, judged.threshold, refusal, against=against, draws=study.draws
        ),
        refusal=refusal,
        validation_auroc=made.validation_auroc,
        training_s=made.training.processor_s,
        cost=cost(made.calibrated, study.timed),
        best=judged is peers.best,
        reference=is_reference,
    )


# --- baselines


def _baselines(study: Study) -> list[Plain]:
    splits = {
        name: judging.split_of(study.shop.labels, study.shop.images, name)
        for name in ("train", "val")
    }
    train, val = (_looked_at(splits[name]) for name in ("train", "val"))
    seeds = (1,) if study.quick else (1, 2, 3)
    return baselines(train, val, _looked_at(study.test).views, seeds=seeds)


def _looked_at(split: judging.TestSplit) -> Split:
    rows = [split.table.rows[at] for at in split.rows]
    return Split(
        views=np.stack([views_of(split.images / row.subject, VIEW)[0, 0] for row in rows]),
        truth=np.array([row.truth[0] == 1.0 for row in rows]),
        groups=tuple(row.patient for row in rows),
    )


def _plain_line(study: Study, plain: Plain, peers: Peers) -> Line:
    return Line(
        number="-",
        name=f"baseline: {plain.name}",
        by_source=judging.judged(
            [judging.scored_plainly(study.test, each) for each in plain.scores],
            plain.threshold,
            plain.refusal,
            against=judging.Against(reference=peers.reference.scored[0]),
            draws=study.draws,
        ),
        refusal=plain.refusal,
        validation_auroc=plain.validation_auroc,
        training_s=plain.training_s,
    )


# --- the daemon, and words


def _served(study: Study, peers: Peers, folder: Path) -> tuple[float, str]:
    """Evaluate the best against the reference, then serve it; return the largest difference."""
    say("  evaluate and serve the best")
    best = peers.best
    study.shop.evaluate(best.made, "--against", str(peers.reference.made.calibrated))
    rows = [study.test.table.rows[at] for at in study.test.rows]
    studies = write_dicom([study.test.images / row.subject for row in rows], folder / "dicom")
    served = served_scores(best.made.calibrated, studies, folder, finding=FINDING)
    evaluated = evaluated_scores(best.made.report, studies, finding=FINDING)
    difference = largest_difference(served, evaluated)
    scored = sum(value is not None for value in served.values())
    return difference, (
        f"{best.made.trial.name} was served outside demonstration mode, on the strength of its"
        f" calibration. The {len(studies)} pictures of the test split went in by C-STORE as DICOM"
        f" files: {scored} were scored, {len(studies) - scored} turned away by the gate. The"
        f" largest difference between a score on the worklist and that of `triage evaluate` is"
        f" {difference:.1e} (limit {AGREE:g})."
    )


def _damage(study: Study, shown: Mapping[str, Made]) -> dict[str, judging.Damage]:
    say("  damage to the image")
    return {name: judging.damaged(made.calibrated, study.test) for name, made in shown.items()}


def _refusals(study: Study, reference: Judged) -> dict[str, str]:
    said = {judging.BOTH: reasons(reference.made.calibration) or "supported"}
    calls = [partial(study.shop.refusal, reference.made, source) for source in SOURCES]
    for source, words in zip(SOURCES, side_by_side(calls), strict=True):
        said[f"{source} alone"] = words or "supported"
    return {source: f"{words}." for source, words in said.items()}


def _counts(study: Study) -> dict[str, str]:
    said = {}
    for name in ("train", "val", "test"):
        split = judging.split_of(study.shop.labels, study.shop.images, name)
        rows = [split.table.rows[at] for at in split.rows]
        parts = []
        for short, long in SOURCES.items():
            own = [row for row in rows if row.strata["source"] == long]
            positives = sum(row.truth[0] == 1.0 for row in own)
            patients = len({row.patient for row in own})
            parts.append(f"{short} {len(own)} images ({positives} abnormal) of {patients} patients")
        said[name] = f"{name}: {'; '.join(parts)}"
    return said


def _measured(conditions: Conditions, twin: Twin) -> str:
    said = describe(conditions.scratch)
    return (
        f"Measured {datetime.now(UTC).date().isoformat()} on {said['Processor']}, Python"
        f" {platform.python_version()}, torch {said.get('torch', '-')}, by"
        " `python -m tests.benchmarks learning --write`."
        " Encoder: pocket, 112 px, trained on drawn radiographs only; the adapted one went on from"
        f" it on the training split. {twin.words}\n"
    )
