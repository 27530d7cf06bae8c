"""Figures that depend on how common the finding is, as parts of the report.

PPV, NPV, flag rate and calibration stand as they are among the labelled images and, where its
prevalence is known, at the site.
"""

import math
from typing import Final

from triage.learning.judging.evaluation import FindingFigures
from triage.learning.judging.prevalence import AtPrevalence
from triage.learning.judging.report_parts import (
    Html,
    coded,
    details,
    element,
    estimate,
    joined,
    number,
    percent,
    span,
    table,
    text,
)

FEWEST: Final = 10  # images with the finding among the round number that a sentence speaks of
MOST: Final = 1_000_000


def flags(each: FindingFigures) -> Html:
    """What a flag means, and what none does."""
    names = ("PPV", "NPV", "Flag rate")
    columns = [
        [estimate(share) for share in of]
        for of in (
            (
                shares.positive_predictive_value,
                shares.negative_predictive_value,
                shares.flag_rate,
            )
            for shares in (each.at_point, each.at_prevalence)
            if shares is not None
        )
    ]
    shown = _table(each, "What a flag means", names, columns)
    return joined([shown, element("p", _explained(each), cls="small soft")])


def calibration(each: FindingFigures) -> Html:
    """Whether the probabilities mean what they say."""
    names = (
        "Slope, ideally 1",
        "Intercept, ideally 0",
        "Brier score",
        "Brier score of always saying the prevalence",
        "Log-loss",
    )
    site = each.at_prevalence
    columns = [
        [
            estimate(of.slope, 2),
            estimate(of.intercept, 2),
            number(of.brier),
            number(of.brier_of_prevalence),
            number(of.log_loss),
        ]
        for of in (each.calibration, site.calibration if site else None)
        if of is not None
    ]
    caption = "Whether the probabilities mean what they say"
    return joined(
        [
            element("h3", Html("Calibration")),
            _table(each, caption, names, columns),
            _bins(each),
        ]
    )


def flag_rate(each: FindingFigures) -> Html:
    """The flag rate at the site where that can be told, else among the labelled images."""
    site = each.at_prevalence
    if site is None:
        return number(each.at_point.flag_rate.value, 2)
    where = element("span", text(f"at {percent(site.prevalence)}"), cls="interval")
    return joined([number(site.flag_rate.value, 2), where], " ")


def _table(
    each: FindingFigures, caption: str, names: tuple[str, ...], columns: list[list[Html]]
) -> Html:
    heads = ["", f"Labelled images ({percent(each.prevalence)})"]
    if each.at_prevalence is not None:
        heads.append(f"At the site ({percent(each.at_prevalence.prevalence)})")
    rows = [[text(name), *cells] for name, *cells in zip(names, *columns, strict=True)]
    return table(heads, rows, caption=f"{caption}; in brackets, how many have the finding")


def _explained(each: FindingFigures) -> Html:
    site = each.at_prevalence
    if site is None:
        return coded(
            f"These hold where {percent(each.prevalence)} of the images have the finding. Give the"
            f" prevalence of your site with `--prevalence {each.name}=P` to see them there."
        )
    return text(f"{_counted(each, site)}The prevalence is {site.source}, and taken as known.")


def _counted(each: FindingFigures, site: AtPrevalence) -> str:
    """The same as counts of images, which are easier to grasp than shares."""
    sensitivity, rate = each.at_point.sensitivity.value, site.flag_rate.value
    if not math.isfinite(rate):
        return ""
    total = 1000
    while total * site.prevalence < FEWEST and total < MOST:
        total *= 10
    present = round(total * site.prevalence)
    found = round(total * site.prevalence * sensitivity)
    return (
        f"Of {total:,} images at the site about {round(total * rate):,} are flagged, {found:,} of"
        f" them rightly; {present - found:,} with the finding are missed. "
    )


def _bins(each: FindingFigures) -> Html:
    site = each.at_prevalence
    rows = [
        [
            text(f"{each_bin.lowest:.3f} to {each_bin.highest:.3f}"),
            text(each_bin.count),
            number(each_bin.predicted),
            joined([number(each_bin.observed), span(each_bin.interval)], " "),
        ]
        for each_bin in each.calibration_of_site.bins
    ]
    if not rows:
        return Html("")
    heads = ("Predicted, from to", "Images", "Mean predicted", "Observed")
    where = f", at a prevalence of {percent(site.prevalence)}" if site else ""
    return details(
        "Reliability in numbers", table(heads, rows, caption=f"Bins of equal count{where}")
    )
