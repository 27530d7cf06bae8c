"""The states of an acceptor (PS3.8 table 9-10), told by a peer that says what it likes."""

import struct
import threading
from collections.abc import Sequence

import pytest

from tests.assurance import requirement
from tests.ingest.doors import Door, eventually, listening
from tests.ingest.raw_peer import (
    ABORT,
    DX,
    EXPLICIT,
    IMPLICIT,
    REJECTED,
    RELEASE_RQ,
    RELEASED,
    VERIFICATION,
    calling,
    echo_rq,
    elements,
    established,
    fragment,
    hear_first,
    item,
    message,
    p_data,
    pdu,
    request,
    store_rq,
)
from triage.errors import OutOfSpace
from triage.ingest.network_guard import Limits, PeerTooSlow
from triage.ingest.pdu_reader import ProtocolError

SHORT = Limits(closing_s=0.5)
ECHO = ((1, VERIFICATION, (IMPLICIT,)),)
DATA_SET = bytes(range(256)) * 200

# --- transport open (Sta2)


@requirement("N9")
@pytest.mark.parametrize(
    "first",
    [
        message(store_rq(), b"x"),
        RELEASE_RQ,
        pdu(2, bytes(70)),
        pdu(3, bytes(4)),
        pdu(0x47, b"GET / HTTP/1.1"),
        struct.pack(">BxI", 1, 10),  # too short for a request
        struct.pack(">BxI", 1, 0xFFFFFFFF),
    ],
    ids=["data", "release", "accept", "reject", "unknown", "short", "4 GiB"],
)
def test_anything_but_a_request_is_aborted_by_its_header(first: bytes) -> None:
    with listening(Door()) as receiver, calling(receiver.port) as peer:
        peer.say(first)
        assert peer.abort_of() == (0, 0)  # AA-1: service user
        peer.connection.close()
        assert eventually(lambda: receiver.connections_waiting == 0)


def test_a_request_that_is_none_is_aborted() -> None:
    broken = [
        pdu(1, struct.pack(">HH", 1, 0) + bytes(64) + b"\x10"),
        pdu(1, struct.pack(">HH", 1, 0) + b"A".ljust(16) * 2 + bytes(32) + b"\x20\0\xff\xff"),
        pdu(1, struct.pack(">HH", 1, 0) + b"A".ljust(16) * 2 + bytes(32) + b"\x10\0\0\x161.2"),
        request(((2, DX, (EXPLICIT,)),)),  # identifiers are odd
        request(((1, DX, (EXPLICIT,)), (1, DX, (IMPLICIT,)))),
        request(((1, DX, ()),)),
    ]
    with listening(Door()) as receiver:
        for first in broken:
            with calling(receiver.port) as peer:
                peer.say(first)
                assert peer.abort_of() == (2, 6)


def test_the_wrong_protocol_or_application_is_rejected() -> None:
    cases = {
        request(version=2): bytes((0, 1, 2, 2)),
        request(application="1.2.3"): bytes((0, 1, 1, 2)),
    }
    with listening(Door()) as receiver:
        for first, answer in cases.items():
            with calling(receiver.port) as peer:
                peer.say(first)
                assert peer.hear() == (REJECTED, answer)


@requirement("N6")
@pytest.mark.parametrize(
    "title", [b"\tTRIAGE\r\n", b"\xa0TRIAGE\x85", b"\0TRIAGE", b"triage", b"TRI AGE"]
)
def test_what_only_looks_like_our_title_is_not_ours(title: bytes) -> None:
    asked = request()
    with listening(Door()) as receiver:
        said = asked[:10] + title.ljust(16) + asked[26:]
        assert hear_first(receiver.port, said) == (REJECTED, bytes((0, 1, 1, 7)))
        for filled in (b"  TRIAGE", b"TRIAGE\0\0  ", b"TRIAGE".ljust(16, b"\0")):
            said = asked[:10] + filled.ljust(16) + asked[26:]
            assert hear_first(receiver.port, said)[0] == 2


