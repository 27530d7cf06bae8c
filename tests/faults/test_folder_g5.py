"""G5: whatever is dropped into a watched folder is found, however many and whatever was missed.

Half of the files lie there before the daemon starts, half come while it stands still (SIGSTOP), in
nested folders, so that the kernel's queue of 16,384 events overflows. Bound: every file of 20,000
(400 in the short form) is held once, none is refused, and the daemon lives on.
"""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from tests.assurance import Evidence, requirement
from tests.faults.moulds import DX, Mould
from tests.faults.test_cut_g7 import counted
from tests.flows.program import Program, until
from triage.database.connection import open_database
from triage.database.tables import Instance

pytestmark = pytest.mark.long_only

OF_FOLDER = 500
PATIENCE_S = 900.0


@pytest.fixture
def program(sqlite_url: str, tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path, sqlite_url)
    yield made
    if made.process is not None:
        made.stop()


def drop(mould: Mould, numbers: range, root: Path) -> None:
    for number in numbers:
        folder = root / f"day{number // OF_FOLDER}" / "patient"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.dcm").write_bytes(mould.file(number))


def held(url: str) -> int:
    db = open_database(url)
    try:
        with db.read() as connection:
            return int(connection.execute(select(func.count()).select_from(Instance)).scalar_one())
    finally:
        db.dispose()


@requirement("G5", bound="20,000 files dropped at once, daemon down or overflowed (short: 400)")
def test_g5_every_file_that_is_dropped_is_found(
    program: Program, evidence: Evidence, long: bool
) -> None:
    total = 20_000 if long else 400
    mould = Mould(DX, 32)
    drop(mould, range(total // 2), program.watched)
    program.start("--role", "watch")
    until(lambda: held(program.url) >= min(50, total // 4))
    assert program.process is not None
    program.process.send_signal(signal.SIGSTOP)
    drop(mould, range(total // 2, total), program.watched)
    program.process.send_signal(signal.SIGCONT)
    begun = time.monotonic()
    until(lambda: held(program.url) >= total, patience_s=PATIENCE_S)
    took_s = time.monotonic() - begun
    found, aside = counted(program.url)
    missed = {mould.instance(number) for number in range(total)} ^ found
    evidence.record(
        trials=total, losses=len(missed) + aside, worst=f"all found {took_s:.0f} s after the last"
    )
    assert missed == set()
    assert held(program.url) == total
    assert aside == 0
    assert program.process.poll() is None
