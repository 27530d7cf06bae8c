"""`triage status`: is it doing its work, and if not, what to do. Works with the daemon down.

The judgement comes from `operations.health`; this file only shows it, worst first: the verdict in
words, each cause with its next step, then the figures. Neither torch nor the ORM layer is
imported, so that it answers at once.
"""

import argparse
from collections.abc import Sequence
from datetime import datetime

from triage.cli import status_sections as sections
from triage.cli.status_sections import Document
from triage.cli.table import Screen, Style, hanging, screen
from triage.cli.text import instant
from triage.cli.verbs import Verbs, add_verb, configuration, print_json

HEALTH = {
    "ok": ("OK: doing its work", Style.FINE),
    "degraded": ("DEGRADED: doing its work, with a loss", Style.CAUTION),
    "failed": ("FAILED: not doing its work", Style.ALARM),
}
# Without colour the mark tells what stops the work from what is only worth knowing.
MARKS = {"failed": ("!! ", Style.ALARM), "notice": ("   ", Style.PLAIN)}
MARK = ("!  ", Style.WARNING)
CANNOT_TELL = 3  # exit code: neither healthy nor unhealthy, whatever came in between


def declare(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    parser = add_verb(
        verbs,
        "status",
        status,
        says="tell whether the daemon does its work, and what to do if not",
        example="triage status || page-someone",
        json_document=True,
    )
    parser.set_defaults(failed=CANNOT_TELL)
    parser.description = (
        "Tell whether the daemon does its work, and what to do if not. Exit code: 0 healthy,"
        " 1 degraded, 2 not doing its work, 3 cannot tell."
    )


def status(arguments: argparse.Namespace) -> int:
    from triage.operations import health as room

    health = room.gather(configuration(arguments))
    if arguments.json:
        print_json(health.document())
    else:
        print(as_text(health.document(), screen(), now=health.at))
    return health.exit_code


def as_text(document: Document, on: Screen, *, now: datetime) -> str:
    """Return the status for people; `document` is the status JSON."""
    words, style = HEALTH[document["health"]]
    headline = hanging("", f"{words} ({instant(now)})", on, style)
    causes = _causes(document["causes"], on)
    parts = [*headline, *causes]
    for section in sections.of(document, on, now):
        parts += ["", *section]
    text = "\n".join(parts)
    if on.rows and text.count("\n") >= on.rows:
        # The first line has left the screen: what stands at the prompt must say it too.
        count = len(document["causes"])
        end = f"{words}" + (f"; {count} to see to, listed at the top" if count else "")
        text += "\n\n" + "\n".join(hanging("", end, on, style))
    return text


def _causes(causes: Sequence[Document], on: Screen) -> list[str]:
    lines: list[str] = []
    for each in causes:
        mark, style = MARKS.get(each["weight"], MARK)
        lines += ["", *hanging(mark, f"{each['message']} [{each['code']}]", on, style)]
        lines += hanging("   next: ", each["next_step"], on)
    return lines
