"""What a trial found: one JSON file for each test and requirement, written and read here alone."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
COLLECTED = "collected"  # folder: which tests there were, so that one without a report is missed
FIGURES = "figures"  # folder: what became of them
REASON_CHARACTERS = 240
PATHS = re.compile(r"/(?:[\w.@+-]+/)+[\w.@+-]*")  # of this machine, or of one run


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a trial counted.

    trials: how often it was tried; losses: how often the promise was broken; worst: the worst
    value seen, with its unit; peers: name and version of another program to what it did.
    """

    trials: int
    losses: int = 0
    worst: str = ""
    peers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What became of one test, for one requirement.

    test: pytest's name of it; bound: what it must reach, in words; reason: why it failed or was
    skipped, without paths.
    """

    code: str
    test: str
    bound: str
    outcome: Outcome
    reason: str = ""
    seconds: float = 0.0
    long: bool = False
    figures: tuple[Figures, ...] = ()


def write_finding(directory: Path, finding: Finding) -> None:
    _write(directory / FIGURES, f"{finding.code}-{_short(finding.test)}.json", asdict(finding))


def write_collected(directory: Path, test: str, promises: Mapping[str, str]) -> None:
    """Note that `test` is to be run; `promises` are its codes and bounds."""
    _write(directory / COLLECTED, f"{_short(test)}.json", {"test": test, "promises": promises})


def read_findings(directory: Path) -> list[Finding]:
    """Read what was written; a test that was begun and has no report counts as failed."""
    found = [_finding(each) for each in _read(directory / FIGURES)]
    reported = {(each.code, each.test) for each in found}
    for each in _read(directory / COLLECTED):
        for code, bound in each["promises"].items():
            if (code, each["test"]) not in reported:
                reason = "it ended without a report"
                found.append(
                    Finding(
                        code=code,
                        test=each["test"],
                        bound=bound,
                        outcome=Outcome.FAILED,
                        reason=reason,
                    )
                )
    return sorted(found, key=lambda each: (each.code, each.test))


def clean(reason: str) -> str:
    """Return one short line without the paths of one machine."""
    line = next((each.strip() for each in reason.splitlines() if each.strip()), "")
    line = PATHS.sub("…", line)
    return line if len(line) <= REASON_CHARACTERS else line[: REASON_CHARACTERS - 1] + "…"


def _finding(document: dict[str, Any]) -> Finding:
    outcome, figures = Outcome(document["outcome"]), document["figures"]
    known = tuple(Figures(**each) for each in figures)
    return Finding(**(document | {"outcome": outcome, "figures": known}))


def _short(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _write(folder: Path, name: str, document: object) -> None:
    """Put the whole file in place at once: another process may be reading or writing it."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{name}.{id(document):x}"
    draft.write_text(json.dumps(document, ensure_ascii=False, indent=1), "utf-8")
    draft.replace(folder / name)


def _read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]
