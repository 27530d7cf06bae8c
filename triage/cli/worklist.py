"""`triage worklist`: the open studies in the order in which they should be read."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from triage.cli.table import Cell, Column, Line, Screen, Style, cell, render, screen
from triage.cli.text import clean, duration, person_name
from triage.cli.verbs import DONE, UsageError, Verbs, add_verb, configuration, print_json, reading

WIDE_COLUMNS = 120  # from here on the caption and the reason have columns of their own
BANNER = "NOT FOR CLINICAL USE: the findings below come from a demonstration model."
CAUTION = "A study without a flag has not been found normal: it still waits to be read."
URGENT = ("STAT", "HIGH")

Study = Mapping[str, Any]  # keys are the columns of the view `worklist`


def declare(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    parser = add_verb(
        verbs,
        "worklist",
        worklist,
        says="show the open studies in reading order",
        example="triage worklist --limit 20",
        json_document=True,
    )
    parser.add_argument("--limit", type=int, metavar="N", help="show the first N studies only")
    parser.add_argument(
        "--all", action="store_true", help="show acknowledged and expired studies too"
    )


def worklist(arguments: argparse.Namespace) -> int:
    from triage.database import reading as room

    limit = arguments.limit
    if limit is not None and limit < 1:
        raise UsageError("--limit must be at least 1")
    config = configuration(arguments)
    with reading(config) as reader:
        # One more than shown tells whether the list goes on.
        studies = room.worklist(
            reader, limit=None if limit is None else limit + 1, all=arguments.all
        )
    shown = studies[:limit]
    if arguments.json:
        print_json({"schema_version": room.SCHEMA_VERSION, "studies": shown})
        return DONE
    print(as_text(shown, screen()))
    if len(shown) < len(studies):
        print(f"Only the first {limit} are shown; more studies follow without --limit.")
    return DONE


def as_text(studies: Sequence[Study], on: Screen) -> str:
    """Return the whole answer: banner, table, caution."""
    if not studies:
        return "No open studies."
    parts = [render_studies(studies, on), "", on.paint(CAUTION, Style.FAINT)]
    if any(study["not_for_clinical_use"] for study in studies):
        parts = [on.paint(BANNER, Style.ALARM), "", *parts]
    return "\n".join(parts)


def render_studies(studies: Sequence[Study], on: Screen) -> str:
    """Return the table; narrow screens stack caption and reason below the findings."""
    if on.columns >= WIDE_COLUMNS:
        columns: tuple[Column, ...] = (
            Column(title="#", right=True),
            Column(title="PRIORITY"),
            Column(title="STUDY", share=4),
            Column(title="FINDINGS", share=5),
            Column(title="CAPTION", share=4),
            Column(title="WAITING", right=True),
            Column(title="WHY", share=4),
        )
        rows = [_wide(study) for study in studies]
    else:
        columns = (
            Column(title="#", right=True),
            Column(title="PRIORITY"),
            Column(title="STUDY", share=4),
            Column(title="FINDINGS, CAPTION, WHY", share=6),
            Column(title="WAITING", right=True),
        )
        rows = [_narrow(study) for study in studies]
    return render(columns, rows, on, spaced=True)


def _wide(study: Study) -> list[Cell]:
    return [
        cell(study["reading_order"] or "-"),
        _priority(study),
        _who(study),
        seen(study),
        cell(study["caption"] or "-"),
        cell(duration(study["waiting_s"])),
        cell(study["priority_reason"] or "-"),
    ]


def _narrow(study: Study) -> list[Cell]:
    lines = [*seen(study)]
    if study["caption"]:
        lines.append(Line(text=f'"{clean(study["caption"])}"'))
    if study["priority_reason"]:
        lines.append(Line(text=f"why: {clean(study['priority_reason'])}", style=Style.FAINT))
    return [
        cell(study["reading_order"] or "-"),
        _priority(study),
        _who(study),
        lines,
        cell(duration(study["waiting_s"])),
    ]


def _priority(study: Study) -> Cell:
    style = Style.ALARM if study["priority"] in URGENT else Style.PLAIN
    lines = [
        Line(text=clean(study["priority"]), style=style),
        Line(text=clean(study["priority_source"] or ""), style=Style.FAINT),
    ]
    if study["state"] != "ready":
        lines.append(Line(text=clean(study["state"]), style=Style.WARNING))
    return lines


def _who(study: Study) -> Cell:
    modalities = study["modalities_in_study"]
    kinds = modalities if isinstance(modalities, str) else "/".join(modalities or ())
    what = " ".join(filter(None, (kinds, study["body_part_examined"], study["study_description"])))
    texts = (
        person_name(study["patient_name"] or "") or "(no name)",
        f"ID {study['patient_id']}" if study["patient_id"] else "",
        f"acc {study['accession_number']}" if study["accession_number"] else "",
        what,
    )
    return [Line(text=clean(text)) for text in texts if text]


def seen(study: Study) -> Cell:
    """Return what analysis has to say, so that "not looked" never reads as "nothing there"."""
    lines = [*_state(study), *_findings(study["findings"] or ())]
    eligible, analysed = study["images_eligible"], study["images_analysed"]
    if eligible and analysed != eligible:
        lines.append(Line(text=f"{analysed} of {eligible} images analysed", style=Style.WARNING))
    return lines


def _state(study: Study) -> list[Line]:
    reason = clean(study["analysis_reason"] or "no reason recorded")
    match study["analysis"]:
        case "pending":
            return [Line(text="NOT YET ANALYSED", style=Style.WARNING)]
        case "failed":
            why = reason.removeprefix("failed: ")
            return [Line(text=f"ANALYSIS FAILED: {why}", style=Style.ALARM)]
        case "not_eligible":
            return [Line(text=f"NOT ANALYSED: {reason}", style=Style.WARNING)]
    if any(finding["flagged"] for finding in study["findings"] or ()):
        return []
    return [Line(text="analysed, nothing flagged")]


def _findings(findings: Sequence[Mapping[str, Any]]) -> list[Line]:
    ordered = sorted(findings, key=lambda finding: -finding["probability"])
    lines = [
        Line(text=f"! {clean(each['name'])} {each['probability']:.2f}", style=Style.ALARM)
        for each in ordered
        if each["flagged"]
    ]
    below = [
        f"{clean(each['name'])} {each['probability']:.2f}"
        for each in ordered
        if not each["flagged"]
    ]
    if below:
        lines.append(Line(text=f"below threshold: {', '.join(below)}", style=Style.FAINT))
    return lines