def test_an_abort_before_the_request_just_closes() -> None:
    with listening(Door()) as receiver, calling(receiver.port) as peer:
        peer.say(ABORT)
        assert peer.is_closed()


# --- negotiation (Sta3)


def answer_items(value: bytes) -> list[tuple[int, bytes]]:
    items, offset = [], 0
    while offset < len(value):
        kind, length = struct.unpack_from(">BxH", value, offset)
        items.append((kind, value[offset + 4 : offset + 4 + length]))
        offset += 4 + length
    return items


def user_items(peer_said: Sequence[tuple[int, bytes]]) -> dict[int, bytes]:
    return dict(answer_items(dict(peer_said)[0x50]))


@requirement("N7")
def test_extended_items_are_answered_one_operation_and_level_two() -> None:
    dx = DX.encode()
    proposed = (
        item(0x53, struct.pack(">HH", 0, 0))  # any number of operations at once
        + item(0x54, struct.pack(">H", len(dx)) + dx + b"\x01\x01")
        + item(0x56, struct.pack(">H", len(dx)) + dx + bytes(6))
        + item(0x58, b"\x01\x01\0\x04user\0\0")
    )
    with listening(Door()) as receiver, calling(receiver.port) as peer:
        peer.say(request(more=proposed))
        heard = peer.hear()
        assert heard is not None
        said = user_items(answer_items(heard[1][68:]))
    assert said[0x51] == struct.pack(">I", 131072)
    assert said[0x53] == struct.pack(">HH", 1, 1)
    assert said[0x54] == struct.pack(">H", len(dx)) + dx + b"\x01\x00"
    assert said[0x56] == struct.pack(">H", len(dx)) + dx + b"\x02\0\x03\0\0\0"
    assert 0x58 not in said


def test_nothing_extended_is_answered_where_nothing_was_proposed() -> None:
    with listening(Door()) as receiver, calling(receiver.port) as peer:
        peer.say(request())
        heard = peer.hear()
        assert heard is not None
        assert sorted(user_items(answer_items(heard[1][68:]))) == [0x51, 0x52, 0x55]
        assert heard[1][4:68] == request()[10:74]  # given back as it came (table 9-17)


@requirement("N7")
def test_one_hundred_and_twenty_eight_contexts_of_thirty_syntaxes_are_answered() -> None:
    syntaxes = [f"1.2.840.10008.1.2.4.{number}" for number in range(100, 129)] + [EXPLICIT]
    contexts = [(2 * number + 1, f"{DX[:-4]}.{number}", syntaxes) for number in range(128)]
    with listening(Door()) as receiver, calling(receiver.port) as peer:
        peer.say(request(contexts))
        heard = peer.hear()
    assert heard is not None
    assert heard[0] == 2
    results = [value for kind, value in answer_items(heard[1][68:]) if kind == 0x21]
    assert [(value[0], value[2]) for value in results] == [(2 * n + 1, 0) for n in range(128)]


def test_one_odd_context_does_not_sink_the_others() -> None:
    contexts = ((1, "../x", (EXPLICIT,)), (3, DX, ("../x",)), (5, DX, ("../x", EXPLICIT)))
    with listening(Door()) as receiver, calling(receiver.port) as peer:
        peer.say(request(contexts))
        heard = peer.hear()
    assert heard is not None
    results = [value for kind, value in answer_items(heard[1][68:]) if kind == 0x21]
    assert sorted((value[0], value[2]) for value in results) == [(1, 3), (3, 4), (5, 0)]


# --- established (Sta6)


