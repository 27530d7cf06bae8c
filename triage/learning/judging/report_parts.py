"""Pieces of the report's page: text made safe, numbers with intervals, tables, tiles, pictures.

Every piece takes plain values and gives HTML. Text reaches the page through `text` alone, which
escapes it: names of files, findings and strata come from a table that anybody may have written.
"""

import base64
import html
import math
from collections.abc import Iterable, Sequence
from typing import NewType

from triage.learning.judging.statistics import Estimate, Interval

Html = NewType("Html", str)
MINUS = "\N{MINUS SIGN}"
NOT_TOLD = Html('<span class="soft">n/a</span>')


def text(value: object) -> Html:
    """Escape; what cannot be shown (controls, bidirectional overrides) becomes U+FFFD."""
    shown = "".join(
        each if each.isprintable() or each == " " else "\N{REPLACEMENT CHARACTER}"
        for each in str(value)
    )
    return Html(html.escape(shown, quote=True))


def joined(parts: Iterable[Html], by: str = "\n") -> Html:
    """Put pieces one after the other."""
    return Html(by.join(parts))


def element(tag: str, *inner: Html, cls: str = "", **attributes: str) -> Html:
    """One element; attribute values are escaped, `data_x` becomes `data-x`."""
    named = {"class": cls, **attributes} if cls else attributes
    written = "".join(f' {name.replace("_", "-")}="{text(value)}"' for name, value in named.items())
    return Html(f"<{tag}{written}>{''.join(inner)}</{tag}>")


def number(value: float | None, digits: int = 3) -> Html:
    """A figure, or "n/a" where the data cannot give one."""
    if value is None or not math.isfinite(value):
        return NOT_TOLD
    return text(f"{value:.{digits}f}".replace("-", MINUS))


def signed(value: float, digits: int = 3) -> Html:
    """A difference with its sign; a true minus, so that it is read as one."""
    if not math.isfinite(value):
        return NOT_TOLD
    shown = f"{value:+.{digits}f}"
    if not float(shown):
        shown = shown[1:]  # what rounds to nothing has no sign
    return text(shown.replace("-", MINUS))


def span(interval: Interval | None, digits: int = 3, *, sign: bool = False) -> Html:
    """ "low to high", or nothing."""
    if interval is None:
        return Html("")
    show = signed if sign else number
    return element(
        "span",
        show(interval.low, digits),
        Html(" to "),
        show(interval.high, digits),
        cls="interval",
    )


def estimate(value: Estimate, digits: int = 3) -> Html:
    """A figure with its interval behind it."""
    if not math.isfinite(value.value):
        return NOT_TOLD
    return joined([number(value.value, digits), span(value.interval, digits)], " ")


def whisker(value: Estimate, *, middle: float | None = None) -> Html:
    """A small drawing of a figure on 0..1 with its interval; `middle` marks what chance gives.

    Hidden from screen readers: the same numbers always stand beside it.
    """
    if not math.isfinite(value.value):
        return Html("")
    parts = ['<line class="track" x1="2" y1="7" x2="98" y2="7"/>']
    if middle is not None and math.isfinite(middle):
        at = 2 + 96 * middle
        parts.append(f'<line class="mid" x1="{at:.1f}" y1="2" x2="{at:.1f}" y2="12"/>')
    if value.interval is not None:
        low, high = (
            2 + 96 * min(1.0, max(0.0, end)) for end in (value.interval.low, value.interval.high)
        )
        parts.append(f'<line class="range" x1="{low:.1f}" y1="7" x2="{high:.1f}" y2="7"/>')
    parts.append(f'<circle class="dot" cx="{2 + 96 * value.value:.1f}" cy="7" r="2.8"/>')
    return Html(
        '<svg class="whisker" viewBox="0 0 100 14" aria-hidden="true" focusable="false">'
        f"{''.join(parts)}</svg>"
    )


def tag(words: str, kind: str) -> Html:
    """A state in words; `kind` is good, warn, stop or plain and adds a sign of its own."""
    sign = {"good": "\N{CHECK MARK}", "warn": "!", "stop": "\N{MULTIPLICATION SIGN}"}.get(kind, "")
    return element("span", text(f"{sign} {words}".strip()), cls=f"tag {kind}")


