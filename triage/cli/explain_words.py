"""What `triage explain --faithfulness` found, for people and for programs.

Where a method is no better than a baseline, or its maps survive shuffled weights, that is said in
the first lines and not only in a cell of the table.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from triage.cli.table import Cell, Column, Line, Style, cell, hanging, render, screen

if TYPE_CHECKING:
    from triage.inference.bundle import Bundle
    from triage.learning.explaining.faithfulness import Compared, Stayed
    from triage.learning.explaining.trials import Report

FEWEST = 20  # patients below which an interval is too wide to say much
NOT_A_READER = (
    "A map that passes says what this model used. It does not say that the model is right, and"
    " it outlines no lesion: nothing of it belongs on a worklist."
)


def document(report: "Report", bundle: "Bundle") -> dict[str, Any]:
    """Return the report as the JSON document of the verb."""
    return {
        "model": dataclasses.asdict(bundle.identity),
        "pictures": report.pictures,
        "patients": report.patients,
        "positives": report.positives,
        "planted": report.planted,
        "left_out": report.left_out,
        "trial": dataclasses.asdict(report.trial),
        "same_order": report.same,
        "conclusions": conclusions(report),
        "comparisons": [
            {**dataclasses.asdict(each), "verdict": each.verdict} for each in report.compared
        ],
        "shuffled_weights": [
            {**dataclasses.asdict(each), "verdict": each.verdict} for each in report.stayed
        ],
    }


def tell(report: "Report", bundle: "Bundle") -> None:
    """Print conclusions, then the table that they come from."""
    on = screen()
    positives = ", ".join(f"{name} {count}" for name, count in report.positives.items())
    what = "phantoms with a planted lesion" if report.planted else "labelled images"
    identity = bundle.identity
    head = f"{identity.name} {identity.version} on {report.pictures} {what}: {positives}"
    print("\n".join(hanging("", head, on, Style.STRONG)))
    if report.left_out:
        print(on.paint(f"{report.left_out} images could not be read.", Style.WARNING))
    print()
    for line in [*conclusions(report), NOT_A_READER]:
        print("\n".join(hanging("- ", line, on)))
    print()
    columns = [Column(title="MEASURE"), Column(title="METHOD"), Column(title="VALUE", right=True)]
    baselines = list(dict.fromkeys(each.baseline for each in report.compared))
    columns += [Column(title=f"OVER {name.upper()}", right=True) for name in baselines]
    print(render(columns, _rows(report, baselines), on, spaced=True))
    print()
    columns = [Column(title="SHUFFLED"), Column(title="METHOD")]
    columns += [Column(title="STAYED", right=True), Column(title="VERDICT", share=1)]
    print(render(columns, [_stayed(each) for each in report.stayed], on))
    print()
    for line in _notes(report):
        print("\n".join(hanging("", line, on, Style.FAINT)))


def conclusions(report: "Report") -> list[str]:
    """Return one sentence per method and question, the unwelcome ones in the same plain words."""
    lines = []
    if report.patients < FEWEST:
        lines.append(
            f"Only {report.patients} patients: fewer than {FEWEST} say little, whatever follows."
        )
    for method, other in report.same.items():
        lines.append(f"{method} maps put the patches in the order of the {other} maps.")
    for method in dict.fromkeys(each.method for each in report.compared):
        mine = [each for each in report.compared if each.method == method]
        won = [each for each in mine if each.verdict.startswith("better")]
        lost = [each for each in mine if each not in won]
        text = f"{method} maps beat the baseline in {len(won)} of {len(mine)} comparisons"
        if lost:
            named = "; ".join(f"{each.measure}: {each.verdict}" for each in lost)
            text += f". They do not in: {named}"
        lines.append(text + ".")
        kept = [
            each
            for each in report.stayed
            if each.method == method and not each.verdict.startswith("falls:")
        ]
        if kept:
            named = "; ".join(f"{each.shuffled}: {each.verdict}" for each in kept)
            lines.append(f"{method} maps with shuffled weights: {named}.")
        else:
            lines.append(f"{method} maps fall apart whichever weights are shuffled, as they must.")
    return lines


def _notes(report: "Report") -> list[str]:
    trial = report.trial
    notes = [
        "Deletion and insertion: mean logit while patches are taken out or put in, in the map's"
        " order, by the mean value or by a blurred picture; each fill has its own artefacts, so"
        " both are told. OVER: by how much a method is better, paired, with the 95 % interval over"
        f" patients ({trial.rounds} bootstrap rounds, seed {trial.seed}). STAYED: rank correlation,"
        " without its sign, of maps before and after. One interval in twenty errs by chance.",
    ]
    if report.planted:
        notes.append(
            "Hits: the highest patch touches the planted lesion. Usual place: where the other"
            " phantoms have it. Phantoms are not patients: a hit there is none on a radiograph."
        )
    return notes


def _rows(report: "Report", baselines: Sequence[str]) -> list[list[Cell]]:
    """One row per measure and method: its value, and by how much it is better than each."""
    rows = []
    for measure, method in dict.fromkeys((each.measure, each.method) for each in report.compared):
        mine = {
            each.baseline: each
            for each in report.compared
            if (each.measure, each.method) == (measure, method)
        }
        value = next(iter(mine.values())).value.value
        row = [cell(measure), cell(method), cell(f"{value:.2f}")]
        rows.append([*row, *(_difference(mine.get(name)) for name in baselines)])
    return rows


def _difference(each: "Compared | None") -> Cell:
    if each is None:
        return cell("-", Style.FAINT)
    won = each.verdict.startswith("better")
    interval = each.difference.interval
    lines = [Line(text=f"{each.difference.value:+.2f}", style=Style.STRONG if won else Style.PLAIN)]
    if interval is not None:
        lines.append(Line(text=f"{interval.low:+.2f} to {interval.high:+.2f}", style=Style.FAINT))
    if not won:
        word = each.verdict.removesuffix(f" than {each.baseline}")
        lines.append(Line(text=word, style=Style.WARNING))
    return lines


def _stayed(each: "Stayed") -> list[Cell]:
    style = Style.PLAIN if each.verdict.startswith("falls:") else Style.WARNING
    interval = each.correlation.interval
    shown = f"{each.correlation.value:.2f}"
    shown += "" if interval is None else f" ({interval.low:.2f} to {interval.high:.2f})"
    return [cell(each.shuffled), cell(each.method), cell(shown), cell(each.verdict, style)]
