"""The report is one page that needs nothing else, hides nothing and trusts no name."""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.learning.scores import drawn, scored
from triage.errors import DecodeError
from triage.learning.judging.comparing import compare
from triage.learning.judging.evaluation import evaluate
from triage.learning.judging.prevalence import RECORDED, Prevalence
from triage.learning.judging.report import Model, Report, page
from triage.learning.judging.report_files import FIGURES, PAGE, PLOTS, document_of, write_report
from triage.learning.judging.report_files import drawn as plotted
from triage.learning.judging.report_parts import number, signed, text
from triage.learning.judging.scoring import Scored
from triage.learning.judging.statistics import Draws
from triage.learning.judging.thumbnails import Kind, examples_of, thumbnail, with_pictures

pytest.importorskip("matplotlib", reason="needs triage[learning]")

HOSTILE = '"><script>alert(1)</script><img src=http://x.test/>\u202e'
FAST = Draws(rounds=100, seed=1)
MODEL = Model(
    name="chest",
    version="2",
    digest="d" * 64,
    not_for_clinical_use=False,
    calibration="platt, on local studies",
    locally_calibrated=True,
)
VOID = frozenset({"meta", "br", "img", "source", "line", "circle"})


class Page(HTMLParser):
    """Elements of a page, and whether they close in order."""

    def __init__(self, written: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(written)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    def of(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.elements if name == tag)

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.words).split())


def view(subject: str) -> np.ndarray:
    if subject == "3.png":
        raise DecodeError("the file is damaged")
    return np.full((1, 300, 300), 0.5, np.float32)


def report_of(rows: Scored, *, prevalence: float | None = None, **changes: object) -> Report:
    points = dict.fromkeys(rows.findings, 0.5)
    sites = {}
    if prevalence is not None:
        sites = dict.fromkeys(rows.findings, Prevalence(share=prevalence, source=RECORDED))
    judged = evaluate(rows, points, prevalences=sites, draws=FAST)
    name = rows.findings[0]
    plain = Report(
        model=MODEL,
        evaluation=judged,
        made_at=datetime(2024, 2, 29, 12, 0, tzinfo=UTC),
        labels="labels.csv",
        labels_digest="e" * 64,
        selection="split test",
        examples={name: with_pictures(examples_of(rows, 0, 0.5), view)},
    )
    return replace(plain, **changes)


@pytest.fixture(scope="module")
def hostile() -> Report:
    """Every text that comes from outside tries to become markup."""
    base = drawn(40)
    strata = [{HOSTILE: HOSTILE if row % 2 else "plain"} for row in range(40)]
    rows = replace(
        scored(
            base.truth[:, 0].tolist(),
            base.probabilities[:, 0].tolist(),
            strata=strata,
            gated=[0],
            name=HOSTILE,
        ),
        subjects=tuple(f"{HOSTILE}{row}" for row in range(40)),
        reasons=(HOSTILE, *[""] * 39),
    )
    second = replace(rows, probabilities=1 - rows.probabilities)
    points = {HOSTILE: 0.5}
    return report_of(
        rows,
        prevalence=0.05,
        plots=plotted(rows, evaluate(rows, points, draws=FAST)),
        model=replace(MODEL, name=HOSTILE, calibration=HOSTILE, not_for_clinical_use=True),
        labels=HOSTILE,
        notes=(HOSTILE,),
        against=replace(MODEL, name=HOSTILE),
        comparison=compare(rows, second, points, points, draws=FAST),
    )


def test_no_text_from_outside_becomes_markup(hostile: Report) -> None:
    written = page(hostile)
    found = Page(written)
    assert not list(found.of("script"))
    assert all((each["src"] or "").startswith("data:image/png;base64,") for each in found.of("img"))
    assert "\u202e" not in written
    assert not found.open


