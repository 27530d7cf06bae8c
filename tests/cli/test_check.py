"""`triage check` tries what the daemon will need, and says how to mend what fails."""

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cli.site import Site, make_site
from triage.cli.check import as_text
from triage.cli.checks import check_all
from triage.cli.checks_models import check_model
from triage.cli.command_line import main
from triage.cli.table import Screen
from triage.config import Config, ModelConfig, PeerConfig, ReceiverConfig
from triage.database.connection import open_database
from triage.database.house import record_role
from triage.ingest.intake import Intake
from triage.ingest.storage_scp import StorageReceiver
from triage.operations.shared_store import HostToken
from triage.pocket import BUNDLE


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


def test_a_daemon_that_does_not_know_this_host_as_a_sender_still_answers_as_itself(
    tmp_path: Path, intake: Intake
) -> None:
    stranger = PeerConfig(ae_title="CT_1", address="127.0.0.1")
    receiver = StorageReceiver(intake, ReceiverConfig(port=0, peers=(stranger,)))
    receiver.start()
    try:
        site = make_site(tmp_path, f"sqlite:///{tmp_path}/other.sqlite")
        config = replace(site.config, receiver=ReceiverConfig(port=receiver.port))
        outcomes = {each.name: each for each in check_all(config, record=False)}
    finally:
        receiver.stop(drain_s=0)
    assert outcomes["receiver"].passed, outcomes["receiver"]


def test_a_bundle_that_is_missing_fails_without_keeping_the_rest_from_being_tried(
    tmp_path: Path, sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = f'[[models]]\nname = "chest"\nbundle = "{tmp_path}/none"\n'
    outcomes = checks(make_site(tmp_path, sqlite_url, more=more), capsys)
    assert not outcomes["model chest"]["passed"]
    assert outcomes["store"]["passed"]


def test_a_model_that_would_be_a_shadow_against_its_entry_passes_and_says_so() -> None:
    model = ModelConfig(name="chest", bundle=BUNDLE, devices=("cpu",))
    _, outcome = check_model(model, Config(), record=False)
    assert outcome.passed
    assert "gives its known answer (float32-cpu); it was not calibrated" in outcome.message
    assert "triage calibrate" in outcome.next_step
    told = as_text([outcome], Screen(columns=80))
    assert told.splitlines()[-1] == "All 1 checks passed; 1 with something to know: see next."


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


def another_host_lives(site: Site, token: str) -> None:
    database = open_database(site.config.database.url)
    with database.write() as connection:
        now = database.now(connection)
        record_role(
            connection,
            role="receive",
            host="second",
            pid=1,
            started_at=now,
            state="running",
            detail={"store_token": token},
            now=now,
        )
    database.dispose()


def test_with_one_host_there_is_nothing_to_prove(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "nothing to prove" in checks(site, capsys)["hosts"]["message"]


def test_a_second_host_with_this_store_passes_and_is_named(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.config.store.path.mkdir(exist_ok=True)
    second = HostToken(site.config.store.path, host="second")
    another_host_lives(site, second.text)
    outcome = checks(site, capsys)["hosts"]
    second.close()
    assert outcome["passed"]
    assert outcome["message"].endswith("second")


def test_a_second_host_with_a_store_of_its_own_fails(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    second = HostToken(tmp_path / "elsewhere", host="second")
    another_host_lives(site, second.text)
    outcome = checks(site, capsys)["hosts"]
    second.close()
    assert not outcome["passed"]
    assert "second writes to another store" in outcome["message"]


def test_a_port_below_1024_is_not_held_against_a_user_who_may_not_open_it() -> None:
    """As the user of the command line is; the receiver's unit has the right (port-104.conf)."""
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 104:
        pytest.skip("every user may open port 104 here")
    program = (
        "import json; from triage.cli.checks import _port;"
        "print(json.dumps([_port('receiver', '127.0.0.1', 104, 'TRIAGE').passed]))"
    )
    command = [sys.executable, "-c", program]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv is not installed")
        no_right = "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"
        command = ["setpriv", *no_right, *command]
    free = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(free.stdout) == [True]
    if os.geteuid() != 0:
        return
    with socket.create_server(("127.0.0.1", 104)) as other:
        other.settimeout(60)
        held = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for _ in range(3):  # is there a listener, twice, and does it answer
            other.accept()[0].close()
        assert json.loads(held.communicate(timeout=60)[0]) == [False]
