"""Wall time of the commands that a tired person waits for, against a bare interpreter."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.measuring import Row, configuration, free_port, say, triage

RUNS = 5


def measure() -> Iterator[Row]:
    """Yield seconds for the start of Python alone, `status` and `worklist`."""
    say("commands: wall time")
    with tempfile.TemporaryDirectory() as name:
        config = configuration(Path(name), free_port())
        triage(config, "migrate").check_returncode()
        program = [sys.executable, "-m", "triage", "--config", str(config)]
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "triage --help": [*program, "--help"],
            "triage status": [*program, "status"],
            "triage worklist": [*program, "worklist"],
        }
        for label, command in commands.items():
            values = tuple(_seconds(command) for _ in range(RUNS))
            yield Row(what=label, values=values, unit="s")


def _seconds(command: list[str]) -> float:
    started = time.monotonic()
    subprocess.run(command, capture_output=True, check=False)
    return time.monotonic() - started
