"""What happens on the booted machine: install, run, disturb, look. Facts go to a JSON file.

Runs as root inside `boot.sh`; `test_booted.py` judges the facts.
"""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.dicom_files import make_dx, to_bytes

SYSTEM = Path("/etc/systemd/system")
SECRET = Path("/etc/triage/credentials/database-url")
DATABASE = Path("/var/lib/triage/by-credential.sqlite")
SLOW_S = 20  # processor time that the worker's first import of torch takes
CONFIGURATION = """
demonstration = true
[receiver]
host = "0.0.0.0"
[[receiver.peers]]
ae_title = "ANY"
address = "0.0.0.0/0"
[store]
minimum_free_mib = 16
[eligibility]
maximum_study_age_h = 0
[folders]
watch = ["/srv/in"]
after = "delete"
stable_s = 0.5
"""
SLOW_IMPORT = f"""
import sys, time
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            sys.meta_path.remove(self)
            until = time.thread_time() + {SLOW_S}
            while time.thread_time() < until:
                sum(range(1000))
sys.meta_path.insert(0, Slow())
"""
WORKER = "triage-analyse@0"
SEPARATE = ("triage-receive", "triage-watch", "triage-schedule", WORKER)


def sh(*command: str, **more: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


def show(unit: str, key: str) -> str:
    return sh("systemctl", "show", "--value", f"--property={key}", unit).stdout.strip()


def active(unit: str) -> bool:
    return show(unit, "ActiveState") == "active"


def until(probe: Callable[[], object], *, patience_s: float = 90.0) -> bool:
    deadline_s = time.monotonic() + patience_s
    while time.monotonic() < deadline_s:
        if probe():
            return True
        time.sleep(0.2)
    return False


def drop_in(unit: str, name: str, text: str) -> None:
    directory = SYSTEM / f"{unit}.d"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.conf").write_text(text)


def install() -> dict[str, Any]:
    done = sh("sh", "/opt/source/deploy/install.sh", "--no-venv", "/opt/environment")
    Path("/etc/triage/triage.toml").write_text(CONFIGURATION)
    SECRET.parent.mkdir(mode=0o700)
    SECRET.touch(mode=0o600)
    SECRET.write_text(f"sqlite:///{DATABASE}\n")
    folder = Path("/srv/in")
    folder.mkdir(parents=True)
    sh("chown", "triage", str(folder))
    shared = Path("/opt/triage/share/drop-ins")
    for unit in ("triage-.service", "triage.service"):
        drop_in(unit, "credentials", (shared / "credentials.conf").read_text())
    folders = (shared / "folders.conf").read_text().replace("/srv/dicom/in", "/srv/in")
    drop_in("triage-watch.service", "folders", folders)
    drop_in("triage.service", "folders", "[Service]\nReadWritePaths=/srv/in\n")
    Path("/opt/slow/sitecustomize.py").write_text(SLOW_IMPORT)
    slow = "[Service]\nEnvironment=SLOW_PATH=/opt/slow\nTimeoutStartSec=15\nRestartSec=1\n"
    drop_in("triage-analyse@.service", "slow", slow)
    drop_in("triage-schedule.service", "watchdog", "[Service]\nWatchdogSec=4\nRestartSec=1\n")
    enabled = sh("systemctl", "enable", "triage-watch")
    return {"code": done.returncode, "said": done.stdout + done.stderr, "watch": enabled.stderr}


def answers(address: str) -> bool:
    try:
        socket.create_connection(("127.0.0.1", 11112), timeout=2, source_address=(address, 0))
    except OSError:
        return False
    return True


def network_of(process: str) -> str:
    return str(Path(f"/proc/{process}/ns/net").readlink())


def sandbox(unit: str) -> dict[str, Any]:
    pid = show(unit, "MainPID")
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    inside = ("nsenter", f"--target={pid}")
    network = sh(*inside, "--net", "cat", "/proc/net/dev").stdout.splitlines()[2:]
    return {
        "capabilities": int(status["CapEff"], 16),
        "no_new_privileges": status["NoNewPrivs"] == "1",
        "filters": status["Seccomp"] == "2",
        "user": status["Uid"].split()[0],
        "listens": len(sh(*inside, "--net", "ss", "-Hltun").stdout.splitlines()),
        "interfaces": [line.split(":")[0].strip() for line in network],
        "own_network": network_of(pid) != network_of("self"),
        "devices": sorted(sh(*inside, "--mount", "ls", "/dev").stdout.split()),
        "core_limit": next(line for line in limits if line.startswith("Max core")).split()[4],
    }


def worklist() -> list[dict[str, Any]]:
    said = sh("triage", "worklist", "--json").stdout
    studies: list[dict[str, Any]] = json.loads(said)["studies"] if said else []
    return studies


def run_separate(facts: dict[str, Any]) -> None:
    began_s = time.monotonic()
    facts["start"] = sh("systemctl", "start", "triage.target").returncode
    facts["start_took_s"] = time.monotonic() - began_s
    doors = SEPARATE[:3]
    facts["doors_up"] = until(lambda: all(active(unit) for unit in doors))
    facts["worker_while_loading"] = show(WORKER, "ActiveState")
    facts["answers"] = {
        address: answers(address) for address in ("127.0.0.1", "10.1.2.3", "203.0.113.5")
    }
    Path("/srv/in/a.dcm").write_bytes(to_bytes(make_dx()))
    sh("chown", "triage", "/srv/in/a.dcm")
    facts["folder_emptied"] = until(lambda: not list(Path("/srv/in").iterdir()))
    facts["worker_up"] = until(lambda: active(WORKER))
    times = [
        int(show(WORKER, f"{key}TimestampMonotonic")) for key in ("InactiveExit", "ActiveEnter")
    ]
    facts["worker_start_s"] = (times[1] - times[0]) / 1e6
    facts["worker_restarts"] = int(show(WORKER, "NRestarts"))
    (SYSTEM / "triage-analyse@.service.d/slow.conf").write_text("[Service]\nRestartSec=1\n")
    sh("systemctl", "daemon-reload")
    facts["analysed"] = until(
        lambda: [study for study in worklist() if study["analysis"] != "pending"]
    )
    facts["study"] = worklist()[0]
    facts["status"] = sh("triage", "status").returncode
    facts["status_beside_its_file"] = sh(
        "triage", "--config", "triage.toml", "status", cwd="/etc/triage"
    ).returncode
    hidden = Path("/root/hidden")
    hidden.mkdir(mode=0o700)
    facts["status_from_hidden"] = sh("triage", "status", cwd=hidden).returncode
    facts["check"] = sh("triage", "check").stdout
    facts["sandbox"] = {unit: sandbox(unit) for unit in SEPARATE}
    facts["owners"] = sorted({path.owner() for path in Path("/var/lib/triage").rglob("*")})


def decide(facts: dict[str, Any]) -> None:
    """A person's decision by root's command line is recorded with the person."""
    uid = facts["study"]["study_instance_uid"]
    sh("triage", "acknowledge", uid, env={**os.environ, "SUDO_USER": "anna"})
    facts["acknowledged"] = sh("triage", "show", uid, "--json").stdout


def disturb(facts: dict[str, Any]) -> None:
    os.kill(int(show("triage-schedule", "MainPID")), signal.SIGSTOP)
    os.kill(int(show(WORKER, "MainPID")), signal.SIGKILL)
    facts["killed_comes_back"] = until(lambda: show(WORKER, "NRestarts") == "1" and active(WORKER))
    facts["hung_comes_back"] = until(
        lambda: show("triage-schedule", "NRestarts") == "1" and active("triage-schedule")
    )
    stopped = sh("systemctl", "stop", "triage.target", "triage*")
    facts["stopped"] = stopped.returncode
    facts["results"] = {unit: show(unit, "Result") for unit in SEPARATE}


def newer_database(facts: dict[str, Any]) -> None:
    """A program that was rolled back meets the database of its successor."""
    with sqlite3.connect(DATABASE) as connection:
        [(revision,)] = connection.execute("SELECT version_num FROM alembic_version")
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    facts["newer_starts"] = sh("systemctl", "start", "triage-receive").returncode == 0
    facts["newer_said"] = sh("journalctl", "-u", "triage-receive", "-n", "20", "-o", "cat").stdout
    sh("systemctl", "stop", "triage-receive")
    with sqlite3.connect(DATABASE) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    connection.close()
    sh("chown", "-R", "triage:triage", "/var/lib/triage")


def all_in_one(facts: dict[str, Any]) -> None:
    sh("systemctl", "start", "triage-receive")
    facts["one_start"] = sh("systemctl", "start", "triage.service").returncode
    facts["one_alone"] = not active("triage-receive")
    facts["one_healthy"] = until(lambda: sh("triage", "status").returncode == 0)
    facts["one_sandbox"] = sandbox("triage.service")
    facts["one_stopped"] = sh("systemctl", "stop", "triage.service").returncode
    facts["one_result"] = show("triage.service", "Result")


def main() -> None:
    facts: dict[str, Any] = {"install": install()}
    sh("systemctl", "daemon-reload")
    facts["migrate"] = sh("triage", "migrate").stdout
    try:
        for step in (run_separate, decide, disturb, newer_database, all_in_one):
            began_s = time.monotonic()
            step(facts)
            print(step.__name__, round(time.monotonic() - began_s, 1), "s", flush=True)
    finally:
        facts["journal"] = sh("journalctl", "-o", "short-monotonic").stdout
        Path(sys.argv[1]).write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
