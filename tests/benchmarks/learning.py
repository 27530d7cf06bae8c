"""All ways to train, beside three plain baselines, on the development radiographs.

Bundles are made by the program's own verbs on the matched training rows, chosen by the validation
split, and judged on the test split, source by source. The best one is then served by a daemon that
gets the same pictures by C-STORE. `--write` puts the page into triage/learning/RESULTS.md.
"""

import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from tests.benchmarks import learning_judging as judging
from tests.benchmarks.learning_baselines import Plain, Split, baselines
from tests.benchmarks.learning_cost import cost
from tests.benchmarks.learning_runs import (
    FINDING,
    POCKET,
    SOURCES,
    Made,
    Trial,
    Workshop,
    radiographs,
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
from tests.benchmarks.machine import describe
from tests.benchmarks.measuring import Conditions, Note, Page, Row, at_most, say
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
VIEW: Final = ViewSpec(rendering="dicom", size_px=112)
LESS: Final = ("--epochs", "2", "--folds", "2", "--l2", "0.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A made bundle with the scores of the test split, one set for each seed."""

    made: Made
    scored: tuple[Scored, ...]
    threshold: float


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
        models = _models(study)
        reference = models[0]
        best = max(models, key=lambda each: each.made.validation_auroc)
        lines = [_line(study, each, reference, best) for each in models]
        lines += [_plain_line(study, each, reference) for each in _baselines(study)]
        for line in lines:
            for source, told in line.by_source.items():
                yield Row(what=f"{line.name}: AUROC, {source}", values=told.seeds, unit="")
        say("  damage to the image")
        shown = {each.made.trial.name: each for each in (reference, best)}
        damage = {
            name: judging.damaged(each.made.calibrated, study.test) for name, each in shown.items()
        }
        difference, served = _served(study, best, reference, folder / "daemon")
        yield Row(
            what="daemon against `triage evaluate`, largest difference of a score",
            values=(difference,),
            unit="",
            limit=at_most(AGREE),
        )
        found = Findings(
            lines=lines,
            counts=_counts(study),
            refusals=_refusals(study, reference),
            damage=damage,
            served=served,
            measured=_measured(conditions),
        )
    yield Page(path=RESULTS, text=page(found))


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


def _models(study: Study) -> list[Judged]:
    """The reference first, then each method in its order; of one with variants, all of them."""
    logistic = Trial(number="1", name="logistic", words=_named("logistic"), keeps=True)
    mlp = Trial(number="2", name="mlp", words=_named("mlp"), keeps=True)
    queries = Trial(number="4", name="queries", words=_named("queries"))
    focal = Trial(number="5", name="focal 2 x 2", words=_named("focal"), keeps=True)
    reference = _judged(study, logistic)
    second = _judged(study, mlp)
    depths = (0, BLOCKS) if study.quick else range(BLOCKS + 1)
    unfrozen = [_judged(study, trial) for trial in unfreezing(tuple(depths))]
    adapted = max(unfrozen[1:], key=lambda each: each.made.validation_auroc)
    unfrozen[unfrozen.index(adapted)] = _with_seeds(study, adapted, (1, 2, 3))
    others = [queries, focal, *_upon(adapted)]
    return [reference, second, *unfrozen, *(_judged(study, trial) for trial in others)]


def _upon(adapted: Judged) -> list[Trial]:
    """What needs the encoder that was adapted to the training split, and the slow ablation."""
    encoder = load_bundle(adapted.made.trained, check_encoder=False).encoder_directory
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


def _judged(study: Study, trial: Trial) -> Judged:
    trial = replace(trial, seeds=trial.seeds[:1]) if study.quick else trial
    made = study.shop.make(trial)
    cache = study.shop.embeddings(trial, trial.seeds[0])
    first = judging.scored_by(made.calibrated, study.test, cache)
    (point,) = load_bundle(made.calibrated, check_encoder=False).manifest.findings
    judged = Judged(made=made, scored=(first,), threshold=point.operating_point)
    return _with_seeds(study, judged, trial.seeds)


def _with_seeds(study: Study, judged: Judged, seeds: tuple[int, ...]) -> Judged:
    """Train with further seeds: for the spread of the area, hence without a calibration."""
    scored, trial = list(judged.scored), judged.made.trial
    for seed in () if study.quick else seeds[1:]:
        bundle, _ = study.shop.train(trial, seed)
        scored.append(judging.scored_by(bundle, study.test, study.shop.embeddings(trial, seed)))
    return replace(judged, scored=tuple(scored))


def _line(study: Study, judged: Judged, reference: Judged, best: Judged) -> Line:
    made = judged.made
    refusal = str(made.calibration["findings"][0]["refusal"])
    is_reference = judged is reference
    return Line(
        number=made.trial.number,
        name=made.trial.name,
        by_source=judging.judged(
            judged.scored,
            judged.threshold,
            refusal,
            reference=None if is_reference else (reference.scored[0], reference.threshold),
            draws=study.draws,
        ),
        refusal=refusal,
        validation_auroc=made.validation_auroc,
        training_s=made.training.processor_s,
        training_mib=made.training.memory_mib,
        cost=cost(made.calibrated, study.timed),
        best=judged is best,
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


def _plain_line(study: Study, plain: Plain, reference: Judged) -> Line:
    return Line(
        number="-",
        name=f"baseline: {plain.name}",
        by_source=judging.judged(
            [judging.scored_plainly(study.test, each) for each in plain.scores],
            plain.threshold,
            plain.refusal,
            reference=(reference.scored[0], reference.threshold),
            draws=study.draws,
        ),
        refusal=plain.refusal,
        validation_auroc=plain.validation_auroc,
        training_s=plain.training_s,
    )


# --- the daemon, and words


def _served(study: Study, best: Judged, reference: Judged, folder: Path) -> tuple[float, str]:
    """Evaluate the best against the reference, then serve it; return the largest difference."""
    say("  evaluate and serve the best")
    against = ("--against", str(reference.made.calibrated))
    study.shop.evaluate(best.made, *against)
    rows = [study.test.table.rows[at] for at in study.test.rows]
    studies = write_dicom([study.test.images / row.subject for row in rows], folder / "dicom")
    served = served_scores(best.made.calibrated, studies, folder, finding=FINDING)
    report = best.made.calibrated.with_name(f"{best.made.calibrated.name}-report")
    difference = largest_difference(served, evaluated_scores(report, studies, finding=FINDING))
    scored = sum(value is not None for value in served.values())
    return difference, (
        f"{best.made.trial.name} was served outside demonstration mode, on the strength of its"
        f" calibration. The {len(studies)} pictures of the test split went in by C-STORE as DICOM"
        f" files: {scored} were scored, {len(studies) - scored} turned away by the gate. The"
        f" largest difference between a score on the worklist and that of `triage evaluate` is"
        f" {difference:.1e} (limit {AGREE:g})."
    )


def _refusals(study: Study, reference: Judged) -> dict[str, str]:
    both = str(reference.made.calibration["findings"][0]["refusal"])
    said = {"both sources": both or "supported"}
    for source in SOURCES:
        said[f"{source} alone"] = study.shop.refusal(reference.made, source) or "supported"
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


def _measured(conditions: Conditions) -> str:
    said = describe(conditions.scratch)
    return (
        f"Measured {datetime.now(UTC).date().isoformat()} on {said['Processor']}, Python"
        f" {platform.python_version()}, torch {said.get('torch', '-')}, by"
        " `python -m tests.benchmarks learning --write`."
        " Encoder: pocket, 112 px, trained on drawn radiographs only; the adapted one went on from"
        " it on the training split.\n"
    )
