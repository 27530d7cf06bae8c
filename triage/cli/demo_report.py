"""What came of the demonstration: every object held against what must become of it, and a report.

Reads as any reader does: the worklist, the studies behind it, the quarantine, the status. Writes
nothing but text.
"""

import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triage.cli import worklist
from triage.cli.demo_studies import Exhibit, Exhibition, StudyPlan
from triage.cli.status_sections import latency_table
from triage.cli.table import Column, Screen, Style, cell, render
from triage.cli.verbs import reading
from triage.config import Config
from triage.records import Analysis, ObjectState

Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One look at the daemon's work. `wrong` says in words what is not as it must be."""

    exhibition: Exhibition
    studies: Sequence[Entry]
    quarantine: Sequence[Entry]
    states: Mapping[ObjectState, int]
    status: Entry
    wrong: tuple[str, ...]
    without_caption: int

    @property
    def settled(self) -> bool:
        """Whether everything is as it must be and no caption is still to come."""
        return not self.wrong and not self.without_caption

    @property
    def progress(self) -> str:
        analyses = Counter(study["analysis"] for study in self.studies)
        captioned = sum(1 for study in self.studies if study["caption"])
        return (
            f"{sum(self.states.values())} of {len(self.exhibition.exhibits)} objects in,"
            f" {analyses[Analysis.ANALYSED]} studies analysed,"
            f" {analyses[Analysis.NOT_ELIGIBLE]} not eligible,"
            f" {analyses[Analysis.PENDING]} waiting, {captioned} captions"
        )


def look(exhibition: Exhibition, config: Config) -> Outcome:
    """Read the daemon's state once and judge it."""
    from triage.database import reading as room
    from triage.operations.health import gather

    with reading(config) as reader:
        studies = room.worklist(reader, limit=None, all=True)
        quarantine = room.quarantine_list(reader)
        held = {
            study["study_instance_uid"]: room.show(reader, study["study_instance_uid"])[0]
            for study in studies
        }
    states = _states(held.values(), quarantine)
    return Outcome(
        exhibition=exhibition,
        studies=studies,
        quarantine=quarantine,
        states=states,
        status=gather(config).document(),
        wrong=(
            *wrong_objects(exhibition.exhibits, held, quarantine),
            *wrong_studies(exhibition.plans, studies),
        ),
        without_caption=sum(
            1
            for study in studies
            if study["analysis"] == Analysis.ANALYSED and not study["caption"]
        ),
    )


def _states(held: Any, quarantine: Sequence[Entry]) -> Counter[ObjectState]:
    states: Counter[ObjectState] = Counter()
    for study in held:
        states += _states_of(study)
    states[ObjectState.QUARANTINED] += len(quarantine)
    return states


def _states_of(study: Entry) -> Counter[ObjectState]:
    states = Counter(ObjectState(instance["state"]) for instance in study["instances"])
    states[ObjectState.DUPLICATE] += sum(instance["duplicates"] for instance in study["instances"])
    return +states


def wrong_objects(
    exhibits: Sequence[Exhibit], held: Mapping[str, Entry], quarantine: Sequence[Entry]
) -> list[str]:
    """Compare per study how many objects are in which state; the quarantine by file name."""
    wrong = []
    expected: dict[str, Counter[ObjectState]] = {}
    for exhibit in exhibits:
        if exhibit.state is not ObjectState.QUARANTINED:
            expected.setdefault(exhibit.study_instance_uid, Counter())[exhibit.state] += 1
    for uid, states in expected.items():
        actual = _states_of(held[uid]) if uid in held else Counter()
        if actual != states:
            what = next(each.what for each in exhibits if each.study_instance_uid == uid)
            wrong.append(f"{what}: objects are {_counted(actual)}, not {_counted(states)}")
    kept_aside = {Path(entry["original_path"] or "").name for entry in quarantine}
    wrong += [
        f"{exhibit.what} is not in quarantine"
        for exhibit in exhibits
        if exhibit.state is ObjectState.QUARANTINED and exhibit.path.name not in kept_aside
    ]
    surplus = len(quarantine) - sum(each.state is ObjectState.QUARANTINED for each in exhibits)
    if surplus > 0:
        wrong.append(f"{surplus} more objects are in quarantine than should be")
    return wrong


