"""Which rows of a table a bundle is calibrated or judged on, and what is wrong with that choice.

A split is what the rows state; where the bundle was trained on this very file, it is what that
training drew, repeated from its record. Rows that the training has seen give figures that are too
good: they are allowed, because a person may want them, and said.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from triage.errors import PermanentError
from triage.learning.material.labels import SPLITS, LabelError, LabelTable
from triage.learning.material.splits import grouped_split

if TYPE_CHECKING:
    from triage.inference.bundle import Bundle

ALL: Final = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Rows of the table by index, how they were chosen, and what a reader must know of it."""

    rows: tuple[int, ...]
    words: str
    warnings: tuple[str, ...]


def select(
    bundle: "Bundle",
    table: LabelTable,
    *,
    split: str | None,
    usual: str,
    only: Mapping[str, str] | None = None,
) -> Selection:
    """Choose the rows of `split` (`usual` where none is named and the table is split; "all").

    `only` keeps rows whose strata have these values. Raises LabelError where nothing is left.
    """
    splits = splits_of(bundle, table)
    name = split or (usual if any(splits.values()) else ALL)
    if name == ALL:
        rows: Sequence[int] = range(len(table.rows))
        words = "all rows"
    else:
        rows, words = splits.get(name, []), f"split {name}"
    for column, value in (only or {}).items():
        if not any(column in row.strata for row in table.rows):
            raise LabelError(
                f"the labels have no column {column!r} to choose by",
                hint="Add it with --strata.",
            )
        rows = [row for row in rows if table.rows[row].strata.get(column) == value]
        words += f", {column} = {value}"
    if not rows:
        raise LabelError(
            f"the labels have no row of {words}",
            hint="Fill the column split, or choose by --split train, val, test or all.",
        )
    return Selection(
        rows=tuple(rows), words=words, warnings=tuple(_warnings(bundle, table, rows, splits))
    )


def splits_of(bundle: "Bundle", table: LabelTable) -> dict[str, list[int]]:
    """Rows by split: as the bundle's training drew them from this file, else as they state it."""
    record = bundle.manifest.training
    if _trained_on(record, table):
        try:
            seed, shares = int(record["choices"]["seed"]), dict(record["shares_of_unstated"])
        except (KeyError, TypeError, ValueError) as error:
            raise PermanentError(
                "the record of the bundle's training does not say how its rows were divided",
                hint="Fill the column split of the labels.",
            ) from error
        return grouped_split(table, seed=seed, shares=shares)
    return {
        name: [number for number, row in enumerate(table.rows) if row.split == name]
        for name in SPLITS
    }


def _trained_on(record: Mapping[str, Any], table: LabelTable) -> bool:
    labels = record.get("labels")
    return isinstance(labels, Mapping) and labels.get("digest") == table.digest


def _warnings(
    bundle: "Bundle", table: LabelTable, rows: Sequence[int], splits: Mapping[str, list[int]]
) -> list[str]:
    said = []
    trained = _trained_on(bundle.manifest.training, table)
    for name, what in (
        ("train", "were used to fit this bundle: figures on them are much too good"),
        ("val", "were used to choose among fits of this bundle: figures on them are too good"),
    ):
        seen = {table.rows[row].patient for row in splits.get(name, [])}
        count = sum(table.rows[row].patient in seen for row in rows)
        if count and trained:
            said.append(f"{count} of these {len(rows)} rows {what}.")
        elif count and name == "train":
            said.append(
                f"{count} of these {len(rows)} rows are marked as training rows; if the bundle was"
                f" fitted on them, figures on them are much too good."
            )
    record = bundle.manifest.calibration
    fitted_here = record is not None and (record.local or record.target_sensitivity is not None)
    if record is not None and fitted_here and record.labels_digest == table.digest:
        seen = {table.rows[row].patient for row in splits.get("val", [])}
        if any(table.rows[row].patient in seen for row in rows) or not any(splits.values()):
            said.append(
                "The bundle was calibrated on rows of this file, and these may be among them: its"
                " operating points look better here than they are."
            )
    if not table.is_grouped:
        said.append(
            "The labels name no patient (patient_group): each row counts as a patient of its own."
        )
    return said
