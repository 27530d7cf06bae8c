"""However a message is cut up, the same bytes come out; whatever else comes, it ends in bounds."""

import random
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assurance import requirement
from tests.ingest.raw_peer import RELEASE_RQ, fragment, p_data, request, store_rq
from triage.ingest.association_request import read
from triage.ingest.commands import as_pdus, read_command, response
from triage.ingest.network_guard import ConnectionEnded, Limits, PeerTooSlow, Wire
from triage.ingest.pdu_reader import BUFFER_BYTES, PduReader, ProtocolError, read_request

COMMAND = store_rq()
MOST_BYTES = 64 * 1024 * 1024
ENDS = (ConnectionEnded, PeerTooSlow, ProtocolError)


@contextmanager
def reading(stream: Sequence[bytes]) -> Iterator[PduReader]:
    """A reader of `stream`, whose pieces are sent one by one; then the sender closes."""
    ours, theirs = socket.socketpair()

    def send() -> None:
        with closing(theirs):
            try:
                for piece in stream:
                    theirs.sendall(piece)
            except OSError:
                pass  # the reader had enough

    sender = threading.Thread(target=send)
    sender.start()
    wire = Wire(ours)
    try:
        yield PduReader(wire, Limits(), frozenset((1, 3)))
    finally:
        wire.close()
        sender.join()


def messages(stream: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """Every (command set, data set) of the stream, until its release."""
    found = []
    with reading(stream) as reader:
        while (message := reader.command()) is not None:
            context_id, command = message
            data = reader.data_set(context_id, most_bytes=MOST_BYTES)
            found.append((command, b"".join(bytes(chunk) for chunk in data)))
    return found


def pieces(data: bytes, sizes: Iterator[int]) -> list[bytes]:
    parts, start = [], 0
    while start < len(data):
        size = next(sizes)
        parts.append(data[start : start + size])
        start += size
    return parts or [b""]


def fragments(data: bytes, sizes: Iterator[int], *, command: bool) -> list[bytes]:
    parts = pieces(data, sizes)
    return [
        fragment(part, command=command, last=number == len(parts))
        for number, part in enumerate(parts, 1)
    ]


def constant(size: int) -> Iterator[int]:
    while True:
        yield size


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 31, len(COMMAND), 1000])
def test_a_message_is_the_same_in_fragments_of_any_size(size: int) -> None:
    data = random.Random(size).randbytes(997)
    values = [
        *fragments(COMMAND, constant(size), command=True),
        *fragments(data, constant(size), command=False),
    ]
    one_each = b"".join(p_data(value) for value in values)
    all_in_one = p_data(*values)
    for stream in (one_each, all_in_one):
        assert messages([stream * 2, RELEASE_RQ]) == [(COMMAND, data)] * 2


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 11, 12, 13])
def test_a_stream_that_trickles_is_the_same(size: int) -> None:
    data = b"some data"
    stream = p_data(
        fragment(COMMAND, command=True, last=True),
        fragment(data, command=False, last=False),
        fragment(b"", command=False, last=True),
    )
    assert messages(pieces(stream + RELEASE_RQ, constant(size))) == [(COMMAND, data)]


def test_messages_that_fill_the_buffer_many_times_over_stay_apart() -> None:
    commands = [store_rq(number, instance=f"1.2.{number}") for number in range(20_000)]
    stream = [p_data(fragment(command, command=True, last=True)) for command in commands]
    with reading([b"".join(stream), RELEASE_RQ]) as reader:
        heard = []
        while (message := reader.command()) is not None:
            heard.append(message[1])
    assert heard == commands


def test_empty_fragments_count_for_nothing_but_their_last() -> None:
    empty = p_data(fragment(b"", command=False, last=False))
    stream = p_data(fragment(COMMAND, command=True, last=True)) + empty * 1000
    stream += p_data(fragment(b"x", command=False, last=False)) + empty
    stream += p_data(fragment(b"", command=False, last=True))
    assert messages([stream, RELEASE_RQ]) == [(COMMAND, b"x")]


@pytest.mark.parametrize("command", [True, False])
def test_a_message_of_endless_empty_fragments_ends(command: bool) -> None:
    begun = b"" if command else p_data(fragment(COMMAND, command=True, last=True))
    empty = p_data(fragment(b"", command=command, last=False))
    with pytest.raises(ProtocolError, match="empty fragments"):
        messages([begun, empty * 1100, RELEASE_RQ])


@pytest.mark.parametrize("size", [131066, 131065, 65536, 4090])
@pytest.mark.parametrize("over", [-1, 0, 1])
def test_objects_around_the_size_of_the_buffer_come_whole(size: int, over: int) -> None:
    data = random.Random(size).randbytes(2 * BUFFER_BYTES + over)
    values = fragments(data, constant(size), command=False)
    stream = p_data(fragment(COMMAND, command=True, last=True))
    stream += b"".join(p_data(value) for value in values)
    assert messages([stream, RELEASE_RQ]) == [(COMMAND, data)]


