"""`triage status`: is it doing its work, and if not, what to do. Works with the daemon down.

The judgement comes from `operations.health`; this file only shows it. Neither torch nor the ORM
layer is imported, so that it answers at once.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from triage.cli.table import Cell, Column, Line, Screen, Style, cell, render, screen
from triage.cli.text import clean, duration, instant, wrap
from triage.cli.verbs import Verbs, add_verb, configuration, print_json, say
from triage.errors import TriageError

HEALTH = {
    "ok": ("OK: doing its work", Style.GOOD),
    "degraded": ("DEGRADED: doing its work, with a loss", Style.WARNING),
    "failed": ("FAILED: not doing its work", Style.ALARM),
}

UNITS = {"_mib": "MiB", "_bytes": "bytes", "_days": "days", "_s": "s"}  # by the end of a key

LISTS = ("dead_letters", "quarantine")  # keys with a table of their own

Document = Mapping[str, Any]


def declare(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    parser = add_verb(
        verbs,
        "status",
        status,
        says="tell whether the daemon does its work, and what to do if not",
        example="triage status || page-someone",
        json_document=True,
    )
    parser.description = (
        "Tell whether the daemon does its work, and what to do if not. Exit code: 0 healthy,"
        " 1 degraded, 2 not doing its work, 3 cannot tell."
    )


def status(arguments: argparse.Namespace) -> int:
    from triage.operations import health as room

    try:
        health = room.gather(configuration(arguments))
    except TriageError as error:
        return say(error, room.EXIT_CANNOT_TELL)
    if arguments.json:
        print_json(health.document())
    else:
        print(as_text(health.document(), screen()))
    return health.exit_code


def as_text(document: Document, on: Screen) -> str:
    """Return the status for people; `document` is the status JSON."""
    headline, style = HEALTH[document["health"]]
    parts = [on.paint(headline, style), *_causes(document["causes"], on), ""]
    if document["roles"]:
        parts += [_roles(document["roles"], on), ""]
    parts += [_facts(document, on)]
    parts += _dead_letters(document["queue"], on)
    parts += _quarantine(document["receive"], on)
    if document["latency"]:
        parts += ["", *latency_table(document["latency"], on)]
    if document["senders"]:
        parts += ["", _senders(document["senders"], on)]
    return "\n".join(parts)


def _causes(causes: Sequence[Document], on: Screen) -> list[str]:
    lines: list[str] = []
    for each in causes:
        lines += _hanging("- ", f"{each['message']} [{each['code']}]", on.columns)
        lines += _hanging("  next: ", each["next_step"], on.columns)
    return lines


def _hanging(head: str, text: str, columns: int) -> list[str]:
    first, *rest = wrap(clean(text), columns - len(head))
    return [head + first, *(" " * len(head) + line for line in rest)]


def _roles(roles: Sequence[Document], on: Screen) -> str:
    columns = (
        Column(title="ROLE"),
        Column(title="STATE"),
        Column(title="HOST", share=1),
        Column(title="PID", right=True),
        Column(title="SINCE"),
        Column(title="LAST TURN"),
    )
    rows = [
        [
            cell(each["role"], Style.STRONG),
            cell(each["state"]),
            cell(each["host"]),
            cell(each["pid"]),
            cell(instant(each["started_at"])),
            cell(instant(each["last_turn_at"])),
        ]
        for each in roles
    ]
    return render(columns, rows, on)


def _facts(document: Document, on: Screen) -> str:
    """One row per section of the document, its scalars as `name value` pairs."""
    columns = (Column(title="WHAT"), Column(title="NOW", share=1))
    rows = [
        [cell(name, Style.STRONG), cell(_pairs(document[name]) or "-")]
        for name in ("studies", "queue", "receive", "storage", "database")
    ]
    rows += [[cell("model", Style.STRONG), cell(_pairs(model))] for model in document["models"]]
    return render(columns, rows, on)


def _pairs(values: Document, prefix: str = "", *, nested: bool = False) -> str:
    """Return `name value` for each scalar; zeros of nested counts are left out."""
    said: list[str] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            # `by_state` and its like only group: their keys speak for themselves.
            below = "" if key.startswith("by_") else f"{prefix}{key} "
            said.append(_pairs(value, below, nested=True))
        elif key in LISTS:
            continue
        elif value not in (None, "", [], ()) and not (nested and value == 0):
            said.append(_pair(f"{prefix}{key}", value))
    return ", ".join(part for part in said if part)


def _pair(key: str, value: object) -> str:
    """Return a name and its value, the unit taken from the end of the name to the value's."""
    for suffix, unit in UNITS.items():
        if key.endswith(suffix):
            return f"{key.removesuffix(suffix).replace('_', ' ')} {_shown(value)} {unit}"
    return f"{key.replace('_', ' ')} {_shown(value)}"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return " ".join(str(each) for each in value)
    return str(value)


