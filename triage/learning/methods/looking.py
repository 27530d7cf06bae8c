"""How a method comes to the vectors, or to the views, of labelled images.

Vectors come through `embedding.embed_rows`, hence from the encoder that serves and out of its
cache; views come from the same decoder. A row that cannot be read is left out and counted.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from triage.inference.bundle_fields import Features
from triage.inference.encoder import Encoder, open_encoder
from triage.learning.material.embedding import embed_rows
from triage.learning.material.embedding_set import EmbeddingSet
from triage.learning.material.encoders import architecture_of
from triage.learning.material.images import UNREADABLE, Decoder, images_at
from triage.learning.material.lens import lens_of_encoders
from triage.learning.methods.material import Labelled, Material, require_both_classes
from triage.learning.progress import Progress
from triage.records import ViewSpec

Views = NDArray[np.float32]  # (V, C, S, S)


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
    lens = lens_of_encoders(
        encoders,
        spec=view or material.view,
        features=features,
        use=material.use,
        device=material.device,
        dtype=material.dtype,
    )
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


def learnable_splits(
    material: Material,
    encoders: Sequence[Path],
    *,
    features: Features,
    view: ViewSpec | None = None,
) -> tuple[Labelled, Labelled]:
    """As `labelled_splits`; PermanentError where a finding lacks a class in the training split."""
    train, val = labelled_splits(material, encoders, features=features, view=view)
    require_both_classes(train, material.table.findings, "train")
    return train, val


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
    images = images_at(material.images)
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