@requirement("N9")
@pytest.mark.parametrize(
    ("said", "source_and_reason"),
    [
        (request(), (2, 2)),
        (pdu(2, bytes(70)), (2, 2)),
        (pdu(6, bytes(4)), (2, 2)),
        (pdu(0x99, b""), (2, 1)),
        (pdu(5, bytes(5)), (2, 6)),
        (struct.pack(">BxI", 4, 131073), (2, 6)),
        (struct.pack(">BxI", 4, 5), (2, 6)),
        (p_data(struct.pack(">IBB", 1, 1, 3)), (2, 6)),
        (p_data(struct.pack(">IBB", 3, 1, 3)), (2, 6)),
        (p_data(fragment(echo_rq(), command=True, last=True) + b"\0"), (2, 6)),
        (message(store_rq(), b"x", context_id=3), (2, 6)),
        (p_data(fragment(b"x", command=False, last=True)), (2, 5)),
        (message(b"x"), (0, 0)),
        (message(b"\x08\0\x05\0\0\0\0\0"), (0, 0)),
        (message(elements((0x0100, 1))), (0, 0)),
        (message(elements((0x0100, 0x8001), (0x0110, 1), (0x0800, 0x0101))), (0, 0)),
    ],
    ids=[
        "request",
        "accept",
        "release response",
        "unknown",
        "long release",
        "longer than advertised",
        "no room for a fragment",
        "fragment without flags",
        "fragment beyond its PDU",
        "bytes after the fragments",
        "context not accepted",
        "data before a command",
        "no command",
        "element of another group",
        "command without an identifier",
        "response to nothing",
    ],
)
def test_a_breach_of_the_protocol_is_aborted_with_its_reason(
    said: bytes, source_and_reason: tuple[int, int]
) -> None:
    door = Door()
    with listening(door) as receiver, established(receiver.port) as peer:
        peer.say(said)
        # A length that is wrong only at the end of a PDU shows after the message before it.
        heard = peer.hear()
        if heard is not None and heard[0] == 4:
            heard = peer.hear()
        assert heard is not None
        assert (heard[0], *heard[1][2:]) == (7, *source_and_reason)
        assert eventually(lambda: receiver.associations == 0)
    assert door.taken == []


@pytest.mark.parametrize(
    ("inside", "source_and_reason"),
    [
        (p_data(fragment(echo_rq(), command=True, last=True)), (2, 5)),
        (p_data(fragment(b"x", command=False, last=True, context_id=3)), (2, 6)),
        (RELEASE_RQ, (2, 2)),
        (request(), (2, 2)),
    ],
    ids=["command", "other context", "release", "request"],
)
def test_a_breach_inside_a_data_set_reaches_the_door_and_aborts(
    inside: bytes, source_and_reason: tuple[int, int]
) -> None:
    door = Door()
    contexts = ((1, DX, (EXPLICIT,)), (3, DX, (IMPLICIT,)))
    with listening(door) as receiver, established(receiver.port, contexts) as peer:
        peer.say(message(store_rq()), p_data(fragment(b"x", command=False, last=False)), inside)
        assert peer.abort_of() == source_and_reason
    assert door.taken == []
    assert [type(error) for error in door.ended] == [ProtocolError]


@requirement("G7")
def test_a_lost_connection_takes_the_half_object_with_it() -> None:
    door = Door()
    with listening(door) as receiver:
        for ending in (ABORT, b""):
            with established(receiver.port) as peer:
                peer.say(message(store_rq()), p_data(fragment(b"x", command=False, last=False)))
                peer.say(ending)
            assert eventually(lambda: receiver.associations == 0)
    assert door.taken == []
    assert len(door.ended) == 2


def test_services_that_are_not_offered_are_refused_and_the_association_goes_on() -> None:
    door = Door()
    refused = {0x0020: 0x0122, 0x0010: 0x0122, 0x0021: 0x0122, 0x0130: 0x0211, 0x0140: 0x0211}
    with listening(door) as receiver, established(receiver.port) as peer:
        for field, status in refused.items():
            command = elements((2, DX), (0x0100, field), (0x0110, 7), (0x0800, 1))
            peer.say(message(command, DATA_SET))
            response = peer.hear_response()
            assert response[0x0900] == status
            assert response[0x0100] == field | 0x8000
            assert response[0x0120] == 7
        peer.say(message(elements((0x0100, 0x0FFF), (0x0120, 7), (0x0800, 0x0101))))  # C-CANCEL
        peer.say(message(store_rq(), DATA_SET))
        assert peer.hear_status() == 0x0000
    assert [data for data, _ in door.taken] == [DATA_SET]