def wrong_studies(plans: Sequence[StudyPlan], studies: Sequence[Entry]) -> list[str]:
    by_uid = {study["study_instance_uid"]: study for study in studies}
    wrong = []
    for plan in plans:
        study = by_uid.get(plan.study_instance_uid)
        if study is None:
            wrong.append(f"{plan.what}: not in the worklist")
        elif study["analysis"] != plan.analysis:
            wrong.append(f"{plan.what}: analysis is {study['analysis']}, not {plan.analysis}")
    if len(studies) > len(plans):
        wrong.append(f"{len(studies) - len(plans)} studies more than were sent")
    return wrong


def _counted(states: Mapping[ObjectState, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none"


# --- the report


def as_text(outcome: Outcome, directory: Path, on: Screen) -> str:
    """Return the whole report."""
    open_studies = [study for study in outcome.studies if study["reading_order"]]
    parts = [
        _title("WORKLIST, IN READING ORDER", on),
        worklist.as_text(open_studies, on),
        _title("NOT ANALYSED, AND WHY", on),
        _not_analysed(outcome, on),
        _title("IN QUARANTINE", on),
        _quarantine(outcome.quarantine, on),
        _title("FROM ARRIVAL TO FLAG", on),
        *latency_table(outcome.status["latency"], on),
        _title("IN SHORT", on),
        *_summary(outcome, on),
        _title("WHERE TO LOOK NEXT", on),
        *_next_steps(directory, outcome),
    ]
    return "\n".join(parts)


def _title(text: str, on: Screen) -> str:
    return "\n" + on.paint(text, Style.STRONG) + "\n"


def _not_analysed(outcome: Outcome, on: Screen) -> str:
    what = {plan.study_instance_uid: plan.what for plan in outcome.exhibition.plans}
    columns = (
        Column(title="STUDY"),
        Column(title="WHAT IT IS", share=2),
        Column(title="WHY", share=3),
    )
    rows = [
        [
            cell(study["accession_number"]),
            cell(what.get(study["study_instance_uid"], "-")),
            cell(study["analysis_reason"] or study["analysis"], Style.WARNING),
        ]
        for study in outcome.studies
        if study["analysis"] != Analysis.ANALYSED
    ]
    return render(columns, rows, on) if rows else "Nothing."


def _quarantine(entries: Sequence[Entry], on: Screen) -> str:
    columns = (
        Column(title="FILE"),
        Column(title="BYTES", right=True),
        Column(title="WHY", share=1),
    )
    rows = [
        [
            cell(Path(entry["original_path"] or "-").name),
            cell(entry["size_bytes"]),
            cell(entry["reason"], Style.WARNING),
        ]
        for entry in entries
    ]
    return render(columns, rows, on) if rows else "Nothing."


def _summary(outcome: Outcome, on: Screen) -> list[str]:
    lines = [f"Objects: {_counted(outcome.states)}.", _agreement(outcome)]
    if outcome.without_caption:
        lines.append(f"{outcome.without_caption} captions were still to come when the time was up.")
    if not outcome.wrong:
        return [*lines, on.paint("Every object has the right disposition.", Style.GOOD)]
    return [
        *lines,
        on.paint("Not as it must be:", Style.ALARM),
        *(f"- {each}" for each in outcome.wrong),
    ]


def _agreement(outcome: Outcome) -> str:
    """Say how the flags compare with what was drawn into the pictures."""
    drawn = {plan.study_instance_uid: plan.planted for plan in outcome.exhibition.plans}
    found = further = 0
    for study in outcome.studies:
        flagged = {each["name"] for each in study["findings"] if each["flagged"]}
        planted = drawn.get(study["study_instance_uid"], frozenset())
        found += len(flagged & planted)
        further += len(flagged - planted)
    wanted = sum(len(planted) for planted in drawn.values())
    return (
        f"Findings drawn into the pictures: {wanted}, flagged: {found}; further flags: {further}."
    )


def _next_steps(directory: Path, outcome: Outcome) -> list[str]:
    config = directory / "triage.toml"
    example = next((study["accession_number"] for study in outcome.studies), "DEMO-A001")
    programs = Path(sys.executable).parent
    on_path = shutil.which("triage") is not None
    return [
        f"Everything is kept in {directory}; remove it when you are done.",
        *([] if on_path else [f"  export PATH={programs}:$PATH"]),
        f"  export TRIAGE_CONFIG={config}",
        "  triage worklist                 the list above, as `triage run` keeps it",
        f"  triage show {example}           one study with all its events",
        "  triage status                   what the daemon says of itself (here: stopped)",
        "  triage run                      start it again on the same data",
        "README.md says how to use real MedGemma weights.",
    ]