def _dead_letters(queue: Document, on: Screen) -> list[str]:
    letters = queue.get("dead_letters") or ()
    if not letters:
        return []
    columns = (
        Column(title="STUDY", share=2),
        Column(title="KIND"),
        Column(title="FAILED"),
        Column(title="WHY, NEXT STEP", share=3),
    )
    rows = [
        [
            cell(each["study_instance_uid"]),
            cell(each["kind"]),
            cell(instant(each["finished_at"])),
            _why(each),
        ]
        for each in letters
    ]
    title = _some("failed for good", len(letters), queue["dead"])
    return ["", on.paint(title, Style.STRONG), render(columns, rows, on)]


def _quarantine(receive: Document, on: Screen) -> list[str]:
    held = receive.get("quarantine") or ()
    if not held:
        return []
    columns = (
        Column(title="NUMBER", right=True),
        Column(title="FROM", share=1),
        Column(title="RECEIVED"),
        Column(title="WHY, NEXT STEP", share=3),
    )
    rows = [
        [
            cell(each["id"]),
            cell(each["sender_ae_title"] or each["source"]),
            cell(instant(each["received_at"])),
            _why(each),
        ]
        for each in held
    ]
    title = _some("in quarantine", len(held), receive["quarantine_held"])
    return ["", on.paint(title, Style.STRONG), render(columns, rows, on)]


def _why(entry: Document) -> Cell:
    return (
        Line(text=clean(entry["reason"] or "no reason recorded"), style=Style.WARNING),
        Line(text=f"next: {clean(entry['next_step'])}", style=Style.FAINT),
    )


def _some(what: str, shown: int, whole: int) -> str:
    return what if shown >= whole else f"{what}, the newest {shown} of {whole}"


def latency_table(latency: Document, on: Screen) -> list[str]:
    """Return arrival-to-flag and first-image-to-flag per modality, over the last 24 hours."""
    columns = (
        Column(title="MODALITY"),
        Column(title="STUDIES", right=True),
        Column(title="P50", right=True),
        Column(title="P95", right=True),
        Column(title="MAX", right=True),
    )
    parts: list[str] = []
    for name, by_modality in latency.items():
        if not isinstance(by_modality, Mapping) or not by_modality:
            continue
        rows = [
            [
                cell(modality),
                cell(each.get("count", "-")),
                *(cell(duration(each.get(key))) for key in ("p50_s", "p95_s", "max_s")),
            ]
            for modality, each in by_modality.items()
        ]
        title = f"{name.removesuffix('_s').replace('_', ' ')}, last 24 h"
        parts += [on.paint(title, Style.STRONG), render(columns, rows, on)]
    return parts


def _senders(senders: Sequence[Document], on: Screen) -> str:
    columns = (
        Column(title="SENDER", share=1),
        Column(title="LAST IMAGE"),
        Column(title="IMAGES", right=True),
    )
    rows = [
        [
            cell(each["ae_title"]),
            cell(instant(each["last_image_at"])),
            cell(each.get("images", "-")),
        ]
        for each in senders
    ]
    return render(columns, rows, on)
