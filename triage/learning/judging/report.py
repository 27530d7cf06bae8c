"""The evaluation as one page that needs nothing else: HTML with its pictures inside.

Owns the order in which a reader meets things: first what must not be overlooked, then all findings
in one table, then each finding with its figures, plots, groups and pictures, last what was done
and how to read it. Draws nothing and measures nothing; `report_parts` makes text safe.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from triage.learning.judging.comparing import FindingComparison
from triage.learning.judging.evaluation import Evaluation, FindingFigures
from triage.learning.judging.report_comparison import comparison_card
from triage.learning.judging.report_finding import finding_card
from triage.learning.judging.report_parts import (
    Html,
    counted,
    details,
    element,
    estimate,
    facts,
    joined,
    note,
    notes,
    of,
    table,
    tag,
    text,
    tile,
    whisker,
)
from triage.learning.judging.report_prevalence import flag_rate
from triage.learning.judging.report_style import STYLE
from triage.learning.judging.thumbnails import Example

# No script, no address but the page itself: what a hostile file name could ask for is refused too.
POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
GLOSSARY: Final = (
    ("AUROC", "chance that an image with the finding scores above one without it; 0.5 is chance"),
    ("AUPRC", "precision averaged over recall; chance gives the prevalence"),
    ("Sensitivity", "share of images with the finding that are flagged; by patient, share of"
     " patients with the finding who have any of their images with it flagged"),
    ("Specificity", "share of images without the finding that are not flagged"),
    ("PPV, NPV", "share of flagged (not flagged) images that have (do not have) the finding;"
     " both depend on how common it is, and labelled images are often enriched"),
    ("Flag rate", "share of all images that are flagged: the price of the sensitivity"),
    ("At the site", "by Bayes' rule from sensitivity and specificity, as if the images of each"
     " class looked there as they do here"),
    ("Slope, intercept", "1 and 0 where probabilities mean what they say; a slope below 1 says too"
     " extreme, an intercept below 0 too high"),
    ("Brier score", "mean squared error of the probability; compare it with that of one who always"
     " says the prevalence"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Who was judged."""

    name: str
    version: str
    digest: str
    not_for_clinical_use: bool
    calibration: str  # in words
    locally_calibrated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that the page shows."""

    model: Model
    evaluation: Evaluation
    made_at: datetime
    labels: str  # name of the file
    labels_digest: str
    selection: str  # which rows, in words
    scores: str = ""  # dtype and device class that made them, in words
    notes: Sequence[str] = ()  # what a reader must know before any figure
    plots: Mapping[str, Mapping[str, tuple[bytes, bytes]]] = field(default_factory=dict)
    examples: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    against: Model | None = None
    comparison: Sequence[FindingComparison] = ()


def page(report: Report) -> str:
    """Write the page."""
    title = f"{report.model.name} {report.model.version}: evaluation"
    body = element(
        "main",
        _opening(report),
        _overview(report),
        *(
            finding_card(
                each,
                anchor(at),
                report.plots.get(each.name, {}),
                report.examples.get(each.name, ()),
            )
            for at, each in enumerate(report.evaluation.findings)
        ),
        comparison_card(report.comparison, report.model.name, _other(report))
        if report.comparison
        else Html(""),
        _closing(report),
    )
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="referrer" content="no-referrer"><meta name="robots" content="noindex">'
        f"<title>{text(title)}</title><style>{STYLE}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'


def anchor(at: int) -> str:
    """Where on the page a finding stands."""
    return f"finding-{at + 1}"


def _other(report: Report) -> str:
    if report.against is None:
        return "the other bundle"
    return f"{report.against.name} {report.against.version}"


# --- the page from top to bottom


def _opening(report: Report) -> Html:
    model, judged = report.model, report.evaluation
    parts = [
        element("p", Html("Evaluation on labelled studies"), cls="eyebrow"),
        element("h1", text(f"{model.name} {model.version}")),
        element(
            "p",
            text(
                f"{counted(judged.subjects, 'image')} of {counted(judged.patients, 'patient')},"
                f" {report.selection},"
                f" {report.made_at:%d %B %Y, %H:%M} UTC"
            ),
            cls="soft",
        ),
    ]
    if model.not_for_clinical_use:
        words = "The bundle says so. These figures are for development only."
        parts.append(note("Not for clinical use.", words, "stop"))
    if not model.locally_calibrated:
        words = (
            "The daemon serves it as a shadow until `triage calibrate` has been run on local"
            " studies."
        )
        parts.append(note("Not calibrated on local studies.", words))
    parts.append(notes("Note.", (*report.notes, *judged.warnings)))
    return element("header", *parts)


def _overview(report: Report) -> Html:
    judged = report.evaluation
    lost = judged.gated + judged.failed
    tiles = element(
        "ul",
        tile("Images judged", text(judged.scored), text(f"of {judged.subjects}")),
        tile("Turned away by the gate", text(judged.gated), _share(judged.gated, judged.subjects)),
        tile("Failed", text(judged.failed), _share(judged.failed, judged.subjects)),
        tile("Patients", text(judged.patients), Html("drawn whole by the bootstrap")),
        cls="tiles",
    )
    link = element("a", Html("To the comparison"), href="#comparison")
    return element(
        "section",
        element("h2", Html("At a glance")),
        tiles,
        _reasons(judged) if lost else Html(""),
        _overview_table(judged),
        element("p", link) if report.comparison else Html(""),
        cls="card",
    )


def _share(part: int, whole: int) -> Html:
    return text(f"{part / whole:.1%} of all") if whole else Html("")


def _reasons(judged: Evaluation) -> Html:
    rows = [
        [text(reason), text(count)]
        for reason, count in sorted(judged.reasons.items(), key=lambda entry: -entry[1])
    ]
    caption = "They have no probability and take part in no figure but where it is said."
    return details(
        f"Why {judged.gated + judged.failed} images have no score",
        table(("Reason", "Images"), rows, caption=caption),
    )


def _overview_table(judged: Evaluation) -> Html:
    rows = [
        [
            element("a", text(each.name), href=f"#{anchor(at)}"),
            of(each.positives, each.images),
            whisker(each.auroc, middle=0.5),
            estimate(each.auroc),
            estimate(each.at_point.sensitivity, 2),
            estimate(each.at_point.specificity, 2),
            flag_rate(each),
            _support(each),
        ]
        for at, each in enumerate(judged.findings)
    ]
    heads = (
        "Finding",
        "Present",
        "",
        "AUROC",
        "Sensitivity",
        "Specificity",
        "Flag rate",
        "Threshold",
    )
    return table(
        heads,
        rows,
        caption="Every finding at its operating point, with 95 % intervals",
        words=(7,),
    )


def _support(each: FindingFigures) -> Html:
    if each.at_point.refusal:
        return tag("not supported", "warn")
    return tag("supported", "good")


def _closing(report: Report) -> Html:
    judged, model = report.evaluation, report.model
    pairs = [
        ("Bundle", element("span", text(model.digest), cls="mono")),
        ("Calibration", text(model.calibration)),
        ("Labels", joined([text(report.labels), _mono(report.labels_digest)], " ")),
        ("Rows", text(report.selection)),
        ("Scores", text(f"made at {report.scores}" if report.scores else "not recorded")),
        (
            "Intervals",
            text(
                f"{judged.confidence:.0%}. Areas and differences: percentile bootstrap over"
                f" patients, {judged.rounds} rounds, seed {judged.seed}. Shares: Wilson. Slope and"
                f" intercept: Wald, variance summed by patient. PPV, NPV and flag rate at the site:"
                f" Wilson's limits of sensitivity and specificity joined (MOVER)."
            ),
        ),
    ]
    if report.against is not None:
        pairs.insert(1, ("Compared with", _mono(report.against.digest)))
    return element(
        "section",
        element("h2", Html("How this was made")),
        Html("<br>"),
        facts(pairs),
        element("h3", Html("How to read it")),
        facts((name, text(words)) for name, words in GLOSSARY),
        cls="card",
    )


def _mono(words: str) -> Html:
    return element("span", text(words), cls="mono")