def test_the_page_asks_for_nothing_outside_itself(hostile: Report) -> None:
    found = Page(page(hostile))
    for _, attributes in found.elements:
        for name, value in attributes.items():
            if name in ("src", "srcset", "href", "action", "data"):
                assert (value or "").startswith(("data:image/png;base64,", "#"))
    policies = [each.get("content") or "" for each in found.of("meta")]
    assert any(policy.startswith("default-src 'none'") for policy in policies)
    style = re.search(r"<style>(.*?)</style>", page(hostile), re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_every_picture_has_words_and_every_table_heads_and_a_name(hostile: Report) -> None:
    found = Page(page(hostile))
    assert all(len(each.get("alt") or "") > 10 for each in found.of("img"))
    assert all(each.get("scope") for each in found.of("th"))
    assert len(list(found.of("h1"))) == 1
    identifiers = [each["id"] for _, each in found.elements if "id" in each]
    assert len(identifiers) == len(set(identifiers))
    targets = {(each["href"] or "").removeprefix("#") for each in found.of("a")}
    assert targets <= set(identifiers)


def test_it_says_first_that_a_bundle_is_not_for_clinical_use(hostile: Report) -> None:
    said = Page(page(hostile)).said
    assert said.index("Not for clinical use.") < said.index("At a glance")
    assert "Not for clinical use." not in Page(page(report_of(drawn(40)))).said


def test_it_says_that_a_bundle_is_not_calibrated_here() -> None:
    foreign = report_of(drawn(40), model=replace(MODEL, locally_calibrated=False))
    assert "Not calibrated on local studies." in Page(page(foreign)).said
    assert "Not calibrated" not in Page(page(report_of(drawn(40)))).said


def test_figures_intervals_and_counts_stand_on_the_page() -> None:
    report = report_of(drawn(80))
    each, said = report.evaluation.findings[0], Page(page(report)).said
    assert each.auroc.interval is not None
    assert f"{each.auroc.value:.3f}" in said
    assert f"{each.auroc.interval.low:.3f} to {each.auroc.interval.high:.3f}" in said
    assert f"{each.at_point.counts.hits} of {each.positives}" in said
    assert "split test" in said


def test_the_prevalence_of_the_site_stands_on_the_page_with_its_source() -> None:
    report = report_of(drawn(200), prevalence=0.05)
    said = Page(page(report)).said
    site = report.evaluation.findings[0].at_prevalence
    assert site is not None
    assert "At the site (5%)" in said
    assert f"{site.positive_predictive_value.value:.3f}" in said
    flagged = round(1000 * site.flag_rate.value)
    assert f"Of 1,000 images at the site about {flagged} are flagged" in said
    assert "The prevalence is as the bundle's calibration records" in said
    unknown = Page(page(report_of(drawn(200)))).said
    assert "At the site (" not in unknown
    assert "--prevalence effusion=P" in unknown


def test_patients_are_told_where_some_have_several_images() -> None:
    rows = drawn(120)
    assert "Sensitivity by patient" not in Page(page(report_of(rows))).said
    several = replace(rows, groups=tuple(f"p{row // 3}" for row in range(120)))
    report = report_of(several)
    found = report.evaluation.findings[0].at_point.by_patient
    said = Page(page(report)).said
    assert f"{found.found} of {found.found + found.missed} patients" in said


def test_what_the_gate_turned_away_is_told_with_its_reason() -> None:
    base = drawn(40)
    rows = scored(base.truth[:, 0].tolist(), base.probabilities[:, 0].tolist(), gated=[0, 1])
    said = Page(page(report_of(rows))).said
    assert "Why 2 images have no score" in said
    assert "unlike" in said


def test_an_empty_evaluation_is_a_page_too() -> None:
    said = Page(page(report_of(scored([1, 0], [0.5, 0.5], failed=[0, 1])))).said
    assert "no image with a score" in said


def test_a_comparison_names_the_changed_images_and_which_change_is_right() -> None:
    rows = scored([1, 0, 1, 0], [0.9, 0.1, 0.2, 0.7])
    other = scored([1, 0, 1, 0], [0.9, 0.1, 0.8, 0.2])
    found = compare(rows, other, {"effusion": 0.5}, {"effusion": 0.5}, draws=FAST)
    said = Page(page(report_of(rows, comparison=found, against=MODEL))).said
    assert "2 images changed: 1 are newly flagged, 1 no longer" in said
    assert "2.png there 0.200 0.800 no longer flagged \N{MULTIPLICATION SIGN} wrong" in said
    assert "2 patients with the finding and 2 patients without the finding, and 10 are" in said


def test_a_comparison_tells_what_each_gate_turned_away_by_class() -> None:
    rows = scored([1, 0, 1, 0], [0.9, 0.1, 0.9, 0.1], gated=[2])
    other = scored([1, 0, 1, 0], [0.9, 0.1, 0.9, 0.1])
    found = compare(rows, other, {"effusion": 0.5}, {"effusion": 0.5}, draws=FAST)
    said = Page(page(report_of(rows, comparison=found, against=MODEL))).said
    assert "Turned away, finding there 1 0" in said
    assert "Turned away, not there" not in said
    assert "The gates differ: 1 image is turned away" in said
    assert "2.png there no score 0.900 no longer flagged \N{MULTIPLICATION SIGN} wrong" in said


# --- files


def test_files_hold_the_same_figures_and_the_directory_is_private(tmp_path: Path) -> None:
    rows, directory = drawn(40), tmp_path / "deep" / "report"
    judged = evaluate(rows, {"effusion": 0.5}, draws=FAST)
    report = report_of(rows, plots=plotted(rows, judged))
    assert write_report(report, rows, directory) == directory / PAGE
    document = json.loads((directory / FIGURES).read_text())
    assert document == document_of(report, rows)
    assert len(document["scores"]) == 40
    assert document["scores"][0]["probabilities"]["effusion"] == rows.probabilities[0, 0]
    assert directory.stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in (directory / PLOTS).iterdir()) == [
        "effusion-precision-recall.png",
        "effusion-reliability.png",
        "effusion-roc.png",
        "effusion-scores.png",
    ]


