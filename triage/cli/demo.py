"""`triage demo`: the main job from start to end, offline, with the real daemon.

Starts `triage run` as a process of its own on loopback, sends and drops generated studies, waits
until nothing is left to do and shows what came of it. Tests nothing that a user could not see:
it reads the same worklist, status and quarantine as everybody.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from triage.cli.table import screen
from triage.cli.verbs import DONE, FAILED, Verbs, add_verb
from triage.errors import TransientError

if TYPE_CHECKING:
    from triage.cli.demo_daemon import Daemon
    from triage.cli.demo_report import Outcome
    from triage.cli.demo_studies import Exhibition

DEADLINE_S = 60.0  # from the last object sent; the whole stays under three minutes
LOOK_EVERY_S = 0.5

Say = Callable[[str], None]


def declare(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    parser = add_verb(
        verbs,
        "demo",
        demo,
        says="show the main job with generated studies and the built-in model",
        example="triage demo --directory ./demo",
    )
    parser.add_argument(
        "--directory",
        type=Path,
        help="new directory for everything that is made (default: one among the temporary files)",
    )


def demo(arguments: argparse.Namespace) -> int:
    from triage.cli.demo_report import as_text

    directory = _directory(arguments.directory)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.1f} s] {text}", flush=True)

    outcome = _perform(directory, say)
    print()
    print(as_text(outcome, directory, screen()))
    return FAILED if outcome.wrong else DONE


def _directory(named: Path | None) -> Path:
    if named is None:
        return Path(tempfile.mkdtemp(prefix="triage-demo-"))
    if named.exists() and any(named.iterdir()):
        raise TransientError(f"{named} is not empty", hint="Name a directory that is new or empty.")
    named.mkdir(parents=True, exist_ok=True)
    return named.resolve()


def _perform(directory: Path, say: Say) -> "Outcome":
    from triage.cli import demo_daemon, demo_studies

    config = demo_daemon.write_configuration(directory)
    say(f"starting the daemon on {config.receiver.host}:{config.receiver.port} (log: daemon.log)")
    with demo_daemon.running(directory, config) as daemon:
        say("generating studies meanwhile: invented patients, drawn radiographs")
        exhibition = demo_studies.build(directory / "studies", datetime.now(UTC))
        daemon.wait_until_listening()
        say("the receiver listens")
        daemon.wait_until_serving()
        say("the model is loaded and gave its known answer")
        _deliver(exhibition, daemon, say)
        outcome = _follow(exhibition, daemon, say)
        say("stopping the daemon")
    return outcome


def _deliver(exhibition: "Exhibition", daemon: "Daemon", say: Say) -> None:
    from triage.cli import sending
    from triage.records import Source

    receiver, watched = daemon.config.receiver, daemon.config.folders.watch[0]
    dropped = [each for each in exhibition.exhibits if each.source is Source.FOLDER]
    for exhibit in dropped:
        shutil.copy(exhibit.path, watched / exhibit.path.name)
    say(f"dropped {len(dropped)} files into the watched folder")
    sent = {each.path: each for each in exhibition.exhibits if each.source is Source.C_STORE}
    destination = sending.Destination(
        host=receiver.host,
        port=receiver.port,
        called_ae_title=receiver.ae_title,
        calling_ae_title="DEMO_MODALITY",
    )
    for answer in sending.send(list(sent), destination):
        status = "no answer" if answer.status is None else f"0x{answer.status:04X}"
        say(f"C-STORE {sent[answer.path].what}: {status} {answer.comment}".rstrip())


def _follow(exhibition: "Exhibition", daemon: "Daemon", say: Say) -> "Outcome":
    """Look until everything is as it should be, the daemon ends, or the time is up."""
    from triage.cli import demo_report

    deadline = time.monotonic() + DEADLINE_S
    told = ""
    while True:
        outcome = demo_report.look(exhibition, daemon.config)
        if outcome.progress != told:
            told = outcome.progress
            say(told)
        if outcome.settled or time.monotonic() > deadline:
            return outcome
        daemon.require_alive()
        time.sleep(LOOK_EVERY_S)
