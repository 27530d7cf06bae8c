"""Start: from the call of `triage run` to the first C-ECHO that is answered, whatever the model."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from tests.benchmarks.measuring import (
    STOP_S,
    Conditions,
    Note,
    Row,
    at_most,
    by_turns,
    configuration,
    environment,
    free_port,
    need,
    postgres,
    program,
    say,
    triage,
)
from tests.gpu import full_size

TITLE = "Start: from `triage run` to the first answered C-ECHO"
LIMIT_S = 2.0
PATIENCE_S = 60.0
LOOK_S = 0.005
POCKET = "demonstration"


def measure(conditions: Conditions) -> Iterator[Row | Note]:
    """Yield seconds without a model, with the pocket model and with one that loads for long."""
    need("echoscu", package="dcmtk")
    with ExitStack() as stack:
        folder = stack.enter_context(conditions.folder())
        say("  a bundle that loads for long")
        slow = _large_bundle(folder)
        url = stack.enter_context(postgres(folder))
        models = {
            "no model": "",
            "pocket model": POCKET,
            "large model": f'[[models]]\nname = "large"\nbundle = "{slow}"\n',
        }
        turn = {}
        for number, (model, more) in enumerate(models.items()):
            for where, database in (("SQLite", ""), ("PostgreSQL", url)):
                own = folder / f"{where}{number}"
                own.mkdir()
                port = free_port()
                config = _configuration(own, port, database, more)
                triage(config, "migrate").check_returncode()
                turn[f"{model}, {where}"] = partial(_seconds, config, port)
        next(iter(turn.values()))()  # once unmeasured: modules are compiled, files in memory
        values = by_turns(turn, conditions)
    for name, each in values.items():
        yield Row(what=name, values=each, unit="s", limit=at_most(LIMIT_S))


def _large_bundle(folder: Path) -> Path:
    """A full vision tower of 0.8 GB in the hub's format, at a size that a processor can check."""
    encoder = full_size.medgemma(
        folder / "encoder", device="cpu", text=full_size.SMALL_TEXT, size_px=224, soft_tokens=16
    )
    width = full_size.VISION["hidden_size"]
    return full_size.bundle_of(encoder, folder / "bundle", width=width, device="cpu").directory


def _configuration(folder: Path, port: int, url: str, more: str) -> Path:
    if more == POCKET:
        return configuration(folder, port, demonstration=True, url=url)
    return configuration(folder, port, url=url, more=more)


def _seconds(config: Path, port: int) -> float:
    """Start everything, wait for the answer, stop everything."""
    with (config.parent / "daemon.log").open("a", encoding="utf-8") as log:
        started = time.monotonic()
        process = subprocess.Popen(
            [*program(config), "run"],
            stdout=log,
            stderr=log,
            env=environment(),
            start_new_session=True,
        )
        try:
            return _answered(port, process) - started
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answered(port: int, process: subprocess.Popen[bytes]) -> float:
    """Return the time at which a C-ECHO had its Success."""
    ends_at = time.monotonic() + PATIENCE_S
    echo = ["echoscu", "-aec", "TRIAGE", "127.0.0.1", str(port)]
    while time.monotonic() < ends_at and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            # echoscu is started once somebody listens: its own start counts, but not many of them.
            if subprocess.run(echo, capture_output=True, check=False).returncode == 0:
                return time.monotonic()
        time.sleep(LOOK_S)
    raise RuntimeError("no C-ECHO was answered")
