"""Which column of a table of labels means what: by its name, or because a person has said so.

Names of columns are compared by their letters and digits alone: `PatientID`, `patient_id` and
"Patient ID" are one name. What may be a finding is never guessed where there is a choice: the one
column that holds 1 and 0 is taken, of several those that are named. Errors quote no cell, because
cells may identify a patient, but the words of a column that is said to hold a finding.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from triage.learning.material.labels import FILE, SPLITS, STUDY, FindingSource, LabelError

GROUPS: Final = ("patient_group", "group_id", "patient_id")
SPLIT: Final = "split"
STRATA: Final = (
    "sex",
    "age",
    "age_group",
    "view",
    "body_part",
    "modality",
    "manufacturer",
    "portable",
    "source",
    "matched",
)
DIVISIONS: Final = (*SPLITS, "fold")  # columns of 1 and 0 that say where a row is used
LISTED: Final = 8  # names or words that a message holds
CUT: Final = 32  # characters of each
Records = Sequence[tuple[int, Sequence[str]]]  # (row of the file, cells), without empty rows
_TRUTH: Final = {"1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0, "": math.nan}
_SUBJECTS: Final = {FILE: "image files", STUDY: "studies"}
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,63}")  # of a finding, as in a bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a person has said of the columns.

    `findings` are columns of 1, 0 and blank. `positive` makes findings of columns of words, by
    column: {"label": "abnormal"} gives a finding `abnormal`; `negative` holds, by column, the
    words that mean that it is not there, and may be left out where the column has two words.
    `offered` are the findings of a bundle: without the first two, those that have a column.
    """

    findings: Sequence[str] | None = None
    positive: Mapping[str, str] = field(default_factory=dict)
    negative: Mapping[str, Sequence[str]] = field(default_factory=dict)
    offered: Sequence[str] | None = None
    subject_column: str | None = None  # FILE | STUDY; None: the first of the two that is there
    strata: Sequence[str] = ()  # beside STRATA


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingColumn:
    """A finding, where it stands, and the truth that each word there means; blank is NaN."""

    name: str
    at: int
    truth: Mapping[str, float]  # by word as `word_of` makes it
    source: FindingSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Where in a record what stands; None = no such column."""

    subject: int
    subject_column: str  # FILE | STUDY
    group: int | None
    split: int | None
    strata: Mapping[str, int]
    findings: tuple[FindingColumn, ...]


def key_of(name: str) -> str:
    """Return what names of columns are compared by."""
    return re.sub(r"[\W_]+", "", name.casefold()) or name


def word_of(cell: str) -> str:
    """Return what words are compared by."""
    return " ".join(cell.split()).casefold()


def columns_of(names: Sequence[str], records: Records, asked: Asked) -> Columns:
    """Say what the columns `names` mean. Raises LabelError where that cannot be said."""
    places = {key_of(name): at for at, name in enumerate(names) if name}
    wanted = (asked.subject_column,) if asked.subject_column else (FILE, STUDY)
    subject = next((name for name in wanted if key_of(name) in places), None)
    if subject is None:
        raise LabelError(
            f"the labels have no column {' or '.join(wanted)}; they have {_listed(names)}",
            hint=_other_subject(places) or f"Rename the one that names the {_SUBJECTS[wanted[0]]}.",
        )
    strata = {name: places[key_of(name)] for name in STRATA if key_of(name) in places}
    strata |= {name: _named(places, name, "a stratum") for name in asked.strata}
    findings = (
        *(_stated(names, at, name) for name, at in _truths(names, places, records, asked, strata)),
        *_marked(names, places, records, asked),
    )
    _check_findings([each.name for each in findings])
    return Columns(
        subject=places[key_of(subject)],
        subject_column=subject,
        group=_group(names, places),
        split=places.get(SPLIT),
        strata=strata,
        findings=findings,
    )


def _other_subject(places: Mapping[str, int]) -> str:
    """What to do where the labels name the other kind of subject."""
    if key_of(STUDY) in places:
        return "Labels of studies go with --images WORKLIST."
    return "Labels of files go with --images DIR." if key_of(FILE) in places else ""


def _listed(names: Sequence[str]) -> str:
    """Names out of the file, as many as a message holds; what cannot be seen is escaped."""
    more = f" and {len(names) - LISTED} more" if names[LISTED:] else ""
    return ", ".join(repr(name[:CUT]) for name in names[:LISTED]) + more


def _named(places: Mapping[str, int], name: str, role: str) -> int:
    if key_of(name) not in places:
        raise LabelError(f"the labels have no column {name!r}, which is named as {role}")
    return places[key_of(name)]


def _group(names: Sequence[str], places: Mapping[str, int]) -> int | None:
    there = sorted(places[key_of(name)] for name in GROUPS if key_of(name) in places)
    if there[1:]:
        raise LabelError(
            f"columns {there[0] + 1} and {there[1] + 1} of the labels both name the patient:"
            f" {_listed([names[at] for at in there])}",
            hint="Keep the one in which a patient has one value; remove or rename the other.",
        )
    return there[0] if there else None


# --- columns of 1 and 0


def _truths(
    names: Sequence[str],
    places: Mapping[str, int],
    records: Records,
    asked: Asked,
    strata: Mapping[str, int],
) -> list[tuple[str, int]]:
    """Names of findings and their columns of 1 and 0."""
    if asked.findings is not None:
        return [(name, _named(places, name, "a finding")) for name in asked.findings]
    if asked.positive:
        return []
    if asked.offered is not None:
        return _offered(places, asked.offered)
    meant = {key_of(name) for name in (FILE, STUDY, *GROUPS, SPLIT, *DIVISIONS)}
    taken = {places[key] for key in meant if key in places} | set(strata.values())
    found = [
        (name, at)
        for at, name in enumerate(names)
        if name and at not in taken and _is_truth(records, at)
    ]
    if found[1:]:
        columns = [name for name, _ in found]
        raise LabelError(
            f"{len(found)} columns of the labels hold 1 and 0, and which of them are findings is"
            f" not said: {_listed(columns)}",
            hint="Name those that are: --findings A,B.",
        )
    return found


def _offered(places: Mapping[str, int], findings: Sequence[str]) -> list[tuple[str, int]]:
    found = [(name, places[key]) for name in findings if (key := key_of(name)) in places]
    if not found:
        raise LabelError(
            f"the labels have no column of a finding of the bundle: {_listed(findings)}",
            hint="Name the columns after the findings of `triage bundle show BUNDLE`, or make one"
            " of words by --positive COLUMN=WORD.",
        )
    return found


def _is_truth(records: Records, at: int) -> bool:
    """Whether most of what stands in a column is 1 or 0; then all of it must be."""
    stated = [cells[at] for _, cells in records if cells[at]]
    return bool(stated) and 2 * sum(cell in _TRUTH for cell in stated) > len(stated)


def _stated(names: Sequence[str], at: int, name: str) -> FindingColumn:
    return FindingColumn(name=name, at=at, truth=_TRUTH, source=FindingSource(column=names[at]))


def _check_findings(names: Sequence[str]) -> None:
    if not names:
        raise LabelError(
            "the labels hold no finding: no column of 1, 0 or blank",
            hint="Name the columns by --findings, or make one of words by --positive COLUMN=WORD.",
        )
    for name in names:
        if not _NAME.fullmatch(name):
            raise LabelError(
                f"the finding {name[:64]!r} has a name that a bundle cannot hold",
                hint="Up to 64 letters, digits, spaces, dots, hyphens and underscores.",
            )
        if names.count(name) > 1:
            raise LabelError(f"two findings have the name {name!r}")


# --- columns of words


def _marked(
    names: Sequence[str], places: Mapping[str, int], records: Records, asked: Asked
) -> list[FindingColumn]:
    """Findings that are words of a column."""
    negative = {key_of(column): words for column, words in asked.negative.items()}
    if odd := set(negative) - {key_of(column) for column in asked.positive}:
        column = next(each for each in asked.negative if key_of(each) in odd)
        raise LabelError(
            f"--negative names the column {column!r}, and --positive does not",
            hint=f"Say which word there is the finding: --positive {column}=WORD.",
        )
    return [
        _words_of(
            names,
            _named(places, column, "a column of --positive"),
            records,
            positive,
            negative.get(key_of(column), ()),
        )
        for column, positive in asked.positive.items()
    ]


def _words_of(
    names: Sequence[str], at: int, records: Records, positive: str, negative: Sequence[str]
) -> FindingColumn:
    """One finding of a column of words; a word whose meaning was not said is left to the rows."""
    column, present = names[at][:64], word_of(positive)
    seen: dict[str, str] = {}
    for _, cells in records:
        if cells[at]:
            seen.setdefault(word_of(cells[at]), cells[at])
    if present not in seen:
        raise LabelError(
            f"column {column!r} of the labels never says {positive!r}; it {_says(seen)}",
            hint="Correct --positive COLUMN=WORD.",
        )
    absent = {word_of(word): word for word in negative}
    if present in absent:
        raise LabelError(f"--positive and --negative both name the word {positive!r}")
    if not absent:
        absent = {key: word for key, word in seen.items() if key != present}
        if len(absent) > 1:
            raise LabelError(
                f"column {column!r} of the labels {_says(seen)}: which of them mean that"
                f" {positive!r} is not there is not said",
                hint=f"Say each of those by --negative {column}=WORD; blank is not known.",
            )
    return FindingColumn(
        name=positive,
        at=at,
        truth={"": math.nan, present: 1.0, **dict.fromkeys(absent, 0.0)},
        source=FindingSource(column=column, positive=positive, negative=tuple(absent.values())),
    )


def _says(seen: Mapping[str, str]) -> str:
    """The words of a column; where they are many, they are names or a text and are not quoted."""
    if not seen:
        return "is blank in every row"
    if len(seen) > LISTED:
        return f"holds {len(seen)} different words"
    return f"says {_listed(list(seen.values()))}"
