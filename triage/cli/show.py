"""`triage show STUDY`: everything that is known of one study, with all that happened to it."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from triage.cli import worklist
from triage.cli.table import Cell, Column, Line, Screen, Style, cell, render, screen
from triage.cli.text import clean, duration, instant, person_name
from triage.cli.verbs import DONE, Verbs, add_verb, configuration, print_json, reading

Row = Mapping[str, Any]

# Columns of each part: title, key, and its share of the room where that is tight.
PARTS: dict[str, tuple[tuple[str, str, int], ...]] = {
    "series": (
        ("MODALITY", "modality", 0),
        ("SERIES INSTANCE UID", "series_instance_uid", 1),
        ("GENERATION", "generation", 0),
        ("CLOSES", "closes_at", 0),
    ),
    "instances": (
        ("SOP INSTANCE UID", "sop_instance_uid", 2),
        ("STATE", "state", 0),
        ("AGAIN", "duplicates", 0),
        ("SOURCE", "source", 0),
        ("FROM", "sender_ae_title", 1),
        ("RECEIVED", "received_at", 0),
    ),
    "results": (
        ("OF", "subject", 0),
        ("MODEL", "bundle_name", 1),
        ("MODE", "mode", 0),
        ("ANALYSIS", "analysis", 0),
        ("FINDINGS, WHY", "findings", 3),
        ("COUNTS", "current", 0),
    ),
    "captions": (("OF", "subject", 0), ("TEXT", "text", 1), ("COUNTS", "current", 0)),
    "jobs": (
        ("JOB", "id", 0),
        ("KIND", "kind", 0),
        ("STATE", "state", 0),
        ("TRIES", "attempts", 0),
        ("DUE", "due_at", 0),
        ("WHY", "reason", 1),
    ),
    "history": (("AT", "at", 0), ("WHAT", "what", 2), ("WHY, BY WHOM", "detail", 2)),
}
TIMES = ("received_at", "closes_at", "due_at", "at")


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

    with reading(configuration(arguments)) as reader:
        documents = room.show(reader, arguments.study)
    if arguments.json:
        print_json({"schema_version": room.SCHEMA_VERSION, "studies": documents})
    else:
        on = screen()
        print("\n\n".join(as_text(document, on) for document in documents))
    return DONE


def as_text(document: Row, on: Screen) -> str:
    """Return one study for people."""
    parts = [_study(document["study"], on)]
    tables = {**document, "history": history(document)}
    for name, columns in PARTS.items():
        rows = tables[name]
        if rows:
            parts += ["", on.paint(name.upper(), Style.STRONG), _part(columns, rows, on)]
    return "\n".join(parts)


def history(document: Row) -> list[Row]:
    """Return what happened to objects and jobs and what persons decided, in order of time."""
    told = [
        {"at": each["at"], "what": f"object {each['state']}", "detail": _object_detail(each)}
        for instance in document["instances"]
        for each in instance["events"]
    ]
    told += [
        {
            "at": each["at"],
            "what": f"job {job['id']} ({job['kind']}) {each['to_state']}",
            "detail": each["reason"],
        }
        for job in document["jobs"]
        for each in job["events"]
    ]
    told += [
        {
            "at": each["at"],
            "what": each["what"],
            "detail": ", ".join([f"by {each['by']}", *_pairs(each["detail"] or {})]),
        }
        for each in document["events"]
    ]
    return sorted(told, key=lambda each: str(each["at"]))


def _object_detail(event: Row) -> str:
    door = " from ".join(part for part in (event["source"], event["sender_ae_title"]) if part)
    return ": ".join(part for part in (door, event["reason"]) if part)


def _pairs(detail: Row) -> list[str]:
    return [f"{name.replace('_', ' ')} {value}" for name, value in detail.items()]


def _study(study: Row, on: Screen) -> str:
    number = f", number {study['id']}" if "id" in study else ""
    rows: list[list[Cell]] = [
        [cell("study"), cell(f"{study['study_instance_uid']}{number}", Style.STRONG)],
        [cell("patient"), cell(_patient(study))],
        [cell("accession"), cell(study["accession_number"] or "-")],
        [cell("description"), cell(study["study_description"] or "-")],
        [
            cell("received"),
            cell(f"{instant(study['received_at'])} from {study['sender_ae_title']}"),
        ],
        [cell("state"), cell(f"{study['state']}, generation {study['generation']}")],
        [cell("seen"), _seen(study)],
        [cell("priority"), cell(f"{study['priority']}: {study['priority_reason'] or '-'}")],
        [cell("analysed"), cell(instant(study["analysed_at"]))],
        [cell("flagged"), cell(instant(study["flagged_at"]))],
    ]
    if study.get("waiting_s") is not None:
        rows.append([cell("waiting"), cell(duration(study["waiting_s"]))])
    if study["acknowledged_at"]:
        by = f"{instant(study['acknowledged_at'])} by {study['acknowledged_by']}"
        rows.append([cell("acknowledged"), cell(by)])
    if study.get("attention"):
        rows.append([cell("attention"), cell(study["attention"], Style.ALARM)])
    table = render((Column(title="WHAT"), Column(title="NOW", share=1)), rows, on)
    if study["not_for_clinical_use"]:
        return on.paint(worklist.BANNER, Style.ALARM) + "\n\n" + table
    return table


def _patient(study: Row) -> str:
    parts = (
        person_name(study["patient_name"] or ""),
        f"ID {study['patient_id']}" if study["patient_id"] else "",
        study["patient_sex"],
        study["patient_birth_date"],
    )
    return ", ".join(part for part in parts if part) or "-"


def _seen(study: Row) -> Cell:
    lines = [*worklist.seen(study)]
    images = f"{study['images_analysed']} of {study['images_eligible']} eligible images analysed"
    lines.append(Line(text=images, style=Style.FAINT))
    if study["caption"]:
        lines.append(Line(text=f'"{clean(study["caption"])}"'))
    return lines


def _part(columns: Sequence[tuple[str, str, int]], rows: Sequence[Row], on: Screen) -> str:
    heads = [Column(title=title, share=share) for title, _, share in columns]
    return render(heads, [[_value(row, key) for _, key, _ in columns] for row in rows], on)


def _value(row: Row, key: str) -> Cell:
    value = row.get(key)
    if key in TIMES:
        return cell(instant(value))
    if isinstance(value, bool):
        return cell("yes" if value else "no")
    if key == "findings":
        return cell(_findings(value or ()) or row.get("reason") or "-")
    return cell("-" if value in (None, "") else value)


def _findings(findings: Sequence[Row]) -> str:
    said = (
        f"{'! ' if each['flagged'] else ''}{each['name']} {each['probability']:.2f}"
        for each in findings
    )
    return ", ".join(said)
