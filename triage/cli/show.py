"""`triage show STUDY`: everything that is known of one study, with all that happened to it.

Begins as the worklist would (who, how urgent, what was seen) and says what a person can do; the
tables below answer where from, by which model at which threshold, and when.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from triage.cli import seen, worklist
from triage.cli.table import Cell, Column, Line, Screen, Style, cell, hanging, render, screen
from triage.cli.text import about, ago, clean, instant
from triage.cli.timeline import folded, image_numbers, since, subject, timeline
from triage.cli.verbs import (
    DONE,
    Verbs,
    add_verb,
    configuration,
    note_look,
    print_json,
    reading,
)

Row = Mapping[str, Any]

LISTED = 20  # images, results and jobs of one study named one by one; JSON has all
EVENTS = 60
PLAIN_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def declare(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    parser = add_verb(
        verbs,
        "show",
        show,
        says="show one study with its images, results, jobs and events",
        example="triage show A123456",
        json_document=True,
    )
    parser.add_argument("study", metavar="STUDY", help="Study Instance UID or accession number")


def show(arguments: argparse.Namespace) -> int:
    from triage.database import reading as room

    config = configuration(arguments)
    with reading(config) as reader:
        as_of = room.as_of(reader)
        documents = room.show(reader, arguments.study)
    note_look(config, study=arguments.study)
    if arguments.json:
        print_json({"schema_version": room.SCHEMA_VERSION, "as_of": as_of, "studies": documents})
        return DONE
    on, now = screen(), datetime.now(UTC)
    rule = "\n\n" + "=" * on.columns + "\n"
    print(rule.join(as_text(document, on, now=now) for document in documents))
    return DONE


def as_text(document: Row, on: Screen, *, now: datetime) -> str:
    """Return one study for people."""
    study, numbers = document["study"], image_numbers(document)
    lines = [*_title(study, on), "", _facts(study, on, now)]
    for name, count, table in (
        ("SERIES", len(document["series"]), _series(document["series"], on, now)),
        ("INSTANCES", len(document["instances"]), _instances(document["instances"], on, now)),
        ("RESULTS", len(document["results"]), _results(document["results"], numbers, on)),
        ("CAPTIONS", len(document["captions"]), _captions(document["captions"], numbers, on)),
        ("JOBS", len(document["jobs"]), _jobs(document["jobs"], numbers, on, now)),
    ):
        if count:
            title = f"{name}: {count}" + _rest(count, LISTED)
            lines += ["", *hanging("", title, on, Style.STRONG), table]
    return "\n".join([*lines, *_history(document, on)])


def _rest(count: int, listed: int) -> str:
    return f", the first {listed} shown; all: --json" if count > listed else ""


# --- the study


def _title(study: Row, on: Screen) -> list[str]:
    lines = []
    if study["not_for_clinical_use"]:
        lines += [*hanging("", worklist.BANNER, on, Style.ALARM), ""]
    identity = (
        seen.who(study),
        f"ID {study['patient_id']}" if study["patient_id"] else "",
        f"acc {study['accession_number']}" if study["accession_number"] else "",
        seen.what(study),
    )
    lines += hanging("", " | ".join(part for part in identity if part), on, Style.STRONG)
    place = (
        f"number {study['reading_order']} to be read"
        if study.get("reading_order")
        else f"not on the reading list ({study['state']})"
    )
    waiting = f", waiting {about(study['waiting_s'])}" if study.get("reading_order") else ""
    lines += hanging("", f"{study['priority']}, {place}{waiting}", on, seen.rank_style(study))
    return lines


def _facts(study: Row, on: Screen, now: datetime) -> str:
    rows: list[list[Cell]] = [
        [cell("seen"), _seen(study)],
        [cell("next"), cell(_next(study), Style.STRONG)],
        [cell("why here"), cell(study["priority_reason"] or "-")],
    ]
    if study.get("attention"):
        rows.append([cell("attention"), cell(study["attention"], Style.ALARM)])
    if study["acknowledged_at"]:
        by = f"{_when(study['acknowledged_at'], now)} by {study['acknowledged_by']}"
        rows.append([cell("acknowledged"), cell(by)])
    number = f", number {study['id']}" if "id" in study else ""
    rows += [
        [cell("received"), cell(_received(study, now))],
        [cell("analysed"), cell(_when(study["analysed_at"], now))],
        [cell("flagged"), cell(_when(study["flagged_at"], now))],
        [cell("patient"), cell(_patient(study))],
        [cell("state"), cell(f"{study['state']}, generation {study['generation']}")],
        [cell("study"), cell(f"{study['study_instance_uid']}{number}")],
    ]
    return render((Column(title="WHAT"), Column(title="NOW", share=1)), rows, on)


def _seen(study: Row) -> Cell:
    lines = [*seen.verdict(study)]
    if study["caption"]:
        lines.append(Line(text=f'"{clean(study["caption"])}"'))
    if below := seen.below(study["findings"]):
        lines.append(Line(text=below, style=Style.FAINT))
    images = f"{study['images_analysed']} of {study['images_eligible']} eligible images analysed"
    models = ", ".join(f"{each['name']} {each['version']}" for each in study["models"] or ())
    text = f"{images} by {models}" if models else images
    return [*lines, Line(text=clean(text), style=Style.FAINT)]


def _next(study: Row) -> str:
    """Say what a person can do about the study as it stands."""
    accession = study["accession_number"] or ""
    # The text is for pasting into a shell, and a header may hold one's commands.
    name = accession if PLAIN_WORD.fullmatch(accession) else study["study_instance_uid"]
    off = f"then `triage acknowledge {name}`"
    if not study.get("reading_order"):
        return "Nothing: it is off the reading list."
    match study["analysis"]:
        case "failed":
            return (
                f"Read it without the model, {off}; or mend the cause, then"
                f" `triage requeue {name}`."
            )
        case "pending":
            return "Wait, or read it without the model; `triage status` says whether work goes on."
        case _ if seen.flags(study):
            return f"Read it now, {off}."
        case "not_eligible":
            return f"Read it in its turn, {off}: no model has looked at it."
    return f"Read it in its turn, {off}: no flag does not mean normal."


def _received(study: Row, now: datetime) -> str:
    sender = f" from {study['sender_ae_title']}" if study["sender_ae_title"] else ""
    return f"{_when(study['received_at'], now)}{sender}"


def _when(value: Any, now: datetime) -> str:
    return f"{instant(value)} ({ago(value, now)})" if value else "-"


def _patient(study: Row) -> str:
    born = study["patient_birth_date"]
    dated = f"{born[:4]}-{born[4:6]}-{born[6:]}" if len(born) == 8 and born.isdigit() else born
    sex = f"sex {study['patient_sex']}" if study["patient_sex"] else ""
    return ", ".join(part for part in (sex, f"born {dated}" if dated else "") if part) or "-"


# --- its parts


def _series(rows: Sequence[Row], on: Screen, now: datetime) -> str:
    columns = (
        Column(title="MODALITY"),
        Column(title="IMAGES", right=True),
        Column(title="GENERATION", right=True),
        Column(title="CLOSES"),
        Column(title="SERIES INSTANCE UID", share=1),
    )
    table = [
        [
            cell(row["modality"] or "-"),
            cell(row.get("images", "-")),
            cell(row["generation"]),
            cell(ago(row["closes_at"], now)),
            cell(row["series_instance_uid"]),
        ]
        for row in rows[:LISTED]
    ]
    return render(columns, table, on)


def _instances(rows: Sequence[Row], on: Screen, now: datetime) -> str:
    columns = (
        Column(title="IMAGE", right=True),
        Column(title="STATE"),
        Column(title="AGAIN", right=True),
        Column(title="RECEIVED", right=True),
        Column(title="FROM", share=1),
        Column(title="SOP INSTANCE UID", share=3),
    )
    numbers = image_numbers({"instances": rows})
    table = [
        [
            cell(numbers[row["sop_instance_uid"]]),
            cell(row["state"], Style.ALARM if row["state"] == "conflict" else Style.PLAIN),
            cell(row["duplicates"] or "-"),
            cell(ago(row["received_at"], now)),
            cell(row["sender_ae_title"] or row["source"]),
            cell(row["sop_instance_uid"]),
        ]
        for row in rows[:LISTED]
    ]
    return render(columns, table, on)


def _results(rows: Sequence[Row], numbers: Mapping[str, int], on: Screen) -> str:
    """One row per image or series and model; each finding with the threshold it was held to."""
    columns = (
        Column(title="OF"),
        Column(title="MODEL", share=2),
        Column(title="COUNTS", share=1),
        Column(title="FINDINGS (THRESHOLD), WHY", share=3),
    )
    table = [
        [
            cell(subject(row, numbers)),
            cell(f"{row['bundle_name']} {row.get('bundle_version', '')}".strip()),
            cell(_counts(row)),
            _findings(row),
        ]
        for row in rows[:LISTED]
    ]
    return render(columns, table, on)


def _counts(row: Row) -> str:
    """Say whether a result or caption is part of what the study shows."""
    if not row["current"]:
        return "no: superseded"
    return "no: shadow" if row.get("mode") == "shadow" else "yes"


def _findings(row: Row) -> Cell:
    found = sorted(row["findings"] or (), key=lambda each: -each["probability"])
    if row["analysis"] != "analysed" or not found:
        why = row.get("reason") or "no reason recorded"
        return cell(f"{row['analysis'].replace('_', ' ')}: {why.removeprefix('failed: ')}")
    # Red is for what counts: a model on trial raises nobody.
    alarm = Style.ALARM if _counts(row) == "yes" else Style.PLAIN
    return [
        Line(
            text=f"{'! ' if each['flagged'] else ''}{seen.score(each)}"
            f" ({each['operating_point']:.2f})",
            style=alarm if each["flagged"] else Style.PLAIN,
        )
        for each in found
    ]


def _captions(rows: Sequence[Row], numbers: Mapping[str, int], on: Screen) -> str:
    columns = (Column(title="OF"), Column(title="COUNTS"), Column(title="TEXT", share=1))
    table = [
        [
            cell(subject(row, numbers)),
            cell(_counts(row)),
            cell(row["text"]),
        ]
        for row in rows[:LISTED]
    ]
    return render(columns, table, on)


def _jobs(rows: Sequence[Row], numbers: Mapping[str, int], on: Screen, now: datetime) -> str:
    columns = (
        Column(title="JOB", right=True),
        Column(title="KIND"),
        Column(title="OF"),
        Column(title="STATE"),
        Column(title="TRIES", right=True),
        Column(title="DUE", right=True),
        Column(title="WHY", share=1),
    )
    table = [
        [
            cell(row["id"]),
            cell(row["kind"]),
            cell(subject(row, numbers)),
            cell(row["state"], Style.ALARM if row["state"] == "dead" else Style.PLAIN),
            cell(row["attempts"]),
            cell(ago(row["due_at"], now)),
            cell(row["reason"] or "-"),
        ]
        for row in rows[:LISTED]
    ]
    return render(columns, table, on)


def _history(document: Row, on: Screen) -> list[str]:
    moments = folded(timeline(document))
    if not moments:
        return []
    columns = (
        Column(title="AT (UTC)"),
        Column(title="AFTER", right=True),
        Column(title="WHAT", share=1),
        Column(title="WHY, BY WHOM", share=1),
    )
    first = moments[0].at
    rows = [
        [
            cell(instant(each.at)[:-1]),
            cell(since(first, each.at)),
            cell(each.what),
            cell(each.detail or "-"),
        ]
        for each in moments[:EVENTS]
    ]
    title = f"HISTORY: {len(moments)}" + _rest(len(moments), EVENTS)
    return ["", *hanging("", title, on, Style.STRONG), render(columns, rows, on)]
