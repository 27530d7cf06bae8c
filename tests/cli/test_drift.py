"""`triage drift` as a person runs it: the table, the document, the picture, the decision."""

import json
from pathlib import Path

import pytest

from tests.cli.site import Site, make_site
from tests.operations.looks import BEGIN, Looks
from triage.database.connection import open_database
from triage.inference.bundle import load_bundle
from triage.operations.drift_watch import DriftWatch, count_looks
from triage.pocket import BUNDLE


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url)


def told(site: Site, *arguments: str) -> str:
    ran = site.run("drift", *arguments)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def see(site: Site, *phases: tuple[int, float]) -> None:
    """Add studies in phases of (how many, how far shifted) and sweep until all is counted."""
    looks: list[Looks] = []
    database = open_database(site.config.database.url, clock=lambda: looks[0].now)
    looks.append(Looks(db=database, bundle=load_bundle(BUNDLE, check_encoder=False)))
    for studies, shift in phases:
        looks[0].add(studies, shift=shift)
    watch = DriftWatch(database, site.config)
    while watch.run() or count_looks(database):
        pass
    database.dispose()


@pytest.fixture
def demonstration(tmp_path: Path, sqlite_url: str) -> Site:
    site = make_site(tmp_path, sqlite_url)
    path = tmp_path / "triage.toml"
    path.write_text("demonstration = true\n" + path.read_text("utf-8"), "utf-8")
    from triage.config import load_config

    return Site(directory=site.directory, config=load_config(path, {}))


def test_drift_is_shown_drawn_told_and_accepted(demonstration: Site) -> None:
    site = demonstration
    see(site, (800, 0.0), (400, 1.5))
    text = told(site, "--plot", "drift.png")
    assert "CR/CHEST/ROOM 1" in text
    assert "DRIFT: images" in " ".join(text.split())
    assert "triage drift --accept GROUP" in " ".join(text.split())
    assert all(len(line) <= 80 for line in text.splitlines())
    assert (site.directory / "drift.png").read_bytes()[:4] == b"\x89PNG"
    document = json.loads(told(site, "--json"))
    everyone, room = document["groups"]
    assert (everyone["group"], room["group"]) == ("CR/CHEST", "CR/CHEST/ROOM 1")
    assert "images" in room["drift"]
    assert len(room["windows"]) == 7
    compared = room["windows"][-1]["comparisons"]
    assert compared["images"]["p"] < 0.002
    row = next(line for line in text.splitlines() if line.startswith("CR/CHEST/ROOM 1"))
    assert f"{compared['bank']['size']:.3f}" in row
    late = json.loads(told(site, "--json", "--since", f"{BEGIN.date()}T23:59Z"))
    assert 0 < len(late["groups"][0]["windows"]) <= 7
    accepted = told(site, "--accept", "cr/chest")
    assert "CR/CHEST" in accepted
    status = json.loads(site.run("status", "--json").stdout)
    # The measure of all devices is that of the room too: it begins anew as well.
    assert [each for each in status["causes"] if each["alarm"] == "drift"] == []
    shown = json.loads(site.run("drift", "--json").stdout)
    assert [group["drift"] for group in shown["groups"]] == [[], []]


def test_before_the_reference_is_complete_it_says_how_many_studies_it_needs(
    demonstration: Site,
) -> None:
    see(demonstration, (150, 0.0))
    assert "450 more studies needed" in " ".join(told(demonstration).split())
    ran = demonstration.run("drift", "--plot", "drift.png")
    assert ran.returncode == 1
    assert "nothing to draw" in ran.stderr


def test_it_says_how_old_it_is_and_how_much_it_does_not_hold_yet(demonstration: Site) -> None:
    site = demonstration
    see(site, (300, 0.0))
    text = " ".join(told(site).split())
    assert "Counted up to the results of 2026-01-05 22:57:00Z" in text
    assert "none is waiting" in text
    database = open_database(site.config.database.url)
    looks = Looks(db=database, bundle=load_bundle(BUNDLE, check_encoder=False), count=300)
    looks.add(40)
    database.dispose()
    text = " ".join(told(site).split())
    assert "40 results are not counted yet, the oldest" in text
    assert "2,000 results every 60 s" in text  # they have waited for long
    document = json.loads(told(site, "--json"))
    assert (document["results_not_counted"], document["behind"]) == (40, True)
    assert document["counted_to"] == "2026-01-05T22:57:00Z"
    assert document["oldest_not_counted_at"] == "2026-01-05T23:00:00Z"
    assert [each["studies_waiting"] for each in document["groups"]] == [0, 0]


def test_where_nothing_was_looked_at_it_says_so(site: Site) -> None:
    text = told(site)
    assert "Nothing to compare yet" in text
    assert "No result is counted yet; none is waiting." in text
    assert json.loads(told(site, "--json"))["groups"] == []


def test_a_bundle_that_cannot_be_read_is_told_beside_the_document(
    tmp_path: Path, sqlite_url: str
) -> None:
    more = f'[[models]]\nname = "chest"\nbundle = "{tmp_path}/none"\n'
    ran = make_site(tmp_path, sqlite_url, more=more).run("drift", "--json")
    assert json.loads(ran.stdout)["groups"] == []
    assert "The model chest is left out" in ran.stderr
    assert "triage bundle verify" in ran.stderr


def test_a_group_that_is_not_there_is_not_accepted(demonstration: Site) -> None:
    ran = demonstration.run("drift", "--accept", "MR/HEAD")
    assert ran.returncode == 1
    assert "triage drift" in ran.stderr
