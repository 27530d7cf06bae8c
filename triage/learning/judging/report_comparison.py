"""The comparison of two bundles as a section of the report."""

import math
from collections.abc import Sequence
from typing import Final

from triage.learning.judging.comparing import Change, Difference, FindingComparison
from triage.learning.judging.report_parts import (
    Html,
    counted,
    details,
    element,
    joined,
    notes,
    number,
    signed,
    span,
    table,
    tag,
    text,
)

SHOWN: Final = 200  # changed subjects of one finding; the JSON has all of them
OPEN: Final = 12  # as many are shown without being asked for
KINDS: Final = {"better": "good", "worse": "stop"}


def comparison_card(found: Sequence[FindingComparison], first: str, second: str) -> Html:
    """Paired differences and changed subjects, finding by finding."""
    words = (
        "Both bundles were given the same images. Differences are this bundle minus the other, with"
        " 95 % intervals of a paired bootstrap over patients; an interval that holds zero shows no"
        " difference, which is not the same as showing that there is none. The sensitivity counts"
        " images that got no score as missed; the other figures are of images that both judged."
    )
    parts = [joined(_finding(each, first, second)) for each in found]
    return element(
        "section",
        element("h2", text(f"Against {second}")),
        element("p", text(words), cls="soft"),
        *parts,
        cls="card",
        id="comparison",
    )


def _finding(each: FindingComparison, first: str, second: str) -> list[Html]:
    rows = [_difference(difference) for difference in each.differences]
    lost = ""
    if each.only_first or each.only_second:
        lost = (
            f" {counted(each.only_first, 'image')} had a score from {first} alone,"
            f" {each.only_second} from {second} alone."
        )
    words = (
        f"Both judged {counted(each.images, 'image')} of {counted(each.patients, 'patient')}.{lost}"
    )
    heads = ("Figure", "This bundle", "The other", "Difference", "Verdict")
    return [
        element("h3", text(each.name)),
        element("p", text(words), cls="small soft"),
        notes("Take care.", each.warnings),
        table(heads, rows, caption=f"{each.name}: paired differences", words=(4,)),
        _without_score(each),
        _changes(each),
    ]


def _without_score(each: FindingComparison) -> Html:
    """How many images each bundle gave no score, by class; nothing where there is none."""
    sides = each.first_without_score, each.second_without_score
    rows = [
        [text(name), *(text(count) for count in counts)]
        for name, counts in (
            ("Turned away, finding there", [side.gated_with_finding for side in sides]),
            ("Turned away, not there", [side.gated_without for side in sides]),
            ("Failed, finding there", [side.failed_with_finding for side in sides]),
            ("Failed, not there", [side.failed_without for side in sides]),
        )
        if any(counts)
    ]
    if not rows:
        return Html("")
    heads = ("Images without a score", "This bundle", "The other")
    return table(heads, rows, caption=f"{each.name}: what each bundle did not judge")


def _difference(found: Difference) -> list[Html]:
    return [
        text(found.measure),
        number(found.first),
        number(found.second),
        joined([signed(found.difference), span(found.interval, sign=True)], " "),
        tag(found.verdict, KINDS.get(found.verdict, "plain")),
    ]


def _changes(each: FindingComparison) -> Html:
    if not each.changes:
        return element("p", text("No image is flagged by one and not by the other."), cls="small")
    new = sum(change.flagged_by_first for change in each.changes)
    summary = (
        f"{counted(len(each.changes), 'image')} changed: {new} are newly flagged,"
        f" {len(each.changes) - new} no longer"
    )
    rows = [_change(change) for change in each.changes[:SHOWN]]
    heads = ("Image", "Finding", "This bundle", "The other", "Change", "Which is")
    cut = f" (the first {SHOWN})" if len(each.changes) > SHOWN else ""
    listed = table(heads, rows, caption=f"The largest changes first{cut}", words=(1, 4, 5))
    if len(rows) > OPEN:
        return details(summary, listed)
    return joined([element("p", element("b", text(summary))), listed])


def _change(change: Change) -> list[Html]:
    known = {None: "not known", True: "there", False: "not there"}[change.truth]
    right = change.truth is not None and change.truth == change.flagged_by_first
    verdict = tag("right", "good") if right else tag("wrong", "stop")
    return [
        element("span", text(change.subject), cls="mono"),
        text(known),
        _score(change.first),
        _score(change.second),
        text("newly flagged" if change.flagged_by_first else "no longer flagged"),
        text("") if change.truth is None else verdict,
    ]


def _score(probability: float) -> Html:
    return number(probability) if math.isfinite(probability) else text("no score")
