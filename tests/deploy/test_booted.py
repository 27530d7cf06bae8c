"""The shipped units under a real systemd: installed, started, disturbed, rolled back.

`boot.sh` boots systemd as PID 1 of a machine of its own (namespaces over this root, a memory
overlay) and runs `scenario.py` there. Needs root, systemd and unified cgroups; skipped elsewhere.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from tests.assurance import requirement

HERE = Path(__file__).parent
SERVICES = ("triage-receive", "triage-watch", "triage-schedule", "triage-analyse@0")
Facts = dict[str, Any]

pytestmark = [pytest.mark.long_only, pytest.mark.timeout(300), requirement("S6")]


def interpreter() -> str:
    """Return a Python that the user of the units can see: not one below a home directory."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for place in (Path(sys.base_prefix, "bin", version), Path("/usr/bin", version)):
        hidden = any(place.resolve().is_relative_to(home) for home in ("/root", "/home"))
        if place.exists() and not hidden:
            return str(place)
    pytest.skip("no Python of this version outside home directories")


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    if os.geteuid() != 0:
        pytest.skip("booting a machine needs root")
    if not (shutil.which("unshare") and Path("/lib/systemd/systemd").exists()):
        pytest.skip("systemd is not installed")
    directory = tmp_path_factory.mktemp("booted")
    booted = subprocess.run(
        [
            HERE / "boot.sh",
            directory,
            interpreter(),
            HERE.parents[1],
            sysconfig.get_path("purelib"),
        ],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    if not (directory / "log").exists():
        pytest.skip(f"no machine can be booted here: {booted.stderr.strip()[-200:]}")
    outcome = directory / "facts.json"
    assert outcome.exists(), (directory / "log").read_text()
    found: Facts = json.loads(outcome.read_text())
    assert "one_result" in found, (directory / "log").read_text() + found["journal"][-5000:]
    return found


def test_installed_migrated_and_started_it_does_its_work(facts: Facts) -> None:
    assert facts["install"]["code"] == 0
    assert facts["migrate"].startswith("Applied:")
    assert facts["doors_up"]
    assert facts["analysed"]
    assert facts["study"]["analysis"] in ("analysed", "not_eligible")
    assert facts["status"] == 0
    assert "FAILED" not in facts["check"]


def test_the_start_of_the_target_waits_for_no_model(facts: Facts) -> None:
    assert facts["start_took_s"] < 5
    assert facts["worker_while_loading"] == "activating"


def test_a_load_longer_than_the_start_timeout_is_let_finish_while_it_works(facts: Facts) -> None:
    assert facts["worker_up"]
    assert facts["worker_start_s"] > 15 + 5
    assert facts["worker_restarts"] == 0


def test_the_secret_came_from_a_credential_to_services_and_people(facts: Facts) -> None:
    assert facts["study"]["study_instance_uid"]  # the database is named in the credential alone
    assert facts["folder_emptied"]
    assert '"anna"' in facts["acknowledged"]


def test_the_command_runs_where_it_was_called_if_its_user_may_be_there(facts: Facts) -> None:
    assert facts["status_beside_its_file"] == 0
    assert facts["status_from_hidden"] == 0


def test_nothing_in_the_state_directory_belongs_to_root(facts: Facts) -> None:
    assert facts["owners"] == ["triage"]


def test_private_networks_reach_the_receiver_and_public_ones_do_not(facts: Facts) -> None:
    assert facts["answers"] == {"127.0.0.1": True, "10.1.2.3": True, "203.0.113.5": False}


@pytest.mark.parametrize("unit", SERVICES)
def test_a_service_has_no_privilege_and_leaves_no_core(facts: Facts, unit: str) -> None:
    held = facts["sandbox"][unit]
    assert held["capabilities"] == 0
    assert held["no_new_privileges"]
    assert held["filters"]
    assert held["user"] != "0"
    assert held["core_limit"] == "0"


def test_the_worker_has_no_network_and_listens_nowhere(facts: Facts) -> None:
    worker = facts["sandbox"]["triage-analyse@0"]
    assert worker["own_network"]
    assert worker["interfaces"] == ["lo"]
    assert worker["listens"] == 0


def test_a_killed_worker_and_a_hung_scheduler_come_back(facts: Facts) -> None:
    assert facts["killed_comes_back"]
    assert facts["hung_comes_back"]


def test_a_stop_is_in_order(facts: Facts) -> None:
    assert facts["stopped"] == 0
    assert set(facts["results"].values()) == {"success"}


def test_an_older_program_leaves_a_newer_database_alone_and_says_why(facts: Facts) -> None:
    assert not facts["newer_starts"]
    assert "9999, which this program does not know" in facts["newer_said"]


def test_all_in_one_takes_the_place_of_the_separate_services(facts: Facts) -> None:
    assert facts["one_start"] == 0
    assert facts["one_alone"]
    assert facts["one_healthy"]
    assert facts["one_sandbox"]["capabilities"] == 0
    assert facts["one_stopped"] == 0
    assert facts["one_result"] == "success"


def test_systemd_finds_nothing_to_complain_of(facts: Facts) -> None:
    complaints = ("Unknown key", "reception only permitted", "Failed to parse", "Invalid")
    lines = [line for line in facts["journal"].splitlines() if "triage" in line]
    assert [line for line in lines if any(words in line for words in complaints)] == []
