"""What a table of labels says: which subject shows what, who its patient is, where it may be used.

`label_reading` makes it of a file, `label_columns` says which column means what. Knows no image
and no model; whether the files exist is `images`' business.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from triage.errors import PermanentError

FILE: Final = "file"
STUDY: Final = "study_instance_uid"
SPLITS: Final = ("train", "val", "test")


class LabelError(PermanentError):
    """The table of labels cannot be used; the message names row and column."""

    hint = "Correct the file; `triage embed --help` names the columns."


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRow:
    """One subject. `truth` is per finding of the table: 1.0, 0.0, or NaN where it is not known."""

    subject: str  # path relative to the images directory, or Study Instance UID
    group: str  # patient group; "" = its own
    truth: tuple[float, ...]
    split: str  # "" | train | val | test
    strata: Mapping[str, str]
    line: int  # row of the file, the column names are row 1

    @property
    def patient(self) -> str:
        """Return what keeps the rows of one patient together, unique where no group is stated."""
        return f"group {self.group}" if self.group else f"row {self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingSource:
    """The column that a finding was read from, and what its cells say; words as they stand."""

    column: str
    positive: str = "1"
    negative: tuple[str, ...] = ("0",)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTable:
    """All rows in the file's order; no subject twice, no patient in two splits."""

    findings: tuple[str, ...]
    rows: tuple[LabelRow, ...]
    digest: str  # SHA-256 hex of the file
    subject_column: str  # FILE | STUDY
    sources: tuple[FindingSource, ...] = ()  # of each finding; none where no file was read

    @property
    def is_grouped(self) -> bool:
        """Whether the rows state their patients; if not, each row counts as its own."""
        return any(row.group for row in self.rows)

    def taken(self) -> list[dict[str, Any]]:
        """Return for JSON what was taken as a finding, from where, and in how many rows."""
        said = []
        for number, (name, source) in enumerate(zip(self.findings, self.sources, strict=False)):
            truth = [row.truth[number] for row in self.rows]
            with_it, without = truth.count(1.0), truth.count(0.0)
            said.append(
                {
                    "name": name,
                    "column": source.column,
                    "positive": source.positive,
                    "negative": list(source.negative),
                    "positives": with_it,
                    "negatives": without,
                    "unknown": len(truth) - with_it - without,
                }
            )
        return said
