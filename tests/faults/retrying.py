"""A sender that does what it is told: what was not answered with success it sends again later."""

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import select

from tests.faults.moulds import Mould
from tests.flows.program import Program
from tests.ingest.raw_peer import EXPLICIT, RawPeer, fragment, p_data, request, store_rq
from triage.database.connection import open_database
from triage.database.tables import Instance
from triage.ingest.part10 import META_BYTES

ACCEPTED, REJECTED = 2, 3
GONE = -1  # no association, or one that was cut
OUT_OF_RESOURCES = range(0xA700, 0xA800)
PAUSE_S = 0.25
PIECE_BYTES = 16_000  # less than the maximum length that others take, 16,384


class Sender:
    """One association, made when it is needed and kept as long as it holds. Of one thread."""

    def __init__(self, port: int, mould: Mould, *, patience_s: float = 60.0) -> None:
        self.port = port  # may be changed for the next association
        self._mould, self._patience_s = mould, patience_s
        self._peer: RawPeer | None = None
        self.rejections: list[tuple[int, int, int]] = []  # result, source, diagnostic

    def __enter__(self) -> "Sender":
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def offer(self, number: int) -> int:
        """Send one object once; return its status, or GONE."""
        instance = self._mould.instance(number)
        command = store_rq(sop_class=self._mould.sop_class, instance=instance)
        try:
            peer = self._associated()
            if peer is None:
                return GONE
            peer.say(*_message(command, self._mould.data_set(number)))
            return peer.hear_status()
        except (OSError, AssertionError):
            self.leave()
            return GONE

    def leave(self) -> None:
        """Close the connection without a word; the next offer makes a new one."""
        if self._peer is not None:
            self._peer.connection.close()
        self._peer = None

    def _associated(self) -> RawPeer | None:
        if self._peer is not None:
            return self._peer
        self._peer = peer = RawPeer(socket.create_connection(("127.0.0.1", self.port)))
        peer.connection.settimeout(self._patience_s)
        peer.say(request(((1, self._mould.sop_class, (EXPLICIT,)),)))
        heard = peer.hear()
        if heard is None or heard[0] != ACCEPTED:
            if heard is not None and heard[0] == REJECTED:
                self.rejections.append((heard[1][1], heard[1][2], heard[1][3]))
            self.leave()
            return None
        return peer


def _message(command: bytes, data: bytes) -> Iterator[bytes]:
    """A C-STORE in PDUs that every receiver takes."""
    yield p_data(fragment(command, command=True, last=True))
    for start in range(0, len(data), PIECE_BYTES):
        last = start + PIECE_BYTES >= len(data)
        yield p_data(fragment(data[start : start + PIECE_BYTES], command=False, last=last))


@dataclass
class Told:
    """What senders were told: all statuses, and which objects were answered with success."""

    statuses: list[int] = field(default_factory=list)
    held: set[int] = field(default_factory=set)
    longest_s: float = 0.0  # from an offer to its answer


@contextmanager
def retrying(port: int, mould: Mould, *, senders: int = 2, pause_s: float = 0.0) -> Iterator[Told]:
    """Let some senders send one object after the other, each until it is held, until the end.

    `pause_s` is between two objects. At the end each finishes the object that it has in hand.
    """
    told = Told()

    def send(first: int, stop: threading.Event) -> None:
        number = first
        with Sender(port, mould) as sender:
            while not stop.is_set():
                deliver(sender, number, told)
                number += senders
                stop.wait(pause_s)

    with at_once(send, senders):
        yield told


@contextmanager
def at_once(send: Callable[[int, threading.Event], None], count: int) -> Iterator[None]:
    """Run `send(0, stop)` to `send(count - 1, stop)` in threads until the block ends."""
    stop = threading.Event()
    threads = [threading.Thread(target=send, args=(each, stop)) for each in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def deliver(sender: Sender, number: int, told: Told, *, patience_s: float = 120.0) -> None:
    """Offer one object until it is answered with success."""
    begun = time.monotonic()
    while time.monotonic() - begun < patience_s:
        offered = time.monotonic()
        status = sender.offer(number)
        told.longest_s = max(told.longest_s, time.monotonic() - offered)
        told.statuses.append(status)
        if status == 0:
            told.held.add(number)
            return
        time.sleep(PAUSE_S)
    raise AssertionError(f"object {number} was not taken within {patience_s:g} s")


def lost(program: Program, mould: Mould, numbers: Iterable[int]) -> list[int]:
    """Return which of the objects are not held once, byte for byte."""
    db = open_database(program.url)
    try:
        with db.read() as connection:
            found = connection.execute(select(Instance.sop_instance_uid, Instance.path)).all()
    finally:
        db.dispose()
    places: dict[str, list[str]] = {}
    for instance, path in found:
        places.setdefault(instance, []).append(path)
    store = program.store
    return [
        number
        for number in numbers
        if [
            (store / path).read_bytes()[META_BYTES:]
            for path in places.get(mould.instance(number), ())
            if (store / path).exists()
        ]
        != [mould.data_set(number)]
    ]


def cause_of(program: Program, wanted: Callable[[dict[str, str]], bool]) -> dict[str, str] | None:
    """Return the first cause of `triage status` that is as wanted."""
    return next((each for each in program.status()["causes"] if wanted(each)), None)
