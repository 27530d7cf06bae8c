"""G4: a file that is written slowly, renamed or completed later is one object; no part is read.

Files are written into the watched folder of a running daemon in random pieces: held open, closed
after each piece, under a name of their own that is changed at the end, and copied over each other.
Bound: each file is one object with one job, nothing is quarantined, no event tells of a part.
"""

import random
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import func, select

from tests.assurance import Evidence, requirement
from tests.faults.moulds import DX, Mould
from tests.flows.program import Program, until
from triage.database.connection import open_database
from triage.database.tables import Instance, ObjectEvent
from triage.database.tables_house import JobRow, Quarantined

SEED = 20260107
LONGEST_PAUSE_S = 0.25  # [folders] stable_s of the trial is 0.3
SETTLES_S = 3.0
WHOLE = ("stored", "duplicate")


@pytest.fixture
def program(sqlite_url: str, tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path, sqlite_url).start("--role", "watch")
    yield made
    if made.process is not None:
        made.stop()


def pieces(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """Cut at random places, with a pause after each piece."""
    cuts = sorted(chance.sample(range(1, len(data)), 6))
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        yield data[begin:end]
        time.sleep(chance.uniform(0, LONGEST_PAUSE_S))


def held_open(path: Path, data: bytes, chance: random.Random) -> None:
    with path.open("wb", buffering=0) as file:
        for piece in pieces(data, chance):
            file.write(piece)


def closed_each_time(path: Path, data: bytes, chance: random.Random) -> None:
    for piece in pieces(data, chance):
        with path.open("ab") as file:
            file.write(piece)


def renamed_at_the_end(path: Path, data: bytes, chance: random.Random) -> None:
    part = path.with_suffix(".dcm.part")
    held_open(part, data, chance)
    part.rename(path)


def copied_twice(path: Path, data: bytes, chance: random.Random) -> None:
    held_open(path, data, chance)
    source = path.with_name(f".{path.name}")
    source.write_bytes(data)
    shutil.copyfile(source, path)


MANNERS = (held_open, closed_each_time, renamed_at_the_end, copied_twice)


def counts(program: Program) -> dict[str, int]:
    db = open_database(program.url)
    try:
        with db.read() as connection:
            found = {
                table.__tablename__: connection.execute(
                    select(func.count()).select_from(table)
                ).scalar_one()
                for table in (Instance, JobRow, Quarantined)
            }
            parts = select(func.count()).where(ObjectEvent.state.not_in(WHOLE))
            return found | {"parts": connection.execute(parts).scalar_one()}
    finally:
        db.dispose()


@requirement("G4", bound="written in pieces in four manners: one object, one job, nothing aside")
def test_g4_a_file_in_the_making_is_one_object(
    program: Program, evidence: Evidence, long: bool
) -> None:
    total = 400 if long else 24
    mould = Mould(DX, 64)
    until(lambda: program.log.exists() and b"watch" in program.log.read_bytes())

    def make(number: int) -> None:
        path = program.watched / f"{number}.dcm"
        MANNERS[number % len(MANNERS)](path, mould.file(number), random.Random(SEED + number))

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(make, range(total)))
    until(lambda: counts(program)["instances"] >= total)
    time.sleep(SETTLES_S)  # whatever else was to come of them
    found = counts(program)
    losses = abs(found["instances"] - total) + abs(found["jobs"] - total) + found["quarantine"]
    losses += found["parts"]
    evidence.record(trials=total, losses=losses)
    assert found["instances"] == found["jobs"] == total
    assert found["quarantine"] == found["parts"] == 0
