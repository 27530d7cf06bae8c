"""What the verbs of the data scientist share: which labels, and where the images are.

`--images` is a directory, or the word WORKLIST for the studies of the configured database, whose
pixels are in its store. A directory of that name is `./WORKLIST`.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from triage.cli.verbs import UsageError, configuration, named_value, operator, writing

if TYPE_CHECKING:
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
        help="file or study_instance_uid; patient_group; columns of findings with 1, 0 or blank"
        " (not known); optional split (train, val, test), sex, age, view, manufacturer, source",
    )
    parser.add_argument(
        "--findings",
        type=_names,
        metavar="A,B",
        help="columns of findings (default, without --positive: all that hold 1 and 0)",
    )
    parser.add_argument(
        "--positive",
        type=named_value,
        action="append",
        default=[],
        metavar="COLUMN=VALUE",
        help="make a finding VALUE of a column of text: positive where it says VALUE, negative"
        " where it says another word; may be given again",
    )
    parser.add_argument(
        "--strata", type=_names, default=(), metavar="A,B", help="further columns for subgroups"
    )


def labels_of(arguments: argparse.Namespace) -> "LabelTable":
    """Read the labels as the options say; they name files or studies as --images does."""
    from triage.learning.material.labels import FILE, STUDY, read_labels

    positive = dict(arguments.positive)
    if len(positive) != len(arguments.positive):
        raise UsageError("--positive names one column twice")
    column = None
    if images := getattr(arguments, "images", None):
        column = STUDY if images == WORKLIST else FILE
    return read_labels(
        arguments.labels,
        findings=arguments.findings,
        subject_column=column,
        strata=arguments.strata,
        positive=positive,
    )


@contextmanager
def images_of(
    arguments: argparse.Namespace, *, use: "IntendedUse | None" = None
) -> "Iterator[Images]":
    """Open where the images are. `use` leaves out images of studies that it does not fit."""
    from triage.learning.material.images import DirectoryImages, WorklistImages
    from triage.store import open_store

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
