"""G6: a watched folder whose mount is gone is an alarm, though its mount point is still there.

The daemon runs in a mount namespace of its own, in which the folder is a file system that comes
and goes. Bounds: what lies in the folder is taken in, each time it is mounted; each time it is not,
`triage status` says so, though the empty mount point can be read without an error.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.assurance import Evidence, requirement
from tests.faults.injection import SmallDisk, needs_mounts, small_disk
from tests.faults.moulds import DX, Mould
from tests.faults.retrying import lost
from tests.flows.program import Program, until


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "watched", size_mib=16) as made:
        yield made


@pytest.fixture
def program(disk: SmallDisk, sqlite_url: str, tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path, sqlite_url).start("--role", "watch", under=disk.enter)
    yield made
    if made.process is not None:
        made.stop()


def alarm(program: Program) -> str:
    """Return the message about a folder that is missing; empty without."""
    causes = program.status()["causes"]
    return next((each["message"] for each in causes if each["alarm"] == "folder_missing"), "")


@needs_mounts
@requirement(
    "G6", bound="a folder whose mount goes: an alarm each time, every file once it is back"
)
def test_g6_a_folder_that_is_not_mounted_is_an_alarm_and_no_empty_folder(
    program: Program, disk: SmallDisk, evidence: Evidence, long: bool
) -> None:
    mould, rounds = Mould(DX, 32), 5 if long else 1
    told = 0
    for number in range(rounds):
        (disk.path / f"{number}.dcm").write_bytes(mould.file(number))
        until(lambda n=number: not lost(program, mould, range(n + 1)), patience_s=60)
        until(lambda: not alarm(program), patience_s=60)
        disk.unmount()
        until(lambda: alarm(program), patience_s=60)
        told += "is not mounted" in alarm(program)
        disk.mount_again()
    until(lambda: not alarm(program), patience_s=60)
    missing = lost(program, mould, range(rounds))
    evidence.record(trials=rounds, losses=len(missing) + rounds - told)
    assert told == rounds
    assert missing == []
