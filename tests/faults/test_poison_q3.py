"""Q3: what kills, hangs or fills its decoder, or yields no numbers, ends as a dead letter.

One batch of good radiographs with poison in between goes through the real daemon: receiver, real
decoder processes, worker with the built-in model. Bounds: each poison is a dead letter with its own
reason after as many attempts as configured (one where another could change nothing), its study is
shown as failed and stands above what was analysed without a flag; every neighbour is analysed; the
model's process is the same from beginning to end.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select

from tests.assurance import Evidence, requirement
from tests.dicom_files import make_dx
from tests.faults.broken_codec import FILL, HANG, KILL, floating, install, poison
from tests.flows.program import Program, until
from triage.database.connection import open_database
from triage.database.tables import Study
from triage.database.tables_house import JobRow
from triage.pocket.phantoms import generate

ATTEMPTS = 2
DEADLINE_S = 4.0
SHORT, LONG = 1, 6  # rounds
NEIGHBOURS = 3  # before and after each poison
REASONS = {
    "kill": ("ended by signal 11", ATTEMPTS),
    "hang": (f"longer than {DEADLINE_S:g} seconds", ATTEMPTS),
    "fill": ("memory", ATTEMPTS),
    "nan": ("not finite", 1),
    "inf": ("not finite", 1),
}


class Poisoned(Program):
    """An installation whose decoders have a codec that some objects break."""

    def _environment(self) -> dict[str, str]:
        hook = self.directory / "hook"
        return super()._environment() | {"PYTHONPATH": str(hook if hook.exists() else "")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """What became of one job."""

    state: str
    attempts: int
    reason: str
    analysis: str


@pytest.fixture
def program(sqlite_url: str, tmp_path: Path) -> Iterator[Poisoned]:
    install(tmp_path)
    made = Poisoned(tmp_path, sqlite_url, caption="never")
    text = made.configuration.read_text().replace(
        "base_s = 0.2", f"base_s = 0.2\nattempts = {ATTEMPTS}"
    )
    text = text.replace("lease_s = 3.0", f"lease_s = 3.0\ndeadline_s = {DEADLINE_S}")
    made.configuration.write_text(text)
    yield made
    if made.process is not None:
        made.stop()


def healthy(seed: int) -> Dataset:
    phantom = generate(seed, finding="normal", size_px=192)
    return make_dx(phantom.pixels, bits_stored=phantom.bits_stored)


def batch(number: int) -> tuple[dict[str, Dataset], list[Dataset], list[Dataset]]:
    """Return the poison by kind, its neighbours, and all in the order in which they are sent."""
    poisons = {
        "kill": poison(KILL, seed=number),
        "hang": poison(HANG, seed=number + 100),
        "fill": poison(FILL, seed=number + 200),
        "nan": floating(0.4, float("nan"), seed=number),
        "inf": floating(0.4, float("inf"), seed=number),
    }
    neighbours = []
    everything = []
    for place, each in enumerate(poisons.values()):
        good = [healthy(1000 * number + 10 * place + n) for n in range(NEIGHBOURS)]
        neighbours += good
        everything += [*good, each]
    return poisons, neighbours, everything


def worker_of(program: Program) -> tuple[int, str]:
    """Return process and start of the role that holds the model, once it runs."""
    row = until(
        lambda: (
            row
            if (row := program.role("analyse")) is not None and row["state"] == "running"
            else None
        )
    )
    return row["pid"], row["started_at"]


def letters(program: Program) -> dict[str, Letter]:
    """Return what became of each study's one job, by Study Instance UID."""
    db = open_database(program.url)
    try:
        with db.read() as connection:
            rows = connection.execute(
                select(
                    Study.study_instance_uid,
                    Study.analysis,
                    JobRow.state,
                    JobRow.attempts,
                    JobRow.reason,
                ).join(JobRow, JobRow.study_id == Study.id)
            ).all()
    finally:
        db.dispose()
    return {
        row.study_instance_uid: Letter(
            state=row.state, attempts=row.attempts, reason=row.reason, analysis=row.analysis
        )
        for row in rows
    }


def settled(program: Program, count: int) -> dict[str, Letter] | None:
    found = letters(program)
    ended = [each for each in found.values() if each.state in ("done", "dead")]
    return found if len(ended) == count else None


def broken_promises(
    poisons: dict[str, Dataset],
    neighbours: list[Dataset],
    found: dict[str, Letter],
    listed: dict[str, dict[str, Any]],
) -> list[str]:
    """Return what was not as promised, in words."""
    wrong = []
    for kind, ds in poisons.items():
        letter = found[ds.StudyInstanceUID]
        reason, attempts = REASONS[kind]
        if (letter.state, letter.analysis) != ("dead", "failed"):
            wrong.append(f"{kind}: {letter}")
        if letter.attempts != attempts or reason not in letter.reason:
            wrong.append(f"{kind}: {letter}")
        if not listed[ds.StudyInstanceUID]["analysis_reason"]:
            wrong.append(f"{kind}: no reason on the worklist")
    wrong += [
        f"neighbour: {found[ds.StudyInstanceUID]}"
        for ds in neighbours
        if found[ds.StudyInstanceUID].analysis != "analysed"
    ]
    calm = [
        listed[ds.StudyInstanceUID]["reading_order"]
        for ds in neighbours
        if listed[ds.StudyInstanceUID]["analysis"] == "analysed"
        and listed[ds.StudyInstanceUID]["flagged_at"] is None
    ]
    lowest = max(listed[ds.StudyInstanceUID]["reading_order"] for ds in poisons.values())
    if not calm or lowest > min(calm):
        wrong.append(f"failed stands at {lowest}, calm from {min(calm, default=None)}")
    return wrong


@requirement("Q3", bound="dead letter with its reason; neighbours analysed; one model process")
@pytest.mark.timeout(900)
def test_q3_poison_ends_as_dead_letters_and_harms_nothing_else(
    program: Poisoned, evidence: Evidence, long: bool
) -> None:
    program.start()
    before = worker_of(program)
    wrong: list[str] = []
    sent = looked_at = 0
    for number in range(LONG if long else SHORT):
        poisons, neighbours, everything = batch(number)
        assert set(program.send(everything)) == {0x0000}
        sent += len(everything)
        found = until(lambda count=sent: settled(program, count), patience_s=180)  # type: ignore[misc]
        wrong += broken_promises(poisons, neighbours, found, program.worklist())
        looked_at += sum(found[ds.StudyInstanceUID].analysis == "analysed" for ds in neighbours)
    if worker_of(program) != before:
        wrong.append("the model's process was started again")
    rounds = LONG if long else SHORT
    starts = program.log.read_text("utf-8").count('"worker_ready"')
    evidence.record(
        trials=rounds * len(REASONS),
        losses=len(wrong),
        worst=f"{looked_at} of {rounds * len(REASONS) * NEIGHBOURS} neighbours analysed;"
        f" {starts - 1} restarts of the model's process",
    )
    assert wrong == []
    assert program.stop() == 0
