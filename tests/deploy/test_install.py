"""`install.sh` in a scratch root: what INSTALL.md says is what happens, again and again."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.assurance import requirement

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROGRAM = Path(sys.executable).parent / "triage"
CONFIGURATION = "etc/triage/triage.toml"

pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="triage is not installed here")


def install(root: Path, *arguments: str, script: Path = DEPLOY / "install.sh") -> str:
    """Run the script with DESTDIR; return what it said."""
    done = subprocess.run(
        ["sh", script, *arguments],
        env={"DESTDIR": str(root), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def with_environment(root: Path, *more: str, script: Path = DEPLOY / "install.sh") -> str:
    return install(root, "--no-venv", str(PROGRAM.parents[1]), *more, script=script)


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(root)): (path.stat().st_mode & 0o777, path.read_bytes())
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
        if not path.is_relative_to(root / "opt/triage/current/")
    }


def enabled(root: Path) -> set[str]:
    return {path.name for path in (root / "etc/systemd/system").glob("*.wants/*")}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A scratch root with a first installation."""
    with_environment(tmp_path / "root")
    return tmp_path / "root"


def newer(tmp_path: Path) -> Path:
    """The source tree of a later version, as far as the script reads it; returns its script."""
    source = tmp_path / "newer"
    shutil.copytree(DEPLOY, source / "deploy")
    sample = (ROOT / "triage.toml").read_text("utf-8")
    (source / "triage.toml").write_text(sample + '\n[new]\n#key = "value"\n', "utf-8")
    unit = source / "deploy/triage-receive.service"
    unit.write_text(unit.read_text("utf-8") + "# newer\n", "utf-8")
    return source / "deploy/install.sh"


def test_a_first_installation_lays_down_everything_and_tells_the_next_steps(tmp_path: Path) -> None:
    root = tmp_path / "root"
    said = with_environment(root)
    files = tree(root)
    for name in ("triage.target", "triage-receive.service", "triage-analyse@.service"):
        assert files[f"usr/local/lib/systemd/system/{name}"][0] == 0o644
    assert files[CONFIGURATION] == (0o640, (ROOT / "triage.toml").read_bytes())
    assert (root / "etc/triage").stat().st_mode & 0o777 == 0o750
    assert files["usr/local/bin/triage"][0] == 0o755
    assert (root / "opt/triage/current/bin/triage").exists()
    assert not (root / "var").exists()
    assert re.findall(r"^  \d\. (\w+ \w+)", said, re.MULTILINE) == [
        "triage migrate",
        "triage check",
        "systemctl start",
        "triage status",
    ]


@pytest.mark.skipif(shutil.which("systemctl") is None, reason="systemctl is not installed")
def test_separate_services_are_enabled_unless_one_for_all_is_asked_for(tmp_path: Path) -> None:
    with_environment(tmp_path / "separate")
    with_environment(tmp_path / "one", "--all-in-one")
    assert enabled(tmp_path / "separate") == {
        "triage.target",
        "triage-receive.service",
        "triage-schedule.service",
        "triage-analyse@0.service",
    }
    assert enabled(tmp_path / "one") == {"triage.service"}


def test_a_second_run_changes_nothing(root: Path) -> None:
    before, links = tree(root), enabled(root)
    with_environment(root)
    assert (tree(root), enabled(root)) == (before, links)


@requirement("P6")
def test_an_upgrade_renews_units_and_keeps_the_configuration(root: Path, tmp_path: Path) -> None:
    mine = b'[site]\nname = "mine"\n'
    (root / CONFIGURATION).write_bytes(mine)
    drop_in = root / "etc/systemd/system/triage-receive.service.d/senders.conf"
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("[Service]\n")
    said = with_environment(root, script=newer(tmp_path))
    files = tree(root)
    assert files[CONFIGURATION][1] == mine
    assert files[f"{CONFIGURATION}.new"][1] == (tmp_path / "newer/triage.toml").read_bytes()
    assert "triage.toml.new" in said
    assert files["usr/local/lib/systemd/system/triage-receive.service"][1].endswith(b"# newer\n")
    assert drop_in.exists()
    assert "Next:" not in said


