"""`make faults`: run every trial in its full size and write deploy/ASSURANCE.md.

Each file of tests/faults and tests/security runs in a pytest of its own, so that one that is
killed takes no other with it; all other marked tests run together. Files whose trials mostly wait
run two at a time, what measures times or memory or takes both cores runs alone. Trials of privacy
come last, as they read what the others left. Exit codes: 0 nothing is "not met", 1 something is or
a file did not come to its end, 130 interrupted; then nothing is written.
"""

import argparse
import functools
import itertools
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.assurance import table
from tests.assurance.evidence import Finding, read_findings
from tests.assurance.plugin import TEMPORARY
from tests.assurance.requirements import REQUIREMENTS
from tests.assurance.table import Verdict
from tests.benchmarks import machine

ROOT = Path(__file__).parents[2]
OWN_ROOMS = ("tests/faults", "tests/security")
LAST = "test_privacy_p1.py"
AT_ONCE = 2
# Files whose trials mostly wait, or use one core and hold no tight bound in time; longest first.
MOSTLY_WAITING = (
    "test_fuzz_s3.py",
    "test_restart_window.py",
    "test_upgrade_p6.py",
    "test_model_m2.py",
    "test_model_m1.py",
    "test_backup_d6.py",
    "test_database_n2.py",
    "test_kill_n12.py",
    "test_reconcile_d4.py",
    "test_power_cut_d2.py",
    "test_poison_q3.py",
    "test_scheduler_q4.py",
    "test_folder_g6.py",
    "test_folder_g4.py",
    "test_cut_g7.py",
    "test_disk_d3.py",
    "test_retention_p3.py",
    "test_disk_n2.py",
)
FILE_LIMIT_S = 3600
INTERRUPTED = 130  # as a shell tells SIGINT
NOTHING_RAN = 5  # pytest's exit code where no test was selected
USUAL = (0, 1, NOTHING_RAN)
TAIL_LINES = 30
SHOWN = ("Processor", "Memory", "Disk", "System", "Python", "PostgreSQL", "DCMTK", "Orthanc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One call of pytest."""

    name: str
    arguments: tuple[str, ...]
    alone: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The folders of one run."""

    evidence: Path
    left: Path  # what trials leave, which the trials of privacy search


def main(words: Sequence[str] | None = None) -> int:
    """Run, print, write; return the exit code."""
    arguments = _arguments(words)
    codes, name_of_run, started = arguments.codes, this_run(), time.monotonic()
    with tempfile.TemporaryDirectory(dir=arguments.scratch, prefix="triage-faults-") as place:
        places = Places(evidence=Path(place) / "evidence", left=Path(place) / "left")
        places.left.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of platformdirs, where no login session is
            said = machine.describe(Path(place))
        broken = run_all(turns(codes), places, long=not arguments.short, codes=codes)
        findings = read_findings(places.evidence)
    made = table.rows(findings, run=name_of_run, codes=codes)
    if arguments.write:
        table.write(made, {name: said[name] for name in SHOWN})
    _tell(made, broken)
    _say(f"{(time.monotonic() - started) / 60:.0f} min in all")
    return 1 if broken or table.counts(made)[Verdict.NOT_MET] else 0


def this_run() -> str:
    """Return day and commit; a tree that differs from its commit says so."""
    day = datetime.now(UTC).date().isoformat()
    document = table.DOCUMENT.relative_to(ROOT)
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--", ".", f":!{document}")
    except (OSError, subprocess.CalledProcessError):
        return f"{day}, no checkout"
    return f"{day}, {commit}" + (" and changes" if changed else "")


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def turns(codes: Sequence[str]) -> list[Turn]:
    """Return what is to be run, in order: other rooms' trials first, privacy last."""
    files = [path for room in OWN_ROOMS for path in sorted((ROOT / room).glob("test_*.py"))]
    files.sort(key=_place)
    named = [path for path in files if _may_hold(path, codes)]
    others = [
        _name(path)
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if path not in files and _may_hold(path, codes)
    ]
    together = (*others, "-m", "requirement", "-n", "2", "--dist", "loadfile")
    return [
        *([Turn(name="trials in other rooms", arguments=together)] if others else []),
        *(
            Turn(name=name, arguments=(name,), alone=path.name not in MOSTLY_WAITING)
            for path, name in ((path, _name(path)) for path in named)
        ),
    ]


def _place(path: Path) -> int:
    if path.name in MOSTLY_WAITING:
        return MOSTLY_WAITING.index(path.name)
    return len(MOSTLY_WAITING) + (path.name == LAST)


def run_all(
    listed: Sequence[Turn], places: Places, *, long: bool, codes: Sequence[str]
) -> list[str]:
    """Run all turns, those that may share the machine AT_ONCE; return which did not end well."""
    attempt = functools.partial(run, places=places, long=long, codes=codes)
    broken = []
    for alone, group in itertools.groupby(listed, lambda turn: turn.alone):
        together = list(group)
        with ThreadPoolExecutor(max_workers=1 if alone else AT_ONCE) as pool:
            begun = [pool.submit(attempt, turn) for turn in together]
            try:
                ended = [each.result() for each in begun]
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        broken += [turn.name for turn, well in zip(together, ended, strict=True) if not well]
    return broken


def run(turn: Turn, places: Places, *, long: bool, codes: Sequence[str]) -> bool:
    """Run one pytest; return whether it came to an end of its own, with failed trials or without.

    A test that failed is a finding; its output is shown here and nowhere else.
    """
    folder = places.left / "".join(c if c.isalnum() else "-" for c in turn.name)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *turn.arguments]
    command += [f"--basetemp={folder}", f"--evidence={places.evidence}"]
    command += [f"--left-behind={places.left}", *(["--long"] if long else [])]
    command += [f"--code={code}" for code in codes]
    temporary = places.left / TEMPORARY
    temporary.mkdir(exist_ok=True)
    _say(f"{turn.name} …")
    started = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=FILE_LIMIT_S,
            env={**os.environ, "TMPDIR": str(temporary)},
        )  # fmt: skip
        code, output = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired as late:
        told = (late.stdout or b"").decode("utf-8", "replace")
        code, output = -1, f"{told}\nstopped after {late.timeout:g} s\n"
    lines = output.splitlines() or [""]
    shown = lines[-TAIL_LINES:-1] if code not in (0, NOTHING_RAN) else []
    last = f"{turn.name}: {lines[-1].strip('= ')} ({time.monotonic() - started:.0f} s)"
    _say("\n".join(f"    {line}" for line in [*shown, last]))
    return code in USUAL


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _may_hold(path: Path, codes: Sequence[str]) -> bool:
    """Whether a file may have a trial of one of the codes, of any where none is named."""
    text = path.read_text("utf-8")
    return "requirement(" in text and (not codes or any(f'"{code}"' in text for code in codes))


