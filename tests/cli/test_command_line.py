"""The command line: exit codes, one sentence per error, quick verbs, help for each."""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.site import ROOT, Site, arrive
from triage.cli.command_line import main, parser
from triage.cli.verbs import interruptible

VERBS = {
    "run", "status", "worklist", "show", "requeue", "priority", "acknowledge", "quarantine",
    "bundle", "check", "migrate", "send", "demo", "metrics", "backup", "restore",
    "embed", "train", "calibrate", "evaluate", "explain", "replay", "drift", "simulate",
}  # fmt: skip
FAMILIES = {
    "quarantine": {"list", "show", "release", "discard"},
    "bundle": {"init", "show", "verify"},
}
HEAVY = ("torch", "transformers", "sqlalchemy", "pynetdicom", "pydicom", "numpy", "apscheduler")


def verbs_of(whole: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the verbs of a parser by name."""
    for action in whole._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def every_parser() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for name, verb in verbs_of(parser()).items():
        yield name, verb
        yield from ((f"{name} {below}", each) for below, each in verbs_of(verb).items())


def run(*arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "triage", *arguments],
        capture_output=True, text=True, timeout=60, check=False, env={"PATH": "", **environ},
    )  # fmt: skip


def test_the_verbs_are_those_of_the_contract() -> None:
    verbs = verbs_of(parser())
    assert set(verbs) == VERBS
    assert {name: set(verbs_of(verbs[name])) for name in FAMILIES} == FAMILIES


@pytest.mark.parametrize(("name", "verb"), list(every_parser()))
def test_every_verb_has_help_with_an_example_of_itself(
    name: str, verb: argparse.ArgumentParser
) -> None:
    assert verb.description
    assert f"triage {name}" in (verb.epilog or "")


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["status", "--nothing"], ["show"]])
def test_a_wrong_command_line_exits_with_64(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 64
    assert capsys.readouterr().out == ""


def test_a_file_that_cannot_be_read_is_one_sentence_with_the_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(tmp_path / "none.toml"), "worklist"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("triage: ")
    assert "none.toml" in said.err
    assert "--config" in said.err
    assert len(said.err.splitlines()) == 1


def test_a_path_that_the_system_refuses_is_one_sentence_with_the_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way", "utf-8")
    config = tmp_path / "triage.toml"
    config.write_text(f'[database]\nurl = "sqlite:///{tmp_path}/file/a.sqlite"\n', "utf-8")
    assert main(["--config", str(config), "migrate"]) == 1
    said = capsys.readouterr().err
    assert str(tmp_path / "file") in said
    assert "[database] url" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP])
def test_a_long_verb_that_is_ended_takes_along_what_it_kept_aside(
    end: signal.Signals, tmp_path: Path
) -> None:
    before = signal.getsignal(end)
    with (
        pytest.raises(KeyboardInterrupt),
        interruptible(),
        tempfile.TemporaryDirectory(dir=tmp_path),
    ):
        os.kill(os.getpid(), end)
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(end) is before


def test_what_an_error_quotes_steers_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(tmp_path / "\x1b[2Jnone\n.toml"), "worklist"]) == 1
    said = capsys.readouterr().err
    assert "none" in said
    assert said.removesuffix("\n").isprintable()


def test_the_configuration_may_stand_on_either_side_of_the_verb(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "none.toml")
    for arguments in (["--config", path, "worklist"], ["worklist", "--config", path]):
        assert main(arguments) == 1
        assert "none.toml" in capsys.readouterr().err


def test_status_cannot_tell_without_a_readable_configuration(tmp_path: Path) -> None:
    done = run("--config", str(tmp_path / "none.toml"), "status", "--json")
    assert done.returncode == 3
    assert done.stdout == ""
    assert "). Name a readable file" in done.stderr


@pytest.mark.parametrize("verb", ["--help", "--version", "status", "worklist", "show A1"])
def test_what_is_asked_all_day_imports_no_model_library_and_no_orm_layer(
    verb: str, site: Site
) -> None:
    arrive(site, accession_number="A1")
    code = (
        f"import sys; sys.argv = ['triage', *{verb.split()!r}];"
        "import atexit;"
        f"atexit.register(lambda: print(sorted(set({HEAVY!r}) & set(sys.modules)),"
        " file=sys.stderr));"
        "from triage.cli import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, timeout=60, check=False, cwd=site.directory,
        env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout
    assert done.stderr.splitlines() == ["[]"]


def test_the_version_is_one_line() -> None:
    done = run("--version", PYTHONPATH=str(ROOT))
    assert (done.returncode, done.stdout.split()[0]) == (0, "triage")
    assert len(done.stdout.splitlines()) == 1


def test_a_name_that_the_terminal_cannot_write_is_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "山田.toml"
    done = run("--config", str(path), "worklist", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 1
    assert "\\u5c71" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["priority", "A1", "URGENT"], "'STAT', 'HIGH', 'MEDIUM', 'ROUTINE', 'LOW', 'none'"),
        (["worklist", "--limit", "many"], "many is no whole number"),
        (["quarantine", "show", "x"], "x is no whole number"),
    ],
)
def test_a_wrong_value_is_told_in_words_of_the_user(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert said in capsys.readouterr().err
