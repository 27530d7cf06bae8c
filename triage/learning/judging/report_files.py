"""The files of a report: one page, one JSON document, one folder of plots.

Owns their names and how plots and pictures are put to the figures. The directory is made for its
owner alone, because thumbnails are patient data.
"""

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triage.errors import PermanentError
from triage.learning.judging.evaluation import SCHEMA_VERSION, Evaluation, as_json
from triage.learning.judging.plots import DARK, LIGHT, plots_of
from triage.learning.judging.report import Report, page
from triage.learning.judging.scoring import Scored
from triage.learning.judging.thumbnails import Example, examples_of, with_pictures

PAGE: Final = "report.html"
FIGURES: Final = "evaluation.json"
PLOTS: Final = "plots"
ViewOf = Callable[[str], NDArray[np.float32]]


def drawn(scored: Scored, judged: Evaluation) -> dict[str, dict[str, tuple[bytes, bytes]]]:
    """Plots of every finding by name, light and dark."""
    found = {}
    for number, each in enumerate(judged.findings):
        light, dark = (plots_of(scored, number, each, theme) for theme in (LIGHT, DARK))
        found[each.name] = {name: (light[name], dark[name]) for name in light}
    return found


def pictured(
    scored: Scored, judged: Evaluation, view_of: ViewOf | None
) -> dict[str, tuple[Example, ...]]:
    """Confusion examples of every finding, with pictures where there is something to draw from."""
    found = {}
    for number, each in enumerate(judged.findings):
        examples = examples_of(scored, number, each.at_point.threshold)
        found[each.name] = with_pictures(examples, view_of) if view_of else examples
    return found


def document_of(report: Report, scored: Scored) -> dict[str, Any]:
    """`evaluation.json`: every figure of the page, and the score of every row."""
    return {
        "schema_version": SCHEMA_VERSION,
        "model": as_json(report.model),
        "made_at": report.made_at.isoformat().replace("+00:00", "Z"),
        "labels": {"file": report.labels, "sha256": report.labels_digest},
        "rows": report.selection,
        "scores_made_at": report.scores,
        "notes": list(report.notes),
        "evaluation": as_json(report.evaluation),
        "against": as_json(report.against),
        "comparison": as_json(tuple(report.comparison)),
        "scores": [
            {
                "subject": subject,
                "reason": reason,
                "probabilities": {
                    name: as_json(float(scored.probabilities[row, column]))
                    for column, name in enumerate(scored.findings)
                },
            }
            for row, (subject, reason) in enumerate(
                zip(scored.subjects, scored.reasons, strict=True)
            )
        ],
    }


def make_place(directory: Path) -> None:
    """Make the directory of a report. Raises PermanentError where no report can stand there."""
    try:
        if not directory.exists():
            directory.mkdir(parents=True, mode=0o700)
        (directory / PLOTS).mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise PermanentError(
            f"no report can be written to {directory}: {error.strerror}",
            hint="Name a directory of your own by --report.",
        ) from error


def write_report(report: Report, scored: Scored, directory: Path) -> Path:
    """Write all files, over those of an earlier report; return the path of the page."""
    make_place(directory)
    plots = directory / PLOTS
    for finding, pictures in report.plots.items():
        for name, (light, _) in pictures.items():
            (plots / f"{_plain(finding)}-{name}.png").write_bytes(light)
    document = json.dumps(document_of(report, scored), indent=1, ensure_ascii=True)
    (directory / FIGURES).write_text(document + "\n", "utf-8")
    (directory / PAGE).write_text(page(report), "utf-8")
    return directory / PAGE


def _plain(name: str) -> str:
    """A finding's name as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-") or "finding"
