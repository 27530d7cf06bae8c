"""N9: what is longer than it may be, or comes before its time, ends the connection.

A header announces more than the receiver said it takes, or up to 4 GiB, or data come before any
association; the sender goes on sending for as long as it is let. Bound: an A-ABORT or the end of
the connection within 2 s, its end within 7 s for one that goes on after an A-ABORT (the receiver
leaves a peer 5 s to close), and no process grows by more than 10 MiB over all trials. Beside it
Orthanc and storescp with and without --fork, as packaged.
"""

import socket
import struct
import time
from contextlib import suppress
from pathlib import Path

from tests.assurance import Evidence, requirement
from tests.ingest.raw_peer import (
    ABORTED,
    DATA,
    RawPeer,
    calling,
    message,
    request,
    store_rq,
)
from tests.security.receivers import Listening, installed, other, ours, store_s
from tests.security.watching import Growth, growing

BOUND_MIB = 10.0
BOUND_S = 2.0
BOUND_RUDE_S = 7.0
MOST_SENT = 64 << 20
REPEATS_LONG = 20
DROPS, DROPS_LONG = 200, 2000
FOUR_GIB = 0xFFFFFFFF
NOISE = bytes(range(256)) * 256
MAXIMUM_LENGTH_ITEM = b"\x51\x00\x00\x04"


def header(kind: int, length: int) -> bytes:
    return struct.pack(">BxI", kind, length)


BEFORE_ASSOCIATION = {
    "a request of 4 GiB": header(1, FOUR_GIB),
    "a request of 256 MiB": header(1, 256 << 20),
    "data": header(DATA, 1 << 20),
    "data of 4 GiB": header(DATA, FOUR_GIB),
    "no known PDU": header(0x47, FOUR_GIB),
    "another protocol": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
}
INSIDE = {
    "data of 4 GiB": FOUR_GIB,
    "data of 16 MiB": 16 << 20,
    "one byte more than announced": 1,
}


@requirement("N9", bound="aborted within 2 s, closed within 7 s, under 10 MiB of growth")
def test_n9_what_is_too_long_or_too_early_is_cut_off(
    evidence: Evidence, long: bool, tmp_path: Path
) -> None:
    with ours(tmp_path / "ours") as receiver:
        store_s(receiver.port)  # what is loaded at the first use is not growth
        open_for, growth = trials(receiver, REPEATS_LONG if long else 1)
        with growing(receiver.pid) as under_rude, calling(receiver.port) as peer:
            rude_s = talk(peer, header(DATA, FOUR_GIB), rude=True)
        assert store_s(receiver.port) is not None
    worst_mib = max(growth.worst_mib, under_rude.worst_mib)
    beside = peers_beside(tmp_path) if long else {}
    late = [name for name, seconds in open_for if seconds > BOUND_S]
    late += ["one that goes on"] if rude_s > BOUND_RUDE_S else []
    evidence.record(
        trials=len(open_for) + 1,
        losses=len(late),
        worst=f"{worst_mib:.1f} MiB, {max(seconds for _, seconds in open_for):.2f} s",
        peers=beside,
    )
    assert late == []
    assert worst_mib < BOUND_MIB, (growth.told(), under_rude.told())


def peers_beside(folder: Path) -> dict[str, str]:
    said = {}
    for peer in installed():
        with other(peer, folder / peer.label) as listening:
            store_s(listening.port)
            open_for, growth = trials(listening, 1)
        late = sum(seconds > BOUND_S for _, seconds in open_for)
        said[peer.name()] = (
            f"{late} of {len(open_for)} not cut off in 2 s, {max(growth.worst_mib, 0):.0f} MiB"
        )
    return said


def trials(listening: Listening, repeats: int) -> tuple[list[tuple[str, float]], Growth]:
    """Return how long each connection was let talk, and how the receiver grew meanwhile."""
    found = []
    with growing(listening.pid) as growth:
        for _ in range(repeats):
            for name, said in BEFORE_ASSOCIATION.items():
                with calling(listening.port) as peer:
                    found.append((f"first {name}", talk(peer, said)))
            for name, length in INSIDE.items():
                with calling(listening.port) as peer:
                    found.append((f"inside {name}", talk_inside(peer, length)))
    return found, growth


def talk_inside(peer: RawPeer, length: int) -> float:
    """Associate, begin a store, and go on with data whose header says too much."""
    peer.say(request())
    heard = peer.hear()
    assert heard is not None
    announced = announced_length(heard[1])
    length = announced + length if length == 1 else length
    began = message(store_rq())
    inside = struct.pack(">IBB", length - 4, 1, 0)
    return talk(peer, began + header(DATA, length) + inside)


def announced_length(accept: bytes) -> int:
    """Return the largest PDU that the other side says it takes."""
    place = accept.index(MAXIMUM_LENGTH_ITEM) + len(MAXIMUM_LENGTH_ITEM)
    return int(struct.unpack_from(">I", accept, place)[0])


def talk(peer: RawPeer, said: bytes, *, rude: bool = False) -> float:
    """Say this and then noise; return the seconds until the other side aborts or closes.

    A rude sender goes on until it closes.
    """
    began_s = time.monotonic()
    patience_s = (BOUND_RUDE_S if rude else BOUND_S) + 1
    sent = 0
    with suppress(ConnectionError):
        peer.connection.settimeout(0.2)
        peer.say(said)
        while time.monotonic() - began_s < patience_s:
            with suppress(TimeoutError):
                if sent < MOST_SENT:
                    sent += peer.connection.send(NOISE)
            heard = answer(peer.connection, wait_s=0.0 if sent < MOST_SENT else 0.2)
            if heard == b"" or (heard and heard[0] == ABORTED and not rude):
                break
    return time.monotonic() - began_s


def answer(connection: socket.socket, *, wait_s: float) -> bytes | None:
    """Return what the other side says; nothing at its end, None where it is silent."""
    connection.settimeout(wait_s)
    try:
        return connection.recv(65536)
    except (TimeoutError, BlockingIOError):
        return None
    finally:
        connection.settimeout(0.2)


@requirement("N9", bound="no residue of 200 connections that drop half-way")
def test_n9_half_a_request_that_is_dropped_leaves_nothing(
    evidence: Evidence, long: bool, tmp_path: Path
) -> None:
    repeats = DROPS_LONG if long else DROPS
    said = request()
    with ours(tmp_path) as receiver:
        store_s(receiver.port)
        with growing(receiver.pid) as growth:
            for number in range(repeats):
                with calling(receiver.port) as peer:
                    peer.say(said[: number % len(said)])
        assert store_s(receiver.port) is not None
    evidence.record(trials=repeats, worst=f"{growth.worst_mib:.1f} MiB")
    assert growth.worst_mib < BOUND_MIB
