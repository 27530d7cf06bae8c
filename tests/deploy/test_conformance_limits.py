"""Every rejection, abort, timeout and limit of deploy/CONFORMANCE.md is met at its value."""

import socket
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import pytest

from tests.assurance import Evidence, requirement
from tests.deploy.live import associated, marked, proposing
from tests.ingest.doors import Door, listening
from tests.ingest.raw_peer import (
    DATA,
    EXPLICIT,
    IMPLICIT,
    REJECTED,
    RELEASE_RQ,
    RELEASED,
    VERIFICATION,
    RawPeer,
    calling,
    elements,
    established,
    fragment,
    message,
    p_data,
    pdu,
    request,
    store_rq,
)
from triage.config import PeerConfig
from triage.ingest import conformance
from triage.ingest.network_guard import Limits

Codes = tuple[int, int, int]


# --- 4.4 rejections and aborts: each row


REJECTED_BY: dict[Codes, bytes] = {
    (1, 1, 7): request(called="OTHER"),
    (1, 1, 3): request(calling="OTHER"),
    (1, 1, 2): request(application="1.2.3"),
    (1, 2, 2): request(version=2),
    (2, 3, 1): request(((1, VERIFICATION, (IMPLICIT,)),)),
    (2, 3, 2): request(),
}


@requirement("N13")
@requirement("N6")
def test_each_rejection_is_met_with_its_codes(evidence: Evidence) -> None:
    rows = {(int(row[0]), int(row[1]), int(row[2])): row for row in marked("rejections")}
    assert set(rows) == set(REJECTED_BY)
    peers = (PeerConfig(ae_title="RAW", address="127.0.0.1"),)
    door = Door(fault="the store has no space")
    with (
        listening(door, maximum_associations=1, peers=peers) as receiver,
        established(receiver.port),
    ):
        for codes, said in REJECTED_BY.items():
            with calling(receiver.port) as peer:
                peer.say(said)
                heard = peer.hear()
            evidence.record(trials=1, losses=int(heard != (REJECTED, bytes((0, *codes)))))
            assert heard == (REJECTED, bytes((0, *codes))), rows[codes]
    for (result, _, _), row in rows.items():
        assert ("again later" in row[4]) == (result == 2), row


ABORTED_BY: dict[tuple[int, int], bytes] = {
    (0, 0): message(elements((0x0100, 0x8001), (0x0110, 1), (0x0800, 0x0101))),  # a response
    (2, 1): pdu(0x99, bytes(4)),
    (2, 2): request(),
    (2, 5): p_data(fragment(b"data", command=False, last=True)),
    (2, 6): p_data(fragment(b"", command=True, last=True, context_id=3)),
}


@requirement("N13")
def test_each_abort_is_met_with_its_source_and_reason(evidence: Evidence) -> None:
    rows = {(int(row[0]), int(row[1])) for row in marked("aborts")}
    assert rows == set(ABORTED_BY)
    with listening(Door()) as receiver:
        for codes, said in ABORTED_BY.items():
            with established(receiver.port) as peer:
                peer.say(said)
                heard = peer.abort_of()
            evidence.record(trials=1, losses=int(heard != codes))
            assert heard == codes


def test_titles_are_compared_with_case_and_without_spaces() -> None:
    peers = (PeerConfig(ae_title="RAW", address="127.0.0.1"),)
    with listening(Door(), peers=peers) as receiver:
        for calling_title, is_let_in in ((" RAW", True), ("raw", False)):
            with calling(receiver.port) as peer:
                peer.say(request(calling=calling_title))
                heard = peer.hear()
                assert heard is not None
                assert (heard[0] == 2) == is_let_in


# --- 4.6 timeouts and limits: each by its own small value


SHORT_S = 0.3  # the defaults of the others are 5 s and more


def opening(port: int) -> None:
    with calling(port) as peer:
        peer.say(request()[:-1])
        peer.abort_of()


def idle(port: int) -> None:
    with established(port) as peer:
        assert peer.abort_of() == (0, 0)


def silence(port: int) -> None:
    with established(port) as peer:
        peer.say(message(store_rq(), bytes(100))[:-50])
        assert peer.abort_of() == (0, 0)


def closing(port: int) -> None:
    with established(port) as peer:
        peer.say(RELEASE_RQ)
        heard = peer.hear()
        assert heard is not None
        assert heard[0] == RELEASED
        assert peer.is_closed()


TIMED: dict[str, Callable[[int], None]] = {
    "opening": opening,
    "idle": idle,
    "silence": silence,
    "closing": closing,
}


def test_each_timeout_of_the_table_is_proved_below() -> None:
    assert [row[0] for row in marked("timeouts")] == list(TIMED)
    defaults = Limits()
    for name, said, _ in marked("timeouts"):
        assert said == f"{getattr(defaults, f'{name}_s'):g} s"


@pytest.mark.parametrize("name", TIMED)
def test_the_timeout_ends_what_it_is_for(name: str) -> None:
    """With this one short and all others long, the end comes soon."""
    limits = replace(Limits(), **{f"{name}_s": SHORT_S})
    with listening(Door(), limits=limits) as receiver:
        began_s = time.monotonic()
        TIMED[name](receiver.port)
        assert SHORT_S * 0.9 < time.monotonic() - began_s < 4.5


