"""Which rows of a table a bundle is calibrated or judged on, and what is wrong with that choice.

A bundle knows by their hashes whom its training and its calibrations have seen, so a patient is
known again in any table, whatever else has changed in it. Rows of patients that it was fitted on
are training rows, whatever they state, and left out unless a person asks for them by --split; a row
that states no split is in the one that the training has put its patient in.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from triage.learning.material.label_columns import key_of
from triage.learning.material.labels import SPLITS, LabelError, LabelRow, LabelTable
from triage.learning.material.same_pixels import recorded
from triage.learning.material.splits import names_to_ask
from triage.learning.methods import METHODS

if TYPE_CHECKING:
    from triage.inference.bundle import Bundle
    from triage.learning.material.embedding_set import EmbeddingSet

ALL: Final = "all"
TRAIN: Final = "train"
CALIBRATION: Final = "calibration"
# Cosine distance below which two embeddings are of one image: a bank is rounded to half precision.
# Of other radiographs the nearest lies ten times as far.
SAME: Final = 1e-3
LISTED: Final = 10  # rows that a sentence names
Mask = NDArray[np.bool_]
SEEN: Final[Mapping[str, str]] = {
    TRAIN: "whom the bundle was fitted on: figures on them are much too good",
    "val": "by whom it was chosen among other fits: figures on them are too good",
    CALIBRATION: "whom it was calibrated on: its operating points look better here than they are",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Rows of the table by index, how they were chosen, and what a reader must know of it."""

    rows: tuple[int, ...]
    words: str
    warnings: tuple[str, ...]
    training_rows: int = 0  # among them, that the bundle was fitted on or, unknown, may have been


def select(
    bundle: "Bundle",
    table: LabelTable,
    *,
    split: str | None,
    usual: str,
    only: Mapping[str, str] | None = None,
    judging: bool = True,
    against: "Bundle | None" = None,
) -> Selection:
    """Choose the rows of `split`; where none is named, of `usual`, and of whoever is in no split.

    The latter only where no row states a split: then they are patients new to the bundle, or it
    records nobody. `only` keeps rows whose strata have these values; without `judging` it does not
    matter whom an earlier calibration has seen; `against` is a second bundle that is judged on the
    same rows. Raises LabelError where nothing is left.
    """
    seen = seen_of(bundle, table.rows)
    places = _places(table, seen)
    stated = any(row.split for row in table.rows)
    wanted = {split or usual} if split or stated else {usual, ""}
    wanted = {*SPLITS, ""} if split == ALL else wanted
    kept = _only(table, only or {})
    rows = [row for row in kept if places[row] in wanted]
    words = _words(wanted, [places[row] for row in kept], only or {})
    if not rows:
        raise LabelError(
            f"the labels have no row of {words}",
            hint="Fill the column split, or choose by --split train, val, test or all."
            if kept
            else "--only compares with a cell as it stands: correct COLUMN=VALUE.",
        )
    said = _left_out(table, places, kept, wanted)
    said += [*_seen(seen, table, rows, judging=judging), *_copies(bundle, table, places, rows)]
    said += _unknown(bundle, seen, judging=judging)
    if against is not None:
        other = seen_of(against, table.rows)
        second = [*_seen(other, table, rows), *_unknown(against, other)]
        said += [f"Second bundle: {each}" for each in second]
    if not table.is_grouped:
        said.append(
            "The labels name no patient (patient_group): each row counts as a patient of its own,"
            " and a bundle that has seen it knows it by its name alone."
        )
    return Selection(
        rows=tuple(rows),
        words=words,
        warnings=tuple(said),
        training_rows=_training_rows(seen, table, rows),
    )


def seen_of(bundle: "Bundle", rows: Sequence[LabelRow]) -> dict[str, Mask]:
    """By use, which rows (N,) are of patients that the bundle has seen; only what it records."""
    from triage.inference.patients import seen_among

    if bundle.patients is None:
        return {}
    names = [name for row in rows for name in names_to_ask(row)]
    found = seen_among(bundle.patients, names)
    return {
        use: np.asarray(mask.reshape(len(rows), -1).any(axis=1), np.bool_)
        for use, mask in found.items()
    }


def copies_of_training(
    bundle: "Bundle", rows: Sequence[LabelRow], vectors: "EmbeddingSet"
) -> tuple[int, ...]:
    """Return the rows of the file with images of the training, under names new to the bundle.

    Told by the bank of its training, which holds some of these images.
    """
    method = METHODS.get(str(bundle.manifest.training.get("method")))
    if bundle.bank is None or (method is not None and not method.needs_labels):
        return ()
    marked = np.array([row.split == TRAIN for row in rows], np.bool_)
    known = seen_of(bundle, rows).get(TRAIN, marked)
    place = {subject: number for number, subject in enumerate(vectors.subjects)}
    return tuple(
        row.line
        for row, seen in zip(rows, known, strict=True)
        if row.subject in place
        and not seen
        and _in_bank(bundle, vectors.divided(place[row.subject]))
    )


