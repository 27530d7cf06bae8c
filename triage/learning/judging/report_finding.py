"""One finding as a section of the report: figures, table, curves, calibration, groups, pictures."""

from collections.abc import Mapping, Sequence

from triage.learning.judging.evaluation import FindingFigures
from triage.learning.judging.plots import TITLES, described
from triage.learning.judging.report_parts import (
    Html,
    counted,
    element,
    estimate,
    estimate_tile,
    image_data,
    joined,
    notes,
    number,
    of,
    plot,
    table,
    tag,
    text,
    whisker,
)
from triage.learning.judging.report_prevalence import calibration, flags
from triage.learning.judging.subgroups import Subgroup
from triage.learning.judging.thumbnails import Example, Kind


def finding_card(
    each: FindingFigures,
    anchor: str,
    plots: Mapping[str, tuple[bytes, bytes]],
    examples: Sequence[Example],
) -> Html:
    """All of one finding, the figures that do not depend on how common it is first."""
    return element(
        "section",
        element("h2", text(each.name)),
        element("p", text(_counted(each)), cls="soft"),
        notes("Take care.", each.warnings),
        _tiles(each),
        element("h3", Html("At the operating point")),
        element("p", text(_pointed(each)), cls="small soft"),
        element("div", _matrix(each), element("div", flags(each)), cls="pair"),
        _plots(plots, each),
        calibration(each),
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
    point, counts, patients = each.at_point, each.at_point.counts, each.at_point.by_patient
    negatives = counts.false_alarms + counts.passes
    tiles = [
        estimate_tile("AUROC", each.auroc, "chance 0.5", 0.5),
        estimate_tile("AUPRC", each.auprc, f"chance {each.prevalence:.2f}", each.prevalence),
        estimate_tile("Sensitivity", point.sensitivity, f"{counts.hits} of {each.positives}"),
        estimate_tile("Specificity", point.specificity, f"{counts.passes} of {negatives}"),
    ]
    if _several(each):
        words = f"{patients.found} of {patients.found + patients.missed} patients"
        tiles.insert(3, estimate_tile("Sensitivity by patient", patients.sensitivity, words))
    return element("ul", *tiles, cls="tiles")


def _several(each: FindingFigures) -> bool:
    """Whether some patient has several images with the finding."""
    patients = each.at_point.by_patient
    return patients.found + patients.missed < each.positives


def _pointed(each: FindingFigures) -> str:
    point = each.at_point
    words = f"Flagged from a probability of {point.threshold:.4f}."
    if point.sensitivity_of_all.value == point.sensitivity.value or not each.positives:
        return words
    patients = ""
    if _several(each):
        patients = f" of images and {point.by_patient.sensitivity_of_all.value:.3f} of patients"
    return (
        f"{words} With images that got no score counted as missed, the sensitivity is"
        f" {point.sensitivity_of_all.value:.3f}{patients}."
    )


def _matrix(each: FindingFigures) -> Html:
    counts = each.at_point.counts

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
    caption = element("caption", Html("Images"))
    whole = element("table", caption, head, flagged, passed, cls="matrix")
    return element("div", whole, cls="scroll")


def _plots(drawn: Mapping[str, tuple[bytes, bytes]], each: FindingFigures) -> Html:
    if not drawn:
        return Html("")
    pictures = [plot(*drawn[name], described(name, each)) for name in TITLES if name in drawn]
    return joined([element("h3", Html("Curves")), element("div", *pictures, cls="pair")])


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
