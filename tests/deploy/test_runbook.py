"""The runbook has a section for each cause and alarm, and names only commands that exist."""

import ast
import io
import re
import shlex
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from tests.deploy.documents import ROOT, read
from triage.cli.command_line import parser
from triage.config import Config
from triage.operations.causes import KINDS, RUNBOOK, Weight
from triage.records import AlarmCode

TEXT = read(RUNBOOK)
SECTIONS = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
PARTS = ("**Means.**", "**Do.**", "**Well again.**")
COMMAND = re.compile(r"`triage ([^`]*)`")
PLACEHOLDER = re.compile(r"\b[A-Z]{1,}\b|\{[a-z_]+\}|\.\.\.")
SETTING = re.compile(r"\[([a-z]+)\] ([a-z_]+)")
WHOLE = (RUNBOOK, "triage/operations/causes.py", "triage/errors.py")
SOURCES = sorted((ROOT / "triage").rglob("*.py"))


def test_every_cause_and_alarm_has_its_section_and_nothing_else_has() -> None:
    assert sorted(SECTIONS) == sorted([*KINDS, *AlarmCode])


@pytest.mark.parametrize("code", SECTIONS)
def test_a_section_says_what_it_means_what_to_do_and_how_it_is_well_again(code: str) -> None:
    section = SECTIONS[code]
    places = [section.index(part) for part in PARTS]
    assert places == sorted(places)
    assert all(len(section[place:].split("\n\n")[0]) > len("**Well again.** ") for place in places)


def test_every_link_leads_to_a_section() -> None:
    links = re.findall(r"\]\(#([^)]*)\)", TEXT)
    assert links
    assert set(links) <= set(SECTIONS)


def test_every_alarm_is_raised_somewhere() -> None:
    source = "".join(path.read_text("utf-8") for path in SOURCES)
    for code in AlarmCode:
        assert f"AlarmCode.{code.name}" in source


def commands_of(text: str) -> list[str]:
    return COMMAND.findall(" ".join(text.split()))


def texts_of(path: Path) -> list[str]:
    """Return the strings of a module that a person may see: no docstrings."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in nodes
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
    ]


def told() -> dict[str, list[str]]:
    """Return every command that the runbook and the program's own texts name, by place."""
    places = {RUNBOOK: commands_of(TEXT)}
    for path in SOURCES:
        found = [command for text in texts_of(path) for command in commands_of(text)]
        if found:
            places[str(path.relative_to(ROOT))] = found
    return places


def refusal(command: str) -> str:
    """Return why the command line is refused, "" where it is taken."""
    words = shlex.split(PLACEHOLDER.sub("7", command))
    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(said):
            parser().parse_args(words)
    except SystemExit as ended:
        return said.getvalue() if ended.code else ""
    return ""


def test_every_command_that_is_named_can_be_given() -> None:
    places = told()
    assert len(places[RUNBOOK]) > 20
    assert "triage/operations/causes.py" in places
    refused = {
        (place, command): why
        for place, commands in places.items()
        for command in commands
        # Help texts may name a verb alone; what a person shall type must be whole.
        if (why := refusal(command)) and (place in WHOLE or "are required" not in why)
    }
    assert refused == {}
    assert refusal("status --nothing")


def test_every_setting_that_is_named_exists() -> None:
    config = Config()
    texts = [TEXT, *(f"{kind.message} {kind.next_step}" for kind in KINDS.values())]
    named = {pair for text in texts for pair in SETTING.findall(" ".join(text.split()))}
    assert ("store", "minimum_free_mib") in named
    prose = {("models", "devices"), ("receiver", "look")}
    for section, key in sorted(named - prose):
        assert hasattr(getattr(config, section), key), f"[{section}] {key}"


def test_the_services_that_are_named_are_shipped() -> None:
    texts = [TEXT, *(kind.next_step for kind in KINDS.values())]
    units = {
        unit for text in texts for unit in re.findall(r"\btriage[a-z@-]*\.(?:service|target)", text)
    }
    assert units
    for unit in units:
        assert (ROOT / "deploy" / unit).is_file(), unit


def test_what_pages_at_night_is_told_apart_from_what_waits() -> None:
    weights = {kind.weight for kind in KINDS.values()}
    assert weights == set(Weight)
    assert Path(RUNBOOK).name == RUNBOOK
