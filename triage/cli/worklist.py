"""`triage worklist`: the open studies in the order in which they should be read.

Says at the top whether the list can be relied on: a list that nobody keeps is no list. The order
is the database's, the state of the daemon that of `operations.health`.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from triage.cli import seen
from triage.cli.seen import Study
from triage.cli.table import Cell, Column, Line, Screen, Style, cell, hanging, render, screen
from triage.cli.text import about, ago, clean, instant
from triage.cli.verbs import (
    DONE,
    UsageError,
    Verbs,
    add_verb,
    configuration,
    note_look,
    print_json,
    reading,
    whole_number,
)

WIDE_COLUMNS = 140  # from here on patient, study and findings have columns of their own
BANNER = "NOT FOR CLINICAL USE: the findings below come from a demonstration model."
CAUTION = "A study without a flag has not been found normal: it still waits to be read."
STALE = "THE DAEMON IS NOT DOING ITS WORK: studies and findings may be missing here."
EMPTY = "No open studies."
DOUBTS = 3  # named above the list; `triage status` has all
# Losses after which the list lags behind the scanners though the daemon runs.
LAGS = ("queue_late", "no_model", "sender_silent", "store_space_low")
COUNTED = {
    "flagged": "flagged",
    "failed": "analysis failed",
    "pending": "not yet analysed",
    "not_eligible": "not analysed",
    "analysed": "analysed without a flag",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the list rests on: the daemon's state as `status` gives it, and when it was asked."""

    status: Mapping[str, Any]
    now: datetime


