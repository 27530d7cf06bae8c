"""The same pixels under two patients: there the patients of the labels keep nothing apart.

Such rows are copies that got another name, or studies of one person under two identities. A split
that puts them on two sides is learnt by heart on one and asked about on the other. Compared are
whole images and series, by the digests of their views: what two patients' series have in common,
such as empty slices, is no copy. Nothing here looks at a label.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from triage.errors import BundleError
from triage.learning.material.embedding import name_of
from triage.learning.material.embedding_set import EmbeddingSet, known_entries
from triage.learning.material.images import UNREADABLE, Decoder, Drawn, Images, Part
from triage.learning.material.labels import LabelRow, LabelTable
from triage.learning.progress import Progress
from triage.records import ViewSpec
from triage.worker.batching import cache_key

LISTED: Final = 5  # copies whose rows a sentence names
LISTED_ROWS: Final = 4  # of each
AHEAD: Final = 4  # rows that are decoded ahead
Same = tuple[tuple[int, ...], ...]  # for each copy its rows of the labels, of two patients or more
_Keys = tuple[str, ...]  # of the views of one image or series


def same_embedded(rows: Sequence[LabelRow], found: EmbeddingSet) -> Same:
    """Return the rows that hold the same pixels under different patients, by their embeddings."""
    place = {subject: number for number, subject in enumerate(found.subjects)}
    return _same(
        (row, found.divided_keys(place[row.subject])) for row in rows if row.subject in place
    )


def same_drawn(
    rows: Sequence[LabelRow], images: Images, spec: ViewSpec, *, kept: Path | None = None
) -> Same:
    """As `same_embedded`, for images that no encoder has seen yet: each is decoded.

    What the directory of embeddings `kept` knows is not. Rows that cannot be read are passed over.
    """
    with Decoder() as decoder, Progress("Comparing pixels", len(rows)) as progress:
        drawing = _Drawing(images, spec, decoder, kept)
        return _same(_drawn(rows, drawing.begin, progress))


def joined(table: LabelTable, same: Same) -> LabelTable:
    """Return the table with patients of the same pixels made one, where their splits allow it.

    Patients that the labels put in different splits stay two, for what is stated stands.
    """
    patients = _Patients(table.rows)
    row_of = {row.line: row for row in table.rows}
    for lines in same:
        sides: list[str] = []  # patients of this copy that stay apart: as many as there are splits
        for patient in (row_of[line].patient for line in lines):
            if not any(patients.join(one, patient) for one in sides):
                sides.append(patient)
    return replace(
        table, rows=tuple(replace(row, group=patients.group_of(row)) for row in table.rows)
    )


def apart(table: LabelTable, same: Same) -> int:
    """Return how many copies are of patients whom the labels put in different splits."""
    patient = {row.line: row.patient for row in table.rows}
    split = {row.patient: row.split for row in table.rows if row.split}
    return sum(len({split.get(patient[line]) for line in lines} - {None}) > 1 for lines in same)


def words(same: Same) -> str:
    """Say which rows hold the same pixels; empty where none do."""
    if not same:
        return ""
    shown = "; ".join(f"rows {_listed(lines)}" for lines in same[:LISTED])
    more = f"; and {len(same) - LISTED} more" if same[LISTED:] else ""
    images = "image stands" if len(same) == 1 else "images stand"
    return f"{len(same)} {images} in the labels under more than one patient: {shown}{more}."


def recorded(training: Mapping[str, Any]) -> Same:
    """Read what the record of a training says. Raises BundleError where it cannot be read."""
    try:
        return tuple(tuple(map(int, lines)) for lines in training["labels"].get("same_pixels", ()))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise BundleError("bundle.json: the record of the training is damaged") from error


def words_of_training(training: Mapping[str, Any]) -> str:
    """Say what the record of a training holds of such rows, and what was done about them."""
    same = recorded(training)
    divided = int(training["labels"]["same_pixels_apart"])
    said = words(same)
    if len(same) > divided:
        said += " Where splits are drawn, their patients are kept on one side."
    if divided:
        said += (
            f" The column split puts {divided} of them on two sides: correct it, for figures of"
            f" those splits are too good."
        )
    return said


def _listed(lines: Sequence[int]) -> str:
    if lines[LISTED_ROWS:]:
        first = ", ".join(map(str, lines[:LISTED_ROWS]))
        return f"{first} and {len(lines) - LISTED_ROWS} more"
    return f"{', '.join(map(str, lines[:-1]))} and {lines[-1]}"


def _same(looked_at: Iterable[tuple[LabelRow, Iterable[_Keys]]]) -> Same:
    seen: dict[_Keys, list[LabelRow]] = defaultdict(list)
    for row, parts in looked_at:
        for keys in parts:
            seen[keys].append(row)
    copies = {
        tuple(sorted({row.line for row in rows}))
        for rows in seen.values()
        if len({row.patient for row in rows}) > 1
    }
    return tuple(sorted(copies))


def _drawn(
    rows: Sequence[LabelRow],
    begin: Callable[[LabelRow], list[Callable[[], _Keys]]],
    progress: Progress,
) -> Iterator[tuple[LabelRow, list[_Keys]]]:
    ahead: deque[tuple[LabelRow, list[Callable[[], _Keys]]]] = deque()
    for row in rows:
        ahead.append((row, begin(row)))
        if len(ahead) > AHEAD:
            yield _waited(*ahead.popleft())
            progress.advance()
    while ahead:
        yield _waited(*ahead.popleft())
        progress.advance()


def _waited(row: LabelRow, begun: list[Callable[[], _Keys]]) -> tuple[LabelRow, list[_Keys]]:
    try:
        return row, [keys for wait in begun if (keys := wait())]
    except UNREADABLE:
        return row, []  # why is told where the row is embedded


class _Drawing:
    """Keys of the images of a row, in the scope of a directory of embeddings."""

    def __init__(self, images: Images, spec: ViewSpec, decoder: Decoder, kept: Path | None) -> None:
        self._images, self._spec, self._decoder = images, spec, decoder
        self._scope, self._known = known_entries(kept) if kept else ("", {})

    def begin(self, row: LabelRow) -> list[Callable[[], _Keys]]:
        """Have decoded what is not known; what is returned waits for it."""
        try:
            return [self._begin(part) for part in self._images.parts(row)]
        except UNREADABLE:
            return []  # why is told where the row is embedded

    def _begin(self, part: Part) -> Callable[[], _Keys]:
        entry = self._known.get(name_of(part, self._spec))
        if entry is not None:
            return lambda: entry.keys
        drawn = self._decoder.draw(part, self._spec)
        return lambda: self._keys(drawn())

    def _keys(self, drawn: Drawn) -> _Keys:
        if drawn.reason:
            return ()
        return tuple(cache_key(digest, self._scope) for digest in drawn.digests)


class _Patients:
    """Which patients are one. A patient is what `LabelRow.patient` says."""

    def __init__(self, rows: Iterable[LabelRow]) -> None:
        self._one: dict[str, str] = {}  # of a patient: one that it was joined to
        self._joined: set[str] = set()
        self._splits: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            self._splits[row.patient] |= {row.split} - {""}

    def join(self, one: str, other: str) -> bool:
        """Make two patients one, unless their splits differ. Returns whether they are one."""
        one, other = self._first(one), self._first(other)
        if one == other:
            return True
        if len(self._splits[one] | self._splits[other]) > 1:
            return False
        self._one[other] = one
        self._joined |= {one, other}
        self._splits[one] |= self._splits[other]
        return True

    def group_of(self, row: LabelRow) -> str:
        """Return the group of a row, as a table would state it."""
        if row.group or row.patient in self._joined:
            return self._first(row.patient).removeprefix("group ")
        return ""

    def _first(self, patient: str) -> str:
        while patient in self._one:
            patient = self._one[patient]
        return patient
