"""Parse the command line, run the verb, turn errors into one sentence and an exit code."""

import argparse
import io
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from triage.cli import (
    backup,
    bundle,
    calibrate,
    check,
    decisions,
    demo,
    drift,
    embed,
    evaluate,
    explain,
    metrics,
    migrate,
    quarantine,
    replay,
    run,
    send,
    show,
    simulate,
    status,
    train,
    worklist,
)
from triage.cli.verbs import FAILED, USAGE, UsageError, say
from triage.errors import TransientError, TriageError

DESCRIPTION = "DICOM triage daemon: receives studies, looks at them, orders the reading worklist."
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
CUT_OFF = 141  # 128 + SIGPIPE


class Parser(argparse.ArgumentParser):
    """argparse with the exit code of sysexits.h for a wrong command line."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}. See `{self.prog} --help`.\n")


class Version(argparse.Action):
    """Look the version up where it is asked for: that takes longer than all other parsing."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"triage {_version()}")
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """Build the whole command line."""
    whole = Parser(prog="triage", description=DESCRIPTION, epilog="example: triage status")
    whole.add_argument(
        "--config",
        type=Path,
        help="configuration file (else $TRIAGE_CONFIG, ./triage.toml, /etc/triage/triage.toml)",
    )
    whole.add_argument("--version", action=Version, nargs=0, help="print the version and end")
    verbs = whole.add_subparsers(title="verbs", metavar="VERB", required=True)
    for room in (run, status, metrics, worklist, show, decisions, quarantine, bundle):
        room.declare(verbs)
    for room in (check, migrate, backup, send, demo):
        room.declare(verbs)
    for room in (embed, train, calibrate, evaluate, explain, replay, drift, simulate):
        room.declare(verbs)
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    _survive_narrow_encodings()
    failed = FAILED
    try:
        parsed = parser().parse_args(arguments)
        failed = getattr(parsed, "failed", FAILED)  # `status` has a code of its own
        code: int = parsed.verb(parsed)
        sys.stdout.flush()
    except UsageError as error:
        code = say(error, USAGE)
    except TriageError as error:
        code = say(error, failed)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        _drop_output()  # the reader has gone (`triage worklist | head`)
        code = CUT_OFF
    except OSError as error:
        _drop_output()
        code = say(_of_the_system(error), failed)
    except Exception:  # noqa: BLE001  # the top of the process: never an exit code by accident
        traceback.print_exc()
        code = failed
    return code


def _drop_output() -> None:
    """What could not be written must not be tried again at the end, which has its own exit code."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _of_the_system(error: OSError) -> TriageError:
    reason = error.strerror or type(error).__name__
    return TransientError(
        f"{error.filename}: {reason}" if error.filename else reason,
        hint="Check that this user may use it and that its disk is mounted and has space;"
        " [database] url, [store] path and [folders] watch of triage.toml say where data lies.",
    )


def _survive_narrow_encodings() -> None:
    """A Japanese name on an ASCII terminal shows as escapes, never as a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("triage")
    except PackageNotFoundError:
        return "from a checkout"
