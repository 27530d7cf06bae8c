"""The shipped units are as tight as they claim, and say the same where they mean the same."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.assurance import Evidence, requirement

DEPLOY = Path(__file__).parents[2] / "deploy"
# The greatest exposure that is let pass, as `systemd-analyze security` counts it.
LIMITS = {
    "triage-receive.service": 2.0,
    "triage-watch.service": 2.0,
    "triage-schedule.service": 2.0,
    "triage-analyse@.service": 2.5,
    "triage.service": 2.5,
}
UNITS = tuple(LIMITS)
WITHOUT_DEVICES = UNITS[:3]
WITH_CUDA = UNITS[3:]
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def settings(name: str, directory: Path = DEPLOY) -> dict[str, list[str]]:
    """Return every key of a unit with its values."""
    found: dict[str, list[str]] = {}
    for line in (directory / name).read_text("utf-8").splitlines():
        if match := re.match(r"(\w+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def instance(name: str) -> str:
    return name.replace("@.", "@0.")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scratch root with systemd's own units, ours, and a program."""
    root = tmp_path_factory.mktemp("host")
    units = root / "usr/lib/systemd/system"
    shutil.copytree("/lib/systemd/system", units, symlinks=True, ignore_dangling_symlinks=True)
    for path in [*DEPLOY.glob("*.service"), *DEPLOY.glob("*.target")]:
        shutil.copy(path, units)
    program = root / "opt/triage/current/bin/triage"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    return root


def analyze(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@requirement("S6", bound="receiver, watcher, scheduler at most 2.0; worker and all in one 2.5")
@needs_systemd
@pytest.mark.parametrize("name", UNITS)
def test_the_exposure_of_a_unit_stays_below_its_limit(
    name: str, tmp_path: Path, evidence: Evidence
) -> None:
    unit = shutil.copy(DEPLOY / name, tmp_path / instance(name))
    done = analyze("security", "--offline=true", f"--threshold={LIMITS[name] * 10:.0f}", unit)
    exposure = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert exposure is not None, done.stdout + done.stderr
    losses = int(float(exposure[1]) > LIMITS[name])
    evidence.record(trials=1, losses=losses, worst=exposure[1])
    assert done.returncode == 0, done.stdout
    assert float(exposure[1]) <= LIMITS[name]


@needs_systemd
@pytest.mark.parametrize("name", [*UNITS, "triage.target"])
def test_systemd_takes_a_unit_without_a_word(name: str, host: Path) -> None:
    done = analyze("verify", "--man=no", f"--root={host}", instance(name))
    ours = [line for line in done.stderr.splitlines() if "triage" in line]
    assert (done.returncode, ours) == (0, []), done.stderr


@needs_systemd
@pytest.mark.parametrize("path", sorted((DEPLOY / "drop-ins").glob("*.conf")), ids=lambda p: p.name)
def test_systemd_takes_a_drop_in_of_the_examples(path: Path, host: Path) -> None:
    target = re.search(r"/etc/systemd/system/(\S+\.d)/", path.read_text("utf-8"))
    directory = host / "etc/systemd/system" / (target[1] if target else "triage-.service.d")
    directory.mkdir(parents=True)
    shutil.copy(path, directory)
    try:
        done = analyze("verify", "--man=no", f"--root={host}", *map(instance, UNITS))
    finally:
        shutil.rmtree(directory)
    ours = [line for line in done.stderr.splitlines() if "triage" in line]
    if path.name == "restart-steps.conf" and any("RestartSteps" in line for line in ours):
        pytest.skip("this systemd is older than 254: install.sh leaves the drop-in out")
    if path.name == "nvidia.conf":
        ours = [line for line in ours if "nvidia-modprobe is not executable" not in line]
    assert ours == []


def test_what_concerns_all_services_is_the_same_in_all() -> None:
    differ = {
        "Description", "Conflicts", "After", "Wants", "PartOf", "ExecStart", "Environment",
        "TimeoutStartSec", "MemoryMax", "TasksMax", "LimitNOFILE", "OOMPolicy", "OOMScoreAdjust",
        "CacheDirectory", "CacheDirectoryMode", "SystemCallFilter", "PrivateDevices",
        "PrivateUsers", "ProcSubset", "MemoryDenyWriteExecute", "DevicePolicy", "DeviceAllow",
        "PrivateNetwork", "RestrictAddressFamilies", "IPAddressAllow", "WantedBy",
        "DefaultInstance",
    }  # fmt: skip
    common = [
        {key: values for key, values in settings(name).items() if key not in differ}
        for name in UNITS
    ]
    assert all(each == common[0] for each in common)
    assert common[0]["Type"] == ["notify"]
    assert common[0]["UMask"] == ["0077"]
    assert common[0]["LimitCORE"] == ["0"]
    assert common[0]["ExecStartPre"] == ["/opt/triage/current/bin/triage migrate"]
    assert common[0]["StartLimitIntervalSec"] == ["0"]


@pytest.mark.parametrize("name", WITHOUT_DEVICES)
def test_only_a_worker_may_see_a_device_or_write_code(name: str) -> None:
    unit = settings(name)
    assert unit["PrivateDevices"] == ["yes"]
    assert unit["MemoryDenyWriteExecute"] == ["yes"]
    assert "DeviceAllow" not in unit


@pytest.mark.parametrize("name", WITH_CUDA)
def test_what_cuda_needs_is_open(name: str) -> None:
    unit = settings(name)
    allowed = {value.split()[0] for value in unit["DeviceAllow"]}
    assert {"char-nvidiactl", "char-nvidia-uvm", "char-nvidia-caps"} <= allowed
    assert unit["DevicePolicy"] == ["closed"]
    assert not {"ProcSubset", "MemoryDenyWriteExecute", "PrivateDevices"} & set(unit)
    assert unit["OOMPolicy"] == ["continue"]


def test_the_worker_has_no_network() -> None:
    unit = settings("triage-analyse@.service")
    assert unit["PrivateNetwork"] == ["yes"]
    assert unit["RestrictAddressFamilies"] == ["AF_UNIX"]


def test_the_target_brings_every_service_but_watch_and_excludes_the_all_in_one() -> None:
    target = settings("triage.target")
    assert target["Also"] == [
        "triage-receive.service triage-schedule.service triage-analyse@0.service"
    ]
    assert "triage.service" in target["Conflicts"][0].split()
    for name in UNITS[:4]:
        assert settings(name)["PartOf"] == ["triage.target"]
        assert settings(name)["WantedBy"] == ["triage.target"]


def test_the_list_of_limits_names_every_unit() -> None:
    assert {path.name for path in DEPLOY.glob("*.service")} == set(UNITS)


def test_a_credential_is_read_by_the_configuration(tmp_path: Path) -> None:
    from triage.config import load_config

    (tmp_path / "database-url").write_text("postgresql://triage:secret@db/triage\n")
    (tmp_path / "triage.toml").write_text('[receiver]\nkey = "/etc/triage/credentials/k.pem"\n')
    environ = {
        name: value.replace("%d", str(tmp_path))
        for drop_in in ("credentials.conf", "tls.conf")
        for setting in settings(drop_in, DEPLOY / "drop-ins")["Environment"]
        for name, value in [setting.split("=", 1)]
    }
    config = load_config(tmp_path / "triage.toml", environ)
    assert config.database.url == "postgresql://triage:secret@db/triage"
    assert config.receiver.key == f"{tmp_path}/tls-key.pem"
    assert "secret" not in json.dumps(repr(config))
