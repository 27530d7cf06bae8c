"""The report of `triage replay` for a person: counts first, then which studies, then what lacks."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from triage.cli.spoken import SHOWN_DIGEST
from triage.cli.table import Cell, Column, Screen, Style, cell, hanging, render
from triage.cli.text import instant
from triage.learning.watching.replay import Change, Standing, Summary
from triage.learning.watching.replay_answers import Missing
from triage.learning.watching.score_sums import ScoreSums
from triage.records import ModelIdentity

MEND = (
    'next: to have them compared as well, name the bundle under [[models]] with mode = "shadow" and'
    " restart the daemon; then `triage requeue STUDY` for each study that `triage replay BUNDLE"
    " --missing` lists. Every model looks at it again."
)
MEND_SHADOW = (
    "next: `triage requeue STUDY` for each study that `triage replay --shadow NAME --missing`"
    " lists, while the shadow runs."
)
MADE_BY = (
    "next: give the bundle that was in service when they came with --made-by: its encoder may be"
    " the same."
)


def report(
    summary: Summary,
    changes: Sequence[Change],
    *,
    what: Mapping[str, str],
    begin: datetime | None,
    hardware: Mapping[str, int],
    bundle: Path | None,
    on: Screen,
) -> str:
    """Return the whole report; `bundle` is None for a shadow."""
    parts = [_title(summary, what, begin, hardware, on), _counts(summary, on)]
    if summary.scores:
        parts.append(_scores(summary, on))
    if changes:
        parts.append(_changes(summary, changes, on))
    if summary.missing_studies:
        parts.append(_missing(summary, on, shadow=bundle is None))
    return "\n\n".join(parts)


def _title(
    summary: Summary,
    what: Mapping[str, str],
    begin: datetime | None,
    hardware: Mapping[str, int],
    on: Screen,
) -> str:
    name = what.get("bundle") or f"the recorded shadow {what['shadow']}"
    span = f" received since {instant(begin)}" if begin else ""
    lines = hanging("", f"Replay of {name} over {_many(summary.studies)}{span}", on, Style.STRONG)
    if replaced := what.get("instead_of"):
        lines += hanging("  ", f"instead of: {replaced}", on)
    if points := what.get("operating_points"):
        lines += hanging("  ", f"operating points: {points}", on)
    for kind, count in sorted(hardware.items()):
        lines += hanging("  ", f"stored embeddings of {count} images and series, {kind}", on)
    return "\n".join(lines)


def _counts(summary: Summary, on: Screen) -> str:
    if not summary.compared:
        return "\n".join(hanging("", "Nothing could be compared.", on, Style.WARNING))
    more = summary.would_flag - summary.was_flagged
    lines = [
        f"compared: {_many(summary.compared)}; left out: {summary.missing_studies}",
        f"flagged: {summary.was_flagged} as served, {summary.would_flag} replayed ({more:+d}):"
        f" {summary.newly_flagged} newly, {summary.no_longer_flagged} no longer",
        f"flag rate: {summary.was_flagged / summary.compared:.1%} as served,"
        f" {summary.would_flag / summary.compared:.1%} replayed",
        f"priority: {summary.raised} higher, {summary.lowered} lower",
    ]
    if summary.no_longer_analysed:
        lines.append(f"no longer analysed (gate, intended use): {summary.no_longer_analysed}")
    return "\n".join(line for text in lines for line in hanging("", text, on))


def _scores(summary: Summary, on: Screen) -> str:
    columns = [Column(title="finding", share=1)] + [
        Column(title=title, right=True)
        for title in ("images", "mean diff.", "mean |diff.|", "largest", "correlation")
    ]
    rows: list[list[Cell]] = []
    several = len({model for model, _ in summary.scores}) > 1
    for (model, name), sums in by_finding(summary.scores):
        correlation = "-" if sums.correlation is None else f"{sums.correlation:.3f}"
        figures = (
            f"{sums.pairs}",
            f"{sums.mean_difference:+.4f}",
            f"{sums.mean_absolute:.4f}",
            f"{sums.largest:.4f}",
            correlation,
        )
        served = f", served by {model.name} {model.version} ({model.digest[:SHOWN_DIGEST]})"
        rows.append([cell(name + served * several), *(cell(figure) for figure in figures)])
    title = "\n".join(hanging("", "Scores, replayed less served", on, Style.STRONG))
    return f"{title}\n{render(columns, rows, on)}"


def by_finding(
    scores: Mapping[tuple[ModelIdentity, str], ScoreSums],
) -> list[tuple[tuple[ModelIdentity, str], ScoreSums]]:
    """Return the comparisons by finding, then by the model that was replaced."""
    return sorted(scores.items(), key=lambda each: (each[0][1], each[0][0].name, each[0][0].digest))


def _changes(summary: Summary, changes: Sequence[Change], on: Screen) -> str:
    of = f"first {len(changes)} of {summary.changed}; --json has all"
    some = of if len(changes) < summary.changed else f"{summary.changed}"
    title = hanging("", f"Studies that change ({some})", on, Style.STRONG)
    columns = [
        Column(title="study", share=3),
        Column(title="received", share=1),
        Column(title="was", share=2),
        Column(title="would be", share=2),
    ]
    rows = [
        [
            cell(change.study_instance_uid),
            cell(instant(change.received_at)),
            cell(_standing(change.was)),
            cell(_standing(change.would), Style.ALARM if change.would.flagged else Style.PLAIN),
        ]
        for change in changes
    ]
    return "\n".join([*title, render(columns, rows, on)])


def _standing(standing: Standing) -> str:
    seen = ", ".join(standing.flagged) or (
        "no flag" if standing.analysis == "analysed" else standing.analysis.replace("_", " ")
    )
    return f"{standing.priority}: {seen}"


def _missing(summary: Summary, on: Screen, *, shadow: bool) -> str:
    lines = hanging("", f"Left out: {_many(summary.missing_studies)}", on, Style.STRONG)
    for reason, count in sorted(summary.missing.items(), key=lambda each: -each[1]):
        lines += hanging(f"  {count}  ", reason.value, on)
    if Missing.UNKNOWN in summary.missing:
        lines += hanging("", MADE_BY, on)
    if summary.mendable:
        lines += hanging("", MEND_SHADOW if shadow else MEND, on)
    return "\n".join(lines)


def _many(studies: int) -> str:
    return f"{studies:,} {'study' if studies == 1 else 'studies'}"
