"""Read a table of labels: which subject shows what, who its patient is, and where it may be used.

A CSV file, UTF-8, comma separated, one line of column names and one row per subject:

    file | study_instance_uid     the subject: a path below the images directory, or a study
    patient_group | group_id      rows of one patient; blank or absent = a patient of its own
    split                         train, val, test or blank; one patient is in one split
    sex, age, view, ...           strata, for subgroups (STRATA; `strata` names further ones)
    any other column of 1/0/blank a finding; blank is not known: masked, never negative

The file is written by hand or by a spreadsheet and is not trusted: everything is bounded, and
every error names row and column as a spreadsheet numbers them (the column names are row 1).
Errors quote no cell, because cells may identify a patient.

Knows no image and no model; whether the files exist is `images`' business.
"""

import csv
import hashlib
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from triage.errors import PermanentError

FILE: Final = "file"
STUDY: Final = "study_instance_uid"
GROUPS: Final = ("patient_group", "group_id")
SPLIT: Final = "split"
SPLITS: Final = ("train", "val", "test")
STRATA: Final = (
    "sex",
    "age",
    "age_group",
    "view",
    "body_part",
    "modality",
    "manufacturer",
    "source",
    "matched",
)
MAXIMUM_BYTES: Final = 64 << 20
MAXIMUM_ROWS: Final = 1_000_000
MAXIMUM_COLUMNS: Final = 512
MAXIMUM_CELL: Final = 4096  # characters


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
class LabelTable:
    """All rows in the file's order; no subject twice, no patient in two splits."""

    findings: tuple[str, ...]
    rows: tuple[LabelRow, ...]
    digest: str  # SHA-256 hex of the file
    subject_column: str  # FILE | STUDY

    @property
    def is_grouped(self) -> bool:
        """Whether any row states its patient; if none does, each row counts as its own."""
        return any(row.group for row in self.rows)

    def column(self, finding: str) -> int:
        """Return the place of a finding in `truth`. Raises LabelError where there is none."""
        if finding not in self.findings:
            raise LabelError(f"the labels have no finding of the name {finding!r}")
        return self.findings.index(finding)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """Where in a record what stands; None = no such column."""

    subject: int
    group: int | None
    split: int | None
    strata: Mapping[str, int]
    findings: Mapping[str, int]
    positive: Mapping[str, tuple[int, str]]  # finding: column, the value that makes it positive


_Records = Sequence[tuple[int, Sequence[str]]]  # (row of the file, cells), without empty rows
_TRUTH: Final = {"1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0, "": math.nan}
_UID: Final = re.compile(r"(?=.{1,64}\Z)[0-2](\.(0|[1-9][0-9]*))+", re.ASCII)  # PS3.5 section 9
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,63}")  # of a finding, as in a bundle
_DRIVE: Final = re.compile(r"[A-Za-z]:")


def read_labels(
    path: Path,
    *,
    findings: Sequence[str] | None = None,
    subject_column: str | None = None,
    strata: Sequence[str] | None = None,
    positive: Mapping[str, str] | None = None,
) -> LabelTable:
    """Read the labels in `path`. Raises LabelError naming row and column.

    `findings` names the finding columns; without it and `positive`, every column that is for the
    most part 1 or 0 is one. `positive` makes findings of columns of text, by column:
    {"label": "abnormal"} gives a finding `abnormal`, positive in those rows, negative in others,
    masked where blank.
    `subject_column` is FILE or STUDY, by default the first of the two that is there. `strata` are
    further columns to keep beside STRATA.
    """
    raw = _bytes(path)
    names, records = _table(_text(raw))
    columns = _columns(
        names,
        records,
        findings=findings,
        subject_column=subject_column,
        strata=strata or (),
        positive=positive or {},
    )
    kind = names[columns.subject]
    rows = tuple(_row(record, line, columns, names) for line, record in records)
    _refuse_repeated(rows, kind)
    _refuse_divided(rows, names[columns.group] if columns.group is not None else "")
    return LabelTable(
        findings=(*columns.findings, *columns.positive),
        rows=rows,
        digest=hashlib.sha256(raw).hexdigest(),
        subject_column=kind,
    )


# --- the file