def note(head: str, words: str, kind: str = "warn") -> Html:
    """A paragraph that must not be overlooked."""
    return element("p", element("b", text(head)), coded(words), cls=f"note {kind}")


def notes(head: str, words: Sequence[str], kind: str = "warn") -> Html:
    """Several sentences that must not be overlooked, under one heading; nothing for none."""
    if len(words) < 2:
        return joined(note(head, only, kind) for only in words)
    points = joined((element("li", coded(each)) for each in words), "")
    return element("div", element("b", text(head)), element("ul", points), cls=f"note {kind}")


def coded(words: str) -> Html:
    """Text in which what stands between backquotes is a command."""
    pieces = (
        element("code", text(piece)) if at % 2 else text(piece)
        for at, piece in enumerate(words.split("`"))
    )
    return joined(pieces, "")


def of(part: int, whole: int) -> Html:
    """ "3 of 20" on one line."""
    return element("span", text(f"{part} of {whole}"), cls="whole")


def percent(share: float) -> str:
    """A prevalence as people write it: three digits, however small it is."""
    return f"{100 * share:.3g}%" if math.isfinite(share) else "n/a"


def counted(count: int, noun: str) -> str:
    """A count with its noun, which takes an s for any count but one."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def tile(name: str, value: Html, detail: Html, drawing: Html = NOT_TOLD) -> Html:
    """A key figure: what, how much, how sure."""
    missing = value == NOT_TOLD
    return element(
        "li",
        element("span", text(name), cls="name"),
        element("span", value, cls="value none" if missing else "value"),
        Html("") if drawing == NOT_TOLD else drawing,
        element("span", detail, cls="detail"),
    )


def estimate_tile(name: str, value: Estimate, detail: str, middle: float | None = None) -> Html:
    """A tile of a figure with its interval and counts."""
    words = joined(
        [span(value.interval), Html("<br>") if value.interval else Html(""), text(detail)], ""
    )
    return tile(name, number(value.value), words, whisker(value, middle=middle))


def table(
    heads: Sequence[str], rows: Iterable[Sequence[Html]], *, caption: str, words: Sequence[int] = ()
) -> Html:
    """A table whose first column names its rows; `words` are columns of text."""
    classes = ["words" if at in words else "" for at in range(len(heads))]
    top = joined(
        (
            element("th", text(head), cls=cls, scope="col")
            for head, cls in zip(heads, classes, strict=True)
        ),
        "",
    )
    body = joined(
        element("tr", element("th", row[0], scope="row"), *_cells(row[1:], classes[1:]))
        if len(row) > 1
        else element(
            "tr", element("th", row[0], scope="rowgroup", colspan=str(len(heads))), cls="group"
        )
        for row in rows
    )
    whole = element(
        "table",
        element("caption", text(caption)),
        element("thead", element("tr", top)),
        element("tbody", body),
    )
    return element("div", whole, cls="scroll", tabindex="0", role="region", aria_label=caption)


def _cells(cells: Sequence[Html], classes: Sequence[str]) -> list[Html]:
    return [element("td", cell, cls=cls) for cell, cls in zip(cells, classes, strict=True)]


def image_data(png: bytes) -> str:
    """The picture itself as an address, so that the page needs no other file."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def plot(light: bytes, dark: bytes, described: str) -> Html:
    """A plot that follows the appearance of the page."""
    source = f'<source srcset="{image_data(dark)}" media="(prefers-color-scheme: dark)">'
    image = f'<img src="{image_data(light)}" alt="{text(described)}">'
    return element("figure", element("picture", Html(source), Html(image)), cls="plot")


def facts(pairs: Iterable[tuple[str, Html]]) -> Html:
    """Names and values, one under the other."""
    return element(
        "dl",
        *(joined([element("dt", text(name)), element("dd", value)], "") for name, value in pairs),
        cls="facts",
    )


def details(summary: str, *inner: Html) -> Html:
    """What is read on demand."""
    return element("details", element("summary", text(summary)), *inner)
