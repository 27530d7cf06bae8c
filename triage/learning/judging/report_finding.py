"""One finding as a section of the report: figures, table, curves, calibration, groups, pictures."""

from collections.abc import Mapping, Sequence

from triage.learning.judging.evaluation import FindingFigures
from triage.learning.judging.plots import TITLES, described
from triage.learning.judging.report_parts import (
    Html,
    counted,
    details,
    element,
    estimate,
    estimate_tile,
    facts,
    image_data,
    joined,
    note,
    number,
    of,
    plot,
    span,
    table,
    tag,
    text,
    whisker,
)
from triage.learning.judging.subgroups import Subgroup
from triage.learning.judging.thumbnails import Example, Kind


def finding_card(
    each: FindingFigures,
    anchor: str,
    plots: Mapping[str, tuple[bytes, bytes]],
    examples: Sequence[Example],
) -> Html:
    """One finding: figures, table, curves, calibration, groups, pictures."""
    return element(
        "section",
        element("h2", text(each.name)),
        element("p", text(_counted(each)), cls="soft"),
        *(note("Take care.", words) for words in each.warnings),
        _tiles(each),
        _matrix(each),
        _plots(plots, each),
        _calibration(each),
        _subgroups(each),
        _examples(examples),
        cls="card",
        id=anchor,
    )


def _counted(each: FindingFigures) -> str:
    words = (
        f"{counted(each.images, 'image')} of {counted(each.patients, 'patient')},"
        f" {each.positives} with the finding ({each.prevalence:.1%})"
        if each.images
        else "no image with a score and a known truth"
    )
    extra = [
        f"{count} {what}"
        for count, what in (
            (each.masked, "not labelled for it"),
            (each.gated, "turned away"),
            (each.failed, "failed"),
        )
        if count
    ]
    return f"{words}; {', '.join(extra)}" if extra else words


def _tiles(each: FindingFigures) -> Html:
    point, counts = each.at_point, each.at_point.counts
    positives, negatives = counts.hits + counts.misses, counts.false_alarms + counts.passes
    flagged, every = counts.hits + counts.false_alarms, positives + negatives
    return element(
        "ul",
        estimate_tile("AUROC", each.auroc, "chance 0.5", 0.5),
        estimate_tile("AUPRC", each.auprc, f"chance {each.prevalence:.2f}", each.prevalence),
        estimate_tile("Sensitivity", point.sensitivity, f"{counts.hits} of {positives}"),
        estimate_tile("Specificity", point.specificity, f"{counts.passes} of {negatives}"),
        estimate_tile("PPV", point.positive_predictive_value, f"{counts.hits} of {flagged}"),
        estimate_tile(
            "NPV", point.negative_predictive_value, f"{counts.passes} of {every - flagged}"
        ),
        estimate_tile("Flag rate", point.flag_rate, f"{flagged} of {every}"),
        cls="tiles",
    )


def _matrix(each: FindingFigures) -> Html:
    point, counts = each.at_point, each.at_point.counts

    def cell(count: int, words: str, cls: str) -> Html:
        return element("td", element("b", text(count)), element("span", text(words)), cls=cls)

    head = element(
        "tr",
        element("td", Html("")),
        element("th", Html("finding there"), scope="col"),
        element("th", Html("not there"), scope="col"),
    )
    flagged = element(
        "tr",
        element("th", Html("flagged"), scope="row"),
        cell(counts.hits, "found", "right"),
        cell(counts.false_alarms, "false alarms", "wrong"),
    )
    passed = element(
        "tr",
        element("th", Html("not flagged"), scope="row"),
        cell(counts.misses, "missed", "wrong"),
        cell(counts.passes, "rightly passed", "right"),
    )
    of_all = ""
    if point.sensitivity_of_all.value != point.sensitivity.value and each.positives:
        of_all = (
            f" With images that got no score counted as missed, the sensitivity is"
            f" {point.sensitivity_of_all.value:.3f}."
        )
    words = f"Flagged from a probability of {point.threshold:.4f}.{of_all}"
    return joined(
        [
            element("h3", Html("At the operating point")),
            element("p", text(words), cls="small soft"),
            element("div", element("table", head, flagged, passed, cls="matrix"), cls="scroll"),
        ]
    )


