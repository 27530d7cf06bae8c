"""`triage check` tries what the daemon will need, and says how to mend what fails."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.cli.site import Site, make_site
from triage.cli.command_line import main


def checks(site: Site, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    """Return the outcomes by name."""
    capsys.readouterr()
    code = main(["--config", str(site.config.source), "check", "--json", *options])
    outcomes = json.loads(capsys.readouterr().out)["checks"]
    assert code == (0 if all(each["passed"] for each in outcomes) else 1)
    return {each["name"]: each for each in outcomes}


def test_a_sound_site_without_a_model_lacks_only_the_model(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = checks(site, capsys)
    assert [name for name, each in outcomes.items() if not each["passed"]] == ["models"]
    assert {"configuration", "database", "store", "space", "receiver"} <= set(outcomes)


def test_whatever_fails_has_a_next_step(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    for each in checks(site, capsys).values():
        assert bool(each["next_step"]) is not each["passed"]


def test_a_database_at_no_revision_names_migrate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = make_site(tmp_path, f"sqlite:///{tmp_path}/empty.sqlite")
    outcome = checks(site, capsys)["database"]
    assert not outcome["passed"]
    assert "triage migrate" in outcome["next_step"]


def test_nothing_is_left_in_the_store(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    checks(site, capsys)
    assert [path for path in site.config.store.path.rglob("*") if path.is_file()] == []


def test_too_little_space_fails(
    tmp_path: Path, sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    site = make_site(tmp_path, sqlite_url)
    site.config.source.write_text(  # type: ignore[union-attr]
        site.config.source.read_text("utf-8").replace(  # type: ignore[union-attr]
            "minimum_free_mib = 1", "minimum_free_mib = 1000000000"
        ),
        "utf-8",
    )
    assert not checks(site, capsys)["space"]["passed"]


def test_a_watched_folder_that_is_missing_fails_and_one_that_is_there_passes(
    tmp_path: Path, sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    there, missing = tmp_path / "there", tmp_path / "missing"
    there.mkdir()
    more = f'[folders]\nwatch = ["{there}", "{missing}"]\n'
    outcomes = checks(make_site(tmp_path, sqlite_url, more=more), capsys)
    assert outcomes[f"folder {there}"]["passed"]
    assert not outcomes[f"folder {missing}"]["passed"]


def test_a_port_that_another_program_holds_fails(
    tmp_path: Path, sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    site = make_site(tmp_path, sqlite_url)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        path = site.config.source
        assert path is not None
        path.write_text(path.read_text("utf-8").replace("port = 0", f"port = {port}"), "utf-8")
        outcome = checks(site, capsys)["receiver"]
    assert not outcome["passed"]
    assert str(port) in outcome["message"]


def test_a_bundle_that_is_missing_fails_without_keeping_the_rest_from_being_tried(
    tmp_path: Path, sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = f'[[models]]\nname = "chest"\nbundle = "{tmp_path}/none"\n'
    outcomes = checks(make_site(tmp_path, sqlite_url, more=more), capsys)
    assert not outcomes["model chest"]["passed"]
    assert outcomes["store"]["passed"]


def test_the_built_in_model_gives_its_known_answer(
    tmp_path: Path, sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    site = make_site(tmp_path, sqlite_url)
    path = site.config.source
    assert path is not None
    path.write_text("demonstration = true\n" + path.read_text("utf-8"), "utf-8")
    outcomes = checks(site, capsys)
    assert outcomes["model pocket"]["passed"]
    assert outcomes["model pocket on auto"]["passed"], outcomes
    assert all(each["passed"] for each in outcomes.values())
