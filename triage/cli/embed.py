"""`triage embed`: labelled images to embeddings, each computed once, in any number of runs."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triage.cli.labelled import (
    WORKLIST,
    add_label_options,
    add_pooling_option,
    images_of,
    labels_of,
)
from triage.cli.verbs import (
    DONE,
    FAILED,
    UsageError,
    Verbs,
    add_verb,
    long_work,
    positive,
    print_json,
    whole_number,
)
from triage.errors import PermanentError

if TYPE_CHECKING:
    from triage.learning.material.embedding_set import EmbeddingSet
    from triage.learning.material.labels import LabelTable
    from triage.learning.material.lens import Lens

PATCH_MIB = 1024
LISTED = 20  # rows left out that a person is shown; JSON holds all


def declare(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    parser = add_verb(
        verbs,
        "embed",
        embed,
        says="compute and keep the embeddings of labelled images; a stopped run goes on",
        example="triage embed --images /srv/films --labels labels.csv"
        " --encoder /srv/models/medsiglip-448 --out /srv/embeddings/chest",
        json_document=True,
    )
    add_label_options(parser)
    encoder = parser.add_mutually_exclusive_group(required=True)
    encoder.add_argument(
        "--encoder", type=Path, metavar="DIR", help="encoder directory in the hub's format"
    )
    encoder.add_argument(
        "--bundle", type=Path, metavar="DIR", help="bundle: its encoder, rendering and features"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="directory of the embeddings"
    )
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="exit with 0 although images could not be read or found; they are told all the same",
    )
    add_pooling_option(parser)
    _declare_rendering(parser)
    _declare_work(parser)


def _declare_rendering(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rendering", help="with --encoder: dicom (default), google-cxr, ...")
    parser.add_argument(
        "--size-px",
        type=positive,
        help="with --encoder: side of a view (default: as trained)",
    )
    parser.add_argument(
        "--crops",
        type=whole_number,
        metavar="N",
        help="with --encoder: N x N crops of each image beside the whole (default: 0)",
    )


def _declare_work(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--patch-features",
        action="store_true",
        help="keep the tokens of every view too, below OUT/patches",
    )
    parser.add_argument(
        "--patch-mib",
        type=positive,
        default=PATCH_MIB,
        metavar="MIB",
        help=f"most that they may take; more is refused (default: {PATCH_MIB})",
    )
    parser.add_argument("--batch-size", type=positive, default=16, help="views (default: 16)")
    parser.add_argument(
        "--decode-processes", type=positive, default=2, help="decoders (default: 2)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16")


def embed(arguments: argparse.Namespace) -> int:
    from triage.learning.material.embedding import embed_rows
    from triage.learning.progress import Progress

    if arguments.bundle and _asked(arguments):
        raise UsageError("--pooling, --rendering, --size-px and --crops are the bundle's to say")
    table = labels_of(arguments)
    lens = _lens(arguments)
    with (
        images_of(arguments, use=lens.use) as images,
        Progress("Embedding", len(table.rows)) as progress,
    ):
        done = embed_rows(
            table.rows,
            images,
            lens,
            arguments.out,
            batch_size=arguments.batch_size,
            decode_processes=arguments.decode_processes,
            patch_mib=arguments.patch_mib if arguments.patch_features else None,
            skip_unreadable=arguments.skip_unreadable,
            progress=progress,
        )
    if arguments.json:
        print_json(_document(arguments, table, lens, done))
    else:
        _tell(arguments, table, done)
    if not done.subjects:
        raise PermanentError(
            "no image could be embedded", hint="The reason of each row is in --json: left_out."
        )
    return FAILED if done.left_out and not arguments.skip_unreadable else DONE


def _asked(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was said about the views and their pooling; the rest is the default's."""
    options = ("pooling", "rendering", "size_px", "crops")
    said = {name: getattr(arguments, name) for name in options}
    return {name: value for name, value in said.items() if value is not None}


def _lens(arguments: argparse.Namespace) -> "Lens":
    # Threads of torch that spin would starve the decoders; read before torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from triage.learning.material.lens import lens_of_bundle, lens_of_encoder

    directory: Path = arguments.bundle or arguments.encoder
    if not directory.is_dir():
        raise PermanentError(
            f"there is no directory {directory}",
            hint="Weights are never fetched: name a directory on this machine.",
        )
    long_work("Loading the encoder; a large one takes minutes.")
    how = {
        "device": arguments.device,
        "dtype": arguments.dtype,
        "tokens": arguments.patch_features,
    }
    if arguments.bundle is None:
        return lens_of_encoder(directory, **_asked(arguments), **how)
    from triage.inference.bundle import load_bundle

    return lens_of_bundle(load_bundle(directory), **how)


def _document(
    arguments: argparse.Namespace, table: "LabelTable", lens: "Lens", done: "EmbeddingSet"
) -> dict[str, Any]:
    from dataclasses import asdict

    from triage.learning.material.same_pixels import same_embedded

    return {
        "out": arguments.out,
        "images": arguments.images,
        "labels_digest": table.digest,
        "findings": table.taken(),
        "view": asdict(lens.spec),
        "pooling": done.pooling,
        "scope": done.scope,
        "rows": len(table.rows),
        "subjects": len(done.subjects),
        "views": sum(map(len, done.vectors)),
        "width": done.vectors[0].shape[1] if done.vectors else None,
        "left_out": [{"row": each.line, "reason": each.reason} for each in done.left_out],
        "same_pixels": same_embedded(table.rows, done),
    }


def _tell(arguments: argparse.Namespace, table: "LabelTable", done: "EmbeddingSet") -> None:
    from triage.learning.material.same_pixels import same_embedded, words

    what = "studies" if arguments.images == WORKLIST else "files"
    views = sum(map(len, done.vectors))
    width = f", {done.vectors[0].shape[1]} features each" if done.vectors else ""
    print(f"{len(done.subjects)} of {len(table.rows)} {what} are embedded in {arguments.out}:")
    print(f"{views} views{width}.")
    if not table.is_grouped:
        print("The labels name no patient (patient_group): each row counts as a patient.")
    if copies := words(same_embedded(table.rows, done)):
        print(f"Warning: {copies}")
    if done.left_out:
        print(f"Left out are {len(done.left_out)} rows of the labels:")
    for each in done.left_out[:LISTED]:
        print(f"  row {each.line}: {each.reason}")
    if more := done.left_out[LISTED:]:
        print(f"  and {len(more)} more; --json names all")
