"""D4: what was done to the store behind the daemon's back is found at its next start, and told.

Among images that were received by C-STORE some files are deleted, some get one other bit, some are
cut; files without a row and half-written ones are put in, as crashes leave them. Bounds: after the
start every file without a row is taken in, every missing and every changed one
is named by an alarm, none that is whole is; the half-written ones are gone. Once the senders have
sent again, the next start has nothing left to tell.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from tests.assurance import Evidence, requirement
from tests.faults.moulds import DX, Mould
from tests.faults.retrying import Sender, lost
from tests.flows.program import Program, until
from triage.database.connection import open_database
from triage.database.house import open_subjects
from triage.database.tables import Instance
from triage.ingest.part10 import digest_of, file_meta, split
from triage.operations.scrub import MOST_ALARMS
from triage.records import AlarmCode

SEED = 20260105
ROLES = ("--role", "receive", "--role", "schedule")


@pytest.fixture
def program(database_url: str, tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path, database_url)
    yield made
    if made.process is not None:
        made.stop()


def paths_of(program: Program) -> dict[str, str]:
    """Return SOP Instance UID to path of what has a row."""
    db = open_database(program.url)
    try:
        with db.read() as connection:
            rows = connection.execute(select(Instance.sop_instance_uid, Instance.path)).all()
    finally:
        db.dispose()
    return {row.sop_instance_uid: row.path for row in rows}


def told(program: Program, code: AlarmCode) -> list[str]:
    """Return what the open alarms of one code are about."""
    db = open_database(program.url)
    try:
        with db.read() as connection:
            return open_subjects(connection, code=code)
    finally:
        db.dispose()


def put_orphan(program: Program, mould: Mould, number: int) -> None:
    """Leave a file as a crash between its rename and its row does."""
    data = mould.file(number)
    meta = file_meta(
        sop_class_uid=mould.sop_class,
        sop_instance_uid=mould.instance(number),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
    )
    digest = digest_of(split(data))
    place = program.store / "objects" / digest[:2] / f"{digest}.dcm"
    place.write_bytes(meta + mould.data_set(number))


def change(path: Path, chance: random.Random) -> None:
    """Give a file one other bit, or less of its end."""
    data = bytearray(path.read_bytes())
    if chance.random() < 0.5:
        data[chance.randrange(1024, len(data))] ^= 1 << chance.randrange(8)
    else:
        del data[chance.randrange(len(data)) :]
    path.write_bytes(bytes(data))


@requirement("D4", bound="every seeded orphan, missing and changed file is told, and no other")
def test_d4_what_was_done_to_the_store_is_found_and_told(
    program: Program, evidence: Evidence, long: bool
) -> None:
    if not long and program.url.startswith("postgresql"):
        pytest.skip("one database in the short form")
    chance, mould = random.Random(SEED), Mould(DX, 64)
    total, each = (1000, MOST_ALARMS) if long else (30, 3)
    with Sender(program.start(*ROLES).port(), mould) as sender:
        assert {sender.offer(number) for number in range(total)} == {0}
    assert program.stop() == 0
    paths, numbers = paths_of(program), chance.sample(range(total), 2 * each)
    missing, changed = ({paths[mould.instance(n)] for n in part}
                        for part in (numbers[:each], numbers[each:]))  # fmt: skip
    for path in missing:
        (program.store / path).unlink()
    for path in changed:
        change(program.store / path, chance)
    orphans = range(total, total + each)
    for number in orphans:
        put_orphan(program, mould, number)
    dead = program.store / "incoming" / "dead"
    dead.mkdir()
    (dead / "half.part").write_bytes(mould.file(0)[:1000])

    program.start(*ROLES)
    # The order in which the daemon goes: reconciliation to its end, then a round of reading.
    until(lambda: len(told(program, AlarmCode.OBJECTS_DAMAGED)) >= each)
    until(lambda: b"store_scrubbed" in program.log.read_bytes())
    seen = set(told(program, AlarmCode.OBJECTS_DAMAGED))
    causes = {cause["alarm"]: cause["message"] for cause in program.status()["causes"]}
    whole = [n for n in range(total + each) if n not in numbers]
    losses = len(lost(program, mould, whole)) + len(seen ^ changed)
    losses += not causes.get("objects_missing", "").startswith(f"{each} objects")
    evidence.record(trials=3 * each, losses=losses, worst=f"{total} images in the store")
    assert lost(program, mould, whole) == []
    assert seen == changed
    assert causes["objects_missing"].startswith(f"{each} objects")
    assert not dead.exists()

    with Sender(program.port(), mould) as sender:
        assert {sender.offer(number) for number in numbers} == {0}
    assert program.stop() == 0
    program.start(*ROLES)
    until(lambda: not [c for c in program.status()["causes"] if c["code"] == "alarm"])
    assert lost(program, mould, range(total + each)) == []
