"""Divide patients, never images: splits and folds that keep a patient on one side.

Who goes where is decided by a keyed digest of the patient, so the same seed gives the same answer
in whatever order the rows come, and most patients keep their place when others are added.
Patients are dealt out within strata of equal findings, so that a rare finding reaches every part.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from triage.learning.material.labels import LabelError, LabelRow, LabelTable

TRAIN_VAL_TEST: Final[Mapping[str, float]] = {"train": 0.7, "val": 0.1, "test": 0.2}


def grouped_split(
    table: LabelTable, *, seed: int, shares: Mapping[str, float] = TRAIN_VAL_TEST
) -> dict[str, list[int]]:
    """Return row indices by split; a row's stated split stands, whole patients fill the rest.

    `shares` by split name, adding up to 1; splits that rows state and `shares` lacks are kept.
    Where every row states its split, nothing is drawn. Raises LabelError where a patient is in
    two splits, ValueError for shares that are no shares.
    """
    if any(share < 0 for share in shares.values()) or abs(sum(shares.values()) - 1.0) > 1e-9:
        raise ValueError("shares are not negative and add up to 1")
    splits: dict[str, list[int]] = {name: [] for name in shares}
    patients = _patients(table, range(len(table.rows)))
    free: dict[str, list[int]] = {}
    for patient, indices in patients.items():
        stated = {table.rows[i].split for i in indices} - {""}
        if len(stated) > 1:
            _refuse(table, indices)
        if stated:
            splits.setdefault(stated.pop(), []).extend(indices)
        else:
            free[patient] = indices
    for stratum in _strata(table, free, seed):
        _deal(splits, [free[patient] for patient in stratum], shares)
    return {name: sorted(indices) for name, indices in splits.items()}


def grouped_folds(
    table: LabelTable, indices: Sequence[int], *, seed: int, folds: int
) -> list[tuple[list[int], list[int]]]:
    """Return (fit, held out) row indices for each fold; every index is held out once.

    Raises LabelError where there are fewer patients than folds, ValueError below two folds.
    """
    if folds < 2:
        raise ValueError("two folds at least")
    patients = _patients(table, indices)
    if len(patients) < folds:
        raise LabelError(
            f"{len(patients)} patients cannot be divided into {folds} folds",
            hint="Label more patients, or ask for fewer folds.",
        )
    dealt = {str(number): list[int]() for number in range(folds)}
    shares = dict.fromkeys(dealt, 1.0 / folds)
    for stratum in _strata(table, patients, seed):
        _deal(dealt, [patients[patient] for patient in stratum], shares)
    whole = set(indices)
    return [(sorted(whole - set(held)), sorted(held)) for held in dealt.values()]


def require_grouped(table: LabelTable, splits: Mapping[str, Sequence[int]]) -> None:
    """Raise LabelError, naming the rows, where a patient is in two of `splits`."""
    place: dict[str, tuple[str, int]] = {}
    for name, indices in splits.items():
        for index in indices:
            first, row = place.setdefault(table.rows[index].patient, (name, index))
            if first != name:
                _refuse(table, [row, index])


def names_to_keep(row: LabelRow) -> tuple[str, ...]:
    """Return what a bundle that has seen this row knows it by (`inference.patients`)."""
    patient = _name(row)
    return (patient, f"image {row.subject}") if row.group else (patient,)


def names_to_ask(row: LabelRow) -> tuple[str, str]:
    """Return what a bundle may know this row by: its patient, or the image under another name.

    The image alone counts where one of the two tables, then or now, names no patient: files of
    two patients may bear one name.
    """
    return _name(row), f"subject {row.subject}" if row.group else f"image {row.subject}"


def _patients(table: LabelTable, indices: Iterable[int]) -> dict[str, list[int]]:
    patients: dict[str, list[int]] = defaultdict(list)
    for index in indices:
        patients[table.rows[index].patient].append(index)
    return patients


def _strata(table: LabelTable, patients: Mapping[str, Sequence[int]], seed: int) -> list[list[str]]:
    """Patients by the findings that any of their images shows, rarest kind first; keyed order."""
    strata: dict[tuple[bool, ...], list[str]] = defaultdict(list)
    for patient, indices in patients.items():
        shown = zip(*(table.rows[i].truth for i in indices), strict=True)
        strata[tuple(1.0 in values for values in shown)].append(patient)
    for stratum in strata.values():
        stratum.sort(key=lambda patient: _key(_name(table.rows[patients[patient][0]]), seed))
    return [strata[kind] for kind in sorted(strata, key=lambda kind: (len(strata[kind]), kind))]


def _name(row: LabelRow) -> str:
    """What a patient is called wherever its rows stand in the file."""
    return f"group {row.group}" if row.group else f"subject {row.subject}"


def _key(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}|{name}".encode()).digest()


def _deal(
    dealt: dict[str, list[int]], stratum: Sequence[Sequence[int]], shares: Mapping[str, float]
) -> None:
    """Give each patient to the part that lacks most of its share; stated splits count as given."""
    for rows in stratum:
        total = sum(len(dealt[name]) for name in shares) + len(rows)
        name = max(
            (name for name in shares if shares[name] > 0),
            key=lambda name: shares[name] * total - len(dealt[name]),
        )
        dealt[name].extend(rows)


def _refuse(table: LabelTable, indices: Sequence[int]) -> None:
    lines = sorted({table.rows[index].line for index in indices})
    shown = ", ".join(map(str, lines[:10]))
    raise LabelError(
        f"rows {shown} of the labels belong to one patient and lie in different splits",
        hint="Give all rows of a patient the same split.",
    )
