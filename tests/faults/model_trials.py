"""What the trials of the model share: an installation with its own settings, and what it tells."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from tests.dicom_files import make_dx
from tests.flows.program import Program, until
from triage.database.connection import migrate
from triage.pocket.phantoms import generate


@contextmanager
def running(directory: Path, *edits: tuple[str, str], more: str = "") -> Iterator[Program]:
    """Run the whole program in `directory`; `edits` replace lines of its configuration."""
    directory.mkdir(parents=True, exist_ok=True)
    url = f"sqlite:///{directory}/triage.sqlite"
    migrate(url)
    program = Program(directory, url, caption="never")
    text = program.configuration.read_text()
    for before, after in edits:
        assert before in text
        text = text.replace(before, after)
    program.configuration.write_text(text + more)
    program.start()
    try:
        yield program
    finally:
        if program.process is not None:
            program.stop()


def known_answer_every(seconds: float) -> tuple[str, str]:
    return "lease_s = 3.0", f"lease_s = 3.0\nknown_answer_s = {seconds}"


def chest(seed: int, finding: str) -> Dataset:
    phantom = generate(seed, finding=finding, size="large", size_px=256)
    return make_dx(phantom.pixels, bits_stored=phantom.bits_stored)


def worker(program: Program, *states: str, other_than: int = 0) -> dict[str, Any]:
    """Return the row of the worker once it is in one of `states` (running)."""

    def probe() -> dict[str, Any] | None:
        row = program.role("analyse")
        known = row is not None and row["state"] in (states or ("running",))
        return row if known and row is not None and row["pid"] != other_than else None

    return until(probe)


def start_worker_again(program: Program) -> dict[str, Any]:
    """Kill the worker; the daemon starts another one, with its weights from disk."""
    pid = worker(program, "running", "failed")["pid"]
    os.kill(pid, signal.SIGKILL)
    return worker(program, other_than=pid)


def study(program: Program, ds: Dataset) -> dict[str, Any]:
    return program.worklist().get(str(ds.StudyInstanceUID), {})


def analysed(program: Program, ds: Dataset) -> dict[str, Any]:
    """Return the study once it was looked at."""
    return until(
        lambda: entry if (entry := study(program, ds)).get("analysis") == "analysed" else None
    )


def causes(program: Program) -> set[str]:
    return {each["code"] for each in program.status()["causes"]}


def says_negative(entry: dict[str, Any]) -> bool:
    """Whether the entry may be read as looked at with nothing found."""
    return entry.get("analysis") == "analysed" and entry.get("flagged_at") is None
