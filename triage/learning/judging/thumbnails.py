"""Confusion examples: which subjects to look at, and small pictures of them.

Owns the choice (the most wrong first) and the thumbnail, which is made anew from the view that the
model saw: no header, no metadata of the file goes along. What is burned into the pixels still
shows, so reports with pictures are patient data and say so.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triage.errors import TriageError
from triage.learning.judging.scoring import Scored

SIDE_PX: Final = 176
MOST: Final = 6  # examples of each kind


class Kind(StrEnum):
    """One cell of the confusion table; the value is its heading."""

    MISSED = "Missed: finding there, not flagged"
    FALSE_ALARM = "False alarms: flagged, finding not there"
    FOUND = "Found: finding there and flagged"
    PASSED = "Passed: finding not there, not flagged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One subject of a report."""

    kind: Kind
    subject: str  # file or Study Instance UID, as the labels name it
    probability: float
    note: str  # its strata, for the eye
    picture: bytes | None = None  # PNG
    why_not: str = ""  # why there is no picture


def examples_of(
    scored: Scored, finding: int, threshold: float, *, most: int = MOST
) -> tuple[Example, ...]:
    """The subjects that were most wrong, then those that were right with the least certainty."""
    rows = np.flatnonzero(scored.known(finding))
    truth = scored.truth[rows, finding] == 1.0
    said = scored.probabilities[rows, finding]
    flagged = said >= threshold
    chosen = {
        Kind.MISSED: _first(rows[truth & ~flagged], scored, finding, rising=True),
        Kind.FALSE_ALARM: _first(rows[~truth & flagged], scored, finding, rising=False),
        Kind.FOUND: _first(rows[truth & flagged], scored, finding, rising=True),
        Kind.PASSED: _first(rows[~truth & ~flagged], scored, finding, rising=False),
    }
    return tuple(
        Example(
            kind=kind,
            subject=scored.subjects[row],
            probability=float(scored.probabilities[row, finding]),
            note=_note(scored.strata[row]),
        )
        for kind, some in chosen.items()
        for row in some[:most]
    )


def with_pictures(
    examples: Sequence[Example], view_of: Callable[[str], NDArray[np.float32]]
) -> tuple[Example, ...]:
    """Add a picture to each; `view_of(subject)` gives the view (C, S, S) in 0..1.

    An image that cannot be read any more is named without one: the figures stand all the same.
    """
    done: dict[str, tuple[bytes | None, str]] = {}
    for example in examples:
        if example.subject not in done:
            try:
                done[example.subject] = thumbnail(view_of(example.subject)), ""
            except TriageError as error:
                done[example.subject] = None, str(error)
    return tuple(
        replace(example, picture=done[example.subject][0], why_not=done[example.subject][1])
        for example in examples
    )


def thumbnail(view: NDArray[np.float32], side_px: int = SIDE_PX) -> bytes:
    """PNG of a view (C, S, S) in 0..1: grey for one channel, else colour; larger views shrink."""
    from PIL import Image

    levels = np.asarray(np.rint(255 * np.clip(view, 0.0, 1.0)), np.uint8)
    grey = len(levels) == 1 or (levels[0] == levels[-1]).all()
    image = Image.fromarray(levels[0] if grey else np.moveaxis(levels[:3], 0, -1))
    image.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _note(strata: Mapping[str, str]) -> str:
    """Values for the eye; a short one ("F", "yes") says nothing without its column."""
    return ", ".join(
        value if len(value) > 3 else f"{column} {value}"
        for column, value in strata.items()
        if value
    )


def _first(
    rows: NDArray[np.intp], scored: Scored, finding: int, *, rising: bool
) -> NDArray[np.intp]:
    said = scored.probabilities[rows, finding]
    return rows[np.argsort(said if rising else -said, kind="stable")]