def _tell(made: Sequence[table.Row], broken: Sequence[str]) -> None:
    for row in made:
        if row.verdict is Verdict.NOT_MET:
            print(f"{row.requirement.code}: not met: {_reason(row.findings)}")
    for name in broken:
        print(f"{name}: did not come to its end")
    print(", ".join(f"{count} {verdict}" for verdict, count in table.counts(made).items()))


def _reason(findings: Sequence[Finding]) -> str:
    failed = [f"{finding.test}: {finding.reason}" for finding in findings if finding.reason]
    return "; ".join(failed) or "there is no trial"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.assurance",
        description="Try every promise and write what was found into deploy/ASSURANCE.md.",
    )
    parser.add_argument(
        "codes", nargs="*", metavar="CODE", help="requirements to try (default: all)"
    )
    parser.add_argument("--short", action="store_true", help="the short form, as `make test`")
    parser.add_argument(
        "--no-write", dest="write", action="store_false", help="leave the document as it is"
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        default=Path(os.environ.get("TMPDIR", "/var/tmp")),
        help="a folder on a disk (default $TMPDIR or /var/tmp)",
    )
    found = parser.parse_args(words)
    if unknown := set(found.codes) - set(REQUIREMENTS):
        parser.error(f"there is no requirement {min(unknown)!r}")
    return found


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