def _plots(drawn: Mapping[str, tuple[bytes, bytes]], each: FindingFigures) -> Html:
    if not drawn:
        return Html("")
    pictures = [plot(*drawn[name], described(name, each)) for name in TITLES if name in drawn]
    return joined([element("h3", Html("Curves")), element("div", *pictures, cls="pair")])


def _calibration(each: FindingFigures) -> Html:
    found = each.calibration
    rows = [
        [
            text(f"{each_bin.lowest:.3f} to {each_bin.highest:.3f}"),
            text(each_bin.count),
            number(each_bin.predicted),
            joined([number(each_bin.observed), span(each_bin.interval)], " "),
        ]
        for each_bin in found.bins
    ]
    pairs = (
        ("Slope", joined([number(found.slope, 2), Html("(ideal 1)")], " ")),
        ("Intercept", joined([number(found.intercept, 2), Html("(ideal 0)")], " ")),
        (
            "Brier score",
            joined(
                [number(found.brier), text("against"), number(found.brier_of_prevalence),
                 text("of one who always says the prevalence")], " ",
            ),
        ),
        ("Log-loss", number(found.log_loss)),
    )  # fmt: skip
    heads = ("Predicted, from to", "Images", "Mean predicted", "Observed")
    bins = table(heads, rows, caption="Bins of equal count") if rows else Html("")
    return joined(
        [
            element("h3", Html("Calibration")),
            facts(pairs),
            details("Reliability in numbers", bins) if rows else Html(""),
        ]
    )


def _subgroups(each: FindingFigures) -> Html:
    if not each.subgroups:
        return Html("")
    rows: list[list[Html]] = []
    column = ""
    for group in each.subgroups:
        if group.column != column:
            column = group.column
            rows.append([text(column.replace("_", " "))])
        rows.append(_subgroup(group))
    heads = (
        "Group", "Present", "No score", "", "AUROC", "Sensitivity", "Specificity", "Flag rate", "",
    )  # fmt: skip
    caption = "The same operating point in every group, with 95 % intervals"
    return joined(
        [element("h3", Html("Subgroups")), table(heads, rows, caption=caption, words=(8,))]
    )


def _subgroup(group: Subgroup) -> list[Html]:
    return [
        text(group.value),
        of(group.positives, group.images),
        text(group.without_score),
        whisker(group.auroc, middle=0.5),
        estimate(group.auroc, 2),
        estimate(group.sensitivity, 2),
        estimate(group.specificity, 2),
        number(group.flag_rate.value, 2),
        tag(group.warning, "warn") if group.warning else Html(""),
    ]


def _examples(found: Sequence[Example]) -> Html:
    parts = []
    for kind in Kind:
        some = [_thumbnail(example) for example in found if example.kind == kind]
        if some:
            parts += [element("h4", text(kind)), element("ul", *some, cls="thumbs")]
    if not parts:
        return Html("")
    words = (
        "The most wrong first, then those that were right with the least certainty. Pictures show"
        " what the model saw and may carry names that are burned into the pixels: this page is"
        " patient data."
    )
    return joined(
        [element("h3", Html("Examples")), element("p", text(words), cls="small soft"), *parts]
    )


def _thumbnail(example: Example) -> Html:
    words = f"{example.subject}, probability {example.probability:.3f}"
    if example.picture is None:
        picture = element("div", text(example.why_not or "no picture"), cls="blank")
    else:
        picture = Html(f'<img src="{image_data(example.picture)}" alt="{text(words)}">')
    legend = element(
        "figcaption",
        element("b", text(f"{example.probability:.3f}")),
        Html("<br>"),
        element("span", text(example.subject), cls="mono"),
        Html("<br>") if example.note else Html(""),
        element("span", text(example.note), cls="soft"),
    )
    return element("li", element("figure", picture, legend))
