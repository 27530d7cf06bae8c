"""Text that comes out of DICOM headers, made safe and measurable for a terminal.

A header is written by whoever sent the object: it may hold escape sequences that repaint the
screen, bidirectional overrides that reorder it, or characters two cells wide. Nothing here
knows what the text means. Widths follow Unicode Standard Annex 11 (wide and full-width are two
cells, combining marks none), those of conjoining jamo the `wcwidth` of the C library.
"""

import unicodedata
from datetime import datetime

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
SECONDS_IN_TENTHS = 9.95  # below it tenths are shown
LEFT_TO_RIGHT = "\N{LEFT-TO-RIGHT MARK}"
RIGHT_TO_LEFT = ("R", "AL")  # bidirectional classes of strong right-to-left letters (UAX 9)
JOINTS = "-/._"  # a long word may be cut after these
# Vowels and finals that join the syllable before them.
JAMO = (*range(0x1160, 0x1200), *range(0xD7B0, 0xD7FC))


def clean(text: object) -> str:
    """Return `text` on one line: spaces of any kind as spaces, what cannot be seen as U+FFFD.

    Not printable are controls, format characters (bidirectional overrides, joiners), surrogates
    and what Unicode has not assigned. Letters with marks become one character where there is one,
    because terminals disagree on the width of what is composed.
    """
    composed = unicodedata.normalize("NFC", str(text).replace("\r\n", "\n"))
    return "".join(_visible(character) for character in composed)


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else REPLACEMENT


def cells(text: str) -> int:
    """Return how many terminal cells cleaned text takes."""
    return sum(_cells_of(character) for character in text)


def _cells_of(character: str) -> int:
    if character.isascii():
        return 1
    if unicodedata.category(character) in ("Mn", "Me", "Cf") or ord(character) in JAMO:
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def fit(text: str, columns: int) -> str:
    """Return `text` cut to at most `columns` cells; a cut ends in an ellipsis."""
    if cells(text) <= columns:
        return text
    if columns < 1:
        return ""
    return _head(text, columns - 1) + ELLIPSIS


def _head(text: str, columns: int) -> str:
    taken = 0
    for at, character in enumerate(text):
        taken += _cells_of(character)
        if taken > columns:
            return text[:at]
    return text


def pad(text: str, columns: int, *, right: bool = False) -> str:
    """Return `text` filled with spaces to `columns` cells, aligned left unless `right`."""
    fill = " " * max(0, columns - cells(text))
    return fill + text if right else text + fill


def closed(text: str) -> str:
    """Return `text` with a mark after right-to-left letters, none where there are none.

    Without it a terminal that reorders text (UAX 9) draws the figures of the next column, which
    have no direction of their own, on the far side of the name.
    """
    turned = any(unicodedata.bidirectional(character) in RIGHT_TO_LEFT for character in text)
    return text + LEFT_TO_RIGHT if turned else text


def wrap(text: str, columns: int) -> list[str]:
    """Return `text` as lines of at most `columns` cells, broken at spaces where there are any."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        joined = f"{line} {word}" if line else word
        if cells(joined) <= columns:
            line = joined
            continue
        if line:
            lines.append(line)
        *whole, line = _chop(word, columns)
        lines += whole
    if line or not lines:
        lines.append(line)
    return lines


def _chop(word: str, columns: int) -> list[str]:
    """Cut a word that is longer than a line, after a hyphen or its like where there is one.

    At least one character goes on each.
    """
    parts = []
    while cells(word) > columns:
        head = _head(word, columns) or word[0]
        joint = max(head.rfind(character) for character in JOINTS) + 1
        head = head[:joint] if joint > len(head) // 2 else head
        parts.append(head)
        word = word[len(head) :]
    return [*parts, word]


def duration(seconds: float | None) -> str:
    """Return a waiting time in its largest fitting unit with the next one, or a dash."""
    if seconds is None:
        return "-"
    if seconds < SECONDS_IN_TENTHS:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def about(seconds: float | None) -> str:
    """Return a span as people say it: seconds below a minute only, hours with their minutes."""
    if seconds is None:
        return "-"
    whole = max(0, round(seconds))
    if 60 <= whole < 3600:
        return f"{whole // 60} min"
    return f"{whole} s" if whole < 60 else duration(whole)


def ago(value: object, now: datetime) -> str:
    """Return how long before `now` an ISO 8601 time was, or a dash for none."""
    if not value:
        return "-"
    seconds = (now - _moment(value)).total_seconds()
    return f"in {about(-seconds)}" if seconds <= -1 else f"{about(seconds)} ago"


def size(count_bytes: float) -> str:
    """Return a size in the largest binary unit that gives a figure of one or more."""
    units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while count_bytes >= 1024 and len(units) > 1:
        count_bytes /= 1024
        units.pop(0)
    figure = f"{count_bytes:.1f}" if count_bytes < 10 else f"{count_bytes:.0f}"
    return f"{figure.removesuffix('.0')} {units[0]}"


def counted(count: int, one: str, many: str) -> str:
    """Return a number with its noun, as "1 study", "1,200 studies"."""
    return f"{count:,} {one if count == 1 else many}"


def person_name(value: str) -> str:
    """Return "family, given ..." of the first filled group of a PN value (PS3.5 6.2.1)."""
    group = next((part for part in value.split("=") if part.strip("^ ")), "")
    family, _, rest = group.partition("^")
    given = " ".join(part.strip() for part in rest.split("^") if part.strip())
    return ", ".join(part for part in (family.strip(), given) if part)


def instant(value: object) -> str:
    """Return an ISO 8601 UTC time to the second, or a dash for none."""
    return f"{_moment(value):%Y-%m-%d %H:%M:%S}Z" if value else "-"


def _moment(value: object) -> datetime:
    return value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
