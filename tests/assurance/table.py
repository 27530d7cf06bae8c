"""The table of promises in deploy/ASSURANCE.md: made from findings, written between two markers.

A row that was not tried in a run keeps what the last one found. The digest in the last line tells
a table that was written by hand.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.assurance.evidence import Figures, Finding, Outcome
from tests.assurance.requirements import REQUIREMENTS, Applies, Requirement

DOCUMENT = Path(__file__).parents[2] / "deploy" / "ASSURANCE.md"
BEGIN = "<!-- assurance: begin; written by `make faults`, never by hand -->\n"
END = "<!-- assurance: end; sha256 {} -->"
END_PATTERN = re.compile(r"<!-- assurance: end; sha256 (\w*) -->")
ROW = re.compile(r"^\| ([A-Z]\d+)(?: \*)? \|", re.MULTILINE)
PEER_ROW = re.compile(r"^\| ([A-Z]\d+) of (.+?) \|", re.MULTILINE)
HEADINGS = ("", "Promise", "Shown by", "Bound", "Last figures", "Outcome", "Run")
PEERS_TITLE = "### Beside other receivers"
NAMED_TESTS = 4  # of one row; the others are counted
UNCHECKED = "not checked here"


class Verdict(StrEnum):
    MET = "met"
    NOT_MET = "not met"
    NOT_BUILT = "not built"
    NOT_HERE = "cannot be checked here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What became of one requirement in one run."""

    requirement: Requirement
    verdict: Verdict
    findings: Sequence[Finding]
    run: str  # its day and commit

    @property
    def peers(self) -> Mapping[str, str]:
        """What each peer did, in all trials and parameters together."""
        told: dict[str, dict[str, None]] = {}
        for finding in self.findings:
            for figures in finding.figures:
                for name, words in figures.peers.items():
                    told.setdefault(name, {})[words + _parameter(finding)] = None
        return {name: "; ".join(words) for name, words in told.items()}


def rows(findings: Iterable[Finding], *, run: str, codes: Iterable[str] = ()) -> list[Row]:
    """Return one row for each of `codes` (all, without), in the order of the requirements."""
    wanted = set(codes) or set(REQUIREMENTS)
    of_code: dict[str, list[Finding]] = {code: [] for code in REQUIREMENTS}
    for finding in findings:
        of_code[finding.code].append(finding)
    return [
        Row(requirement=row, verdict=verdict(row, found), findings=found, run=run)
        for code, found in of_code.items()
        if (row := REQUIREMENTS[code]) and code in wanted
    ]


def verdict(requirement: Requirement, findings: Sequence[Finding]) -> Verdict:
    """Trials decide where there are any; a requirement that applies and has none is not met."""
    outcomes = {finding.outcome for finding in findings}
    if Outcome.FAILED in outcomes:
        return Verdict.NOT_MET
    if Outcome.PASSED in outcomes:
        return Verdict.MET
    if Outcome.SKIPPED in outcomes:
        return Verdict.NOT_HERE
    return Verdict.NOT_BUILT if requirement.applies is Applies.NOT_BUILT else Verdict.NOT_MET


def counts(made: Iterable[Row]) -> dict[Verdict, int]:
    listed = [row.verdict for row in made]
    return {each: listed.count(each) for each in Verdict}


def write(made: Sequence[Row], machine: Mapping[str, str], path: Path = DOCUMENT) -> None:
    """Replace the rows of `made` in the document; the others stay as they are."""
    text = path.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    held, ending, after = END_PATTERN.split(rest, maxsplit=1)
    del ending
    path.write_text(f"{before}{BEGIN}{sealed(body(made, held, machine))}{after}", "utf-8")


def sealed(held: str) -> str:
    """Return the body with the line that ends it."""
    return held + END.format(digest(held))


def digest(held: str) -> str:
    return hashlib.sha256(held.encode()).hexdigest()


def body(made: Sequence[Row], held: str, machine: Mapping[str, str]) -> str:
    """The tables: the new rows, and of the former body `held` those that were not tried again."""
    lines = {match[1]: line for line in held.splitlines() if (match := ROW.match(line))}
    lines |= {row.requirement.code: _line(_cells(row)) for row in made}
    tried = {row.requirement.code for row in made}
    beside = [
        line for line in held.splitlines() if (m := PEER_ROW.match(line)) and m[1] not in tried
    ]
    beside += [line for row in made for line in _peer_lines(row)]
    parts = [_summary(lines), _machine(machine), *_sections(lines), *_beside(beside)]
    return "\n\n".join(["", *parts, ""]).removeprefix("\n")


def _sections(lines: Mapping[str, str]) -> list[str]:
    sections = dict.fromkeys(row.section for row in REQUIREMENTS.values())
    return [
        "\n".join(
            [f"### {section}", "", _line(HEADINGS), "|---|---|---|---|---|---|---|"]
            + [lines[code] for code, row in REQUIREMENTS.items()
               if row.section == section and code in lines]
        )
        for section in sections
    ]  # fmt: skip


