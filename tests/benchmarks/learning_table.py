"""The page of results: Markdown from what `learning` has measured. Knows no model and no file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.learning_cost import Cost
from tests.benchmarks.learning_judging import SEVERITIES, BySource, Damaged
from tests.benchmarks.learning_runs import SOURCES
from triage.learning.judging.corruption import Corruption
from triage.learning.judging.statistics import Estimate

TITLE: Final = (
    "All methods on real radiographs: encoders of this size test the tools, not the papers"
)
ZERO_SHOT: Final = (
    "| 0 | zero-shot | not measured here: needs gated weights (prompts are read by MedSigLIP's text"
    " tower, and no small twin of it was trained to align pictures and texts) | | | | | | |"
)
SOURCE_NAMES: Final = {
    "NIH": "NIH ChestX-ray14, matched pairs (mostly adults)",
    "Kermany": "Kermany (children of 1 to 5 years)",
}
MARK: Final = {True: " **(quoted as best)**", False: ""}
GAINS: Final = {"better": "gain", "worse": "loss"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One model: what it reaches on each source, and what it takes."""

    number: str
    name: str
    by_source: Mapping[str, BySource]
    refusal: str  # why no sensitivity stands behind its point; "" where one does
    validation_auroc: float
    training_s: float
    training_mib: float | None = None
    cost: Cost | None = None  # None: a baseline, which is no bundle
    best: bool = False
    reference: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All that stands on the page."""

    lines: Sequence[Line]
    counts: Mapping[str, str]  # rows of each split, in words
    refusals: Mapping[str, str]  # of each source's own positives, in words
    damage: Mapping[str, Mapping[Corruption, Mapping[int, Mapping[str, Damaged]]]]
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
    parts += ["", "### Points that the positives can support", ""]
    parts += [f"- {source}: {words}" for source, words in found.refusals.items()]
    parts += ["", "### Cost", "", *_costs(found.lines)]
    parts += ["", "### What brings a gain", "", *_gains(found.lines)]
    parts += ["", "### 8. Damage to the image", "", *_damage(found.damage)]
    parts += ["", "### Served by the daemon", "", found.served]
    return "\n".join(parts)


def _explained() -> list[str]:
    return [
        "Intervals hold 95 %, by a bootstrap over patients. Sensitivity and specificity are those",
        "at the point that `triage calibrate` chose on the validation split of both sources for a",
        "sensitivity of 0.95 with 95 % confidence. The difference is AUROC less that of the",
        "reference on the same images. Validation AUROC, of both sources, chose the best; training",
        "was stopped by it too, so it is too good. The gate may turn images away: they have no",
        "score, and `scored` counts the others. Rows of no matched pair are left out, of training",
        "too: how well the file is compressed tells their class.",
    ]


def _table(lines: Sequence[Line], source: str) -> list[str]:
    rows = [
        "| | Method | scored | AUROC | of seeds | AUPRC | Sensitivity | Specificity | Difference |",
        "|---|---|--:|---|---|---|---|---|---|",
        ZERO_SHOT,
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


def _costs(lines: Sequence[Line]) -> list[str]:
    rows = [
        "| Method | validation AUROC | training, s | training, MiB | image, ms | decode, ms |"
        " bundle, MiB | serving, MiB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for line in lines:
        cost = line.cost
        cells = [line.name, f"{line.validation_auroc:.3f}", f"{line.training_s:.0f}"]
        cells += [f"{line.training_mib:.0f}" if line.training_mib else ""]
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
    said = []
    for line in lines:
        if line.reference or line.cost is None:
            continue
        verdicts = {source: _verdict(told) for source, told in line.by_source.items()}
        words = ", ".join(f"{source}: {verdict}" for source, verdict in verdicts.items())
        brings = "brings a gain" if "gain" in verdicts.values() else "brings no gain"
        if "gain" in verdicts.values() and "loss" in verdicts.values():
            brings = "brings a gain on one source and a loss on the other"
        said.append(f"- {line.name} {brings} over the reference ({words})")
    return [
        *said,
        "",
        "Every method but the reference is off by default: `triage train` takes the one that",
        "`--method` names, and a bundle serves what it was made with and nothing else. A gain here",
        "is one of this data and these encoders, and of so many comparisons one in twenty shows a",
        "difference by chance: measure your own before you choose.",
    ]


def _verdict(told: BySource) -> str:
    if told.difference is None:
        return "no difference"
    return GAINS.get(told.difference.verdict, told.difference.verdict)


def _damage(
    found: Mapping[str, Mapping[Corruption, Mapping[int, Mapping[str, Damaged]]]],
) -> list[str]:
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
    each = told.difference
    if reference or each is None:
        return "reference" if reference else "-"
    span = ""
    if each.interval is not None:
        span = f" ({each.interval.low:+.2f} to {each.interval.high:+.2f})"
    return f"{each.difference:+.2f}{span}"