def test_a_store_in_the_context_of_an_echo_is_refused() -> None:
    door = Door()
    with listening(door) as receiver, established(receiver.port, ECHO) as peer:
        peer.say(message(store_rq(), DATA_SET))
        assert peer.hear_status() == 0x0122
        peer.say(message(echo_rq()))
        assert peer.hear_status() == 0x0000
    assert door.taken == []


@requirement("N5")
def test_an_echo_inside_an_association_tells_when_storing_stops() -> None:
    door = Door()
    with listening(door) as receiver, established(receiver.port, ECHO) as peer:
        door.fault = "the store has no space"
        peer.say(message(echo_rq()))
        assert peer.hear_status() == 0x0110


def test_what_was_refused_early_is_read_to_its_end() -> None:
    door = Door(raises=OutOfSpace("x"))
    with listening(door) as receiver, established(receiver.port) as peer:
        peer.say(message(store_rq(1), DATA_SET * 100))
        assert peer.hear_status() == 0xA700
        door.raises = None
        peer.say(message(store_rq(2), DATA_SET))
        assert peer.hear_status() == 0x0000
    assert [data for data, _ in door.taken] == [DATA_SET]


def test_what_was_refused_early_is_not_read_without_end() -> None:
    with (
        listening(Door(raises=OutOfSpace("x")), maximum_object_mib=1) as receiver,
        established(receiver.port) as peer,
    ):
        peer.say(message(store_rq(), bytes(2 * 1024 * 1024 + 2)))
        assert peer.abort_of() == (0, 0)


@requirement("N7")
def test_messages_sent_without_waiting_are_answered_in_order() -> None:
    door = Door()
    with listening(door) as receiver, established(receiver.port) as peer:
        peer.say(*(message(store_rq(number), bytes([number])) for number in range(1, 41)))
        answers = [peer.hear_response()[0x0120] for _ in range(40)]
    assert answers == list(range(1, 41))
    assert [data for data, _ in door.taken] == [bytes([number]) for number in range(1, 41)]


def test_a_response_fits_what_the_peer_takes() -> None:
    with listening(Door()) as receiver, calling(receiver.port) as peer:
        peer.say(request(maximum_length=32))
        peer.hear()
        peer.say(message(store_rq(), b"x"))
        command = b""
        while True:
            heard = peer.hear()
            assert heard is not None
            assert len(heard[1]) <= 32
            command += heard[1][6:]
            if heard[1][5] == 3:
                break
        assert command[-2:] == b"3\0"  # the instance 1.2.3, padded, as its last element


def test_a_store_without_a_data_set_is_the_doors_to_judge() -> None:
    door = Door()
    with listening(door) as receiver, established(receiver.port) as peer:
        command = elements((2, DX), (0x0100, 1), (0x0110, 1), (0x0800, 0x0101), (0x1000, "1.2"))
        peer.say(message(command))
        assert peer.hear_status() == 0x0000
    assert [data for data, _ in door.taken] == [b""]


# --- release (Sta8) and the wait for the close (Sta13)


def test_a_release_is_answered_and_frees_the_place_at_once() -> None:
    with (
        listening(Door(), maximum_associations=1) as receiver,
        established(receiver.port) as peer,
    ):
        peer.say(RELEASE_RQ)
        assert peer.hear() == (RELEASED, bytes(4))
        with established(receiver.port):
            assert receiver.associations == 1


