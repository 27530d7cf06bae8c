"""S7: every version is pinned, no known-bad one is allowed, licences permit use, a list is made.

What cannot be checked here: the advisories of today, which need a network (`make audit`), and the
hashes of the wheels, which are those of the index that a site installs from (`make lock`).
"""

import json
import re
import subprocess
import sys
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.assurance import requirement
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


@requirement("S7")
def test_s7_everything_that_the_program_needs_is_pinned_to_one_version() -> None:
    assert sorted(CLOSURE.keys() - pins().keys()) == []
    assert len(CLOSURE) > len(declared())


@requirement("S7")
def test_s7_what_is_installed_is_what_is_pinned() -> None:
    wanted = pins()
    other = {
        name: f"{part.version}, pinned {wanted[name]}"
        for name, part in CLOSURE.items()
        if public(part.version) != public(wanted[name])
    }
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


@requirement("S7")
@pytest.mark.parametrize("name", sorted(LEAST))
def test_s7_no_version_with_a_published_weakness_may_be_installed(name: str) -> None:
    assert public(pins()[name]) >= Version(LEAST[name])
    allowed = declared()[name].specifier
    releases = re.match(r"(\d+)\.(\d+)", LEAST[name])
    assert releases is not None
    before = f"{releases[1]}.{int(releases[2])}.0.dev0"
    below = [each for each in ("0.1", "1.0", before) if Version(each) < Version(LEAST[name])]
    assert below
    assert not [each for each in below if allowed.contains(each, prereleases=True)]


@requirement("S7")
def test_s7_every_pin_fits_the_range_that_the_package_declares() -> None:
    outside = [
        f"{name} {pins()[name]}"
        for name, each in declared().items()
        if not each.specifier.contains(pins()[name])
    ]
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


@requirement("S7")
def test_s7_the_list_names_all_that_runs_and_how_it_hangs_together() -> None:
    document = sbom()
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
