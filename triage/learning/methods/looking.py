"""How a method comes to the vectors, or to the views, of labelled images.

Vectors come through `embedding.embed_rows`, hence from the encoder that serves and out of its
cache; views come from the same decoder. A row that cannot be read is left out and counted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triage.errors import BundleError, DecodeCrashed, DecodeError, PermanentError, StoreError
from triage.imaging.views import PREPROCESSING_VERSION
from triage.inference.bundle import (
    digest_of,
    digest_of_file,
    embedding_scope,
    encoder_files,
    features_digest,
)
from triage.inference.bundle_fields import ARCHITECTURES, EncoderReference, Features
from triage.inference.encoder import Encoder, open_encoder
from triage.inference.weights import read_json
from triage.learning.material.embedding import embed_rows
from triage.learning.material.embedding_set import EmbeddingSet
from triage.learning.material.images import Decoder, DirectoryImages, Images, Unreadable
from triage.learning.material.lens import Lens
from triage.learning.methods.material import Labelled, Material
from triage.learning.progress import Progress
from triage.records import ViewSpec
from triage.worker.serving import encode_with

UNREADABLE: Final = (DecodeError, DecodeCrashed, StoreError, Unreadable)
Views = NDArray[np.float32]  # (V, C, S, S)


def architecture_of(directory: Path) -> str:
    """What config.json of an encoder directory names. Raises BundleError."""
    named = read_json(directory / "config.json").get("architectures")
    architecture = named[0] if isinstance(named, list) and named else None
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise BundleError(
            f"{directory} holds no encoder that is supported",
            hint=f"Supported are {', '.join(sorted(ARCHITECTURES))}.",
        )
    return architecture


def vision_settings(directory: Path) -> dict[str, Any]:
    """The vision_config of an encoder directory. Raises BundleError."""
    settings = read_json(directory / "config.json").get("vision_config")
    if not isinstance(settings, dict):
        raise BundleError(f"{directory / 'config.json'} names no vision_config")
    return settings


def width_of(directory: Path) -> int:
    """Features of one token of an encoder directory, hence of its vector by default."""
    return int(vision_settings(directory).get("hidden_size", 768))  # 768: default of its config


def pooled(directory: Path, pooling: str) -> Features:
    """The features of a pooling, said the plain way where it is the encoder's default.

    The daemon's embeddings of an encoder without classifier can then be used again as they are.
    """
    if pooling == "mean" and architecture_of(directory) == "SiglipModel":
        return Features(pooling="mean")
    return Features()


def labelled_splits(
    material: Material,
    encoders: Sequence[Path],
    *,
    features: Features,
    view: ViewSpec | None = None,
) -> tuple[Labelled, Labelled]:
    """Embed the rows of train and val, once each. Raises PermanentError and what embedding does."""
    rows = [*material.splits["train"], *material.splits["val"]]
    if not rows:
        return labelled(material, None, "train"), labelled(material, None, "val")
    lens = _lens(material, encoders, features, view or material.view)
    with Progress("Embedding", len(rows)) as progress:
        found = embed_rows(
            [material.table.rows[row] for row in rows],
            material.images,
            lens,
            material.embeddings or material.work / "embeddings",
            batch_size=material.batch_size,
            skip_unreadable=True,
            progress=progress,
        )
    material.left_out.update({left.line: left.reason for left in found.left_out})
    return labelled(material, found, "train"), labelled(material, found, "val")


def labelled(material: Material, found: EmbeddingSet | None, split: str) -> Labelled:
    """The subjects of a split that have vectors, in the order of its rows."""
    place = {subject: i for i, subject in enumerate(found.subjects)} if found else {}
    rows = [row for row in material.splits[split] if material.table.rows[row].subject in place]
    parts = tuple(
        tuple(found.divided(place[material.table.rows[row].subject])) if found else ()
        for row in rows
    )
    return Labelled(
        rows=tuple(rows),
        parts=parts,
        truth=truth_of(material, rows),
        groups=tuple(material.table.rows[row].patient for row in rows),
    )


def truth_of(material: Material, rows: Sequence[int]) -> NDArray[np.float64]:
    """(N, F) of 1, 0 and NaN."""
    truth = [material.table.rows[row].truth for row in rows]
    return np.array(truth, np.float64).reshape(len(rows), len(material.table.findings))


def open_first(material: Material, features: Features, *, captions: bool = False) -> Encoder:
    """The first encoder in float32, for methods that work on its tokens or its weights."""
    directory = material.encoders[0]
    return open_encoder(
        directory,
        architecture=architecture_of(directory),
        size_px=material.view.size_px,
        device=material.device,
        dtype="float32",
        captions=captions,
        features=features,
    )


def subjects_with_views(material: Material, split: str) -> Iterator[tuple[int, list[Views]]]:
    """Row and views of each part, for every row of a split that can be read."""
    images: Images = (
        DirectoryImages(material.images) if isinstance(material.images, Path) else material.images
    )
    with Decoder() as decoder:
        for index in material.splits[split]:
            row = material.table.rows[index]
            try:
                begun = [decoder.draw(part, material.view) for part in images.parts(row)]
                drawn = [wait() for wait in begun]
            except UNREADABLE as error:
                material.left_out[row.line] = str(error)
                continue
            parts = [each.views for each in drawn if not each.reason]
            if parts:
                yield index, parts
            else:
                reasons = (each.reason for each in drawn)
                material.left_out[row.line] = next(reasons, "the study has no images")


def reference_of(directory: Path) -> EncoderReference:
    """An encoder directory with the digests of its files. Raises BundleError."""
    files = {name: digest_of_file(path) for name, path in encoder_files(directory).items()}
    return EncoderReference(
        path=str(directory.resolve()), architecture=architecture_of(directory), files=files
    )


def _lens(material: Material, encoders: Sequence[Path], features: Features, view: ViewSpec) -> Lens:
    first, *further = (reference_of(directory) for directory in encoders)
    for directory in encoders[1:]:
        if not directory.is_dir():
            raise PermanentError(f"there is no directory {directory}")
    features = replace(features, experts=tuple(further))
    encoder = open_encoder(
        encoders[0],
        architecture=first.architecture,
        size_px=view.size_px,
        device=material.device,
        dtype=material.dtype,
        features=features,
        experts=tuple((Path(each.path), each.architecture) for each in further),
    )
    return Lens(
        spec=view,
        scope=embedding_scope(
            encoder_digest=digest_of(first.files),
            preprocessing_version=PREPROCESSING_VERSION,
            answer_key=encoder.answer_key,
            features_digest=features_digest(features, pooling="", terms=""),
        ),
        encode=encode_with(encoder, keep_features=False),
        use=material.use,
    )
