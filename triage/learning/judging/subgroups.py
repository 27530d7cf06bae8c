"""Does it hold for everybody? One finding within sex, age band, view, manufacturer, source.

Owns how a column of the labels becomes groups (ages become bands) and when a group is too small
for its figures to mean anything: those are shown all the same, with a warning, because to leave
them out would read as "no difference".
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triage.learning.judging import statistics as figures
from triage.learning.judging.scoring import Scored
from triage.learning.judging.statistics import Draws, Estimate

SMALL: Final = 20  # positives or negatives below which a group's figures warn
MOST_VALUES: Final = 12  # groups of one column; the smaller ones beyond it become "other"
# Upper ends in years; the last band is open. Neonates are not small adults.
BANDS: Final = ((1.0, "under 1"), (18.0, "1-17"), (40.0, "18-39"), (65.0, "40-64"), (80.0, "65-79"))
OLDEST: Final = "80 and over"
EXPECTED: Final = ("sex", "age", "view", "manufacturer")  # what a reader asks about in any case
UNKNOWN: Final = "not recorded"
OTHER: Final = "other"
AT_CHANCE: Final = "not shown above chance"
NAMED: Final = 6  # groups of a warning; the table has all of them
AGE: Final = re.compile(r"(\d{1,3}(?:\.\d+)?)\s*([YMWD]?)", re.IGNORECASE)
YEARS: Final = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}  # PS3.5 6.2, AS


@dataclass(frozen=True, slots=True, kw_only=True)
class Subgroup:
    """One value of one column."""

    column: str
    value: str
    images: int  # with a score and a known truth
    patients: int
    positives: int
    without_score: int  # gated or failed, with a known truth
    auroc: Estimate
    sensitivity: Estimate
    specificity: Estimate
    flag_rate: Estimate
    warning: str  # "" where there are enough


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    column: str
    value: str
    inside: NDArray[np.bool_]


def subgroups_of(
    scored: Scored, finding: int, threshold: float, draws: Draws
) -> tuple[Subgroup, ...]:
    """Figures of every group, column by column, large groups first; one value is no group."""
    found, fewer = [], replace(draws, rounds=max(200, draws.rounds // 4))
    for column in sorted({name for strata in scored.strata for name in strata}):
        values = _values(scored, column)
        for value in _ordered(values):
            inside = np.array([each == value for each in values])
            if len(set(values)) > 1:
                group = _Group(column=column, value=value, inside=inside)
                found.append(_figures(scored, finding, threshold, group, fewer))
    return tuple(found)


def missing_groups(scored: Scored) -> tuple[str, ...]:
    """Return which of EXPECTED cannot be judged, because all rows have one value or none."""
    return tuple(name for name in EXPECTED if len(set(_values(scored, name))) < 2)


def group_warnings(groups: Sequence[Subgroup]) -> tuple[str, ...]:
    """Sentences that name the groups at chance, and those with too few to judge."""
    chance = [each for each in groups if each.warning == AT_CHANCE]
    small = [each for each in groups if each.warning and each.warning != AT_CHANCE]
    said = []
    if chance:
        said.append(f"Not shown above chance in {_named(chance)}.")
    if groups and len(small) == len(groups):
        said.append(
            f"No subgroup has {SMALL} images with and {SMALL} without the finding: their figures"
            f" say little."
        )
    elif small:
        said.append(
            f"{len(small)} of {len(groups)} subgroups have fewer than {SMALL} images with or"
            f" without the finding, so that their figures say little: {_named(small)}."
        )
    return tuple(said)


def _named(groups: Sequence[Subgroup]) -> str:
    names = [f"{each.column.replace('_', ' ')} {each.value}" for each in groups[:NAMED]]
    more = f" and {len(groups) - NAMED} more" if len(groups) > NAMED else ""
    return ", ".join(names) + more


def age_band(text: str) -> str:
    """Return the band of an age ("63", "063Y", "6M"), or the text itself where it is none."""
    match = AGE.fullmatch(text.strip())
    if match is None:
        return text
    years = float(match[1]) * YEARS[match[2].upper()]
    return next((name for end, name in BANDS if years < end), OLDEST)


def _values(scored: Scored, column: str) -> list[str]:
    """One value per row; rare ones together: a free text must not make a thousand groups."""
    values = [_value(strata, column) for strata in scored.strata]
    counts = {value: values.count(value) for value in set(values)}
    kept = sorted(counts, key=lambda value: (-counts[value], value))[:MOST_VALUES]
    return [value if value in kept else OTHER for value in values]


def _ordered(values: list[str]) -> list[str]:
    """Ages from young to old, else the largest group first; what is not known last."""
    young = [name for _, name in BANDS] + [OLDEST]

    def key(value: str) -> tuple[bool, int, int, str]:
        age = young.index(value) if value in young else len(young)
        return value in (UNKNOWN, OTHER), age, -values.count(value), value

    return sorted(set(values), key=key)


def _value(strata: Mapping[str, str], column: str) -> str:
    text = strata.get(column, "").strip()
    return (age_band(text) if column == "age" else text) or UNKNOWN


def _figures(
    scored: Scored, finding: int, threshold: float, group: "_Group", draws: Draws
) -> Subgroup:
    inside = group.inside
    use = scored.known(finding) & inside
    truth, said = scored.truth[use, finding] == 1.0, scored.probabilities[use, finding]
    groups = [group for group, take in zip(scored.groups, use, strict=True) if take]
    flagged, labelled = said >= threshold, np.isfinite(scored.truth[:, finding])
    positives, negatives = int(truth.sum()), int((~truth).sum())
    area = figures.area(figures.auroc, truth, said, groups, draws)
    return Subgroup(
        column=group.column,
        value=group.value,
        images=int(use.sum()),
        patients=len(set(groups)),
        positives=positives,
        without_score=int((inside & labelled & ~scored.has_score).sum()),
        auroc=area,
        sensitivity=figures.proportion(int((flagged & truth).sum()), positives),
        specificity=figures.proportion(int((~flagged & ~truth).sum()), negatives),
        flag_rate=figures.proportion(int(flagged.sum()), truth.size),
        warning=_warning(positives, negatives, area),
    )


def _warning(positives: int, negatives: int, area: Estimate) -> str:
    if not positives or not negatives:
        return "one class only"
    if min(positives, negatives) < SMALL:
        return f"small: fewer than {SMALL} of a class"
    if area.interval is not None and area.interval.low <= 0.5:
        return AT_CHANCE
    return ""
