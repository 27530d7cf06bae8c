"""`--json` prints one document with its version and nothing else; an error prints none."""

import json
import subprocess
from typing import Any

import pytest

from tests.assurance import requirement
from tests.cli.site import Site, arrive
from tests.cli.test_quarantine import keep_aside, sound_object
from triage.cli.command_line import main

VERBS = [
    "worklist", "worklist --all --limit 1", "show A1", "requeue A1", "priority A1 STAT",
    "acknowledge A1", "quarantine list", "quarantine list --all", "quarantine show {number}",
    "quarantine release {number}", "migrate",
]  # fmt: skip


def only_document(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    """Return what stdout holds; raises where it holds anything beside one document."""
    document: dict[str, Any] = json.loads(done.stdout)
    assert done.stdout.startswith("{\n")
    assert done.stdout.endswith("\n}\n")
    return document


@requirement("P4")
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_did_its_work_prints_one_document(verb: str, site: Site) -> None:
    arrive(site, accession_number="A1")
    number = keep_aside(site, sound_object())
    done = site.run(*verb.format(number=number).split(), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert only_document(done)["schema_version"] == 1


@requirement("P4")
@pytest.mark.parametrize(
    ("verb", "code"), [("status", 2), ("check", 1), ("send triage.toml --to 127.0.0.1:1", 1)]
)
def test_a_verb_that_judges_prints_its_document_beside_its_exit_code(
    verb: str, code: int, site: Site
) -> None:
    done = site.run(*verb.split(), "--json")
    assert done.returncode == code
    assert only_document(done)["schema_version"] == 1


def test_bytes_that_were_discarded_are_told_in_one_document(site: Site) -> None:
    number = keep_aside(site)
    document = only_document(site.run("quarantine", "discard", str(number), "--json"))
    assert document == {"schema_version": 1, "number": number, "state": "discarded"}


def test_a_bundle_is_told_in_one_document(site: Site) -> None:
    from triage.pocket import BUNDLE

    for verb in ("show", "verify"):
        document = only_document(site.run("bundle", verb, str(BUNDLE), "--json"))
        assert document["schema_version"] == 1


def test_an_object_aside_has_its_number_under_the_old_and_the_new_name(site: Site) -> None:
    number = keep_aside(site)
    (entry,) = only_document(site.run("quarantine", "list", "--json"))["quarantine"]
    shown = only_document(site.run("quarantine", "show", str(number), "--json"))
    for document in (entry, shown):
        assert (document["id"], document["number"]) == (number, number)


@pytest.mark.parametrize(
    "verb",
    [
        "show NOBODY", "requeue NOBODY", "priority NOBODY STAT", "acknowledge NOBODY",
        "quarantine show 77", "quarantine release 77", "quarantine discard 77",
        "bundle show /nowhere", "bundle verify /nowhere", "bundle init --encoder /nowhere new",
    ],
)  # fmt: skip
def test_an_error_prints_no_document_and_one_sentence_with_the_next_step(
    verb: str, site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(site.directory)
    assert main([*verb.split(), "--json"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    sentences = said.err.removeprefix("triage: ").strip().split(". ")
    assert len(sentences) >= 2, "what happened, and what to do"


@pytest.mark.parametrize("verb", ["worklist --limit 0", "send /nowhere"])
def test_what_cannot_be_meant_prints_no_document_and_exits_with_64(
    verb: str, site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(site.directory)
    assert main([*verb.split(), "--json"]) == 64
    assert capsys.readouterr().out == ""