def with_copies(selection: Selection, bundle: "Bundle", copies: Sequence[int]) -> Selection:
    """Count copies of the training among its rows, and say which they are."""
    if not copies or bundle.bank is None:
        return selection
    shown = ", ".join(map(str, copies[:LISTED])) + (", ..." if copies[LISTED:] else "")
    said = (
        f"{len(copies)} of these {len(selection.rows)} rows have the embedding of an image that the"
        f" bundle was fitted on, under another name: figures on them are much too good (rows"
        f" {shown} of the labels). It keeps {len(bundle.bank.units)} of its images; copies of"
        f" others are not noticed."
    )
    return replace(
        selection,
        warnings=(*selection.warnings, said),
        training_rows=selection.training_rows + len(copies),
    )


def _in_bank(bundle: "Bundle", parts: Sequence[NDArray[np.float32]]) -> bool:
    """Whether all views of an image or series are in the bank, or with crops its whole image."""
    from triage.inference.classifier import bank_distances

    bank, crops = bundle.bank, bundle.view_spec.crops
    return bank is not None and any(
        bool((bank_distances(bank, views[:1] if crops else views, 1) < SAME).all())
        for views in parts
    )


def _places(table: LabelTable, seen: Mapping[str, Mask]) -> list[str]:
    """The split of each row; "" where neither the row nor the bundle says one."""
    places = np.array([row.split for row in table.rows], dtype="<U5")
    for use in ("val", "test"):
        if use in seen:
            places[seen[use] & (places == "")] = use
    if TRAIN in seen:
        places[seen[TRAIN]] = TRAIN
    return [str(place) for place in places]


def _only(table: LabelTable, only: Mapping[str, str]) -> list[int]:
    names = {key_of(name): name for row in table.rows[:1] for name in row.strata}
    if odd := [column for column in only if key_of(column) not in names]:
        raise LabelError(
            f"the labels have no column {odd[0]!r} to choose by", hint="Add it with --strata."
        )
    wanted = {names[key_of(column)]: value for column, value in only.items()}
    return [
        number
        for number, row in enumerate(table.rows)
        if all(row.strata[column] == value for column, value in wanted.items())
    ]


# --- what is said


def _words(wanted: Set[str], places: Sequence[str], only: Mapping[str, str]) -> str:
    left = sum(place not in wanted for place in places)
    if "" not in wanted or (left and "" not in places):
        words = f"split {max(wanted)}"
    else:
        words = f"all rows but {left} of other splits" if left else "all rows"
    return words + "".join(f", {column} = {value}" for column, value in only.items())


def _left_out(
    table: LabelTable, places: Sequence[str], kept: Sequence[int], wanted: Set[str]
) -> list[str]:
    """Rows that a reader would have expected among those chosen."""
    said = []
    if TRAIN not in wanted and (
        count := sum(
            places[row] == TRAIN and table.rows[row].split in wanted | {""} for row in kept
        )
    ):
        said.append(
            f"{count} rows were left out, for the bundle was fitted on patients of their names"
            f" (patient_group, else file or study); --split all takes them too. If they are others,"
            f" give them names of their own."
        )
    if "" not in wanted and (count := sum(places[row] == "" for row in kept)):
        said.append(f"{count} rows are in no split and were left out; --split all takes them too.")
    return said


def _training_rows(seen: Mapping[str, Mask], table: LabelTable, rows: Sequence[int]) -> int:
    """How many of the rows the bundle was fitted on; where it does not say, are marked so."""
    if TRAIN in seen:
        return int(seen[TRAIN][list(rows)].sum())
    return sum(table.rows[row].split == TRAIN for row in rows)


def _seen(
    seen: Mapping[str, Mask], table: LabelTable, rows: Sequence[int], *, judging: bool = True
) -> list[str]:
    """How many of the rows are of patients that the bundle has seen."""
    said = []
    for use, what in SEEN.items():
        if use not in seen or (use == CALIBRATION and not judging):
            continue
        if count := int(seen[use][list(rows)].sum()):
            said.append(f"{count} of these {len(rows)} rows are of patients {what}.")
    if TRAIN not in seen and (marked := _training_rows(seen, table, rows)):
        said.append(
            f"{marked} of these {len(rows)} rows are marked as training rows; if the bundle was"
            f" fitted on them, figures on them are much too good."
        )
    return said


def _copies(
    bundle: "Bundle", table: LabelTable, places: Sequence[str], rows: Sequence[int]
) -> list[str]:
    """Rows that are no training rows, but copies of such, as a training on this file noticed."""
    labels = bundle.manifest.training.get("labels")
    if not isinstance(labels, Mapping) or labels.get("digest") != table.digest:
        return []
    fitted = {row.line for row, place in zip(table.rows, places, strict=True) if place == TRAIN}
    copied = {
        line
        for lines in recorded(bundle.manifest.training)
        if not fitted.isdisjoint(lines)
        for line in lines
    }
    if count := sum(table.rows[row].line in copied - fitted for row in rows):
        return [
            f"{count} of these {len(rows)} rows hold the same pixels as training rows of another"
            f" patient: figures on them are much too good."
        ]
    return []


def _unknown(bundle: "Bundle", seen: Mapping[str, Mask], *, judging: bool = True) -> list[str]:
    """What cannot be told, because the bundle does not record it."""
    record = bundle.manifest.calibration
    fitted = record is not None and (record.local or record.target_sensitivity is not None)
    lacking = ["fitted"] if TRAIN not in seen else []
    lacking += ["calibrated"] if judging and fitted and CALIBRATION not in seen else []
    if not lacking:
        return []
    return [
        f"The bundle does not record whom it was {' and '.join(lacking)} on: whether these rows"
        f" are among them cannot be told."
    ]
