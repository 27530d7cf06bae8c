"""Whether maps of evidence say anything true of a bundle: `triage explain --faithfulness`, told.

On positives of the test split, and on phantoms whose one lesion is known to the pixel. Makes a
section of the page of results from the documents of the verb; how maps are measured belongs to
`triage.learning.explaining.faithfulness`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from tests.benchmarks.learning_runs import FINDING, Made, Workshop, side_by_side, verb
from tests.benchmarks.measuring import say

HITS: Final = "hits"
BASELINES: Final = ("random", "centre", "usual place")
SHUFFLED: Final = ("head", "last block", "whole tower")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """What the verb said of one bundle, as JSON."""

    name: str
    real: Mapping[str, Any]  # on radiographs
    planted: Mapping[str, Any]  # on phantoms


def map_section(shop: Workshop, shown: Mapping[str, Made], *, pictures: int) -> list[str]:
    """Measure the maps of each bundle on `pictures` radiographs and phantoms; return Markdown."""
    say(f"  maps of {', '.join(shown)}")
    calls = []
    for made in shown.values():
        words = ("explain", "--bundle", str(made.calibrated), "--faithfulness", "--json")
        words += ("--finding", FINDING, "--dtype", "float32")
        real = (*shop.material(), "--split", "test", "--limit", str(pictures))
        calls.append(partial(verb, *words, *real))
        calls.append(partial(verb, *words, "--device", "cpu", "--phantoms", str(pictures)))
    told = iter([each.document for each in side_by_side(calls)])
    return section([Mapped(name=name, real=next(told), planted=next(told)) for name in shown])


def section(found: Sequence[Mapped]) -> list[str]:
    """The tables with what they mean."""
    rows = [each for mapped in found for each in _compared(mapped)]
    verdicts = [each["verdict"] for mapped in found for each in _comparisons(mapped)]
    better = sum(verdict.startswith("better") for verdict in verdicts)
    worse = sum(verdict.startswith("WORSE") for verdict in verdicts)
    return [
        "Deletion and insertion: the mean logit while patches are taken out of a radiograph of the",
        "test split, or put into an empty one, in the order of the map; how much better the map's",
        "order is than a random one and than the distance from the centre, paired, with intervals",
        "of 95 % over patients. Hits: how often the highest patch touches the lesion planted in a",
        "phantom; its usual place is where other phantoms have theirs.",
        "",
        "| Bundle | Map | Measure | Pictures | Value | over random | over centre | over usual |",
        "|---|---|---|--:|--:|---|---|---|",
        *rows,
        "",
        f"Of these {len(verdicts)} differences {better} are better than the baseline, {worse} worse"
        f" and {len(verdicts) - better - worse} not shown to be either. A map that is no better",
        "than random says nothing of its model; one that is better says what the model used, not",
        "that it is right. Phantoms are not patients.",
        *(words for mapped in found for words in _same(mapped)),
        "",
        "What is left of a map when weights are shuffled, as rank correlation without its sign, on",
        "the phantoms: a map that stays shows the picture and not the model. A bundle that reads a",
        "middle layer has no use for the last block, and its column then says nothing.",
        "",
        "| Bundle | Map | head | last block | whole tower |",
        "|---|---|---|---|---|",
        *(row for mapped in found for row in _stayed(mapped)),
    ]


def _comparisons(mapped: Mapped) -> list[Mapping[str, Any]]:
    """Deletion and insertion on radiographs, hits on phantoms."""
    real = [each for each in mapped.real["comparisons"] if each["measure"] != HITS]
    return real + [each for each in mapped.planted["comparisons"] if each["measure"] == HITS]


def _compared(mapped: Mapped) -> Iterator[str]:
    told = _comparisons(mapped)
    for method, measure in dict.fromkeys((each["method"], each["measure"]) for each in told):
        own = {
            each["baseline"]: each
            for each in told
            if (each["method"], each["measure"]) == (method, measure)
        }
        one = next(iter(own.values()))
        cells = [mapped.name, method, measure, f"{one['cases']}", f"{one['value']['value']:.2f}"]
        cells += [_difference(own.get(baseline)) for baseline in BASELINES]
        yield "| " + " | ".join(cells) + " |"


def _difference(each: Mapping[str, Any] | None) -> str:
    if each is None:
        return ""
    verdict = str(each["verdict"]).removesuffix(f" than {each['baseline']}")
    return f"{_estimate(each['difference'], '+.2f')} {verdict}"


def _stayed(mapped: Mapped) -> Iterator[str]:
    told = mapped.planted["shuffled_weights"]
    for method in dict.fromkeys(each["method"] for each in told):
        own = {each["shuffled"]: each for each in told if each["method"] == method}
        cells = [
            f"{_estimate(own[what]['correlation'], '.2f')} {own[what]['verdict'].partition(':')[0]}"
            for what in SHUFFLED
        ]
        yield "| " + " | ".join([mapped.name, method, *cells]) + " |"


def _same(mapped: Mapped) -> Iterator[str]:
    for told, pictures in ((mapped.real, "radiographs"), (mapped.planted, "phantoms")):
        for method, other in told["same_order"].items():
            yield (
                f"On {pictures} the {method} maps of {mapped.name} order the patches as its {other}"
                " maps do, and are told once."
            )


def _estimate(value: Mapping[str, Any], form: str) -> str:
    interval = value["interval"]
    span = "" if interval is None else f" ({interval['low']:{form}} to {interval['high']:{form}})"
    return f"{value['value']:{form}}{span}"
