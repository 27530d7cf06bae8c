"""The page of results: Markdown from what `learning` has measured. Knows no model and no file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.learning_cost import Cost
from tests.benchmarks.learning_judging import BOTH, SEVERITIES, BySource, Damage
from tests.benchmarks.learning_runs import SOURCES
from triage.learning.judging.comparing import Difference
from triage.learning.judging.corruption import Corruption
from triage.learning.judging.statistics import Estimate

TITLE: Final = (
    "All methods on real radiographs: encoders of this size test the tools, not the papers"
)
SOURCE_NAMES: Final = {
    "NIH": "NIH ChestX-ray14, matched pairs (mostly adults)",
    "Kermany": "Kermany (children of 1 to 5 years)",
}
MARK: Final = {True: " **(quoted as best)**", False: ""}
GAINS: Final = {"better": "gain", "worse": "loss"}
ALONE: Final = "if looked at alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One model: what it reaches on each source, and what it takes."""

    number: str
    name: str
    by_source: Mapping[str, BySource]  # BOTH too
    refusal: str  # why no sensitivity stands behind its point; "" where one does
    validation_auroc: float
    training_s: float
    cost: Cost | None = None  # None: a baseline, which is no bundle
    best: bool = False
    reference: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All that stands on the page."""

    lines: Sequence[Line]
    counts: Mapping[str, str]  # rows of each split, in words
    refusals: Mapping[str, str]  # of each source's own positives, in words
    damage: Mapping[str, Damage]  # by model
    maps: Sequence[str]  # Markdown
    waiting: Sequence[str]  # Markdown
    served: str
    measured: str  # when and on what


def page(found: Findings) -> str:
    """Everything between the markers of the page."""
    parts = [
        f"## {TITLE}",
        "",
        found.measured,
        *(f"- {words}" for words in found.counts.values()),
        "",
        *_explained(),
    ]
    for source in SOURCES:
        parts += ["", f"### Test split, {SOURCE_NAMES[source]}", "", *_table(found.lines, source)]
    parts += ["", "### At the point, both sources together", "", *_at_point(found.lines)]
    parts += ["", "### Points that the positives can support", ""]
    parts += [f"- {source}: {words}" for source, words in found.refusals.items()]
    parts += ["", "### Cost", "", *_costs(found.lines)]
    parts += ["", "### What brings a gain", "", *_gains(found.lines)]
    parts += ["", "### Beside the plain baselines", "", *_beside(found.lines)]
    parts += ["", "### 8. Damage to the image", "", *_damage(found.damage)]
    parts += ["", "### Maps of evidence", "", *found.maps]
    parts += ["", "### Waiting", "", *found.waiting]
    parts += ["", "### Served by the daemon", "", found.served]
    return "\n".join(parts)


def _explained() -> list[str]:
    return [
        "Intervals hold 95 %: of areas by a bootstrap over patients, of shares Wilson's, which",
        "takes images for independent. Sensitivity and specificity are those at the point",
        "that `triage calibrate` chose on the validation split of both sources for a sensitivity",
        "of 0.95 with 95 % confidence. The difference is AUROC less that of the reference on the",
        "same images, looked at alone; *What brings a gain* says what is left of it among all.",
        "Validation AUROC, of both sources, chose the best; training was stopped by it too, so it",
        "is too good. The gate may turn images away: they have no score, and `scored` counts the",
        "others. Rows of no matched pair are left out, of training too: how well the file is",
        "compressed tells their class.",
    ]


def _table(lines: Sequence[Line], source: str) -> list[str]:
    rows = [
        "| | Method | scored | AUROC | of seeds | AUPRC | Sensitivity | Specificity | Difference |",
        "|---|---|--:|---|---|---|---|---|---|",
    ]
    for line in lines:
        told = line.by_source[source]
        figures, point = told.figures, told.figures.at_point
        total = figures.images + figures.gated + figures.failed
        seeds = ", ".join(f"{area:.2f}" for area in told.seeds[1:])
        cells = [
            line.number,
            line.name + MARK[line.best],
            f"{figures.images} of {total}",
            _estimate(figures.auroc),
            seeds,
            _estimate(figures.auprc),
            _estimate(point.sensitivity) + ("" if not line.refusal else " (refused)"),
            _estimate(point.specificity),
            _difference(told, reference=line.reference),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def _at_point(lines: Sequence[Line]) -> list[str]:
    rows = [
        "| Method | Sensitivity | the same, no score counted as missed | Specificity | Flagged |",
        "|---|---|---|---|---|",
    ]
    for line in lines:
        point = line.by_source[BOTH].figures.at_point
        cells = [
            line.name + MARK[line.best],
            _estimate(point.sensitivity) + ("" if not line.refusal else " (refused)"),
            _estimate(point.sensitivity_of_all),
            _estimate(point.specificity),
            _estimate(point.flag_rate),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return [
        *rows,
        "",
        "The point was chosen on both sources, so its promise is of both together, and one of them",
        "may pay for the other. Half of these images are abnormal: at a clinic's prevalence fewer",
        "would be flagged.",
    ]


def _costs(lines: Sequence[Line]) -> list[str]:
    rows = [
        "| Method | validation AUROC | training, s | image, ms | decode, ms |"
        " bundle, MiB | serving, MiB |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for line in lines:
        cost = line.cost
        cells = [line.name, f"{line.validation_auroc:.3f}", f"{line.training_s:.0f}"]
        cells += [f"{cost.model_ms:.1f}", f"{cost.decode_ms:.1f}"] if cost else ["", ""]
        cells += [f"{cost.disk_mib:.1f}", f"{cost.memory_mib:.0f}"] if cost else ["", ""]
        rows.append("| " + " | ".join(cells) + " |")
    return [
        *rows,
        "",
        "Training is processor time of the whole verb, from reading the images to the finished",
        "bundle. An image is one radiograph alone on one thread, from its views to its findings,",
        "by the models that the worker opens; `bundle` counts every encoder that it names,",
        "`serving` is the largest memory of that process. The baselines are no bundles and cannot",
        "be served.",
    ]


def _gains(lines: Sequence[Line]) -> list[str]:
    methods = [line for line in lines if line.cost is not None and not line.reference]
    count = len(methods) * len(SOURCES)
    said = []
    for line in methods:
        verdicts = {source: _verdict(line.by_source[source]) for source in SOURCES}
        words = ", ".join(f"{source}: {verdict}" for source, verdict in verdicts.items())
        said.append(f"- {line.name} {_brings(set(verdicts.values()))} ({words})")
    return [
        f"{len(methods)} methods on {len(SOURCES)} sources are {count} comparisons with one",
        f"reference. Looked at alone, each errs once in twenty, so {count * 0.05:.0f} of them may",
        "show a difference by chance: that is no more than a hint. A gain or a loss without a",
        f"further word holds among all {count}, with intervals of 1 - 0.05 / {count} (Bonferroni).",
        "",
        *said,
        "",
        "Every method but the reference is off by default: `triage train` takes the one that",
        "`--method` names, and a bundle serves what it was made with and nothing else. A gain here",
        "is one of this data and these encoders: measure your own before you choose.",
    ]


def _brings(verdicts: set[str]) -> str:
    if {"gain", "loss"} <= verdicts:
        return "brings a gain over the reference on one source and a loss on the other"
    if "gain" in verdicts:
        return "brings a gain over the reference"
    if f"gain {ALONE}" in verdicts:
        return "brings no gain over the reference that holds among all comparisons"
    return "brings no gain over the reference"


def _verdict(told: BySource) -> str:
    alone, among_all = told.difference, told.among_all
    if alone is None or among_all is None:
        return "no difference"
    if among_all.verdict in GAINS:
        return GAINS[among_all.verdict]
    if alone.verdict in GAINS:
        return f"{GAINS[alone.verdict]} {ALONE}"
    return alone.verdict


def _beside(lines: Sequence[Line]) -> list[str]:
    methods = [line for line in lines if line.cost is not None]
    names = list(methods[0].by_source[next(iter(SOURCES))].over)
    told = {
        line.name: [line.by_source[source].over[name] for source in SOURCES for name in names]
        for line in methods
    }
    verdicts = [each.verdict for row in told.values() for each in row]
    better, worse = (verdicts.count(word) for word in GAINS)
    return [
        f"AUROC less that of each baseline on the same images. Of these {len(verdicts)}",
        f"comparisons, each looked at alone, {better} are better, {worse} worse; of so many",
        f"{len(verdicts) * 0.05:.0f} may be one or the other by chance.",
        "",
        "| Method | " + " | ".join(f"{source}: {n}" for source in SOURCES for n in names) + " |",
        "|---|" + "---|" * len(SOURCES) * len(names),
        *("| " + " | ".join([name, *map(_beyond, row)]) + " |" for name, row in told.items()),
    ]


def _beyond(each: Difference) -> str:
    return _signed(each) + (f" {each.verdict}" if each.verdict in GAINS else "")


def _damage(found: Mapping[str, Damage]) -> list[str]:
    names = list(found)
    steps = ", ".join(map(str, SEVERITIES))
    head = [f"{name}, {source}" for name in names for source in SOURCES]
    rows = [
        f"AUROC at severities {steps} of 5, without the gate; in brackets the share that the gate",
        "turns away at the highest.",
        "",
        "| Damage | " + " | ".join(head) + " |",
        "|---|" + "---|" * len(head),
    ]
    for kind in Corruption:
        cells = []
        for name in names:
            for source in SOURCES:
                by_step = [found[name][kind][step][source] for step in SEVERITIES]
                areas = ", ".join(f"{each.auroc:.2f}" for each in by_step)
                cells.append(f"{areas} ({by_step[-1].gated:.0%})")
        rows.append(f"| {kind} | " + " | ".join(cells) + " |")
    return rows


def _estimate(value: Estimate) -> str:
    if math.isnan(value.value):
        return "-"
    if value.interval is None:
        return f"{value.value:.2f}"
    return f"{value.value:.2f} ({value.interval.low:.2f} to {value.interval.high:.2f})"


def _difference(told: BySource, *, reference: bool) -> str:
    if reference or told.difference is None:
        return "reference" if reference else "-"
    return _signed(told.difference)


def _signed(each: Difference) -> str:
    span = ""
    if each.interval is not None:
        span = f" ({each.interval.low:+.2f} to {each.interval.high:+.2f})"
    return f"{each.difference:+.2f}{span}"
