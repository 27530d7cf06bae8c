"""P6: an upgrade, and the way back from it, under load lose nothing.

Two senders go on all the time, each offering an object until it is taken. Meanwhile the daemon is
stopped in order, its database taken back to the revision before, migrated again and the daemon
started, as an administrator does who changes a release and thinks better of it. Bound: after 10
changes (one in the short form) on each database every object that was answered with success is held
once, byte for byte, no answer was half, each stop ended with success, and every study whose images
were looked at before still has the result that it had.
"""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tests.assurance import Evidence, requirement
from tests.benchmarks.measuring import free_port
from tests.faults.moulds import DX, Mould
from tests.faults.retrying import GONE, OUT_OF_RESOURCES, Sender, Told, at_once, deliver, lost
from tests.flows.program import Program, until
from triage.database.connection import open_database
from triage.database.migrating import downgrade, script_directory
from triage.database.tables import ResultRow

pytestmark = pytest.mark.long_only

SHORT, LONG = 1, 10  # changes
BETWEEN_S = 3.0
PAUSE_S = 0.05


@pytest.fixture
def program(database_url: str, tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path, database_url, caption="never")
    text = made.configuration.read_text()
    made.configuration.write_text(text.replace("port = 0", f"port = {free_port()}"))
    yield made
    if made.process is not None:
        made.stop()
    shutil.rmtree(made.store, ignore_errors=True)


def results(program: Program) -> dict[int, tuple[Any, ...]]:
    """Return the result rows by number: bundle, mode and findings of each."""
    db = open_database(program.url)
    try:
        with db.read() as connection:
            rows = connection.execute(select(ResultRow)).all()
    finally:
        db.dispose()
    return {row.id: tuple(row) for row in rows}


@contextmanager
def modalities(port: int, mould: Mould, count: int = 2) -> Iterator[Told]:
    """Senders of one object after the other, each over an association of its own.

    One that kept its association would be let finish for half a minute at each stop.
    """
    told = Told()

    def send(number: int, stop: threading.Event) -> None:
        while not stop.wait(PAUSE_S):
            with Sender(port, mould) as sender:
                deliver(sender, number, told)
            number += count

    with at_once(send, count):
        yield told


def change(program: Program, revisions: list[str]) -> int:
    """Stop, go a revision back, migrate, start; return the exit code of the stop."""
    code = program.stop()
    downgrade(program.url, to=revisions[-2])
    assert program.call("migrate").returncode == 0
    program.start()
    program.port()
    return code


@requirement("P6", bound="nothing lost by 10 changes of release under load, on each database")
def test_p6_changes_of_release_under_load_lose_nothing(
    program: Program, evidence: Evidence, long: bool
) -> None:
    revisions = [script.revision for script in script_directory().walk_revisions()][::-1]
    mould = Mould(DX, 64)
    port = program.start().port()
    codes, before = [], {}
    with modalities(port, mould) as told:
        for _ in range(LONG if long else SHORT):
            held = len(told.held)
            until(lambda held=held: len(told.held) > held + 20)  # type: ignore[misc]
            before = results(program)
            codes.append(change(program, revisions))
            time.sleep(BETWEEN_S if long else 0)
    missing = lost(program, mould, told.held)
    half = [st for st in told.statuses if st not in (0, GONE) and st not in OUT_OF_RESOURCES]
    changed = [number for number, row in before.items() if results(program).get(number) != row]
    evidence.record(
        trials=len(told.held),
        losses=len(missing) + len(half) + len(changed),
        worst=f"{len(codes)} changes, {sum(st != 0 for st in told.statuses)} tries not taken",
    )
    assert set(codes) == {0}
    assert missing == []
    assert half == []
    assert changed == []
