"""`triage explain` draws for the data scientist; nobody who reads studies ever sees a map."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.builders import make_policies
from tests.cli.site import ROOT, Site, arrive
from tests.database.conftest import analysed
from triage.cli.command_line import main
from triage.cli.verbs import USAGE
from triage.database import queue, results
from triage.database.connection import open_database
from triage.learning.explaining.maps import LEGEND, MARK
from triage.pocket import BUNDLE
from triage.pocket.phantoms import generate
from triage.records import JobKind

SHOWN = ("map", "evidence", "explanation", "attention_map", "contour", "outline", "bounding_box")
READING = ("worklist", "show", "seen", "status", "status_sections", "timeline")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom with an effusion; its file has a name that must not come out again."""
    phantom = generate(700_003, finding="effusion", size_px=256, bits_stored=12)
    grey = (phantom.pixels.astype(np.float32) / phantom.pixels.max() * 255).astype(np.uint8)
    path = tmp_path_factory.mktemp("films") / "DOE^JANE.png"
    Image.fromarray(grey).save(path)
    return path


def run(*arguments: object) -> int:
    return main(["explain", *map(str, arguments)])


def test_a_picture_is_drawn_and_told(
    film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "map.png"
    options = ("--finding", "effusion", "--device", "cpu")
    assert run(film, "--bundle", BUNDLE, "--out", out, *options) == 0
    said = capsys.readouterr().out
    assert "effusion: probability" in said
    assert "flagged" in said
    assert LEGEND in said
    assert MARK in said
    with Image.open(out) as picture:
        assert picture.size[0] > 1000
        assert "JANE" not in str(picture.info) + said


def test_the_document_holds_the_whole_sum(
    film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "map.png"
    assert run(film, "--bundle", BUNDLE, "--out", out, "--json") == 0
    printed = capsys.readouterr().out
    document = json.loads(printed)
    view = document["views"][document["view"]]
    assert document["method"] == "additive"
    assert np.sum(view["patches"]) + view["constant"] == pytest.approx(document["logit"], abs=1e-6)
    assert (document["legend"], document["mark"]) == (LEGEND, MARK)
    assert "JANE" not in printed


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("film.png",), "--out"),
        (("film.png", "--out", "a.png", "--phantoms", "3"), "go with --faithfulness"),
        (("film.png", "--faithfulness", "--phantoms", "3"), "takes no IMAGE"),
        (("--faithfulness",), "needs either"),
        (("--faithfulness", "--phantoms", "3", "--images", "x"), "needs either"),
        (("--faithfulness", "--images", "x"), "go together"),
        (("--faithfulness", "--phantoms", "3", "--seed", "-1"), "is no seed"),
        (("--faithfulness", "--images", "x", "--labels", "y", "--split", "tset"), "'tset'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    arguments: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = run("--bundle", BUNDLE, *arguments)
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == USAGE
    assert reason in capsys.readouterr().err


def test_a_method_that_the_bundle_does_not_allow_is_refused_before_anything_is_written(
    film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "map.png"
    assert run(film, "--bundle", BUNDLE, "--out", out, "--method", "attention") == 1
    assert "no queries" in capsys.readouterr().err
    assert not out.exists()


def test_a_file_that_is_no_image_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "note.png"
    path.write_bytes(b"no picture")
    assert run(path, "--bundle", BUNDLE, "--out", tmp_path / "nowhere" / "map.png") == 1
    assert "there is no directory" in capsys.readouterr().err
    assert run(path, "--bundle", BUNDLE, "--out", tmp_path / "map.png") == 1
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "map.png").exists()


def test_faithfulness_on_phantoms_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--faithfulness", "--bundle", BUNDLE, "--phantoms", 4, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["positives"] == dict.fromkeys(
        ("pneumothorax", "effusion", "consolidation", "nodule"), 1
    )
    assert {each["measure"] for each in document["comparisons"]} >= {"deletion, mean", "hits"}
    assert any("Only 4 patients" in line for line in document["conclusions"])


def test_faithfulness_on_labelled_images_says_what_it_measured_and_what_it_could_not_read(
    film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "damaged.png").write_bytes(b"no picture")
    (tmp_path / "film.png").write_bytes(film.read_bytes())
    labels = tmp_path / "labels.csv"
    labels.write_text("file,patient_group,effusion\nfilm.png,a,1\ndamaged.png,b,1\n", "utf-8")
    arguments = ("--bundle", BUNDLE, "--images", tmp_path, "--labels", labels)
    assert run("--faithfulness", *arguments) == 1  # one image was left out
    said = capsys.readouterr().out
    assert "1 labelled images: effusion 1" in said
    assert "1 images could not be read" in said
    assert "hits" not in said  # nobody knows where the effusion is
    assert "Only 1 patients" in said


def test_labels_without_a_positive_of_the_bundle_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("file,gout,effusion\na.png,1,0\nb.png,0,\n", "utf-8")
    arguments = ("--bundle", BUNDLE, "--images", tmp_path, "--labels", labels)
    assert run("--faithfulness", *arguments) == 1
    assert "no positive" in capsys.readouterr().err


# --- nothing of it reaches a reader of studies


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner)


def _flagged_study(site: Site) -> None:
    arrive(site, accession_number="A1")
    database = open_database(site.config.database.url)
    try:
        (job,) = queue.claim(database, kinds=[JobKind.ANALYSE], owner="w", lease_s=60, limit=1)
        results.commit_analysis(
            database,
            job,
            [analysed()],
            pixel_digests={},
            embeddings={},
            policies=make_policies(),
            caption_due=False,
        )
    finally:
        database.dispose()


@pytest.mark.parametrize("verb", ["worklist", "show A1", "status"])
def test_what_readers_of_studies_get_carries_no_map(verb: str, site: Site) -> None:
    _flagged_study(site)
    done = site.run(*verb.split(), "--json")
    document = json.loads(done.stdout)
    assert "pneumothorax" in done.stdout or verb == "status"
    keys = set(_keys(document))
    assert keys
    assert not [key for key in keys if any(word in key.lower() for word in SHOWN)]
    told = site.run(*verb.split()).stdout.lower()
    assert not any(word in told for word in ("evidence", "heat map", "heatmap", "png"))


def test_the_view_of_integrators_has_no_column_for_a_map(site: Site) -> None:
    import sqlite3

    path = site.config.database.url.removeprefix("sqlite:///")
    with sqlite3.connect(path) as connection:
        columns = [row[1] for row in connection.execute("pragma table_info(worklist)")]
    assert "findings" in columns
    assert not [name for name in columns if any(word in name for word in SHOWN)]


def _imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found


def test_only_the_verb_of_the_data_scientist_can_make_a_map() -> None:
    """Whatever serves, stores, lists or delivers cannot even import what draws."""
    package = ROOT / "triage"
    own = {"explanation", "maps", "faithfulness", "trials", "opened"}
    makers = {f"triage.learning.explaining.{name}" for name in own}
    users = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if _imported(path) & makers
    }
    allowed = {f"learning/explaining/{name}.py" for name in own} | {
        "cli/explain.py",
        "cli/explain_words.py",
    }
    assert users <= allowed
    assert {f"cli/{name}.py" for name in READING}.isdisjoint(users)