def announced_length(value: int) -> None:
    with listening(Door()) as receiver:
        with proposing() as association:
            assert association.acceptor.maximum_length == value
        with established(receiver.port) as peer:
            whole = fragment(store_rq(), command=True, last=True)
            filler = fragment(bytes(value - len(whole) - 6), command=False, last=True)
            peer.say(p_data(whole, filler))
            assert peer.hear_status() == 0x0000
            peer.say(struct.pack(">BxI", DATA, value + 1))
            assert peer.abort_of() == (2, 6)


def longest_request(value: int) -> None:
    with listening(Door()) as receiver:
        for length in (value, value + 1):
            room = length - (len(request()) - 6) - 4
            parts = b""
            while room:  # an item is bounded by its 16-bit length
                size = min(room, 65535) if room <= 65535 or room > 65539 else 60000
                parts += struct.pack(">BxH", 0x5A, size - 4) + bytes(size - 4)
                room -= size
            said = request(more=b"")
            body = said[6:] + struct.pack(">BxH", 0x5A, 0) + parts
            assert len(body) == length
            with calling(receiver.port) as peer:
                peer.say(pdu(1, body))
                heard = peer.hear()
                assert heard is not None
                assert (heard[0] != 7) == (length == value), heard


def most_contexts(value: int) -> None:
    contexts = [(f"1.2.840.10008.5.1.4.1.1.{number}", [EXPLICIT]) for number in range(1, value + 1)]
    with listening(Door()) as receiver, associated(receiver.port, contexts) as association:
        assert len(association.accepted_contexts) == value


def longest_command(value: int) -> None:
    padding = (0x1005, "0" * (value - len(store_rq()) - 8))
    command = store_rq() + elements(padding)
    assert len(command) == value
    with listening(Door()) as receiver:
        for length in (value, value + 2):
            with established(receiver.port) as peer:
                said = command + bytes(length - value)
                half = len(said) // 2
                peer.say(
                    p_data(fragment(said[:half], command=True, last=False)),
                    p_data(fragment(said[half:], command=True, last=True)),
                    p_data(fragment(b"x", command=False, last=True)),
                )
                heard = peer.hear()
                assert heard is not None
                assert heard[0] == (DATA if length == value else 7), length


def slowest_sender(value: int) -> None:
    limits = Limits(silence_s=0.2, closing_s=0.2, slowest_bytes_per_s=value)
    with listening(Door(), limits=limits) as receiver, established(receiver.port) as peer:
        peer.say(message(store_rq()))
        whole = p_data(fragment(bytes(60000), command=False, last=True))
        ended_s = time.monotonic() + 8
        with pytest.raises((ConnectionError, TimeoutError)):  # noqa: PT012
            for at in range(len(whole)):
                assert time.monotonic() < ended_s
                peer.say(whole[at : at + 1])
                time.sleep(0.05)


def waiting_per_address(value: int) -> None:
    crowd(value, Limits(waiting_per_address=value), maximum_associations=1)


def waiting_in_all(value: int) -> None:
    """From one address alone; the lobby holds as many in all as one address may have."""
    crowd(value, Limits(waiting_per_address=value, waiting_in_all=value), maximum_associations=1)


def crowd(value: int, limits: Limits, **config: int) -> None:
    with listening(Door(), limits=limits, **config) as receiver, ExitStack() as open_ones:
        first = open_ones.enter_context(
            socket.create_connection(("127.0.0.1", receiver.port), timeout=10)
        )
        others = [
            open_ones.enter_context(socket.create_connection(("127.0.0.1", receiver.port)))
            for _ in range(value)
        ]
        assert RawPeer(first).is_closed()
        others[0].settimeout(0.2)
        with pytest.raises(TimeoutError):
            others[0].recv(1)


BOUNDED: dict[str, Callable[[int], None]] = {
    "maximum length received": announced_length,
    "A-ASSOCIATE-RQ": longest_request,
    "presentation contexts": most_contexts,
    "command set": longest_command,
    "slowest sender": slowest_sender,
    "connections without association, per address": waiting_per_address,
    "connections without association, in all": waiting_in_all,
}


def test_each_limit_of_the_table_is_proved_below() -> None:
    assert [row[0] for row in marked("limits")] == list(BOUNDED)


@requirement("N13")
@pytest.mark.parametrize("name", BOUNDED)
def test_the_limit_holds_at_the_value_of_the_table(name: str) -> None:
    (value,) = [bound.value for bound in conformance.LIMITS if bound.name == name]
    BOUNDED[name](int(value))


def test_an_object_of_twice_the_limit_gets_no_response_but_an_abort() -> None:
    with (
        listening(Door(), maximum_object_mib=1) as receiver,
        established(receiver.port) as peer,
    ):
        peer.say(message(store_rq(), bytes(2 * 1024 * 1024 + 2)))
        assert peer.abort_of() == (0, 0)
