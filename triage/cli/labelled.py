"""What the verbs of the data scientist share: which labels, and where the images are.

`--images` is a directory, or the word WORKLIST for the studies of the configured database, whose
pixels are in its store. A directory of that name is `./WORKLIST`.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from triage.cli.text import clean, counted
from triage.cli.verbs import UsageError, configuration, named_value, operator, writing

if TYPE_CHECKING:
    from triage.inference.bundle import Bundle
    from triage.learning.material.images import Images
    from triage.learning.material.labels import LabelTable
    from triage.rules.eligibility import IntendedUse

WORKLIST: Final = "WORKLIST"


def add_label_options(
    parser: argparse.ArgumentParser, *, images: bool = True, required: bool = True
) -> None:
    """Add --labels with what says how to read it, and --images."""
    if images:
        parser.add_argument(
            "--images",
            required=required,
            metavar="DIR|WORKLIST",
            help="directory that the labels' files are relative to (DICOM, PNG, JPEG), or the word"
            " WORKLIST: studies of the configured database, by study_instance_uid",
        )
    parser.add_argument(
        "--labels",
        required=required,
        type=Path,
        metavar="CSV",
        help="file or study_instance_uid; patient_group (or group_id, patient_id), in every row;"
        " columns of findings with 1, 0 or blank (not known); optional split (train, val, test),"
        " sex, age, view, manufacturer, source",
    )
    parser.add_argument(
        "--findings",
        type=_names,
        metavar="A,B",
        help="columns of findings (default, without --positive: those of the bundle that is judged,"
        " else the one column that holds 1 and 0; where several do, they must be named)",
    )
    add_word_options(parser)
    parser.add_argument(
        "--strata",
        type=_names,
        default=(),
        metavar="A,B",
        help="further columns for subgroups, which are never findings by themselves",
    )


def add_word_options(parser: "argparse._ActionsContainer") -> None:
    """Add --positive and --negative, which make findings of columns of words."""
    parser.add_argument(
        "--positive",
        type=named_value,
        action="append",
        default=[],
        metavar="COLUMN=WORD",
        help="make a finding WORD of a column of words; may be given again, for another column",
    )
    parser.add_argument(
        "--negative",
        type=named_value,
        action="append",
        default=[],
        metavar="COLUMN=WORD",
        help="word of that column that says that the finding is not there; may be given again, and"
        " left out where the column has two words; any further word is refused",
    )


def add_pooling_option(parser: "argparse._ActionsContainer") -> None:
    """Add --pooling, which must be one for `embed` and `train`; left out, it is None."""
    parser.add_argument(
        "--pooling",
        choices=("mean", "default"),
        help="of MedSigLIP's tokens: their mean (default), or its own pooling head",
    )


def labels_of(arguments: argparse.Namespace, bundle: "Bundle | None" = None) -> "LabelTable":
    """Read the labels as the options say, and tell on stderr what was taken for a finding.

    They name files or studies as --images does; without options, findings are those of `bundle`.
    """
    from triage.learning.material.label_columns import Asked
    from triage.learning.material.label_reading import read_labels
    from triage.learning.material.labels import FILE, STUDY

    positive = dict(arguments.positive)
    if len(positive) != len(arguments.positive):
        raise UsageError("--positive names one column twice")
    negative: dict[str, list[str]] = {}
    for name, word in arguments.negative:
        negative.setdefault(name, []).append(word)
    column = None
    if images := getattr(arguments, "images", None):
        column = STUDY if images == WORKLIST else FILE
    table = read_labels(
        arguments.labels,
        Asked(
            findings=arguments.findings,
            positive=positive,
            negative=negative,
            offered=[spec.name for spec in bundle.manifest.findings] if bundle else None,
            subject_column=column,
            strata=arguments.strata,
        ),
    )
    for each in table.taken():
        absent = " or ".join(each["negative"]) or "nothing"
        words = (
            f"Finding {each['name']} (column {each['column']}): {each['positive']} in"
            f" {counted(each['positives'], 'row', 'rows')}, {absent} in {each['negatives']},"
            f" blank in {each['unknown']}."
        )
        print(clean(words), file=sys.stderr)
    return table


@contextmanager
def images_of(
    arguments: argparse.Namespace, *, use: "IntendedUse | None" = None
) -> "Iterator[Images]":
    """Open where the images are. `use` leaves out images of studies that it does not fit."""
    from triage.learning.material.images import DirectoryImages, WorklistImages
    from triage.log import configure_logging
    from triage.store import open_store

    configure_logging(level="error", form="auto")  # off stdout; what befell a row is told with it
    if arguments.images != WORKLIST:
        yield DirectoryImages(Path(arguments.images))
        return
    config = configuration(arguments)
    with writing(config) as database:
        store = open_store(config.store.path, minimum_free_mib=0)
        try:
            yield WorklistImages(
                database, store.resolve, policy=config.eligibility, by=operator(), use=use
            )
        finally:
            store.close()


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError("an empty name in the list")
    return names
