"""What every verb shares: how it is declared, how it finds its configuration, how it answers.

A verb is a module with `declare(verbs)`, which adds its parser and sets `verb` to a function
`Namespace -> exit code`. Importing a verb must stay cheap: rooms are imported inside that function.
"""

import argparse
import getpass
import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triage.cli.text import clean
from triage.errors import PermanentError, TriageError

if TYPE_CHECKING:
    from triage.config import Config
    from triage.database.connection import Database
    from triage.database.reading import Reader

DONE = 0
FAILED = 1
USAGE = 64  # EX_USAGE of sysexits.h: argparse's own 2 already means something for `status`
SCHEMA_VERSION = 1  # of a document that does not carry its own

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


def whole_number(text: str) -> int:
    """Read a number of the command line; argparse says what is raised here with its own words."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no whole number") from None


def positive(text: str) -> int:
    """Read a whole number of 1 or more of the command line."""
    number = whole_number(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return number


def seed(text: str) -> int:
    """Read a seed of the command line: a number that every generator takes."""
    number = whole_number(text)
    if not 0 <= number < 1 << 32:
        raise argparse.ArgumentTypeError(f"{text} is no seed: 0 or more, below 2^32")
    return number


def named_value(text: str) -> tuple[str, str]:
    """Read NAME=VALUE of the command line, both without spaces around them."""
    name, mark, value = text.partition("=")
    if not mark or not name.strip() or not value.strip():
        raise argparse.ArgumentTypeError(f"{text} is not NAME=VALUE")
    return name.strip(), value.strip()


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


def print_json(document: Mapping[str, object]) -> None:
    """Print one document with its `schema_version`, ASCII only: escapes keep control characters
    of headers off the terminal.
    """
    versioned = {"schema_version": SCHEMA_VERSION, **document}
    json.dump(versioned, sys.stdout, indent=2, default=_plain)
    sys.stdout.write("\n")


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value)


def say(error: TriageError, code: int) -> int:
    """Tell an error in one sentence with its next step on stderr; return the exit code.

    It may quote a header or a file: what would steer a terminal is taken out.
    """
    sentence = str(error).strip()
    if sentence and sentence[-1] not in ".!?":
        sentence += "."
    print(clean(f"triage: {sentence} {error.hint}"), file=sys.stderr)
    return code


@contextmanager
def interruptible() -> Iterator[None]:
    """Have the end of a session and `kill` end a long verb as Ctrl-C does.

    What it keeps aside, embeddings of patients among it, then goes with it. Under `nohup` the end
    of a session is still passed over.
    """
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    ours = [each for each, handler in before.items() if handler is signal.SIG_DFL]
    for each in ours:
        signal.signal(each, signal.default_int_handler)
    try:
        yield
    finally:
        for each in ours:
            signal.signal(each, before[each])


def long_work(text: str) -> None:
    """Tell a person at a terminal that what follows takes its time; programs are told nothing."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


def operator() -> str:
    """Return the name of the OS user who decides, recorded with the decision."""
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise UsageError(
            "The user running this command has no name in the system's user list.",
            hint="Run it as a named user: a decision is recorded with who took it.",
        ) from error


def note_look(config: "Config", *, asked: Mapping[str, Any] | None = None, study: str = "") -> None:
    """Note for the audit trail, where there is one, who looks: at one study, else at the worklist.

    A study that waits to be read is shown all the same where no note can be left.
    """
    if not config.audit.enabled:
        return
    from triage.database.audit import STUDY_READ, WORKLIST_READ
    from triage.operations.audit import note

    what = STUDY_READ if study else WORKLIST_READ
    try:
        with writing(config) as database:
            note(database, what=what, by=operator(), detail=dict(asked or {}), study=study)
    except TriageError as error:
        say(PermanentError("This look is missing in the audit trail", hint=str(error)), FAILED)