@requirement("P6")
def test_a_release_can_be_switched_back_to(root: Path) -> None:
    for name in ("0.1.0-aaaaaaaa", "0.2.0-bbbbbbbb"):
        program = root / "opt/triage/releases" / name / "bin/triage"
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/sh\necho {name}\n")
        program.chmod(0o755)
    for name in ("0.2.0-bbbbbbbb", "0.1.0-aaaaaaaa"):
        assert name in install(root, "--activate", name)
        current = root / "opt/triage/current"
        assert str(current.readlink()) == f"releases/{name}"
        assert subprocess.check_output([current / "bin/triage"], text=True).strip() == name


def test_a_release_brings_its_own_units_back(root: Path) -> None:
    release = root / "opt/triage/releases/0.1.0-aaaaaaaa"
    (release / "bin").mkdir(parents=True)
    (release / "bin/triage").touch(mode=0o755)
    shipped = release / "lib/python3.11/site-packages/triage/_shipped/deploy"
    shutil.copytree(DEPLOY, shipped)
    (shipped / "triage-receive.service").write_text("# of 0.1.0\n")
    units = root / "usr/local/lib/systemd/system"
    (units / "triage-later.service").write_text("# of 0.2.0\n")
    install(root, "--activate", "0.1.0-aaaaaaaa")
    assert (units / "triage-receive.service").read_text() == "# of 0.1.0\n"
    assert not (units / "triage-later.service").exists()


@pytest.mark.skipif(shutil.which("systemctl") is None, reason="systemctl is not installed")
def test_a_site_can_change_over_to_one_service_for_all(root: Path) -> None:
    assert "systemctl restart triage.target" in with_environment(root)
    assert "systemctl restart triage.service" in with_environment(root, "--all-in-one")
    assert enabled(root) == {"triage.service"}
    assert "systemctl restart triage.service" in with_environment(root)


def test_a_release_that_is_not_there_is_refused(root: Path) -> None:
    with pytest.raises(AssertionError, match="there is no release 9"):
        install(root, "--activate", "9")
    assert (root / "opt/triage/current/bin/triage").exists()


def test_uninstalling_leaves_configuration_and_data(root: Path) -> None:
    data = root / "var/lib/triage/store/objects/00/image.dcm"
    data.parent.mkdir(parents=True)
    data.write_bytes(b"image")
    install(root, "--uninstall")
    assert set(tree(root)) == {CONFIGURATION, "var/lib/triage/store/objects/00/image.dcm"}
    assert enabled(root) == set()


def test_a_wheel_becomes_a_release_of_its_own_without_any_network(tmp_path: Path) -> None:
    wheel = tmp_path / "triage-9.9.9-py3-none-any.whl"
    make_wheel(wheel)
    root = tmp_path / "root"
    options = ("--wheel", str(wheel), "--wheelhouse", str(tmp_path), "--python", sys.executable)
    install(root, *options)
    current = root / "opt/triage/current"
    assert re.fullmatch(r"releases/9\.9\.9-[0-9a-f]{8}", str(current.readlink()))
    assert subprocess.check_output([current / "bin/triage"], text=True).strip() == "small"
    made_at = (current / ".complete").stat().st_mtime_ns
    install(root, *options)
    assert (current / ".complete").stat().st_mtime_ns == made_at


def test_what_a_wheel_ships_installs_it(tmp_path: Path) -> None:
    shipped = tmp_path / "unpacked/triage/_shipped"
    shutil.copytree(DEPLOY, shipped / "deploy")
    shutil.copy(ROOT / "triage.toml", shipped)
    wheel = tmp_path / "triage-9.9.9-py3-none-any.whl"
    make_wheel(wheel)
    script = shipped / "deploy/install.sh"
    options = ("--wheelhouse", str(tmp_path), "--python", sys.executable)
    with pytest.raises(AssertionError, match="no source tree here: name the --wheel"):
        install(tmp_path / "root", *options, script=script)
    install(tmp_path / "root", "--wheel", str(wheel), *options, script=script)
    assert (tmp_path / "root" / CONFIGURATION).exists()
    assert (tmp_path / "root/usr/local/lib/systemd/system/triage.target").exists()