@settings(max_examples=100, deadline=None)
@given(
    data=st.binary(max_size=4000),
    fragment_sizes=st.lists(st.integers(1, 700), min_size=1),
    per_pdu=st.integers(1, 20),
    send_sizes=st.lists(st.integers(1, 900), min_size=1),
)
def test_any_cut_gives_the_same_message(
    data: bytes, fragment_sizes: list[int], per_pdu: int, send_sizes: list[int]
) -> None:
    def cycle(sizes: list[int]) -> Iterator[int]:
        while True:
            yield from sizes

    values = fragments(COMMAND, cycle(fragment_sizes), command=True)
    values += fragments(data, cycle(fragment_sizes), command=False)
    stream = b"".join(
        p_data(*values[start : start + per_pdu]) for start in range(0, len(values), per_pdu)
    )
    assert messages(pieces(stream + RELEASE_RQ, cycle(send_sizes))) == [(COMMAND, data)]


# --- what is no message


def pdu_like() -> st.SearchStrategy[bytes]:
    """Bytes that begin as PDUs do, so that more than the first byte is looked at."""
    value = st.builds(
        lambda length, context, control, rest: (
            length.to_bytes(4, "big") + bytes((context, control)) + rest
        ),
        st.integers(0, 40) | st.integers(0, 2**32 - 1),
        st.sampled_from((1, 3, 2)),
        st.integers(0, 3),
        st.binary(max_size=40),
    )
    kind = st.sampled_from((4, 4, 4, 4, 1, 5, 7, 9))
    length = st.none() | st.integers(0, 2**32 - 1)
    return st.builds(
        lambda kind, value, length: (
            bytes((kind, 0)) + (len(value) if length is None else length).to_bytes(4, "big") + value
        ),
        kind,
        value,
        length,
    )


@requirement("S3")
@settings(max_examples=300, deadline=2000)
@given(st.lists(pdu_like() | st.binary(max_size=60), max_size=12))
def test_arbitrary_bytes_come_to_an_end(stream: list[bytes]) -> None:
    """To a release, or to one of three errors, with no more kept than the one buffer."""
    with reading(stream) as reader:
        try:
            while (message := reader.command()) is not None:
                assert len(message[1]) <= 65536
                try:
                    read_command(message[1])
                except ProtocolError:
                    continue
                for chunk in reader.data_set(message[0], most_bytes=1000):
                    assert len(chunk) <= 1000
        except ENDS:
            pass


@requirement("S3")
@settings(max_examples=300, deadline=2000)
@given(
    st.integers(0, 200).flatmap(
        lambda place: st.tuples(st.just(place), st.binary(min_size=1, max_size=8))
    )
)
def test_a_damaged_request_is_read_or_refused(damage: tuple[int, bytes]) -> None:
    place, rubbish = damage
    whole = bytearray(request())
    place = 6 + place % (len(whole) - 6)
    whole[place : place + len(rubbish)] = rubbish[: len(whole) - place]
    with suppress(ProtocolError):
        read(bytes(whole))


@requirement("S3")
@settings(max_examples=200, deadline=2000)
@given(st.binary(min_size=68, max_size=2000))
def test_arbitrary_bytes_as_a_request_are_read_or_refused(body: bytes) -> None:
    with suppress(ProtocolError):
        read(b"\x01\0" + len(body).to_bytes(4, "big") + body)


def test_a_request_is_waited_for_until_its_time_and_no_longer() -> None:
    ours, theirs = socket.socketpair()
    times = iter([1.0, 0.5, 0.02, -0.1])
    with closing(theirs), closing(ours):
        theirs.sendall(request()[:3])
        with pytest.raises(PeerTooSlow):
            read_request(Wire(ours), remaining_s=lambda: next(times))


# --- responses


@settings(max_examples=100)
@given(st.binary(min_size=1, max_size=600), st.integers(0, 300))
def test_a_response_comes_back_together(command: bytes, maximum_length: int) -> None:
    stream = as_pdus(3, command, maximum_length=maximum_length)
    with reading([stream, RELEASE_RQ]) as reader:
        assert reader.command() == (3, command)
        assert reader.command() is None


def test_a_comment_is_short_ascii_without_the_delimiter() -> None:
    encoded = response(read_command(COMMAND), 0xC000, "größer \\ " + "x" * 100)
    assert b"gr??er / " + b"x" * 55 in encoded
    assert b"x" * 56 not in encoded


def test_identifiers_that_are_none_are_not_given_back() -> None:
    command = read_command(store_rq(sop_class="../x", instance="not one"))
    assert command.sop_class_uid == "../x"
    assert command.sop_instance_uid == "not one"
    assert len(response(command, 0)) == 12 + 4 * 10
