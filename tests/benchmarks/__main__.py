"""`make bench`: run all measurements, or those that are named, one after the other.

On few cores they would disturb each other. A table for people, one JSON line last for programs;
progress on stderr. Exit codes: 0 all limits met, 1 a bench failed, 2 a figure falls short.
"""

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from tests.benchmarks import BENCHES, machine, report
from tests.benchmarks.measuring import Conditions, LeftOut, Note, Page, Row, say
from tests.benchmarks.report import Result, Run, State

MET, FAILED, SHORT = 0, 1, 2
QUICK = 0.1
Measure = Callable[[Conditions], Iterator[Row | Note | Page]]
Find = Callable[[str], tuple[str, Measure]]


def main(words: Sequence[str] | None = None) -> int:
    """Run, print, write; return the exit code."""
    parser = _parser()
    arguments = parser.parse_args(words)
    unknown = set(arguments.benches) - set(BENCHES)
    if unknown:
        parser.error(f"there is no bench {min(unknown)!r}")
    if arguments.write and arguments.factor < 1:
        parser.error("--write is for runs of full size: small ones only show that a bench runs")
    with tempfile.TemporaryDirectory(dir=arguments.scratch, prefix="triage-bench-") as place:
        conditions = Conditions(scratch=Path(place), factor=arguments.factor)
        measured_at = datetime.now(UTC)
        said = machine.describe(conditions.scratch)
        for label, told in said.items():
            print(f"{label + ':':<14}{told}")
        results = []
        for name in arguments.benches or BENCHES:
            say(f"{name}:")
            results.append(measured(name, conditions))
            print(report.for_terminal(results[-1]), flush=True)
    run = Run(machine=said, measured_at=measured_at, quick=conditions.quick, results=results)
    if arguments.write:
        report.write(run)
    print("\n" + report.json_line(run))
    return exit_code(results)


def bench(name: str) -> tuple[str, Measure]:
    """Return title and `measure` of one bench."""
    module = import_module(f"tests.benchmarks.{name}")
    return module.TITLE, module.measure


def measured(name: str, conditions: Conditions, find: Find = bench) -> Result:
    """Run one bench to its end, whatever that is: the others are still to come."""
    rows: list[Row] = []
    notes: list[str] = []
    pages: list[Page] = []
    title, state, reason = name, State.MEASURED, ""
    started = time.monotonic()
    try:
        title, measure = find(name)
        for found in measure(conditions):
            if isinstance(found, Note):
                notes.append(found.text)
            elif isinstance(found, Page):
                pages.append(found)
            else:
                rows.append(found)
    except LeftOut as missing:
        state, reason = State.LEFT_OUT, str(missing)
    except Exception as error:  # noqa: BLE001 - the top of a bench: shown, and told by the exit code
        traceback.print_exc()
        state, reason = State.FAILED, f"{type(error).__name__}: {error}"
    return Result(
        name=name,
        title=title,
        state=state,
        reason=reason,
        seconds=time.monotonic() - started,
        rows=tuple(rows),
        notes=tuple(notes),
        pages=tuple(pages),
    )


def exit_code(results: Sequence[Result]) -> int:
    if any(result.state is State.FAILED for result in results):
        return FAILED
    return SHORT if any(result.falls_short for result in results) else MET


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure triage beside its peers; see tests/benchmarks/README.md.",
    )
    parser.add_argument(
        "benches", nargs="*", metavar="BENCH", help=f"of {', '.join(BENCHES)} (default: all)"
    )
    parser.add_argument(
        "--quick",
        dest="factor",
        action="store_const",
        const=QUICK,
        help="small sizes, one run: does it work?",
        default=1.0,
    )
    parser.add_argument(
        "--factor", type=float, default=1.0, help=f"of every size (--quick is {QUICK})"
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        default=Path("/var/tmp"),
        help="a folder on the disk to be measured (default /var/tmp)",
    )
    parser.add_argument(
        "--write", action="store_true", help="write the results into tests/benchmarks/README.md"
    )
    return parser


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
