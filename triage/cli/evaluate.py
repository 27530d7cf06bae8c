"""`triage evaluate`: how good a bundle is on labelled studies, as a page, plots and JSON."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from triage.cli.evaluate_words import tell
from triage.cli.judged import (
    add_judging_options,
    add_prevalence_option,
    embedded,
    open_bundle,
    prevalences,
    require_extra,
    selected,
    with_copies,
)
from triage.cli.labelled import images_of, labels_of
from triage.cli.verbs import DONE, Verbs, add_verb, long_work, print_json, seed, whole_number

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from triage.inference.bundle import Bundle
    from triage.learning.judging.prevalence import Prevalence
    from triage.learning.judging.report import Report
    from triage.learning.judging.scoring import Scored
    from triage.learning.judging.selection import Selection
    from triage.learning.judging.statistics import Draws
    from triage.learning.material.images import Images
    from triage.learning.material.labels import LabelTable

PICTURE_PX = 176
MOST_ROUNDS = 100_000


def declare(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    parser = add_verb(
        verbs,
        "evaluate",
        evaluate,
        says="measure a bundle on labelled studies and write a report",
        example="triage evaluate bundles/chest-local --labels labels.csv --images /srv/films"
        " --report reports/chest",
        json_document=True,
    )
    add_judging_options(parser, usual="test")
    parser.add_argument(
        "--report",
        type=Path,
        required=True,
        metavar="DIR",
        help="directory of report.html, evaluation.json and plots/; holds patient data",
    )
    add_prevalence_option(
        parser,
        says="how common the finding is at the site, for PPV, NPV, flag rate and calibration there"
        " (default: as the bundle's calibration records); may be given again",
    )
    parser.add_argument(
        "--against", type=Path, metavar="BUNDLE2", help="compare with this bundle, row by row"
    )
    parser.add_argument(
        "--against-embeddings",
        type=Path,
        metavar="DIR",
        help="as --embeddings, for BUNDLE2 where its encoder is another",
    )
    parser.add_argument(
        "--no-thumbnails", action="store_true", help="name the examples, show no pictures"
    )
    parser.add_argument(
        "--rounds",
        type=_rounds,
        default=1000,
        help="of the bootstrap behind the intervals (default: 1000)",
    )
    parser.add_argument(
        "--seed", type=seed, default=20240229, help="of the bootstrap (default: 20240229)"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    arguments: argparse.Namespace
    bundle: "Bundle"
    other: "Bundle | None"
    table: "LabelTable"
    selection: "Selection"
    prevalences: "dict[str, Prevalence]"
    draws: "Draws"
    made: tuple[str, str] = ("", "")  # dtype and device class of the scores


def evaluate(arguments: argparse.Namespace) -> int:
    require_extra("matplotlib")
    from triage.learning.judging.report_files import document_of, make_place, write_report
    from triage.learning.judging.statistics import Draws

    bundle = open_bundle(arguments.bundle)
    table = labels_of(arguments, bundle)
    other = open_bundle(arguments.against) if arguments.against else None
    task = _Task(
        arguments=arguments,
        bundle=bundle,
        other=other,
        table=table,
        selection=selected(arguments, bundle, table, usual="test", against=other),
        prevalences=_prevalences(arguments, bundle),
        draws=Draws(rounds=arguments.rounds, seed=arguments.seed),
    )
    make_place(arguments.report)  # what cannot be written must not be found out after hours
    with images_of(arguments, use=bundle.intended_use) as images:
        task, scored, second = _scored(task, images)
        long_work("Drawing the intervals.")
        report = _report(task, scored, images)
    if second is not None:
        report = _compared(task, report, scored, second)
    page = write_report(report, scored, arguments.report)
    if arguments.json:
        print_json({"page": page, **document_of(report, scored)})
    else:
        tell(report, page)
    return DONE


def _prevalences(arguments: argparse.Namespace, bundle: "Bundle") -> "dict[str, Prevalence]":
    """What the bundle records, and over it what the person states."""
    from triage.learning.judging.bundle_words import prevalences_of
    from triage.learning.judging.prevalence import STATED, Prevalence

    stated = {
        name: Prevalence(share=share, source=STATED)
        for name, share in prevalences(arguments, bundle).items()
    }
    return prevalences_of(bundle) | stated


def _scored(task: _Task, images: "Images") -> "tuple[_Task, Scored, Scored | None]":
    """The task with what is wrong with its rows, and the scores of both bundles."""
    from triage.inference.bundle import hardware_of
    from triage.learning.judging.bundle_words import same_vectors
    from triage.learning.judging.scoring import score

    arguments, table, chosen = task.arguments, task.table, task.selection.rows
    rows = [table.rows[row] for row in chosen]
    vectors = embedded(arguments, task.bundle, rows, images, arguments.embeddings)
    selection = with_copies(task.selection, task.bundle, rows, vectors)
    task = replace(task, selection=selection, made=hardware_of(vectors.scope))
    scored = score(task.bundle, vectors, table, chosen)
    if task.other is None:
        return task, scored, None
    if not same_vectors(task.bundle, task.other):
        vectors = embedded(arguments, task.other, rows, images, arguments.against_embeddings)
    return task, scored, score(task.other, vectors, table, chosen)


def _report(task: _Task, scored: "Scored", images: "Images") -> "Report":
    from triage.learning.judging.bundle_words import (
        judged_model,
        points_of,
        refusals_of,
        unlabelled,
    )
    from triage.learning.judging.evaluation import evaluate as measure
    from triage.learning.judging.report import Report
    from triage.learning.judging.report_files import drawn, pictured

    bundle, table = task.bundle, task.table
    judged = measure(
        scored,
        points_of(bundle),
        refusals=refusals_of(bundle, task.made),
        prevalences=task.prevalences,
        draws=task.draws,
    )
    with _views(task, images) as view_of:
        examples = pictured(scored, judged, None if task.arguments.no_thumbnails else view_of)
    return Report(
        model=judged_model(bundle),
        evaluation=judged,
        made_at=datetime.now(UTC),
        labels=task.arguments.labels.name,
        labels_digest=table.digest,
        selection=task.selection.words,
        scores=" on ".join(task.made),
        notes=(*task.selection.warnings, *unlabelled(bundle, scored.findings, table.findings)),
        plots=drawn(scored, judged),
        examples=examples,
    )


def _compared(task: _Task, report: "Report", scored: "Scored", second: "Scored") -> "Report":
    from triage.learning.judging.bundle_words import judged_model, points_of
    from triage.learning.judging.comparing import compare

    if task.other is None:
        return report
    points = points_of(task.bundle), points_of(task.other)
    found = compare(scored, second, *points, draws=task.draws)
    return replace(report, against=judged_model(task.other), comparison=found)


@contextmanager
def _views(task: _Task, images: "Images") -> "Iterator[Callable[[str], NDArray[np.float32]]]":
    """Views (C, S, S) by subject for thumbnails: of a study its first image, its middle slice."""
    from triage.learning.material.images import Decoder, Unreadable

    small = replace(task.bundle.view_spec, size_px=PICTURE_PX, crops=0)
    chosen = (task.table.rows[row] for row in task.selection.rows)
    rows = {row.subject: row for row in chosen}
    with Decoder(1) as decoder:

        def view_of(subject: str) -> "NDArray[np.float32]":
            drawn = decoder.draw(images.parts(rows[subject])[0], small)()
            if not len(drawn.views):
                raise Unreadable(drawn.reason or "no views")
            middle: NDArray[np.float32] = drawn.views[len(drawn.views) // 2]
            return middle

        yield view_of


def _rounds(text: str) -> int:
    number = whole_number(text)
    if not 100 <= number <= MOST_ROUNDS:
        raise argparse.ArgumentTypeError(
            f"{text} is not between 100, below which there is no interval, and {MOST_ROUNDS}"
        )
    return number
