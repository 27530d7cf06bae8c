"""What `triage evaluate` says on a terminal: the figures, and whatever speaks against them."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from triage.cli.table import (
    Cell,
    Column,
    Line,
    Screen,
    Style,
    cell,
    hanging,
    render,
    screen,
)
from triage.cli.text import clean, counted

if TYPE_CHECKING:
    from triage.learning.judging.comparing import Difference, FindingComparison
    from triage.learning.judging.evaluation import FindingFigures
    from triage.learning.judging.prevalence import AtPrevalence
    from triage.learning.judging.report import Report
    from triage.learning.judging.statistics import Estimate

SHOWN = 4  # differences; the page has all of them
INDENT = "  "


def tell(report: "Report", page: Path) -> None:
    """Print the evaluation and where its page is."""
    judged, model, on = report.evaluation, report.model, screen()
    if model.not_for_clinical_use:
        print("NOT FOR CLINICAL USE")
    head = (
        f"{model.name} {model.version} on {judged.subjects} images of {judged.patients}"
        f" patients ({report.selection}): {judged.scored} judged, {judged.gated} turned away"
        f" by the gate, {judged.failed} failed."
    )
    columns = (
        Column(title="FINDING", share=1),
        Column(title="POSITIVE", right=True),
        Column(title="AUROC", right=True),
        Column(title="SENSITIVITY", right=True),
        Column(title="SPECIFICITY", right=True),
        Column(title="FLAGGED", right=True),
        Column(title="THRESHOLD"),
    )
    table = render(columns, [_row(each) for each in judged.findings], on)
    print("\n".join([*hanging("", head, on), "", table]))
    for each in judged.findings:
        print("\n".join(["", *_finding(each, on)]))
    for found in report.comparison:
        print("\n".join(["", *_comparison(found, _other(report), on)]))
    print()
    for words in (*report.notes, *judged.warnings):
        print("\n".join(hanging("Note: ", words, on)))
    if any(each.at_prevalence is None for each in judged.findings):
        words = (
            "PPV, NPV and flag rate hold for images in which the finding is as common as in these;"
            " give your site's --prevalence."
        )
        print("\n".join(hanging("Note: ", words, on)))
    print(clean(f"Report: {page} (patient data)"))


def _other(report: "Report") -> str:
    return f"{report.against.name} {report.against.version}" if report.against else ""


def _row(each: "FindingFigures") -> list[Cell]:
    point = each.at_point
    supported = cell("not supported", Style.WARNING) if point.refusal else cell("supported")
    return [
        cell(each.name, Style.STRONG),
        cell(f"{each.positives} of {each.images}"),
        _figure(each.auroc, 3),
        _figure(point.sensitivity),
        _figure(point.specificity),
        _figure(point.flag_rate)[:1],
        supported,
    ]


def _figure(value: "Estimate", digits: int = 2) -> Cell:
    """The figure, and below it its interval."""
    if math.isnan(value.value):
        return cell("-")
    lines = [Line(text=f"{value.value:.{digits}f}")]
    if value.interval:
        low, high = f"{value.interval.low:.{digits}f}", f"{value.interval.high:.{digits}f}"
        lines.append(Line(text=f"{low}-{high}", style=Style.FAINT))
    return lines


# --- below the table


def _finding(each: "FindingFigures", on: Screen) -> Iterator[str]:
    yield on.paint(clean(each.name), Style.STRONG)
    patients = each.at_point.by_patient
    together = patients.found + patients.missed
    if together < each.positives:
        words = f"{patients.found} of {together} found, {_told(patients.sensitivity)}"
        yield from hanging(f"{INDENT}Patients: ", words, on)
    if each.at_prevalence is not None:
        yield from hanging(INDENT, _site(each.at_prevalence), on)
    fitted = each.calibration_of_site
    where = " there" if each.at_prevalence else ""
    words = f"Calibration{where}: slope {_told(fitted.slope)}, intercept {_told(fitted.intercept)}"
    yield from hanging(INDENT, words, on)
    for warning in each.warnings:
        yield from hanging(f"{INDENT}! ", warning, on, Style.WARNING)


def _site(site: "AtPrevalence") -> str:
    return (
        f"At a prevalence of {100 * site.prevalence:.3g}%, {site.source}:"
        f" PPV {_told(site.positive_predictive_value)},"
        f" NPV {_told(site.negative_predictive_value)}, flag rate {_told(site.flag_rate)}"
    )


def _told(value: "Estimate") -> str:
    if math.isnan(value.value):
        return "cannot be told"
    if value.interval is None:
        return f"{value.value:.2f}"
    return f"{value.value:.2f} ({value.interval.low:.2f} to {value.interval.high:.2f})"


def _comparison(each: "FindingComparison", other: str, on: Screen) -> Iterator[str]:
    yield on.paint(clean(f"{each.name}, against {other}"), Style.STRONG)
    for difference in each.differences[:SHOWN]:
        yield from hanging(INDENT, _difference(difference), on)
    new = sum(change.flagged_by_first for change in each.changes)
    yield f"{INDENT}{new} newly flagged, {len(each.changes) - new} no longer"
    one, two = each.first_without_score, each.second_without_score
    for what, first, second in (
        ("with the finding", one.gated_with_finding, two.gated_with_finding),
        ("without it", one.gated_without, two.gated_without),
    ):
        if first or second:
            images = counted(first, "image", "images")
            yield f"{INDENT}Turned away {what}: {images}, by the other {second}"
    for warning in each.warnings:
        yield from hanging(f"{INDENT}! ", warning, on, Style.WARNING)


def _difference(found: "Difference") -> str:
    if not math.isfinite(found.difference):
        return f"{found.measure}: {found.verdict}"
    span = ""
    if found.interval:
        span = f" ({found.interval.low:+.3f} to {found.interval.high:+.3f})"
    return f"{found.measure}: {found.difference:+.3f}{span}, {found.verdict}"
