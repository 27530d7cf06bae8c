"""Every command in README.md works as it stands there."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.site import Site, arrive, make_site

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
SHELL_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"`((?:triage|migrations|deploy|tests)/[a-z/._]*|[A-Za-z]+\.(?:toml|md))`")

Prepare = Callable[[Site], None]


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    """Return an installation with an empty SQLite database of its own."""
    return make_site(tmp_path, sqlite_url)


def commands() -> list[str]:
    return [line for block in SHELL_BLOCK.findall(README) for line in block.splitlines() if line]


def nothing(site: Site) -> None:
    """Leave the site as it is: migrated, empty, daemon down."""


def with_study(site: Site) -> None:
    arrive(site, accession_number="DEMO-A001")


def with_encoder(site: Site) -> None:
    """Put the one encoder that is always at hand where the weights would be."""
    from triage.pocket import BUNDLE

    shutil.copytree(BUNDLE / "encoder", site.directory / "weights")


def with_bundle(site: Site) -> None:
    with_encoder(site)
    assert site.run("bundle", "init", "--encoder", "weights", "bundles/chest").returncode == 0


# Per command: what it needs, and the exit code that says that it did what README promises.
TESTED: dict[str, tuple[Prepare, int]] = {
    "triage migrate": (nothing, 0),
    "triage check": (nothing, 1),  # no model is configured at this site, and it says so
    "triage status": (nothing, 2),  # the daemon is down
    "triage metrics": (nothing, 0),
    "triage worklist": (with_study, 0),
    "triage show DEMO-A001": (with_study, 0),
    "triage acknowledge DEMO-A001": (with_study, 0),
    "triage bundle init --encoder /srv/models/medgemma-4b-it bundles/chest": (with_encoder, 0),
    "triage bundle verify bundles/chest": (with_bundle, 0),
    "triage bundle show bundles/chest": (with_bundle, 0),
    "triage check --record": (nothing, 1),
}
# Commands that are tests of their own, or that CI runs: a line there proves that it still does.
ELSEWHERE = {
    "make demo": ("tests/cli/test_demo.py", "demo"),
    "make test": (".ci/run", "make test"),
    "triage run": ("tests/cli/test_demo.py", "demo"),
    "triage send studies/": ("tests/cli/test_send.py", "send"),
}


def test_every_command_is_tested_and_nothing_else_is() -> None:
    assert sorted(set(commands())) == sorted({*TESTED, *ELSEWHERE})


@pytest.mark.parametrize("command", TESTED)
def test_the_command_does_what_it_says(command: str, site: Site) -> None:
    prepare, code = TESTED[command]
    prepare(site)
    words = command.replace("/srv/models/medgemma-4b-it", "weights").split()[1:]
    done = site.run(*words)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ELSEWHERE)
def test_the_command_is_run_elsewhere(command: str) -> None:
    file, words = ELSEWHERE[command]
    assert words in (ROOT / file).read_text("utf-8")


def test_the_targets_of_make_exist() -> None:
    for command in commands():
        if command.startswith("make "):
            done = subprocess.run(
                ["make", "--dry-run", command.split()[1], f"PYTHON={sys.executable}"],
                cwd=ROOT,
                capture_output=True,
                check=False,
            )
            assert done.returncode == 0, command


def test_every_file_that_is_named_exists() -> None:
    for name in LINK.findall(README):
        assert (ROOT / name).exists(), name
