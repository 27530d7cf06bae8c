"""The real receiver and, beside it, other programs in the same trial; all on loopback.

Ours is `triage run --role receive`, as triage-receive.service runs it.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.benchmarks.measuring import configuration, daemon, free_port
from tests.deploy.live import stored
from tests.dicom_files import make_dx
from tests.faults.peers import Orthanc, Peer, Storescp, running
from tests.ingest.raw_peer import DX, EXPLICIT, RELEASE_RQ, RawPeer, calling, request

OURS = "triage"
PATIENCE_S = 12.0
TINY = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)


class PlainStorescp(Storescp):
    """DCMTK's receiver as it is without options: one association after the other."""

    label = "storescp"

    def command(self) -> list[str]:
        return [word for word in super().command() if word != "--fork"]


PEERS: tuple[type[Peer], ...] = (Orthanc, Storescp, PlainStorescp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """A program that listens: its port and its first process."""

    port: int
    pid: int


@contextmanager
def ours(folder: Path, *, more: str = "") -> Iterator[Listening]:
    """Our receiver in an empty installation below `folder`; `more` is TOML for its file."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with daemon(configuration(folder, port, more=more), port, "receive") as pid:
        yield Listening(port=port, pid=pid)


@contextmanager
def other(peer: type[Peer], folder: Path) -> Iterator[Listening]:
    with running(peer, folder) as started:
        yield Listening(port=started.port, pid=started.pid)


def installed() -> Sequence[type[Peer]]:
    return [peer for peer in PEERS if peer.installed()]


def store_s(port: int, *, within_s: float = PATIENCE_S) -> float | None:
    """Associate, store one small radiograph, release; return how long it took.

    None where it was not answered with success within the time.
    """
    began_s = time.monotonic()
    try:
        with calling(port, within_s=within_s) as peer:
            peer.connection.settimeout(within_s)
            peer.say(request())
            heard = peer.hear()
            if heard is None or heard[0] != 2:
                return None
            status = stored_status(peer)
            peer.say(RELEASE_RQ)
            peer.hear()
    except OSError:
        return None
    took_s = time.monotonic() - began_s
    return took_s if status == 0 and took_s < within_s else None


def stored_status(peer: RawPeer) -> int:
    """Send a new small radiograph over an association; return the status of the answer."""
    peer.say(stored(make_dx(TINY)))
    return peer.hear_status()


__all__ = [
    "DX",
    "EXPLICIT",
    "OURS",
    "PEERS",
    "Listening",
    "PlainStorescp",
    "installed",
    "other",
    "ours",
    "store_s",
    "stored_status",
]
