"""What every verb shares: how it is declared, how it finds its configuration, how it answers.

A verb is a module with `declare(verbs)`, which adds its parser and sets `verb` to a function
`Namespace -> exit code`. Importing a verb must stay cheap: rooms are imported inside that function.
"""

import argparse
import getpass
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from triage.errors import PermanentError, TriageError

if TYPE_CHECKING:
    from triage.config import Config
    from triage.database.connection import Database
    from triage.database.reading import Reader

DONE = 0
FAILED = 1
USAGE = 64  # EX_USAGE of sysexits.h: argparse's own 2 already means something for `status`

Verbs = argparse._SubParsersAction  # argparse gives the type no public name
Verb = Callable[[argparse.Namespace], int]


class UsageError(PermanentError):
    """The command line asks for something that cannot be meant."""

    hint = "Run the verb with --help for an example."


def add_verb(
    verbs: "Verbs[argparse.ArgumentParser]",
    name: str,
    run: Verb | None,
    *,
    says: str,
    example: str,
    json_document: bool = False,
) -> argparse.ArgumentParser:
    """Add a verb with its example; `json_document` gives it `--json`."""
    parser = verbs.add_parser(
        name,
        help=says,
        description=says[0].upper() + says[1:] + ".",
        epilog=f"example: {example}",
    )
    # SUPPRESS keeps what stands before the verb, so --config may stand on either side of it.
    parser.add_argument("--config", type=Path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    if json_document:
        parser.add_argument(
            "--json", action="store_true", help="print one JSON document and nothing else"
        )
    if run is not None:
        parser.set_defaults(verb=run)
    return parser


def configuration(arguments: argparse.Namespace) -> "Config":
    """Load the configuration that --config, $TRIAGE_CONFIG or the search path names."""
    from triage.config import load_config

    return load_config(arguments.config)


@contextmanager
def reading(config: "Config") -> "Iterator[Reader]":
    """Open the database for reading without the ORM layer; closed at the end."""
    from triage.database.reading import open_reader

    reader = open_reader(config.database.url)
    try:
        yield reader
    finally:
        reader.close()


@contextmanager
def writing(config: "Config") -> "Iterator[Database]":
    """Open the database for a decision, at the revision of this program."""
    from triage.database.connection import open_database, require_revision

    with reading(config):
        pass  # a file that is not there is better named by the reader
    database = open_database(config.database.url)
    try:
        require_revision(database)
        yield database
    finally:
        database.dispose()


def print_json(document: object) -> None:
    """Print one document. ASCII escapes keep control characters of headers off the terminal."""
    json.dump(document, sys.stdout, indent=2, default=_plain)
    sys.stdout.write("\n")


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value)


def say(error: TriageError, code: int) -> int:
    """Tell an error in one sentence with its next step on stderr; return the exit code."""
    sentence = str(error).strip()
    if sentence and sentence[-1] not in ".!?":
        sentence += "."
    print(f"triage: {sentence} {error.hint}", file=sys.stderr)
    return code


def operator() -> str:
    """Return the name of the OS user who decides, recorded with the decision."""
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise UsageError(
            "The user running this command has no name in the system's user list.",
            hint="Run it as a named user: a decision is recorded with who took it.",
        ) from error