def test_a_peer_that_does_not_close_is_closed() -> None:
    with (
        listening(Door(), limits=SHORT) as receiver,
        established(receiver.port) as released,
        calling(receiver.port) as rejected,
        established(receiver.port) as aborted,
    ):
        released.say(RELEASE_RQ)
        rejected.say(request(called="OTHER"))
        aborted.say(pdu(0x99, b""))
        for peer in (released, rejected, aborted):
            assert peer.hear() is not None
            assert peer.is_closed()


# --- time


def test_silence_ends_an_association_between_and_inside_messages() -> None:
    door = Door()
    between = Limits(idle_s=0.3, silence_s=30)
    inside = Limits(idle_s=30, silence_s=0.3)
    cases = ((between, b""), (inside, b"\x04\0"), (inside, message(store_rq())))
    for limits, said in cases:
        with listening(door, limits=limits) as receiver, established(receiver.port) as peer:
            peer.say(said)
            assert peer.abort_of() == (0, 0)
    assert [type(error) for error in door.ended] == [PeerTooSlow]


def test_a_sender_slower_than_the_slowest_is_aborted() -> None:
    limits = Limits(silence_s=0.3, slowest_bytes_per_s=100_000)
    door = Door()
    with listening(door, limits=limits) as receiver, established(receiver.port) as peer:
        peer.say(message(store_rq()))
        piece = p_data(fragment(b"x", command=False, last=False))
        assert not eventually(lambda: bool(door.ended or peer.say(piece)), within_s=0.2)
        assert eventually(lambda: bool(door.ended or peer.say(piece)))
        assert peer.abort_of() == (0, 0)
    assert [type(error) for error in door.ended] == [PeerTooSlow]


# --- stopping


@requirement("N12")
def test_stopping_aborts_the_idle_and_the_strangers_at_once() -> None:
    with (
        listening(Door()) as receiver,
        established(receiver.port) as idle,
        calling(receiver.port) as stranger,
    ):
        receiver.stop(drain_s=0)
        assert idle.abort_of() == (0, 0)
        assert idle.is_closed()
        assert stranger.is_closed()
        assert receiver.associations == receiver.connections_waiting == 0


@requirement("N12")
def test_stopping_ends_a_half_sent_object_and_no_answer_is_half() -> None:
    door = Door()
    with listening(door) as receiver, established(receiver.port) as peer:
        peer.say(message(store_rq()), p_data(fragment(b"x", command=False, last=False)))
        assert eventually(lambda: receiver.associations == 1)
        receiver.stop(drain_s=0.2)
        assert peer.abort_of() == (0, 0)
        assert peer.hear() is None
    assert door.taken == []


@requirement("N12")
def test_what_the_door_has_in_hand_at_the_end_is_still_answered() -> None:
    door = Door(hold=threading.Event())
    assert door.hold is not None
    with listening(door) as receiver, established(receiver.port) as peer:
        peer.say(message(store_rq(1), b"x"), message(store_rq(2), DATA_SET)[:-1])
        assert eventually(lambda: bool(door.taken))
        stopper = threading.Thread(target=receiver.stop, kwargs={"drain_s": 0})
        stopper.start()
        stopper.join(0.2)
        door.hold.set()
        assert peer.hear_status() == 0x0000
        assert peer.abort_of() == (0, 0)
        stopper.join()
        assert receiver.associations == 0
    assert [data for data, _ in door.taken] == [b"x"]


@requirement("N12")
def test_a_sender_in_the_middle_of_a_study_may_finish_it() -> None:
    door = Door()
    with listening(door) as receiver, established(receiver.port) as peer:
        stopper = threading.Thread(target=receiver.stop, kwargs={"drain_s": 10})
        stopper.start()
        for number in range(20):
            peer.say(message(store_rq(number), DATA_SET))
            assert peer.hear_status() == 0x0000
        peer.say(RELEASE_RQ)
        assert peer.hear() == (RELEASED, bytes(4))
        peer.connection.close()
        stopper.join(2)
        assert not stopper.is_alive()
    assert len(door.taken) == 20