def test_the_manual_saves_a_whole_database_and_puts_it_back_whole(tmp_path: Path) -> None:
    """A reader that was open at the stop leaves committed rows in the -wal file."""
    import sqlite3

    manual = (DEPLOY / "INSTALL.md").read_text("utf-8")
    save = "\n".join(re.findall(r"^    (mkdir .* cp -a .*)$", manual, re.MULTILINE))
    back = re.findall(r"`((?:rm|cp -a) [^`]*triage\.sqlite\*[^`]*)`", manual)
    assert len(back) == 2
    state = tmp_path / "var/lib/triage"
    state.mkdir(parents=True)
    writer = sqlite3.connect(state / "triage.sqlite")
    reader = sqlite3.connect(state / "triage.sqlite")
    writer.executescript("PRAGMA journal_mode = WAL; CREATE TABLE studies (number)")
    writer.execute("INSERT INTO studies VALUES (1)")
    writer.commit()
    reader.execute("SELECT * FROM studies").fetchall()
    run_below(tmp_path, save)
    writer.execute("DELETE FROM studies")
    writer.commit()
    writer.close()
    reader.close()
    run_below(tmp_path, "\n".join(back))
    with sqlite3.connect(state / "triage.sqlite") as restored:
        assert restored.execute("SELECT * FROM studies").fetchall() == [(1,)]
    restored.close()


def run_below(root: Path, script: str) -> None:
    assert "/var/lib/triage" in script
    script = re.sub(r"(?<=\s)/var/", f"{root}/var/", script)
    subprocess.run(["sh", "-euc", script], check=True, timeout=30)


def make_wheel(path: Path) -> None:
    """Write a wheel named triage that needs nothing: what the script does with one is the same."""
    import zipfile

    about = "triage-9.9.9.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("small.py", "def main():\n    print('small')\n")
        archive.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: triage\nVersion: 9.9.9\n"
        )
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{about}/entry_points.txt", "[console_scripts]\ntriage = small:main\n")
        archive.writestr(f"{about}/RECORD", "")


@pytest.mark.parametrize("tool", ["sysusers", "tmpfiles"])
def test_systemd_takes_the_snippets(tool: str, root: Path) -> None:
    program = shutil.which(f"systemd-{tool}")
    if program is None:
        pytest.skip(f"systemd-{tool} is not installed")
    if tool == "sysusers":
        command = [program, f"--root={root}", "--dry-run", "triage.conf"]
    else:
        command = [program, "--cat-config", f"--root={root}", "triage.conf"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert "triage" in done.stdout + done.stderr


def test_the_scripts_are_plain_posix_shell() -> None:
    checker = shutil.which("shellcheck")
    if checker is None:
        pytest.skip("shellcheck is not installed")
    scripts = [*DEPLOY.glob("*.sh"), *(ROOT / "tests/deploy").glob("*.sh")]
    done = subprocess.run([checker, *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_manual_names_only_what_is_there() -> None:
    manual = (DEPLOY / "INSTALL.md").read_text("utf-8")
    for name in set(re.findall(r"`([a-z0-9-]+\.conf)`", manual)) - {"journald.conf"}:
        assert (DEPLOY / "drop-ins" / name).exists(), name
    for name in set(re.findall(r"`(triage[a-z-]*@?0?\.(?:service|target))`", manual)):
        assert (DEPLOY / name.replace("@0.", "@.")).exists(), name
    said = subprocess.check_output(["sh", DEPLOY / "install.sh", "--help"], text=True)
    for option in set(re.findall(r"install\.sh (--[a-z-]+)", manual)):
        assert option in said, option
    for path in (DEPLOY / "drop-ins").glob("*.conf"):
        assert path.name in manual, path.name
