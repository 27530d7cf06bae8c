"""S7: every version is pinned, no known-bad one is allowed, licences permit use, a list is made.

The advisories of the day need a network and pip-audit (`pip install pip-audit`); without them that
part is skipped, and says so. Pins are versions: the hashes of wheels are those of the index that a
site installs from.
"""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.assurance import Evidence, requirement
from tests.security.supply_chain import (
    BY_FILE,
    COPYLEFT,
    PERMISSIVE,
    PROGRAM,
    ROOT,
    closure,
    declared,
    installed,
    pins,
    public,
    sbom,
)

# The first versions without a published weakness that concerns this program (advisory, or pickle).
LEAST = {"pydicom": "3.0.2", "pynetdicom": "3.0.4", "torch": "2.6"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
CLOSURE = closure()


@requirement("S7", bound="everything that is needed is pinned to one version")
def test_s7_everything_that_the_program_needs_is_pinned_to_one_version(evidence: Evidence) -> None:
    free = sorted(CLOSURE.keys() - pins().keys())
    evidence.record(trials=len(CLOSURE), losses=len(free))
    assert free == []
    assert len(CLOSURE) > len(declared())


@requirement("S7", bound="what is installed is what is pinned")
def test_s7_what_is_installed_is_what_is_pinned(evidence: Evidence) -> None:
    wanted = pins()
    other = {
        name: f"{part.version}, pinned {wanted[name]}"
        for name, part in CLOSURE.items()
        if public(part.version) != public(wanted[name])
    }
    evidence.record(trials=len(CLOSURE), losses=len(other))
    assert other == {}


def test_s7_the_tools_of_the_project_are_pinned_as_well() -> None:
    tools = {
        canonicalize_name(Requirement(each).name) for each in PROJECT["dependency-groups"]["dev"]
    }
    build = {
        canonicalize_name(Requirement(each).name) for each in PROJECT["build-system"]["requires"]
    }
    assert sorted((tools | build | {"pip"}) - pins().keys()) == []
    assert all("==" in each for each in PROJECT["build-system"]["requires"])


@requirement("S7", bound="no version below " + ", ".join(f"{n} {v}" for n, v in LEAST.items()))
@pytest.mark.parametrize("name", sorted(LEAST))
def test_s7_no_version_with_a_published_weakness_may_be_installed(
    name: str, evidence: Evidence
) -> None:
    assert public(pins()[name]) >= Version(LEAST[name])
    allowed = declared()[name].specifier
    releases = re.match(r"(\d+)\.(\d+)", LEAST[name])
    assert releases is not None
    before = f"{releases[1]}.{int(releases[2])}.0.dev0"
    below = [each for each in ("0.1", "1.0", before) if Version(each) < Version(LEAST[name])]
    assert below
    let_in = [each for each in below if allowed.contains(each, prereleases=True)]
    evidence.record(trials=len(below), losses=len(let_in))
    assert let_in == []


@pytest.mark.long_only
@requirement("S7", bound="no published advisory about any pinned version")
def test_s7_no_pinned_version_has_a_published_advisory(evidence: Evidence) -> None:
    auditor = shutil.which("pip-audit")
    if auditor is None:
        pytest.skip("advisories of the day: pip-audit is not installed")
    command = [auditor, "--no-deps", "--disable-pip", "--format", "json", "--progress-spinner=off"]
    done = subprocess.run(
        [*command, "-r", ROOT / "constraints.txt"],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    if not done.stdout.strip():
        pytest.skip("advisories of the day: no service answered")
    asked = json.loads(done.stdout)["dependencies"]
    told = [each for each in asked if "vulns" in each]
    bad = [f"{each['name']} {each['version']}" for each in told if each["vulns"]]
    evidence.record(trials=len(told), losses=len(bad), worst=", ".join(bad))
    assert bad == []
    if len(told) < len(asked):
        pytest.skip(f"advisories of the day: {len(asked) - len(told)} packages could not be asked")


@requirement("S7")
def test_s7_every_pin_fits_the_range_that_the_package_declares(evidence: Evidence) -> None:
    outside = [
        f"{name} {pins()[name]}"
        for name, each in declared().items()
        if not each.specifier.contains(pins()[name])
    ]
    evidence.record(trials=len(declared()), losses=len(outside))
    assert outside == []


@pytest.mark.parametrize("name", sorted(CLOSURE))
def test_s7_the_licence_of_what_is_shipped_permits_it(name: str) -> None:
    licence = CLOSURE[name].licence
    assert licence, f"{name} states no licence"
    assert not COPYLEFT.search(licence), f"{name}: {licence}"
    assert PERMISSIVE.search(licence) or BY_FILE.search(licence), f"{name}: {licence}"


def test_s7_no_tool_of_the_project_is_under_a_licence_that_reaches_the_program() -> None:
    copyleft = [part.name for part in installed().values() if COPYLEFT.search(part.licence)]
    assert copyleft == []


@pytest.mark.parametrize(
    "licence", ["GPL-3.0-only", "GNU Lesser General Public License v3", "AGPL-3.0", "EUPL-1.2"]
)
def test_s7_a_copyleft_licence_would_be_found(licence: str) -> None:
    assert COPYLEFT.search(licence)


def test_s7_a_line_that_pins_nothing_is_refused(tmp_path: Any) -> None:
    (tmp_path / "constraints.txt").write_text("numpy==2.0.0  # a note\nnumpy>=2\n")
    with pytest.raises(ValueError, match="numpy>=2"):
        pins(tmp_path / "constraints.txt")


# --- the list of components


@requirement("S7")
def test_s7_the_list_of_components_has_the_structure_of_cyclonedx() -> None:
    document = sbom()
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert isinstance(document["version"], int)
    assert re.fullmatch(
        r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", document["serialNumber"]
    )
    assert document["metadata"]["component"]["type"] == "application"
    components = document["components"]
    for each in [document["metadata"]["component"], *components]:
        assert each["type"] in ("application", "library")
        assert each["name"]
        assert each["version"]
        assert re.fullmatch(r"pkg:pypi/[a-z0-9._-]+@[A-Za-z0-9.!%]+", each["purl"])
        (licence,) = each["licenses"]
        assert set(licence) in ({"license"}, {"expression"})
    references = [each["bom-ref"] for each in components]
    assert len(set(references)) == len(references)


@requirement("S7", bound="the list of components names everything that runs")
def test_s7_the_list_names_all_that_runs_and_how_it_hangs_together(evidence: Evidence) -> None:
    document = sbom()
    listed = {each["name"] for each in document["components"]}
    evidence.record(trials=len(CLOSURE), losses=len(listed ^ set(CLOSURE)))
    assert {each["name"] for each in document["components"]} == set(CLOSURE)
    known = {each["bom-ref"] for each in document["components"]}
    known.add(document["metadata"]["component"]["bom-ref"])
    edges = {each["ref"]: each["dependsOn"] for each in document["dependencies"]}
    assert set(edges) == known
    assert {name for names in edges.values() for name in names} <= known
    own = edges[document["metadata"]["component"]["bom-ref"]]
    assert {name.split("/")[1].split("@")[0] for name in own} == set(declared())


def test_s7_the_same_environment_gives_the_same_list() -> None:
    made = [
        subprocess.run(
            [sys.executable, "-m", "tests.security.supply_chain"],
            cwd=ROOT,
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        for _ in range(2)
    ]
    assert made[0] == made[1]
    assert json.loads(made[0])["metadata"]["component"]["name"] == PROGRAM
