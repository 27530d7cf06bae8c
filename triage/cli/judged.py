"""What `calibrate` and `evaluate` share: rows of the labels, embedded for a bundle and scored."""

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from triage.cli.labelled import add_label_options
from triage.cli.verbs import UsageError, interruptible, long_work, named_value, positive
from triage.errors import PermanentError

if TYPE_CHECKING:
    from triage.inference.bundle import Bundle
    from triage.learning.judging.selection import Selection
    from triage.learning.material.embedding_set import EmbeddingSet
    from triage.learning.material.images import Images
    from triage.learning.material.labels import LabelRow, LabelTable

EVERY = ""  # the finding of a prevalence that is meant for all


def add_judging_options(parser: argparse.ArgumentParser, *, usual: str) -> None:
    """Add the bundle, the labels, the choice of rows and how to embed them."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="directory of the bundle")
    add_label_options(parser)
    parser.add_argument(
        "--split",
        choices=("train", "val", "test", "all"),
        help=f"rows to use (default: {usual} where the rows are split, else all but those that the"
        f" bundle was fitted on; all takes these too)",
    )
    parser.add_argument(
        "--only",
        type=named_value,
        action="append",
        default=[],
        metavar="COLUMN=VALUE",
        help="use only rows of this value, e.g. matched=yes; may be given again",
    )
    parser.add_argument(
        "--embeddings",
        type=Path,
        metavar="DIR",
        help="directory of `triage embed` to go on with (default: embed anew, keep nothing)",
    )
    parser.add_argument(
        "--batch-size", type=positive, default=16, help="views at once (default: 16)"
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N: of the kind that serves"
    )
    parser.add_argument(
        "--dtype", default="auto", help="auto, float32 or bfloat16: as [inference] dtype says"
    )


def require_extra(*modules: str) -> None:
    """Raise PermanentError where a library of the data scientist's verbs is missing."""
    for module in modules:
        if find_spec(module) is None:
            raise PermanentError(
                f"this verb needs {module}, which is not installed",
                hint="Install `triage[learning]`.",
            )


def require_bundle(directory: Path) -> None:
    """Raise PermanentError where `directory` is none of a bundle."""
    from triage.inference.bundle_parts import MANIFEST

    if not (directory / MANIFEST).is_file():
        there = directory.is_dir()
        raise PermanentError(
            f"{directory} holds no bundle" if there else f"there is no directory {directory}",
            hint=f"Name the directory of a bundle, the one with its {MANIFEST}.",
        )


def open_bundle(directory: Path) -> "Bundle":
    """Load a bundle with a head, all files checked."""
    # Threads of torch that spin would starve the decoders; read before torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from triage.inference.bundle import load_bundle

    require_bundle(directory)
    long_work("Loading the bundle and its encoder; a large one takes minutes.")
    bundle = load_bundle(directory)
    if bundle.head is None:
        raise PermanentError(
            f"bundle {bundle.identity.name} has no classifier to judge",
            hint="Train one with `triage train`.",
        )
    return bundle


def selected(
    arguments: argparse.Namespace,
    bundle: "Bundle",
    table: "LabelTable",
    *,
    usual: str,
    judging: bool = True,
    against: "Bundle | None" = None,
) -> "Selection":
    """The rows that the options choose, of labels that fit; `select` tells of the rest."""
    from triage.learning.judging.scoring import require_shared
    from triage.learning.judging.selection import select

    for each in filter(None, (bundle, against)):
        require_shared(each, table)
    only = dict(arguments.only)
    if len(only) != len(arguments.only):
        raise UsageError("--only names one column twice")
    return select(
        bundle,
        table,
        split=arguments.split,
        usual=usual,
        only=only,
        judging=judging,
        against=against,
    )


def embedded(
    arguments: argparse.Namespace,
    bundle: "Bundle",
    rows: "Sequence[LabelRow]",
    images: "Images",
    directory: Path | None,
) -> "EmbeddingSet":
    """Embed rows with the bundle's encoder, into `directory` or none that stays.

    What fails is in `left_out`.
    """
    from triage.learning.material.embedding import embed_rows
    from triage.learning.material.lens import lens_of_bundle
    from triage.learning.progress import Progress

    lens = lens_of_bundle(bundle, device=arguments.device, dtype=arguments.dtype)
    with _kept(directory) as place, Progress("Embedding", len(rows)) as progress:
        return embed_rows(
            rows, images, lens, place, batch_size=arguments.batch_size, progress=progress
        )


def with_copies(
    selection: "Selection", bundle: "Bundle", rows: "Sequence[LabelRow]", vectors: "EmbeddingSet"
) -> "Selection":
    """Add the warnings that rows hold the same pixels under two patients, or as the training."""
    from triage.learning.judging import selection as chosen
    from triage.learning.material.same_pixels import same_embedded, words

    copies = chosen.copies_of_training(bundle, rows, vectors)
    selection = chosen.with_copies(selection, bundle, copies)
    said = words(same_embedded(rows, vectors))
    return replace(selection, warnings=(*selection.warnings, said)) if said else selection


@contextmanager
def _kept(directory: Path | None) -> Iterator[Path]:
    if directory is not None:
        yield directory
        return
    with interruptible(), tempfile.TemporaryDirectory(prefix="triage-embeddings-") as place:
        yield Path(place)


def share(text: str) -> float:
    """Read a number between 0 and 1 of the command line, both excluded."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0.0 < number < 1.0:
        raise argparse.ArgumentTypeError(f"{text} does not lie between 0 and 1")
    return number


def add_prevalence_option(parser: argparse.ArgumentParser, *, says: str) -> None:
    """Add `--prevalence`, which `prevalences` reads."""
    parser.add_argument(
        "--prevalence",
        type=_prevalence,
        action="append",
        default=[],
        metavar="[FINDING=]P",
        help=says,
    )


def prevalences(arguments: argparse.Namespace, bundle: "Bundle") -> dict[str, float]:
    """Prevalence by finding of the bundle; one without a name is meant for all that are not named.

    Raises UsageError where two are meant for one finding.
    """
    names = {spec.name.casefold(): spec.name for spec in bundle.manifest.findings}
    said: dict[str, float] = {}
    asked = [name.casefold() for name, _ in arguments.prevalence]
    if len(set(asked)) != len(asked):
        raise UsageError("--prevalence is given twice for one finding, or twice for all")
    for name, value in sorted(arguments.prevalence, key=lambda each: each[0] != EVERY):
        if name != EVERY and name.casefold() not in names:
            raise UsageError(
                f"--prevalence names {name}, which is no finding of the bundle",
                hint=f"It has {', '.join(names.values())}.",
            )
        wanted = list(names.values()) if name == EVERY else [names[name.casefold()]]
        said |= dict.fromkeys(wanted, value)
    return said


def _prevalence(text: str) -> tuple[str, float]:
    name, _, value = text.rpartition("=")
    return name.strip(), share(value)
