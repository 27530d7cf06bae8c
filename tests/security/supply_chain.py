"""What this program is installed with: closure, pins, licences, and a CycloneDX list of it (S7).

`python -m tests.security.supply_chain` prints the list (SBOM) of what a running installation
needs; nothing is fetched. Names are compared as PyPA normalises them.
"""

import json
import re
import sys
import tomllib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROGRAM = "triage"
NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # RFC 4122 appendix C, URL

# Licences that a hospital or manufacturer may ship with, by SPDX identifier or the words in use.
PERMISSIVE = re.compile(
    r"(0BSD|Apache|BSD|BSL-1\.0|CC0|CNRI|HPND|ISC|MIT|PSF|Python|Unlicense|Zlib)", re.IGNORECASE
)
# Copyleft limited to the files themselves: used unchanged, as the program does.
BY_FILE = re.compile(r"(MPL|Mozilla Public License)", re.IGNORECASE)
COPYLEFT = re.compile(
    r"(GPL|General Public Licen[sc]e|EUPL|SSPL|CDDL|Commons Clause)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One installed distribution."""

    name: str  # normalised
    version: str
    licence: str  # SPDX expression, or what the metadata says instead
    needs: tuple[str, ...]

    @property
    def purl(self) -> str:
        """Package URL; a local version (`+cpu`) is percent-encoded."""
        return f"pkg:pypi/{self.name}@{self.version.replace('+', '%2B')}"


def installed() -> dict[str, Part]:
    """Return everything in this environment by normalised name."""
    return {part.name: part for part in map(_part, distributions())}


def declared() -> dict[str, Requirement]:
    """Return what the program names as its needs; an editable installation may lag behind."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = map(Requirement, project["dependencies"])
    return {canonicalize_name(each.name): each for each in lines}


def closure() -> dict[str, Part]:
    """Return what the program needs to run, directly or not; without itself and without tests."""
    found: dict[str, Part] = {}
    waiting = list(declared())
    while waiting:
        each = waiting.pop()
        if each in found:
            continue
        try:
            found[each] = _part(distribution(each))
        except PackageNotFoundError:
            raise LookupError(f"{each} is needed and not installed") from None
        waiting += found[each].needs
    return found


def pins(path: Path = ROOT / "constraints.txt") -> dict[str, str]:
    """Return the version of each line of the constraints; ValueError where one is no exact pin."""
    found = {}
    for line in path.read_text("utf-8").splitlines():
        stated = line.partition("#")[0].strip()
        if not stated:
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+]+)", stated)
        if match is None:
            raise ValueError(f"no exact pin: {stated}")
        found[canonicalize_name(match[1])] = match[2]
    return found


def public(version: str) -> Version:
    """Return a version without what one builder adds to it (`2.13.0+cpu`)."""
    return Version(Version(version).public)


def sbom() -> dict[str, Any]:
    """Return the CycloneDX 1.6 document; the same environment gives the same."""
    parts = closure()
    program = replace(_part(distribution(PROGRAM)), needs=tuple(sorted(declared())))
    components = [_component(part) for _, part in sorted(parts.items())]
    whole = {PROGRAM: program, **parts}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, json.dumps(components))}",
        "version": 1,
        "metadata": {"component": {**_component(program), "type": "application"}},
        "components": components,
        "dependencies": [
            {
                "ref": part.purl,
                "dependsOn": sorted(whole[name].purl for name in part.needs if name in whole),
            }
            for _, part in sorted(whole.items())
        ],
    }


def _component(part: Part) -> dict[str, Any]:
    spdx = re.fullmatch(r"[A-Za-z0-9.+-]+", part.licence)
    licence = {"id" if spdx else "name": part.licence}
    if re.search(r" (AND|OR|WITH) ", part.licence):
        licences: list[dict[str, Any]] = [{"expression": part.licence}]
    else:
        licences = [{"license": licence}]
    return {
        "type": "library",
        "bom-ref": part.purl,
        "name": part.name,
        "version": part.version,
        "purl": part.purl,
        "licenses": licences,
    }


def _part(found: Distribution) -> Part:
    return Part(
        name=canonicalize_name(found.metadata["Name"]),
        version=found.version,
        licence=_licence(found),
        needs=tuple(sorted(set(_needs(found)))),
    )


def _needs(found: Distribution) -> Iterator[str]:
    for line in found.requires or ():
        needed = Requirement(line)
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            yield canonicalize_name(needed.name)


def _licence(found: Distribution) -> str:
    metadata = found.metadata
    if expression := metadata.get("License-Expression"):
        return str(expression)
    classifiers = metadata.get_all("Classifier") or []
    named = [each.split(" :: ")[-1] for each in classifiers if each.startswith("License :: ")]
    # Some fill this field with the whole text of the licence.
    text = (metadata.get("License") or "").strip().splitlines()
    return text[0] if text else ", ".join(named)


if __name__ == "__main__":
    json.dump(sbom(), sys.stdout, indent=2)
    sys.stdout.write("\n")
