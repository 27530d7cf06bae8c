"""Receive rate, durable, beside peers that are not: storescp, Orthanc, a bare pynetdicom handler.

Everything is sent by dcmsend, so the sender's part is the same. Beside them stands what the disk
itself does: the same bytes written, synced, renamed and their directory synced by as many threads.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.benchmarks import sending
from tests.benchmarks.measuring import (
    Conditions,
    Limit,
    Note,
    Ratio,
    Row,
    at_least,
    by_turns,
    configuration,
    daemon,
    free_port,
    listening,
    need,
    ratio,
    say,
)
from tests.faults.peers import Orthanc, Storescp, running

TITLE = "Receive, durable"
CT_IMAGES = 600
DX_IMAGES = 100
SENDERS = (1, 4)
OURS, STORESCP, ORTHANC, BARE, DISK = (
    "triage",
    "storescp --fork",
    "Orthanc",
    "bare pynetdicom",
    "disk",
)
Serve = Callable[[Path, int], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Objects of one size, and how Orthanc's rate is to be exceeded."""

    name: str
    folder: Path
    of_orthanc: Limit

    @property
    def count(self) -> int:
        return sum(1 for _ in self.folder.iterdir())


def measure(conditions: Conditions) -> Iterator[Row | Note]:
    """Yield objects per second for CT- and DX-size objects over 1 and 4 associations."""
    need("dcmsend", "storescp", package="dcmtk")
    if not Orthanc.installed():
        yield Note(text="Orthanc is not installed (apt-get install orthanc): left out.")
    with conditions.folder() as folder:
        ct = sending.write_ct(folder / "ct", conditions.count(CT_IMAGES, least=8))
        dx = sending.write_dx(folder / "dx", conditions.count(DX_IMAGES, least=8))
        loads = (
            Load(name="CT 0.5 MB", folder=ct, of_orthanc=at_least(2.0)),
            Load(name="DX 10 MB", folder=dx, of_orthanc=at_least(1.0)),
        )
        for load in loads:
            for senders in SENDERS:
                yield from _cell(conditions, load, senders)
    yield Note(
        text="triage runs its receive role alone, as triage-receive.service does: no schedule, no"
        " analysis, which would take processor time from whichever receiver stood beside them."
    )
    yield Note(
        text="storescp syncs nothing, Orthanc the file but neither its directory nor its index:"
        " theirs is what they answer, not what a power cut leaves. triage answers when file,"
        " directory and row are on the disk."
    )


def _cell(conditions: Conditions, load: Load, senders: int) -> Iterator[Row]:
    """One size and number of senders: all peers by turns."""
    with conditions.folder() as folder:
        shares = sending.split(load.folder, folder / "shares", senders)
        sending.warm(*shares)
        say(f"  {load.name}, {senders} association(s)")
        turn = {
            name: partial(_rate, conditions, shares, load.count, serve)
            for name, serve in _peers().items()
        }
        turn[DISK] = partial(_disk, conditions, shares, load.count)
        values = by_turns(turn, conditions)
    for name, each in values.items():
        what = f"{load.name}, {senders} association{'s' if senders > 1 else ''}: {name}"
        ratios = _ratios(values, load) if name == OURS else ()
        yield Row(what=what, values=each, unit="/s", ratios=ratios)


def _ratios(values: dict[str, tuple[float, ...]], load: Load) -> tuple[Ratio, ...]:
    limits = {ORTHANC: load.of_orthanc}
    return tuple(
        ratio(values[OURS], to=name, of=each, limit=limits.get(name))
        for name, each in values.items()
        if name != OURS
    )


def _peers() -> dict[str, Serve]:
    peers: dict[str, Serve] = {OURS: _triage, STORESCP: partial(running, Storescp)}
    peers |= {ORTHANC: partial(running, Orthanc), BARE: _bare}
    if not Orthanc.installed():
        del peers[ORTHANC]
    return peers


def _rate(conditions: Conditions, shares: Sequence[Path], count: int, serve: Serve) -> float:
    """One run into an empty store, which is gone afterwards."""
    with conditions.folder() as folder:
        port = free_port()
        with serve(folder, port):
            took_s = sending.send(shares, port)
            sending.require_held(folder, count)
    return count / took_s


def _disk(conditions: Conditions, shares: Sequence[Path], count: int) -> float:
    """What the disk takes when nothing else is done; each thread with its share."""
    with conditions.folder() as folder:
        started = time.monotonic()
        threads = [
            threading.Thread(target=_copy_synced, args=(share, folder / str(number)))
            for number, share in enumerate(shares)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took_s = time.monotonic() - started
        sending.require_held(folder, count)
    return count / took_s


def _copy_synced(share: Path, into: Path) -> None:
    into.mkdir()
    directory = os.open(into, os.O_RDONLY | os.O_DIRECTORY)
    for path in share.iterdir():
        temporary = into / "part"
        with temporary.open("wb") as file:
            file.write(path.read_bytes())
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(into / path.name)
        os.fsync(directory)
    os.close(directory)


@contextmanager
def _triage(folder: Path, port: int) -> Iterator[None]:
    with daemon(configuration(folder, port), port, "receive"):
        yield


@contextmanager
def _bare(folder: Path, port: int) -> Iterator[None]:
    held = folder / "held"
    held.mkdir()
    command = [sys.executable, "-m", "tests.benchmarks.bare_receiver", str(held), str(port)]
    root = Path(__file__).parents[2]
    with (folder / "log").open("w") as log, listening(command, port, log=log.fileno(), cwd=root):
        yield
