"""How sensitive and specific a bundle was measured to be, for one finding.

Read from `evaluation.json` of `triage evaluate`, which has counts, or from the figures inside a
bundle, which may have none: then the measurement is taken as exact, and said to be. Owns no
measuring.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triage.learning.waiting.reading_room import Proportion, SimulationError

MAXIMUM_BYTES = 256 * 1024 * 1024
NOT_MEASURED = (
    "Run `triage evaluate BUNDLE --labels …` and name its evaluation.json with --evaluation, or"
    " give --sensitivity and --specificity."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """One finding at its operating point."""

    finding: str
    sensitivity: Proportion
    specificity: Proportion


def read_evaluation(path: Path, finding: str | None) -> Performance:
    """Read one finding of `evaluation.json`; raises SimulationError."""
    if path.stat().st_size > MAXIMUM_BYTES:
        raise SimulationError(f"{path} is too large for an evaluation", hint=NOT_MEASURED)
    try:
        document = json.loads(path.read_text("utf-8"))
        found = _named(document["evaluation"]["findings"], finding, str(path))
        return _counted(found)
    except (KeyError, TypeError, ValueError, RecursionError):
        raise SimulationError(f"{path} is no evaluation.json", hint=NOT_MEASURED) from None


def measured(figures: Mapping[str, Any], finding: str | None) -> Performance:
    """Return what the figures inside a bundle say of one finding; raises SimulationError."""
    try:
        if "findings" in figures:
            return _counted(_named(figures["findings"], finding, "the bundle"))
        listed = figures.get("per_finding") or {}
        rows = [{"name": name, **values} for name, values in listed.items()]
        row = _named(rows, finding, "the bundle")
        return Performance(
            finding=row["name"],
            sensitivity=_stated(row, "sensitivity", "positives"),
            specificity=_stated(row, "specificity", "negatives"),
        )
    except (KeyError, TypeError, ValueError):
        raise SimulationError(
            "the bundle says no sensitivity and specificity", hint=NOT_MEASURED
        ) from None


def _named(rows: Sequence[Mapping[str, Any]], finding: str | None, where: str) -> Mapping[str, Any]:
    names = [row["name"] for row in rows]
    if finding is None and len(rows) == 1:
        return rows[0]
    if finding not in names:
        listed = ", ".join(names) or "none"
        raise SimulationError(
            f"name one finding of {where} with --finding: {listed}"
            if finding is None
            else f"{where} has no finding {finding!r}: {listed}",
            hint=NOT_MEASURED if not names else "A simulation is about one finding.",
        )
    return rows[names.index(finding)]


def _counted(row: Mapping[str, Any]) -> Performance:
    """Take positives without a score as missed: what was not looked at is not flagged."""
    point = row["at_point"]
    counts = point["counts"]
    hits, negatives = counts["hits"], counts["false_alarms"] + counts["passes"]
    positives = hits + counts["misses"]
    if not positives or not negatives:
        raise SimulationError(
            f"{row['name']} was evaluated on {positives} with and {negatives} without the finding",
            hint="Evaluate on subjects of both kinds.",
        )
    of_all = point["sensitivity_of_all"]["value"]
    trials = max(positives, round(hits / of_all)) if of_all else positives
    return Performance(
        finding=row["name"],
        sensitivity=Proportion(estimate=hits / trials, trials=float(trials)),
        specificity=Proportion(estimate=counts["passes"] / negatives, trials=float(negatives)),
    )


def _stated(row: Mapping[str, Any], name: str, count: str) -> Proportion:
    estimate, trials = float(row[name]), row.get(count)
    if not 0.0 <= estimate <= 1.0 or (trials is not None and not float(trials) > 0):
        raise ValueError(name)
    return Proportion(estimate=estimate, trials=None if trials is None else float(trials))