def _bytes(path: Path) -> bytes:
    try:
        if not path.is_file():
            state = "is no plain file" if path.exists() else "does not exist"
            raise LabelError(f"the file of labels {path} {state}", hint="Name a CSV file.")
        with path.open("rb") as file:
            raw = file.read(MAXIMUM_BYTES + 1)
    except OSError as error:
        raise LabelError(f"{path} cannot be read: {error.strerror}") from error
    if len(raw) > MAXIMUM_BYTES:
        raise LabelError(f"{path} is larger than {MAXIMUM_BYTES >> 20} MiB", hint="Divide it.")
    return raw


def _text(raw: bytes) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise LabelError("the labels are UTF-16", hint="Save them as CSV in UTF-8.")
    try:
        text = raw.decode("utf-8-sig")  # spreadsheets put a byte order mark in front
    except UnicodeDecodeError as error:
        row = raw.count(b"\n", 0, error.start) + 1
        raise LabelError(
            f"the labels are not UTF-8 text: row {row} holds other bytes",
            hint="Save them as CSV in UTF-8.",
        ) from None
    if "\0" in text:
        row = text.count("\n", 0, text.index("\0")) + 1
        raise LabelError(f"the labels are no text: row {row} holds a zero byte")
    return text


def _table(text: str) -> tuple[list[str], _Records]:
    """Column names and records; the width and number of all records is checked."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line, names = 1, [""]
    records: list[tuple[int, Sequence[str]]] = []
    try:
        names = [name.strip() for name in next(reader, [])]
        _check_names(names)
        for line, cells in enumerate(reader, start=2):
            if not any(cell.strip() for cell in cells):
                continue
            _check_record(cells, names, line)
            records.append((line, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise LabelError(f"row {line + 1} of the labels is no CSV ({error})") from None
    if not records:
        raise LabelError("the labels have column names but no row")
    return names, records


def _check_names(names: Sequence[str]) -> None:
    if not any(names):
        raise LabelError("the labels are empty: row 1 must hold the names of the columns")
    if len(names) == 1 and (mark := next((m for m in (";", "\t", "|") if m in names[0]), "")):
        word = {";": "semicolons", "\t": "tabs", "|": "bars"}[mark]
        raise LabelError(
            f"the labels separate their columns by {word}",
            hint="Save them as CSV with commas between the columns.",
        )
    if len(names) > MAXIMUM_COLUMNS:
        raise LabelError(f"the labels have {len(names)} columns; {MAXIMUM_COLUMNS} are allowed")
    for place, name in enumerate(names, start=1):
        if name and name in names[: place - 1]:
            first = names.index(name) + 1
            raise LabelError(f"columns {first} and {place} of the labels have one name: {name!r}")


def _check_record(cells: Sequence[str], names: Sequence[str], line: int) -> None:
    if line > MAXIMUM_ROWS:
        raise LabelError(f"the labels have more than {MAXIMUM_ROWS} rows", hint="Divide them.")
    if len(cells) != len(names):
        raise LabelError(
            f"row {line} of the labels has {len(cells)} cells under {len(names)} column names",
            hint="A comma within a cell needs quotes around the cell.",
        )
    for name, cell in zip(names, cells, strict=True):
        if len(cell) > MAXIMUM_CELL:
            raise _wrong(line, name, f"is longer than {MAXIMUM_CELL} characters")


# --- columns


def _columns(
    names: Sequence[str],
    records: _Records,
    *,
    findings: Sequence[str] | None,
    subject_column: str | None,
    strata: Sequence[str],
    positive: Mapping[str, str],
) -> _Columns:
    wanted = (subject_column,) if subject_column else (FILE, STUDY)
    subject = next((_place(names, name) for name in wanted if name in names), None)
    if subject is None:
        raise LabelError(f"the labels have no column {' or '.join(wanted)}")
    group = next((_place(names, name) for name in GROUPS if name in names), None)
    split = _place(names, SPLIT) if SPLIT in names else None
    kept = {name: _named(names, name, "stratum") for name in strata}
    kept = {name: _place(names, name) for name in STRATA if name in names} | kept
    marked = {
        value: (_named(names, column, "column of --positive"), value)
        for column, value in positive.items()
    }
    if findings is None and not positive:
        taken = {FILE, STUDY, *GROUPS, SPLIT, *kept, ""}
        free = [name for name in names if name not in taken]
        found = {name: _place(names, name) for name in free if _is_truth(records, names, name)}
    else:
        found = {name: _named(names, name, "finding") for name in findings or ()}
    _check_findings([*found, *marked])
    return _Columns(
        subject=subject, group=group, split=split, strata=kept, findings=found, positive=marked
    )


def _place(names: Sequence[str], name: str) -> int:
    return names.index(name)


def _named(names: Sequence[str], name: str, role: str) -> int:
    if name not in names:
        raise LabelError(f"the labels have no column {name!r}, which is named as a {role}")
    return names.index(name)


def _is_truth(records: _Records, names: Sequence[str], name: str) -> bool:
    """Whether most of what stands in a column is 1 or 0; then all of it must be (`_truth`)."""
    place = names.index(name)
    stated = [cells[place] for _, cells in records if cells[place]]
    return bool(stated) and 2 * sum(cell in _TRUTH for cell in stated) > len(stated)


def _check_findings(names: Sequence[str]) -> None:
    if not names:
        raise LabelError(
            "the labels hold no finding: no column of 1, 0 or blank",
            hint="Name the columns by --findings, or make one of text by --positive COLUMN=VALUE.",
        )
    for name in names:
        if not _NAME.fullmatch(name):
            raise LabelError(
                f"the finding {name[:64]!r} has a name that a bundle cannot hold",
                hint="Up to 64 letters, digits, spaces, dots, hyphens and underscores.",
            )
        if names.count(name) > 1:
            raise LabelError(f"two findings have the name {name!r}")


# --- rows


def _row(cells: Sequence[str], line: int, columns: _Columns, names: Sequence[str]) -> LabelRow:
    kind = names[columns.subject]
    subject = _subject(cells[columns.subject], kind, line)
    split = cells[columns.split] if columns.split is not None else ""
    if split and split not in SPLITS:
        raise _wrong(line, SPLIT, f"is none of {', '.join(SPLITS)} or blank")
    stated = (_truth(cells[at], line, name) for name, at in columns.findings.items())
    marked = (_marked(cells[at], value) for at, value in columns.positive.values())
    return LabelRow(
        subject=subject,
        group=cells[columns.group] if columns.group is not None else "",
        truth=(*stated, *marked),
        split=split,
        strata={name: cells[at] for name, at in columns.strata.items()},
        line=line,
    )


def _subject(cell: str, kind: str, line: int) -> str:
    if not cell:
        raise _wrong(line, kind, "is blank")
    if kind == STUDY:
        if not _UID.fullmatch(cell):
            raise _wrong(line, kind, "is no unique identifier (PS3.5 section 9)")
        return cell
    if not cell.isprintable():
        raise _wrong(line, kind, "holds characters that cannot be seen")
    if cell.startswith("/") or "\\" in cell or _DRIVE.match(cell):
        raise _wrong(line, kind, "is no path relative to the images directory, with slashes")
    path = PurePosixPath(cell)
    if ".." in path.parts or not path.parts:
        raise _wrong(line, kind, "leads out of the images directory")
    return str(path)


def _truth(cell: str, line: int, name: str) -> float:
    if cell not in _TRUTH:
        raise _wrong(line, name, "is neither 1, 0 nor blank")
    return _TRUTH[cell]


def _marked(cell: str, value: str) -> float:
    return float(cell == value) if cell else math.nan


def _wrong(line: int, column: str, what: str) -> LabelError:
    return LabelError(f"row {line}, column {column[:64]!r} of the labels {what}")


def _refuse_repeated(rows: Iterable[LabelRow], kind: str) -> None:
    seen: dict[str, int] = {}
    for row in rows:
        first = seen.setdefault(row.subject, row.line)
        if first != row.line:
            raise _wrong(row.line, kind, f"names the same as row {first}")


def _refuse_divided(rows: Iterable[LabelRow], column: str) -> None:
    """A patient in two splits would be learnt by heart in one and asked about in the other."""
    seen: dict[str, LabelRow] = {}
    for row in rows:
        if not row.group or not row.split:
            continue
        first = seen.setdefault(row.group, row)
        if first.split != row.split:
            raise _wrong(row.line, column, f"is the patient of row {first.line}, in another split")
