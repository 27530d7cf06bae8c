"""D3: an error of the disk at any step of taking in is no false success and no end of the daemon.

ENOSPC and EIO are injected by strace into a running daemon at the write, the sync and the rename of
the file, at the sync of its directory alone, and at the write and the sync of the commit, and stay
for as long as the sender tries.
Bounds: no object that is not held is answered with success; the sender is told A7xx and its later
try succeeds; `triage status` names the fault; the process is the same one throughout, or, after
an EIO that puts the store out of service, until an operator starts it again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.assurance import Evidence, requirement
from tests.faults.injection import hits, injected, needs_strace
from tests.faults.moulds import DX, Mould
from tests.faults.retrying import OUT_OF_RESOURCES, Sender, cause_of, lost
from tests.flows.program import Program, until
from triage.store import SHARDS

ROLES = ("--role", "receive", "--role", "schedule")
DATABASE = ("triage.sqlite-wal",)
DIRECTORIES = tuple(f"store/objects/{shard}" for shard in SHARDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An error of one step between the socket and the answer, as the kernel sees it.

    paths: below the installation, which these calls must be on; any where there is none.
    """

    step: str
    calls: str
    error: str
    paths: tuple[str, ...] = ()

    @property
    def lasts(self) -> bool:
        """Whether it leaves a doubt about what the disk holds, which ends with the process."""
        return self.error == "EIO" and self.paths != DATABASE

    def __str__(self) -> str:
        return f"{self.error} at {self.step}"


FAULTS = [
    Fault(step=step, calls=calls, error=error, paths=paths)
    for step, calls, paths in (
        ("write", "pwrite64", ()),
        ("sync", "fsync", ()),
        ("rename", "rename,renameat,renameat2", ()),
        ("sync of the directory", "fsync", DIRECTORIES),
        ("write of the commit", "pwrite64", DATABASE),
        ("sync of the commit", "fdatasync,fsync", DATABASE),
    )
    for error in ("ENOSPC", "EIO")
]


@pytest.fixture
def program(sqlite_url: str, tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path, sqlite_url)
    yield made
    if made.process is not None:
        made.stop()


def named(program: Program) -> dict[str, str] | None:
    """The cause in `triage status` that says why nothing is taken in."""
    return cause_of(program, lambda each: each["code"] == "role_fault")


def tried(program: Program, sender: Sender, fault: Fault, numbers: range) -> list[int]:
    """Offer objects while the step fails; return the statuses."""
    assert program.process is not None
    paths = [program.directory / each for each in fault.paths]
    trace = program.directory / "trace"
    with injected(program.process.pid, fault.calls, fault.error, trace, paths=paths):
        statuses = [sender.offer(number) for number in numbers]
    assert hits(trace) >= 1, f"nothing failed: {fault}"
    return statuses


@needs_strace
@requirement("D3", bound="no false success at any step with ENOSPC and EIO; goes on by itself")
@requirement("N2", bound="A7xx while a step fails, success at a later try")
def test_d3_an_error_that_leaves_no_doubt_is_told_to_the_sender_and_passes(
    program: Program, evidence: Evidence, long: bool
) -> None:
    mould, each = Mould(DX, 64), 40 if long else 3
    faults = [fault for fault in FAULTS if not fault.lasts]
    first = program.start(*ROLES).process
    false, refused, number = list[str](), 0, 0
    with Sender(program.port(), mould) as sender:
        assert sender.offer(0) == 0
        for fault in faults:
            numbers = range(number + 1, number + 1 + each)
            statuses = tried(program, sender, fault, numbers)
            false += [f"{fault}: {st:#06x}" for st in statuses if st not in OUT_OF_RESOURCES]
            until(lambda numbers=numbers: sender.offer(numbers[0]) == 0, patience_s=30)  # type: ignore[misc]
            refused += sum(1 for each in numbers if sender.offer(each) != 0)
            number = numbers[-1]
    until(lambda: named(program) is None, patience_s=20)
    missing = lost(program, mould, range(number + 1))
    losses = len(false) + refused + len(missing)
    evidence.record(trials=number, losses=losses, worst=", ".join(false))
    assert (false, refused, missing) == ([], 0, [])
    assert program.process is first
    assert first is not None
    assert first.poll() is None


@needs_strace
@requirement(
    "D3", bound="after a failed sync no success until it is started again, and `status` says so"
)
@requirement("N2", bound="A7xx until it is started again, then success")
def test_d3_a_disk_that_fails_puts_the_store_out_of_service_until_a_person_comes(
    program: Program, evidence: Evidence, long: bool
) -> None:
    mould, each = Mould(DX, 64), 40 if long else 3
    faults = [fault for fault in FAULTS if fault.lasts]
    program.start(*ROLES)
    false, refused, number = list[str](), 0, 0
    with Sender(program.port(), mould) as sender:
        assert sender.offer(0) == 0
        for fault in faults if long else faults[1:2]:
            numbers = range(number + 1, number + 1 + each)
            statuses = tried(program, sender, fault, numbers)
            statuses.append(sender.offer(number + 1))  # the disk is well again, in vain
            false += [f"{fault}: {st:#06x}" for st in statuses if st not in OUT_OF_RESOURCES]
            told = until(lambda: named(program), patience_s=20)
            assert "out of service" in told["message"]
            assert program.call("status").returncode == 2
            assert program.stop() == 0, "it ended by itself"
            sender.leave()
            sender.port = program.start(*ROLES).port()
            refused += sum(1 for each in numbers if sender.offer(each) != 0)
            number = numbers[-1]
    until(lambda: named(program) is None, patience_s=20)
    missing = lost(program, mould, range(number + 1))
    losses = len(false) + refused + len(missing)
    evidence.record(trials=number, losses=losses, worst=", ".join(false))
    assert (false, refused, missing) == ([], 0, [])
