"""`triage replay` as a person runs it, on what the shipped bundle has said of many studies."""

import json
from pathlib import Path

import pytest

from tests.cli.site import Site, make_site
from tests.operations.looks import Looks
from triage.database.connection import open_database
from triage.database.scores import record_scope
from triage.inference.bundle import Bundle, load_bundle
from triage.learning.watching.replay_answers import scope_of
from triage.pocket import BUNDLE

STUDIES = 260


@pytest.fixture(scope="module")
def pocket() -> Bundle:
    return load_bundle(BUNDLE, check_encoder=False)


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str, pocket: Bundle) -> Site:
    """Return a site where another bundle with the same encoder has served, and one was a shadow."""
    site = make_site(tmp_path, sqlite_url)
    database = open_database(sqlite_url)
    Looks(db=database, bundle=pocket).add(
        STUDIES, bundle_digest="former", bundle_name="former", bundle_version="1"
    )
    scope = scope_of(pocket, "float32-cpu")
    former = type(pocket.identity)(name="former", version="1", digest="former")
    with database.write() as connection:
        record_scope(
            connection,
            model=former,
            cache_scope=scope.cache_scope,
            view=scope.view,
            now=database.now(connection),
        )
    database.dispose()
    return site


def test_the_document_has_every_change_and_the_counts(site: Site, pocket: Bundle) -> None:
    ran = site.run("replay", str(BUNDLE), "--json")
    assert ran.returncode == 0, ran.stderr
    document = json.loads(ran.stdout)
    summary = document["summary"]
    assert summary["studies"] == summary["compared"] == STUDIES
    assert summary["embeddings"] == {"float32-cpu": STUDIES}
    (scores,) = summary["scores"]
    assert scores["finding"] == pocket.manifest.findings[0].name
    assert scores["served"]["digest"] == "former"
    assert 0 < scores["images"] <= STUDIES
    assert len(document["changes"]) == summary["changed"] > 0
    assert document["digest"] == pocket.identity.digest
    change = document["changes"][0]
    assert set(change) == {"study_instance_uid", "received_at", "was", "would"}
    assert f"{STUDIES} of {STUDIES}" in ran.stderr


def test_the_report_names_counts_and_studies_within_the_screen(site: Site) -> None:
    ran = site.run("replay", str(BUNDLE), "--show", "3")
    assert ran.returncode == 0, ran.stderr
    assert f"compared: {STUDIES} studies; left out: 0" in ran.stdout
    assert "first 3 of" in ran.stdout
    assert "stored embeddings of 260 images and series, float32-cpu" in ran.stdout
    assert all(len(line) <= 80 for line in ran.stdout.splitlines())


def test_another_operating_point_changes_what_is_flagged(site: Site, pocket: Bundle) -> None:
    name = pocket.manifest.findings[0].name
    flagged = []
    for point in ("0.0", "1.0"):
        ran = site.run("replay", str(BUNDLE), "--json", "--operating-point", f"{name}={point}")
        document = json.loads(ran.stdout)
        flagged.append(document["summary"]["would_flag"])
        assert f"{name} {float(point):g}" in document["operating_points"]
    assert flagged[0] > flagged[1]


def test_what_is_missing_is_listed_for_requeue_one_uid_a_line(site: Site) -> None:
    database = open_database(site.config.database.url)
    with database.write() as connection:
        connection.exec_driver_sql("DELETE FROM embeddings WHERE key IN ('key 7', 'key 9')")
    database.dispose()
    ran = site.run("replay", str(BUNDLE), "--missing")
    assert ran.stdout.split() == ["1.2.7", "1.2.9"]
    told = site.run("replay", str(BUNDLE)).stdout
    assert "Left out: 2 studies" in told
    assert "triage requeue STUDY" in " ".join(told.split())
    document = json.loads(site.run("replay", str(BUNDLE), "--json").stdout)
    assert document["missing"] == [
        {"study_instance_uid": "1.2.7", "reasons": ["never"]},
        {"study_instance_uid": "1.2.9", "reasons": ["never"]},
    ]


def test_embeddings_of_unknown_origin_ask_for_the_bundle_that_made_them(site: Site) -> None:
    database = open_database(site.config.database.url)
    with database.write() as connection:
        connection.exec_driver_sql("DELETE FROM model_scopes")
    database.dispose()
    told = " ".join(site.run("replay", str(BUNDLE)).stdout.split())
    assert "how it was embedded is not on record" in told
    assert "--made-by" in told


def test_two_shadows_of_one_name_are_told_apart_by_their_digest(site: Site, pocket: Bundle) -> None:
    database = open_database(site.config.database.url)
    looks = Looks(db=database, bundle=pocket, count=STUDIES)
    for digest, studies in (("a" * 64, 2), ("b" * 64, 3)):
        looks.add(studies, mode="shadow", bundle_digest=digest, bundle_name="next")
    database.dispose()
    ran = site.run("replay", "--shadow", "next")
    assert ran.returncode == 1
    assert "2 models named next" in ran.stderr
    assert ran.stderr.index("bbbbbbbbbbbb, 3 results") < ran.stderr.index("aaaaaaaaaaaa, 2 results")
    ran = site.run("replay", "--shadow", "b" * 12, "--json")
    document = json.loads(ran.stdout)
    assert document["digest"] == "b" * 64
    assert document["summary"]["compared"] == 3
    unknown = site.run("replay", "--shadow", "nobody").stderr
    assert "There are these shadows: next" in unknown


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 64, "--shadow"),
        ([str(BUNDLE), "--shadow", "x"], 64, "--shadow"),
        (["--shadow", "x", "--operating-point", "a=0.5"], 64, "its bundle"),
        ([str(BUNDLE), "--missing", "--json"], 64, "--json"),
        ([str(BUNDLE), "--operating-point", "a=2"], 64, "from 0 to 1"),
        ([str(BUNDLE), "--operating-point", "unicorn=0.5"], 1, "unicorn"),
        ([str(BUNDLE), "--instead-of", "nobody"], 1, "Recorded are: former"),
        ([str(BUNDLE), "--since", "last week"], 64, "like 30d"),
        (["--shadow", "nobody"], 1, "no shadow has looked at a study yet"),
        (["/nowhere"], 1, "triage bundle verify"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_sentence(
    site: Site, arguments: list[str], code: int, said: str
) -> None:
    ran = site.run("replay", *arguments)
    assert ran.returncode == code
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