def test_a_second_report_replaces_the_first(tmp_path: Path) -> None:
    write_report(report_of(drawn(40)), drawn(40), tmp_path)
    write_report(report_of(drawn(40), selection="split val"), drawn(40), tmp_path)
    assert "split val" in (tmp_path / PAGE).read_text()


def test_plots_differ_in_light_and_dark_and_are_pictures() -> None:
    rows = drawn(60)
    judged = evaluate(rows, {"effusion": 0.5}, draws=FAST)
    for light, dark in plotted(rows, judged)["effusion"].values():
        assert light != dark
        corner = [
            Image.open(io.BytesIO(png)).convert("L").getpixel((2, 2)) for png in (light, dark)
        ]
        assert corner[0] > 240
        assert corner[1] < 60


@pytest.mark.parametrize("truth", [[1, 1, 1], [0, 0, 0]])
def test_plots_of_one_class_are_drawn_all_the_same(truth: list[float]) -> None:
    rows = scored(truth, [0.2, 0.5, 0.7])
    judged = evaluate(rows, {"effusion": 0.5}, draws=FAST)
    assert len(plotted(rows, judged)["effusion"]) == 4


# --- examples


def test_examples_are_the_most_wrong_first() -> None:
    rows = scored([1, 1, 1, 0, 0, 0], [0.4, 0.1, 0.9, 0.6, 0.8, 0.2])
    found = examples_of(rows, 0, 0.5)
    assert [e.subject for e in found if e.kind == Kind.MISSED] == ["1.png", "0.png"]
    assert [e.subject for e in found if e.kind == Kind.FALSE_ALARM] == ["4.png", "3.png"]
    assert [e.subject for e in found if e.kind == Kind.FOUND] == ["2.png"]
    assert [e.subject for e in found if e.kind == Kind.PASSED] == ["5.png"]


def test_examples_are_few_and_never_rows_without_score_or_truth() -> None:
    rows = scored([1] * 20 + [float("nan")], [0.9] * 21, gated=[0])
    found = examples_of(rows, 0, 0.5, most=4)
    assert len(found) == 4
    assert not {"0.png", "20.png"} & {each.subject for each in found}


def test_an_image_that_cannot_be_read_is_named_without_a_picture() -> None:
    rows = scored([1, 1, 0, 0], [0.9, 0.2, 0.1, 0.8])
    found = {each.subject: each for each in with_pictures(examples_of(rows, 0, 0.5), view)}
    assert found["3.png"].picture is None
    assert found["3.png"].why_not == "the file is damaged"
    assert found["0.png"].picture is not None


def test_a_short_value_is_shown_with_its_column() -> None:
    rows = scored([1], [0.9], strata=[{"sex": "F", "source": "North", "view": ""}])
    assert examples_of(rows, 0, 0.5)[0].note == "sex F, North"


def test_a_thumbnail_is_a_small_grey_picture_without_metadata() -> None:
    image = Image.open(
        io.BytesIO(thumbnail(np.linspace(0, 1, 90_000, dtype=np.float32).reshape(1, 300, 300)))
    )
    assert (image.size, image.mode, image.info) == ((176, 176), "L", {})
    colour = Image.open(
        io.BytesIO(thumbnail(np.random.default_rng(0).random((3, 40, 40), np.float32)))
    )
    assert (colour.size, colour.mode) == ((40, 40), "RGB")


def test_three_equal_channels_are_grey() -> None:
    grey = np.repeat(np.random.default_rng(0).random((1, 20, 20), np.float32), 3, axis=0)
    assert Image.open(io.BytesIO(thumbnail(grey))).mode == "L"


# --- pieces


@pytest.mark.parametrize(
    ("value", "shown"), [(0.12345, "0.123"), (-0.5, "\N{MINUS SIGN}0.500"), (None, "n/a")]
)
def test_numbers_are_rounded_or_not_told(value: float | None, shown: str) -> None:
    assert shown in number(value)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.1, "+0.100"), (-0.1, "\N{MINUS SIGN}0.100"), (-0.0001, "0.000"), (0.0, "0.000")],
)
def test_differences_carry_their_sign_unless_they_are_nothing(value: float, shown: str) -> None:
    assert signed(value) == shown


def test_text_is_escaped_and_cannot_steer() -> None:
    assert text("<a href='x'>&\x1b\u202e") == "&lt;a href=&#x27;x&#x27;&gt;&amp;\ufffd\ufffd"
