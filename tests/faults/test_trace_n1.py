"""N1: the kernel's view of one C-STORE, from its last byte to its answer.

The running daemon is traced by strace while a sender stores some images. Bound: for each, in this
order, the file is synced, renamed, its directory synced, the commit synced (on PostgreSQL: sent and
confirmed by a server that syncs, on a connection whose synchronous_commit is on although the
database's own is off), and only then the response is written to the socket. Other receivers are
traced in the same way; what they sync before their answer is told.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.assurance import Evidence, requirement
from tests.benchmarks.measuring import postgres
from tests.conftest import run_on_server
from tests.faults.injection import attached, needs_strace
from tests.faults.moulds import DX, Mould
from tests.faults.peers import Peer, installed, running
from tests.faults.retrying import Sender
from tests.flows.program import Program
from triage.database.connection import migrate, open_database

SYNCS = "fsync,fdatasync,sync,syncfs,sync_file_range,msync"
RENAMES = "rename,renameat,renameat2"
TALK = "sendto,sendmsg,write,writev,recvfrom,recvmsg,read"
OPTIONS = ["-yy", "-s", "4000", "-e", f"trace={SYNCS},{RENAMES},{TALK}"]
PDV = r"\"\\4\\0"  # how strace shows a P-DATA-TF that is sent
STEPS = {
    "sqlite": (
        r"fsync\(\d+<[^>]*/incoming/[^>]*\.part>\)",
        r"rename\w*\([^\n]*/incoming/[^\n]*/objects/",
        r"fsync\(\d+<[^>]*/objects/[0-9a-f]{2}>\)",
        r"f(?:data)?sync\(\d+<[^>]*triage\.sqlite-wal>\)",
    ),
    "postgresql": (
        r"fsync\(\d+<[^>]*/incoming/[^>]*\.part>\)",
        r"rename\w*\([^\n]*/incoming/[^\n]*/objects/",
        r"fsync\(\d+<[^>]*/objects/[0-9a-f]{2}>\)",
        r"(?:sendto|write)\(\d+<UNIX[^\n]*(?i:commit)",
        r"(?:recvfrom|read)\(\d+<UNIX[^\n]*COMMIT\\0",
    ),
}


@pytest.fixture(params=["sqlite", "postgresql"])
def durable_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A migrated database that syncs what it commits: PostgreSQL's only because it is asked to."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_url")
        return
    with postgres(tmp_path) as url:
        run_on_server(url, "ALTER DATABASE triage SET synchronous_commit = off")
        migrate(url)
        yield url


@pytest.fixture
def program(durable_url: str, tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path, durable_url)
    yield made
    if made.process is not None:
        made.stop()


def unsynced(url: str) -> list[str]:
    """Return which settings of our connections let a commit be confirmed before it is synced."""
    if not url.startswith("postgresql:"):
        return []
    db = open_database(url)
    try:
        with db.read() as connection:
            said = {
                name: connection.exec_driver_sql(f"SHOW {name}").scalar_one()
                for name in ("fsync", "synchronous_commit")
            }
    finally:
        db.dispose()
    return [f"{name} = {value}" for name, value in said.items() if value != "on"]


def stretches(trace: Path, port: int) -> list[str]:
    """Cut the trace at each response: what the kernel was asked before one, and since the last."""
    text = "\n".join(_begun(trace.read_text("utf-8", "replace").splitlines()))
    response = re.compile(
        rf"^\d+ +(?:sendto|sendmsg|write|writev)\(\d+<TCP[^>]*:{port}->[^>]*>, [^\n]*{PDV}", re.M
    )
    places = [match.start() for match in response.finditer(text)]
    cut = [text[begin:end] for begin, end in zip([0, *places], places, strict=False)]
    # A response in two calls is one: nothing was heard between them.
    return [each for each in cut if re.search(rf"(?:recv\w*|read)\(\d+<TCP[^>]*:{port}->", each)]


def _begun(lines: list[str]) -> Iterator[str]:
    """Put calls that another thread interrupted together, at the place of their end.

    A sync has happened when it returns; a response may be read as soon as its call has begun.
    """
    waiting: dict[str, str] = {}
    for line in lines:
        thread, _, call = line.partition(" ")
        if call.endswith("<unfinished ...>"):
            waiting[thread] = call.removesuffix("<unfinished ...>").rstrip()
            if "<TCP" in call:
                yield line
        elif match := re.match(r" *<\.\.\. \w+ resumed>(.*)", call):
            begun = waiting.pop(thread, "")
            if "<TCP" not in begun:
                yield f"{thread} {begun}{match[1]}"
        else:
            yield line


def out_of_order(stretch: str, steps: tuple[str, ...]) -> list[str]:
    """Return which of the steps are not there, each after the one before."""
    place, wrong = 0, []
    for step in steps:
        found = re.compile(step).search(stretch, place)
        if found is None:
            wrong.append(step)
        else:
            place = found.end()
    return wrong


@needs_strace
@requirement("N1", bound="file sync, rename, directory sync, commit, and then the response; "
             "PostgreSQL with fsync and synchronous_commit on")  # fmt: skip
def test_n1_the_response_comes_after_every_sync_and_the_commit(
    program: Program, evidence: Evidence, long: bool, tmp_path: Path
) -> None:
    mould, stores = Mould(DX, 64), 200 if long else 5
    dialect = program.url.partition(":")[0]
    program.start("--role", "receive", "--role", "schedule")
    trace = tmp_path / "trace"
    with Sender(program.port(), mould) as sender:
        assert sender.offer(0) == 0
        assert program.process is not None
        with attached(program.process.pid, OPTIONS, trace):
            statuses = [sender.offer(number) for number in range(1, 1 + stores)]
        seen = stretches(trace, sender.port)
    wrong = [step for stretch in seen for step in out_of_order(stretch, STEPS[dialect])]
    wrong += unsynced(program.url)
    losses = len(wrong) + abs(stores - len(seen))
    others = installed() if dialect == "sqlite" else []
    peers = {peer.name(): told_of(peer, tmp_path / peer.program) for peer in others}
    evidence.record(trials=stores, losses=losses, worst=wrong[0] if wrong else "", peers=peers)
    assert set(statuses) == {0}
    assert len(seen) == stores
    assert wrong == []


def told_of(peer: type[Peer], folder: Path) -> str:
    """Say what another receiver syncs before each of some answers."""
    mould, trace = Mould(DX, 64), folder / "trace"
    with running(peer, folder) as receiver, Sender(receiver.port, mould) as sender:
        with attached(receiver.pid, OPTIONS, trace):
            assert {sender.offer(number) for number in range(5)} == {0}
        seen = stretches(trace, receiver.port)
    kinds = {
        "the file": r"f(?:data)?sync\(\d+<[^>]*/held/(?!index)[^>]*>\)",
        "the database": r"f(?:data)?sync\(\d+<[^>]*/index[^>]*>\)",
    }
    counted = {
        name: sum(1 for stretch in seen if re.search(pattern, stretch))
        for name, pattern in kinds.items()
    }
    told = [f"{name} before {count} of {len(seen)}" for name, count in counted.items() if count]
    return f"synced {', '.join(told)} answers" if told else "synced nothing before its answers"


def test_a_step_that_comes_too_late_is_found() -> None:
    calls = [
        "1 fsync(7</s/incoming/a/b.part>) = 0",
        'rename("/s/incoming/a/b.part", "/s/objects/00/c.dcm") = 0',
        "fsync(7</s/objects/00>) = 0",
        "fdatasync(9</d/triage.sqlite-wal>) = 0",
    ]
    assert out_of_order("\n".join(calls), STEPS["sqlite"]) == []
    for left_out in range(len(calls)):
        later = [call for place, call in enumerate(calls) if place != left_out]
        assert out_of_order("\n".join(later), STEPS["sqlite"]) == [STEPS["sqlite"][left_out]]
    assert out_of_order("\n".join(reversed(calls)), STEPS["sqlite"]) != []