def declare(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    parser = add_verb(
        verbs,
        "worklist",
        worklist,
        says="show the open studies in reading order",
        example="triage worklist --limit 20",
        json_document=True,
    )
    parser.add_argument(
        "--limit", type=whole_number, metavar="N", help="show the first N studies only"
    )
    parser.add_argument(
        "--all", action="store_true", help="show acknowledged and expired studies too"
    )


def worklist(arguments: argparse.Namespace) -> int:
    from triage.database import reading as room
    from triage.operations.health import gather

    limit = arguments.limit
    if limit is not None and limit < 1:
        raise UsageError("--limit must be at least 1", hint="Leave it out to see every study.")
    config = configuration(arguments)
    with reading(config) as reader:
        as_of = room.as_of(reader)
        # One more than shown tells whether the list goes on.
        studies = room.worklist(
            reader, limit=None if limit is None else limit + 1, all=arguments.all
        )
    asked = {"limit": limit, "all": arguments.all}
    note_look(config, asked={key: value for key, value in asked.items() if value})
    if arguments.json:
        document = {"as_of": as_of, "studies": studies[:limit]}
        print_json({"schema_version": room.SCHEMA_VERSION, **document})
        return DONE
    health = gather(config)
    standing = Standing(status=health.document(), now=health.at)
    on = screen()
    print(as_text(studies[:limit], on, standing=standing))
    if limit is not None and limit < len(studies):
        whole = 0 if arguments.all else standing.status["studies"].get("open", 0)
        print("\n".join(hanging("", _rest(limit, whole), on)))
    return DONE


def _rest(limit: int, whole: int) -> str:
    """Say what was left out; `whole` is 0 where it was not counted."""
    more = f"{whole - limit} more: leave out --limit, or --limit {whole}" if whole > limit else ""
    return f"Only the first {limit} are shown; {more or 'more follow without --limit'}."


def as_text(studies: Sequence[Study], on: Screen, *, standing: Standing | None = None) -> str:
    """Return the whole answer: what the list rests on, table, caution."""
    head = _head(standing, on) if standing else []
    banner = []
    if unfit := _unfit(studies, standing):
        banner = hanging("", unfit, on, Style.ALARM)
        head += [*banner, ""]
    if not studies:
        return "\n".join([*head, EMPTY])
    text = "\n".join([*head, render_studies(studies, on), ""])
    foot = hanging("", CAUTION, on, Style.FAINT)
    if standing and standing.status["health"] == "failed":
        foot += hanging("", f"{STALE} See `triage status`.", on, Style.ALARM)
    if on.rows and text.count("\n") >= on.rows:
        foot = [*banner, *foot]  # the one above has left the screen
    return "\n".join([text, *foot])


def _unfit(studies: Sequence[Study], standing: Standing | None) -> str:
    """Say that a model is not for patients: one that has spoken, else one that is to speak."""
    if any(study["not_for_clinical_use"] for study in studies):
        return BANNER
    causes = standing.status["causes"] if standing else ()
    return next((each["message"] for each in causes if each["code"] == "demonstration"), "")


def _head(standing: Standing, on: Screen) -> list[str]:
    """Return how much there is to read, how fresh it is, and what keeps it from being so."""
    status = standing.status
    lines: list[str] = []
    doubts = [each for each in status["causes"] if _doubtful(each)]
    if status["health"] == "failed":
        lines += hanging("", STALE, on, Style.ALARM)
    for each in doubts[:DOUBTS]:
        lines += hanging("! ", each["message"], on, Style.WARNING)
        lines += hanging("  next: ", each["next_step"], on)
    if len(doubts) > DOUBTS:
        lines += hanging("! ", f"{len(doubts) - DOUBTS} more: see `triage status`.", on)
    if status["health"] == "degraded":
        lines += hanging("! ", "The daemon works with a loss: see `triage status`.", on)
    if summary := _summary(standing):
        lines += hanging("", summary, on, Style.STRONG)
    return [*lines, ""]


def _doubtful(cause: Mapping[str, Any]) -> bool:
    return cause["code"] in LAGS or cause["weight"] == "failed"


def _summary(standing: Standing) -> str:
    studies, receive = standing.status["studies"], standing.status["receive"]
    parts = []
    if "open" in studies:  # as all figures, absent where the database could not tell
        counts = [(studies["open_by_outcome"][name], said) for name, said in COUNTED.items()]
        by_outcome = ", ".join(f"{count} {said}" for count, said in counts if count)
        parts.append(f"{studies['open']} open{f': {by_outcome}' if by_outcome else ''}")
    if "last_image_at" in receive:
        last = receive["last_image_at"]
        parts.append(f"last image {ago(last, standing.now)}" if last else "no image received yet")
    return "; ".join(parts)


# --- the table


def render_studies(studies: Sequence[Study], on: Screen) -> str:
    """Return the table: a line and its notes per study, or on a narrow screen a card."""
    if on.columns >= WIDE_COLUMNS:
        return _wide(studies, on)
    columns = (
        Column(title="#", right=True),
        Column(title="PRIORITY"),
        Column(title="WAITING", right=True),
        Column(title="FINDINGS", share=1),
    )
    rows = [[*_place(study), seen.verdict(study)] for study in studies]
    notes = [[_identity(study), *_notes(study)] for study in studies]
    return render(columns, rows, on, spaced=True, notes=notes, notes_from=1)


def _wide(studies: Sequence[Study], on: Screen) -> str:
    columns = (
        Column(title="#", right=True),
        Column(title="PRIORITY"),
        Column(title="WAITING", right=True),
        Column(title="BY"),
        Column(title="PATIENT", share=4),
        Column(title="ID", share=2),
        Column(title="ACCESSION", share=2),
        Column(title="STUDY", share=5),
        Column(title="FINDINGS", share=6),
    )
    rows = [
        [
            *_place(study),
            cell(study["priority_source"] or "-", Style.FAINT),
            cell(seen.who(study)),
            cell(study["patient_id"] or "-"),
            cell(study["accession_number"] or "-"),
            cell(seen.what(study) or "-"),
            seen.verdict(study),
        ]
        for study in studies
    ]
    # Scores below threshold stand beside flags only, so that most studies take one line.
    notes = [_notes(study, below=len(seen.flags(study)) > 0) for study in studies]
    return render(columns, rows, on, notes=notes, notes_from=4)


def _place(study: Study) -> list[Cell]:
    return [
        cell(study["reading_order"] or "-"),
        cell(study["priority"], seen.rank_style(study)),
        cell(about(study["waiting_s"])),
    ]


def _identity(study: Study) -> Line:
    texts = (
        seen.who(study),
        f"ID {study['patient_id']}" if study["patient_id"] else "",
        f"acc {study['accession_number']}" if study["accession_number"] else "",
        seen.what(study),
    )
    return Line(text=clean(" | ".join(text for text in texts if text)))


def _notes(study: Study, *, below: bool = True) -> list[Line]:
    """Return what a reader may want after the finding: caption, reason, what lies below."""
    lines = [Line(text=f'"{clean(study["caption"])}"')] if study["caption"] else []
    if study["acknowledged_at"] and not study["reading_order"]:
        by = f"read: {instant(study['acknowledged_at'])} by {study['acknowledged_by'] or 'unknown'}"
        lines.append(Line(text=clean(by), style=Style.FAINT))
    elif study["state"] == "expired":
        lines.append(Line(text="images expired", style=Style.FAINT))
    why = seen.reason(study)
    told = (f"why: {why}" if why else "", seen.below(study["findings"]) if below else "")
    if faint := "; ".join(text for text in told if text):
        lines.append(Line(text=faint, style=Style.FAINT))
    return lines
