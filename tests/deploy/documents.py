"""The documents in deploy/ as tests need them: fenced blocks, tables, and a shell that obeys them.

A block in `sh` is a promise: a test runs it as it stands, in a sandbox. Paths of an installation
(/srv, /var/lib/triage, /etc/triage) become paths below the sandbox and `triage` is this checkout;
nothing else is changed.
"""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import warm

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| (.*) \|$", re.MULTILINE)
# Lines that mean to a shell what they mean to `shlex`.
PLAIN = re.compile(r"(?:triage [^\n|&;<>$`()\\#*?~]*(?:#[^\n]*)?\n?)+")
STREAMS = ("stdout", "stderr")
INSTALLED = ("/srv", "/var/lib/triage", "/etc/triage", "/usr/local/bin")


def read(name: str) -> str:
    """Return the text of a document in deploy/."""
    return (DEPLOY / name).read_text("utf-8")


def blocks(document: str, language: str) -> list[str]:
    """Return the fenced blocks of one language, in order."""
    return [body for kind, body in FENCE.findall(document) if kind == language]


def block(document: str, language: str, holding: str) -> str:
    """Return the one block of a language that holds a text."""
    (found,) = [body for body in blocks(document, language) if holding in body]
    return found


def section(document: str, title: str) -> str:
    """Return what stands below one heading, up to the next one of its level."""
    level, _, rest = document.partition(f" {title}\n")
    assert rest, f"no section {title}"
    marks = level.rsplit("\n", 1)[-1]
    return re.split(rf"^#{{1,{len(marks)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def table(text: str) -> list[list[str]]:
    """Return the rows of the tables in a text, without heads and rules."""
    rows: list[list[str]] = []
    for line in text.splitlines():
        if re.fullmatch(r"\|[-| :]+\|", line):
            rows.pop()  # what stood above the rule was the head
        elif match := ROW.match(line):
            rows.append([part.strip() for part in re.split(r"(?<!\\)\|", match[1])])
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A directory that stands for a host; `environ` is added to the environment of commands."""

    directory: Path
    environ: dict[str, str] = field(default_factory=dict)

    def here(self, text: str) -> str:
        """Return a text with the paths of an installation moved into the sandbox."""
        for path in INSTALLED:
            text = re.sub(rf"(?<![\w.]){re.escape(path)}(?![\w-])", f"{self.directory}{path}", text)
        return text

    def path(self, installed: str) -> Path:
        return Path(self.here(installed))

    def run(self, commands: str) -> "subprocess.CompletedProcess[str]":
        """Run a block of shell commands, stopping at the first that fails.

        Plain commands of the program need no shell; their output is that of all of them.
        """
        tool = self.path("/usr/local/bin/triage")
        tool.parent.mkdir(parents=True, exist_ok=True)
        tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m triage "$@"\n')
        tool.chmod(0o755)
        clean = {key: value for key, value in os.environ.items() if not key.startswith("TRIAGE_")}
        environ = (
            clean
            | {
                "PATH": f"{self.path('/usr/local/bin')}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "TRIAGE_CONFIG": str(self.path("/etc/triage/triage.toml")),
                "OMP_NUM_THREADS": "1",
            }
            | self.environ
        )
        moved = self.here(commands)
        if PLAIN.fullmatch(moved):
            return self._plain(moved, environ)
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", moved],
            cwd=self.directory,
            env=environ,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )

    def _plain(
        self, commands: str, environ: Mapping[str, str]
    ) -> "subprocess.CompletedProcess[str]":
        told: list[subprocess.CompletedProcess[str]] = []
        for line in commands.splitlines():
            if words := shlex.split(line, comments=True)[1:]:
                told.append(warm.run(words, directory=self.directory, environ=environ))
                if told[-1].returncode:
                    break
        stdout, stderr = ("".join(getattr(each, name) for each in told) for name in STREAMS)
        return subprocess.CompletedProcess(commands, told[-1].returncode, stdout, stderr)


def make_host(directory: Path, database_url: str, *, more: str = "") -> Sandbox:
    """Make a host with a migrated database, a configuration and an empty store, no daemon."""
    host = Sandbox(directory=directory)
    for path in INSTALLED:
        host.path(path).mkdir(parents=True, exist_ok=True)
    host.path("/etc/triage/triage.toml").write_text(
        "[receiver]\nport = 0\n"
        f'[store]\npath = "{host.path("/var/lib/triage")}/store"\nminimum_free_mib = 1\n'
        f'[database]\nurl = "{database_url}"\n'
        "[eligibility]\nmaximum_study_age_h = 0\n" + more,
        "utf-8",
    )
    return host


def configure(host: Sandbox, toml: str) -> None:
    """Append a block of the document to the host's configuration."""
    with host.path("/etc/triage/triage.toml").open("a", encoding="utf-8") as file:
        file.write("\n" + host.here(toml))


def needs(*tools: str) -> pytest.MarkDecorator:
    """Skip where an outside tool is not installed."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def free_port() -> int:
    """Return a port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
