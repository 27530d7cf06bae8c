"""N2 on a small disk of one's own: filled to the margin, filled to the last byte, read-only.

A sender stores images of 1 MiB until it is refused, and goes on offering. Bounds: the first refusal
comes when the next image would eat into [store] minimum_free_mib, not before and not after; it is
A7xx; what was acknowledged is all there, byte for byte, while another program fills what is left;
`triage status` names the cause; when there is space again, the sender's next try succeeds and the
cause is gone. Other receivers then get the same images on a disk of 16 MiB, without a margin, as
they have none by default.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.assurance import Evidence, requirement
from tests.faults.injection import SmallDisk, needs_mounts, small_disk
from tests.faults.moulds import DX, Mould
from tests.faults.peers import Peer, digest, installed, running
from tests.faults.retrying import GONE, OUT_OF_RESOURCES, Sender, cause_of, lost
from tests.flows.program import Program, until

ROLES = ("--role", "receive", "--role", "schedule")
MARGIN_MIB = 16  # as `Program` configures it
SIZE_PX = 724  # 1 MiB
AFTERWARDS = 5  # further offers to one that has refused


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", size_mib=40) as made:
        yield made


@pytest.fixture
def program(disk: SmallDisk, sqlite_url: str, tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path, sqlite_url, store=disk.path / "store")
    yield made
    if made.process is not None:
        made.stop()


def has(program: Program, code: str) -> bool:
    return cause_of(program, lambda each: each["code"] == code) is not None


@needs_mounts
@requirement(
    "N2", bound="refused at the margin with A7xx, nothing cleaned away, success with space"
)
@requirement("D3", bound="a full disk is named by `status` and gone with its cause")
@requirement("N5", bound="no echo succeeds while nothing can be stored")
def test_n2_a_full_disk_is_told_at_the_margin_and_nothing_is_cleaned_away(
    disk: SmallDisk, program: Program, evidence: Evidence, tmp_path: Path
) -> None:
    mould = Mould(DX, SIZE_PX)
    object_mib = len(mould.data_set(0)) / (1 << 20)
    program.start(*ROLES)
    with Sender(program.port(), mould) as sender:
        first = next(n for n in range(100) if sender.offer(n) != 0)
        free_mib = disk.free_mib()
        after = [sender.offer(n) for n in range(first, first + AFTERWARDS)]
        disk.fill()
        after += [sender.offer(n) for n in range(first, first + AFTERWARDS)]
        assert disk.free_mib() < 1
        until(lambda: has(program, "store_full"), patience_s=20)
        assert program.call("status").returncode == 2
        assert not program.echo(sender.port)
        missing = lost(program, mould, range(first))
        false = [status for status in after if status not in OUT_OF_RESOURCES]
        evidence.record(
            trials=first + len(after),
            losses=len(false) + len(missing),
            worst=f"{free_mib:.1f} MiB left at the first refusal, with a margin of {MARGIN_MIB}",
        )
        others = {peer.name(): told_of(peer, tmp_path / peer.program) for peer in installed()}
        evidence.record(trials=0, peers=others, code="N2")  # of them nothing else was asked
        assert (false, missing) == ([], [])
        assert MARGIN_MIB - 1 <= free_mib <= MARGIN_MIB + object_mib + 1
        (disk.path / "ballast").unlink()
        disk.resize(80)
        until(lambda: sender.offer(first) == 0, patience_s=30)
        assert program.echo(sender.port)
    until(lambda: not has(program, "store_full"), patience_s=20)
    assert lost(program, mould, range(first + 1)) == []


@needs_mounts
@pytest.mark.long_only
@requirement(
    "N2", bound="a store that cannot be written: A7xx, named by `status`, success when it can"
)
def test_n2_a_store_that_became_read_only_is_told_and_comes_back(
    disk: SmallDisk, program: Program, evidence: Evidence
) -> None:
    mould = Mould(DX, 64)
    program.start(*ROLES)
    with Sender(program.port(), mould) as sender:
        assert sender.offer(0) == 0
        with disk.read_only():
            statuses = [sender.offer(number) for number in range(1, 1 + AFTERWARDS)]
            fault = until(
                lambda: cause_of(program, lambda each: each["code"] == "role_fault"), patience_s=20
            )
        until(lambda: sender.offer(1) == 0, patience_s=30)
    false = [status for status in statuses if status not in OUT_OF_RESOURCES]
    evidence.record(trials=len(statuses), losses=len(false))
    assert false == []
    assert "read-only" in fault["message"]
    until(lambda: not has(program, "role_fault"), patience_s=20)
    assert lost(program, mould, range(2)) == []


# --- the same disk under other receivers


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one of them did with a disk that ran full."""

    acknowledged: int
    whole: int  # of these
    left_mib: float  # at the first refusal
    refusals: list[int]
    recovered: bool

    def told(self) -> str:
        words = sorted({"closed" if each == GONE else f"{each:04X}" for each in self.refusals})
        told = " or ".join(words) if words else "never refused"
        back = "took the next when there was space" if self.recovered else "took nothing more"
        return (
            f"{self.acknowledged} acknowledged, {self.whole} of them whole; refused with"
            f" {self.left_mib:.1f} MiB left: {told}; {back}"
        )


def told_of(peer: type[Peer], folder: Path) -> str:
    """Give another receiver a disk that is soon full; say what it did."""
    with small_disk(folder / "held", size_mib=16) as disk:

        class OnDisk(peer):  # type: ignore[misc, valid-type]
            def command(self) -> list[str]:
                return [*disk.enter, *super().command()]

        with running(OnDisk, folder) as receiver:
            receiver.folder = disk.path.parent  # where its files are seen from here
            return fill(receiver, disk, Mould(DX, SIZE_PX)).told()


def fill(receiver: Peer, disk: SmallDisk, mould: Mould) -> Seen:
    acknowledged: list[int] = []
    refusals: list[int] = []
    left_mib = 0.0
    with Sender(receiver.port, mould, patience_s=20) as sender:
        for number in range(100):
            status = sender.offer(number)
            if status == 0:
                acknowledged.append(number)
                continue
            left_mib = left_mib or disk.free_mib()
            refusals.append(status)
            if len(refusals) > AFTERWARDS:
                break
        disk.resize(120)
        recovered = any(sender.offer(number) == 0 for number in range(200, 203))
    held = receiver.held()
    pixels = -2 * SIZE_PX * SIZE_PX
    whole = sum(
        held.get(mould.instance(number)) == digest(mould.data_set(number)[pixels:])
        for number in acknowledged
    )
    return Seen(
        acknowledged=len(acknowledged), whole=whole, left_mib=left_mib, refusals=refusals,
        recovered=recovered,
    )  # fmt: skip
