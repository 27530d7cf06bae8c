"""Read a table of labels from a file.

A CSV file, UTF-8, comma separated, one line of column names and one row per subject:

    file | study_instance_uid     the subject: a path below the images directory, or a study
    patient_group                 rows of one patient (also group_id, patient_id), in every row or
                                  no such column: then each row is a patient of its own
    split                         train, val, test or blank; one patient is in one split
    sex, age, view, ...           strata, for subgroups (STRATA; `Asked.strata` names further ones)
    findings                      columns of 1, 0 or blank, or of words, as `label_columns` has it;
                                  blank is not known: masked, never negative

The file is written by hand or by a spreadsheet and is not trusted: everything is bounded, and
every error names row and column as a spreadsheet numbers them (the column names are row 1).
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from triage.learning.material.label_columns import (
    SPLIT,
    Asked,
    Columns,
    FindingColumn,
    Records,
    columns_of,
    key_of,
    word_of,
)
from triage.learning.material.labels import SPLITS, STUDY, LabelError, LabelRow, LabelTable

MAXIMUM_BYTES: Final = 64 << 20
MAXIMUM_ROWS: Final = 1_000_000
MAXIMUM_COLUMNS: Final = 512
MAXIMUM_CELL: Final = 4096  # characters
_UID: Final = re.compile(r"(?=.{1,64}\Z)[0-2](\.(0|[1-9][0-9]*))+", re.ASCII)  # PS3.5 section 9
_DRIVE: Final = re.compile(r"[A-Za-z]:")


def read_labels(path: Path, asked: Asked | None = None) -> LabelTable:
    """Read the labels in `path`. Raises LabelError naming row and column."""
    raw = _bytes(path)
    names, records = _table(_text(raw))
    columns = columns_of(names, records, asked or Asked())
    rows = tuple(_row(record, line, columns, names) for line, record in records)
    _refuse_repeated(rows, columns.subject_column)
    _refuse_divided(rows, names[columns.group] if columns.group is not None else "")
    return LabelTable(
        findings=tuple(each.name for each in columns.findings),
        rows=rows,
        digest=hashlib.sha256(raw).hexdigest(),
        subject_column=columns.subject_column,
        sources=tuple(each.source for each in columns.findings),
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


def _table(text: str) -> tuple[list[str], Records]:
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
    seen: dict[str, int] = {}
    for place, name in enumerate(names, start=1):
        first = seen.setdefault(key_of(name), place) if name else place
        if first != place:
            raise LabelError(
                f"columns {first} and {place} of the labels have one name:"
                f" {names[first - 1][:64]!r}, {name[:64]!r}",
                hint="Rename one; case, spaces and marks do not tell names apart.",
            )


def _check_record(cells: Sequence[str], names: Sequence[str], line: int) -> None:
    if line > MAXIMUM_ROWS:
        raise LabelError(f"the labels have more than {MAXIMUM_ROWS} rows", hint="Divide them.")
    if len(cells) != len(names):
        raise LabelError(
            f"row {line} of the labels has {len(cells)} cells under {len(names)} column names",
            hint="A comma within a cell needs quotes around the cell; a blank cell still needs its"
            " comma; row 1 holds the names of the columns and nothing else.",
        )
    for name, cell in zip(names, cells, strict=True):
        if len(cell) > MAXIMUM_CELL:
            raise _wrong(line, name, f"is longer than {MAXIMUM_CELL} characters")


# --- rows


def _row(cells: Sequence[str], line: int, columns: Columns, names: Sequence[str]) -> LabelRow:
    split = cells[columns.split].casefold() if columns.split is not None else ""
    if split and split not in SPLITS:
        raise _wrong(line, SPLIT, f"is none of {', '.join(SPLITS)} or blank")
    return LabelRow(
        subject=_subject(cells[columns.subject], columns.subject_column, line),
        group=_group(cells, line, columns, names),
        truth=tuple(_truth(cells, line, each) for each in columns.findings),
        split=split,
        strata={name: cells[at] for name, at in columns.strata.items()},
        line=line,
    )


def _group(cells: Sequence[str], line: int, columns: Columns, names: Sequence[str]) -> str:
    """A blank could be any patient, also one of another split: it is asked for."""
    if columns.group is None:
        return ""
    if not cells[columns.group]:
        raise _wrong(
            line,
            names[columns.group],
            "is blank, so that nothing keeps this patient on one side of a split",
            hint="Give every patient a value of its own, also one with a single row; or remove the"
            " column, where no patient is known: then each row counts as a patient.",
        )
    return cells[columns.group]


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


def _truth(cells: Sequence[str], line: int, finding: FindingColumn) -> float:
    said = finding.truth.get(word_of(cells[finding.at]))
    if said is not None:
        return said
    source = finding.source
    if source.positive == "1":
        raise _wrong(
            line,
            source.column,
            "is neither 1, 0 nor blank",
            hint="Leave blank what is not known or uncertain; where the column holds words, say"
            f" which one is the finding by --positive {source.column}=WORD.",
        )
    raise _wrong(
        line,
        source.column,
        f"is neither {source.positive!r} nor a word of --negative, nor blank",
        hint=f"Correct the cell, or add its word by --negative {source.column}=WORD.",
    )


def _wrong(line: int, column: str, what: str, *, hint: str | None = None) -> LabelError:
    return LabelError(f"row {line}, column {column[:64]!r} of the labels {what}", hint=hint)


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
