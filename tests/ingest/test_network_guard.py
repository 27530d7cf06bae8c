"""Strangers cost little and have to go; those who were let in stay."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from tests.assurance import requirement
from tests.ingest.doors import Door, eventually, listening
from tests.ingest.raw_peer import (
    RawPeer,
    calling,
    established,
    fragment,
    message,
    p_data,
    pdu,
    request,
    store_rq,
)
from triage.ingest.network_guard import ConnectionEnded, Limits, Lobby, Wire
from triage.store import MIB

HERE, THERE = "192.0.2.1", "192.0.2.2"


@contextmanager
def wires(count: int) -> Iterator[list[Wire]]:
    with ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(count)]
        for pair in pairs:
            for end in pair:
                stack.enter_context(closing(end))
        yield [Wire(ours) for ours, _ in pairs]


def test_the_oldest_of_an_address_goes_when_one_too_many_comes() -> None:
    lobby = Lobby(per_address=2, in_all=10)
    with wires(4) as (other, first, second, third):
        lobby.enter(THERE, other)
        for wire in (first, second, third):
            lobby.enter(HERE, wire)
        assert [wire.is_cut for wire in (other, first, second, third)] == [
            False,
            True,
            False,
            False,
        ]
        assert len(lobby) == 3


def test_the_oldest_of_the_busiest_address_goes_when_all_are_too_many() -> None:
    lobby = Lobby(per_address=3, in_all=4)
    with wires(5) as (quiet, first, second, third, newcomer):
        lobby.enter(THERE, quiet)
        for wire in (first, second, third):
            lobby.enter(HERE, wire)
        lobby.enter("192.0.2.3", newcomer)
        assert [wire.is_cut for wire in (quiet, first, newcomer)] == [False, True, False]
        assert len(lobby) == 4


def test_who_left_the_lobby_is_not_turned_out() -> None:
    lobby = Lobby(per_address=1, in_all=1)
    with wires(2) as (admitted, stranger):
        lobby.enter(HERE, admitted)
        lobby.leave(HERE, admitted)
        lobby.leave(HERE, admitted)
        lobby.enter(HERE, stranger)
        assert not admitted.is_cut
        assert len(lobby) == 1


def test_a_wire_that_is_cut_from_another_thread_ends_its_read() -> None:
    with wires(1) as (wire,):
        threading.Timer(0.05, wire.cut).start()
        wire.wait_at_most(10)
        with pytest.raises(ConnectionEnded):
            wire.receive(memoryview(bytearray(1)))


@requirement("N8")
def test_one_hundred_idle_or_trickling_connections_leave_a_store_working() -> None:
    """N8, twice: strangers who were there before the sender, and who come while it sends."""
    with listening(Door()) as receiver, ExitStack() as stack:
        started_s = time.monotonic()
        with established(receiver.port) as early:
            for number in range(100):
                stranger = stack.enter_context(calling(receiver.port))
                if number % 2:
                    stranger.say(request()[: number // 2])
            with established(receiver.port) as late:
                for peer in (early, late):
                    peer.say(message(store_rq(), b"x"))
                    assert peer.hear_status() == 0x0000
        assert time.monotonic() - started_s < 2
        assert eventually(lambda: receiver.connections_waiting <= 33)


def test_a_wire_that_was_cut_reads_nothing_more() -> None:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        theirs.sendall(b"x")
        wire = Wire(ours)
        wire.cut()
        with pytest.raises(ConnectionEnded):
            wire.receive(memoryview(bytearray(1)))
        wire.send(b"an answer")
        assert theirs.recv(9) == b"an answer"


def test_a_request_of_one_byte_at_a_time_runs_out_of_its_whole_time() -> None:
    limits = Limits(opening_s=0.4, closing_s=0.2)
    over = threading.Event()
    with listening(Door(), limits=limits) as receiver, calling(receiver.port) as peer:

        def trickle() -> None:
            for byte in request():
                if over.wait(0.05) or is_refused(peer, bytes((byte,))):
                    return

        sender = threading.Thread(target=trickle)
        started_s = time.monotonic()
        sender.start()
        assert peer.abort_of() == (0, 0)
        assert time.monotonic() - started_s < 3  # of the ten seconds that the request would take
        over.set()
        sender.join()


@requirement("N8")
def test_a_router_may_open_all_its_associations_at_once() -> None:
    limits = Limits(waiting_per_address=2)
    with (
        listening(Door(), limits=limits, maximum_associations=20) as receiver,
        ExitStack() as stack,
    ):
        peers = [stack.enter_context(calling(receiver.port)) for _ in range(20)]
        for peer in peers:
            peer.say(request())
        assert [heard[0] for peer in peers if (heard := peer.hear())] == [2] * 20
        assert receiver.associations == 20


def resident_mib() -> float:
    words = Path("/proc/self/statm").read_text("ascii").split()
    return int(words[1]) * 4096 / MIB


def is_refused(peer: RawPeer, said: bytes) -> bool:
    try:
        peer.say(said)
    except ConnectionError:
        return True
    return False


@requirement("N9")
@pytest.mark.parametrize(
    "header",
    [
        b"\x01\0\xff\xff\xff\xff",
        b"\x04\0\xff\xff\xff\xff",
        b"\x01\0\0\x04\0\0",  # 256 KiB, which a request may have
    ],
    ids=["4 GiB request", "4 GiB of data first", "longest request"],
)
def test_a_flood_behind_a_header_is_not_kept(header: bytes) -> None:
    """N9: under 10 MiB growth, whatever follows."""
    limits = Limits(closing_s=0.5)
    flood = bytes(MIB)
    with listening(Door(), limits=limits) as receiver, calling(receiver.port) as peer:
        before_mib = resident_mib()
        peer.say(header)
        while not is_refused(peer, flood):
            pass
        assert resident_mib() - before_mib < 10
        assert eventually(lambda: receiver.connections_waiting == 0)


@requirement("N9")
def test_a_data_set_without_end_is_not_kept() -> None:
    class Taker(Door):
        def accept(self, data: Iterator[memoryview], **how: object) -> None:
            for _ in data:
                pass

    piece = p_data(fragment(bytes(65536), command=False, last=False))
    with listening(Taker(), maximum_object_mib=50) as receiver:
        with established(receiver.port) as peer:
            before_mib = resident_mib()
            peer.say(message(store_rq()))
            for _ in range(1700):
                peer.say(piece)
            assert peer.abort_of() == (0, 0)
            assert resident_mib() - before_mib < 10
        assert eventually(lambda: receiver.associations == 0)


@requirement("S1")
def test_connections_that_come_and_go_leave_nothing_behind() -> None:
    with listening(Door()) as receiver:
        threads = threading.active_count()
        for number in range(200):
            with calling(receiver.port) as peer:
                if number % 4:
                    peer.say((request(), pdu(9, b""), b"\x01\0")[number % 4 - 1])
        assert eventually(lambda: receiver.connections_waiting == 0)
        assert eventually(lambda: threading.active_count() <= threads)
        assert receiver.associations == 0


# --- senders that gather small writes


def delayed_acknowledgements() -> int:
    """Of the whole host, since it started (RFC 1122 4.2.3.2)."""
    names, numbers = (
        line.split()
        for line in Path("/proc/self/net/netstat").read_text("ascii").splitlines()
        if line.startswith("TcpExt:")
    )
    return int(numbers[names.index("DelayedACKs")])


def delayed_by_forty_stores(port: int) -> int:
    """DCMTK as packaged, and other senders, leave Nagle's algorithm on and write a store in two."""
    with established(port) as peer:
        before = delayed_acknowledgements()
        for number in range(1, 41):
            peer.say(p_data(fragment(store_rq(number), command=True, last=True)))
            peer.say(p_data(fragment(b"x", command=False, last=True)))
            assert peer.hear_status() == 0
        return delayed_acknowledgements() - before


def test_a_sender_that_gathers_small_writes_is_never_kept_waiting_for_an_acknowledgement() -> None:
    with listening(Door()) as receiver:
        # Others on this host may be kept waiting meanwhile, but not in every round.
        assert min(delayed_by_forty_stores(receiver.port) for _ in range(4)) < 10
