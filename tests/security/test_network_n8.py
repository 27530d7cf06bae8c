"""N8: connections that say nothing, or little, do not keep a real store waiting.

100 connections from one address are opened and kept, idle or sending one byte of an association
request each second. Bound: each store by another connection from the same address is answered with
success within 2 s. Beside it the same done to Orthanc and to storescp with and without --fork, as
packaged.
"""

import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.assurance import Evidence, requirement
from tests.ingest.raw_peer import request
from tests.security.receivers import installed, other, ours, store_s

CONNECTIONS = 100
BOUND_S = 2.0
STORES, STORES_LONG = 3, 20
PEER_STORES = 2
TRICKLE_S = 1.0
PAUSE_S = 0.7  # between stores, so that the crowd is at its work


@contextmanager
def crowd(port: int, *, trickling: bool) -> Iterator[None]:
    """Hold the connections; one that the other side closes is opened again."""
    stop = threading.Event()
    with ExitStack() as stack:
        connections: list[socket.socket] = []
        with suppress(TimeoutError):  # a queue that is full already keeps everybody out
            while len(connections) < CONNECTIONS:
                connections.append(_connect(port, stack))
        thread = threading.Thread(target=_keep, args=(port, connections, stop, trickling))
        thread.start()
        stack.callback(thread.join)
        stack.callback(stop.set)
        yield


def _connect(port: int, stack: ExitStack) -> socket.socket:
    return stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=2))


def _keep(
    port: int, connections: list[socket.socket], stop: threading.Event, trickling: bool
) -> None:
    said = request()
    sent = [0] * len(connections)
    with ExitStack() as stack:
        while not stop.wait(TRICKLE_S):
            for gone in _closed(connections):
                if stop.is_set():  # each may take the whole timeout where nobody listens any more
                    return
                with suppress(OSError):
                    connections[gone] = _connect(port, stack)
                    sent[gone] = 0
            for place, connection in enumerate(connections if trickling else ()):
                with suppress(OSError):
                    connection.sendall(said[sent[place] : sent[place] + 1])
                    sent[place] += 1


def _closed(connections: list[socket.socket]) -> list[int]:
    with selectors.DefaultSelector() as selector:
        for place, connection in enumerate(connections):
            with suppress(ValueError, OSError):
                selector.register(connection, selectors.EVENT_READ, place)
        found = [key.data for key, _ in selector.select(0)]
    for place in found:
        connections[place].close()
    return found


def stores(port: int, count: int) -> list[float | None]:
    taken = []
    for _ in range(count):
        time.sleep(PAUSE_S)
        taken.append(store_s(port))
    return taken


def peers_beside(folder: Path, *, trickling: bool) -> dict[str, str]:
    said = {}
    for peer in installed():
        with (
            other(peer, folder / peer.label) as listening,
            crowd(listening.port, trickling=trickling),
        ):
            taken = stores(listening.port, PEER_STORES)
        late = sum(each is None or each > BOUND_S for each in taken)
        done = [each for each in taken if each is not None]
        worst = f"worst {max(done):.2f} s" if done else "none answered within 12 s"
        said[peer.name()] = f"{late} of {PEER_STORES} stores late or refused, {worst}"
    return said


@requirement("N8", bound="each store within 2 s beside 100 connections")
@pytest.mark.parametrize("trickling", [False, True], ids=["idle", "a byte a second"])
def test_n8_a_crowd_without_associations_delays_no_store(
    trickling: bool, evidence: Evidence, long: bool, tmp_path: Path
) -> None:
    with ours(tmp_path / "ours") as receiver, crowd(receiver.port, trickling=trickling):
        taken = stores(receiver.port, STORES_LONG if long else STORES)
    late = sum(each is None or each > BOUND_S for each in taken)
    worst_s = max((each for each in taken if each is not None), default=float("inf"))
    beside = peers_beside(tmp_path, trickling=trickling) if long else {}
    evidence.record(trials=len(taken), losses=late, worst=f"{worst_s:.2f} s", peers=beside)
    assert late == 0