def _summary(lines: Mapping[str, str]) -> str:
    cells = [line.split(" | ")[-2] for line in lines.values()]
    outcomes = [cell.split(":")[0].strip("* ") for cell in cells]
    counted = {each: f"{outcomes.count(each)} {each}" for each in Verdict}
    if partly := sum(cell.startswith(f"{Verdict.MET}: ") and UNCHECKED in cell for cell in cells):
        counted[Verdict.MET] += f" ({partly} of them with something {UNCHECKED})"
    told = ", ".join(counted.values())
    if untried := len(REQUIREMENTS) - len(lines):
        told += f", {untried} not tried yet"
    return f"{len(REQUIREMENTS)} requirements: {told}."


def _machine(machine: Mapping[str, str]) -> str:
    return "Last run on: " + "; ".join(f"{name} {told}" for name, told in machine.items()) + "."


def _beside(lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    order = list(REQUIREMENTS)
    placed = sorted(lines, key=lambda line: order.index(line.split(" ", 2)[1]))
    table = "\n".join([_line(("Trial", "What happened")), "|---|---|", *placed])
    return [PEERS_TITLE, table]


def _peer_lines(row: Row) -> list[str]:
    if not row.peers:
        return []
    code = row.requirement.code
    ours = _figures([finding for finding in row.findings if _has_peers(finding)])
    both = {"triage": f"{row.verdict}: {ours}", **row.peers}
    return [_line((f"{code} of {name}", told)) for name, told in both.items()]


def _has_peers(finding: Finding) -> bool:
    return any(figures.peers for figures in finding.figures)


def _cells(row: Row) -> tuple[str, ...]:
    requirement = row.requirement
    found = row.findings
    ran = [finding for finding in found if finding.outcome is not Outcome.SKIPPED]
    return (
        requirement.code + (" *" if requirement.star else ""),
        requirement.promise,
        _tests(ran or found),
        "; ".join(dict.fromkeys(finding.bound for finding in ran if finding.bound)),
        _figures(found),
        _outcome(row),
        row.run,
    )


def _outcome(row: Row) -> str:
    told = list(dict.fromkeys(_why(f) for f in row.findings if f.outcome is not Outcome.PASSED))
    if row.requirement.applies is Applies.NOW and not row.findings:
        told.append("there is no trial")
    if row.requirement.remark:
        told.append(row.requirement.remark)
    word = f"**{row.verdict}**" if row.verdict is Verdict.NOT_MET else str(row.verdict)
    return ": ".join([word, "; ".join(told)] if told else [word])


def _why(finding: Finding) -> str:
    if finding.outcome is Outcome.FAILED:
        return f"`{_function(finding).rpartition('::')[2]}`: {finding.reason}"
    return f"{UNCHECKED}: {finding.reason}"


def _tests(findings: Sequence[Finding]) -> str:
    """The trials that counted something by their names; the others too where they are few."""
    counted = dict.fromkeys(_function(finding) for finding in findings if finding.figures)
    others = dict.fromkeys(_function(f) for f in findings if _function(f) not in counted)
    named = [*counted, *(others if len(others) <= NAMED_TESTS else ())]
    told = [f"`{_file(each)}::{each.rpartition('::')[2]}`" for each in named]
    if len(others) > NAMED_TESTS:
        files = dict.fromkeys(_file(each) for each in others)
        told.append(f"{len(others)} tests in " + ", ".join(f"`{file}`" for file in files))
    return ", ".join(told)


def _function(finding: Finding) -> str:
    return finding.test.partition("[")[0]


def _file(function: str) -> str:
    return function.partition("::")[0].removeprefix("tests/")


def _figures(findings: Sequence[Finding]) -> str:
    """What was counted, in all parameters together; the tests themselves where nothing was."""
    counted = [(finding, figures) for finding in findings for figures in finding.figures]
    plain = [f for f in findings if not f.figures and f.outcome is not Outcome.SKIPPED]
    told = []
    if counted:
        trials = sum(figures.trials for _, figures in counted)
        losses = sum(figures.losses for _, figures in counted)
        told.append(f"{_number(trials, 'trial')}, {losses:,} lost")
        told += [f"worst {words}" for words in _worst(counted)]
    if plain:
        failed = sum(1 for finding in plain if finding.outcome is Outcome.FAILED)
        told.append(f"{_number(len(plain), 'test')}, {failed} failed")
    if findings and not all(finding.long for finding in findings):
        told.append("short form")
    return "; ".join(told)


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _worst(counted: Sequence[tuple[Finding, Figures]]) -> list[str]:
    told = dict.fromkeys(
        figures.worst + _parameter(finding) for finding, figures in counted if figures.worst
    )
    return list(told)


def _parameter(finding: Finding) -> str:
    _, bracket, name = finding.test.partition("[")
    return f" ({name.rstrip(']')})" if bracket else ""


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"
