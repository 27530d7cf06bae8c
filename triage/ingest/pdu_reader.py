"""What an established association says, cut out of the stream (PS3.8 9.3.5, annex E).

Owns the receive buffer and the fragments: PDUs, the presentation data values in them, and the
messages that these add up to. Lengths are compared with their bounds before anything is read or
kept. A data set passes through the one buffer and is never gathered.

The buffer holds, one after the other: payload that was gathered for the next chunk, bytes received
and not yet looked at, and room. Payload is moved down over the headers between its pieces, so that
a chunk is whole; each system call takes as much as has come.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from triage.ingest.network_guard import (
    INVALID_PARAMETER,
    LARGEST_COMMAND_BYTES,
    LARGEST_REQUEST_BYTES,
    MAXIMUM_PDU_BYTES,
    OWN_DECISION,
    UNEXPECTED_PARAMETER,
    UNEXPECTED_PDU,
    UNRECOGNISED_PDU,
    AbortReason,
    ConnectionEnded,
    Limits,
    PeerTooSlow,
    Wire,
)

ASSOCIATE_RQ: Final = 0x01
P_DATA_TF: Final = 0x04
RELEASE_RQ: Final = 0x05
ABORT: Final = 0x07
_UNEXPECTED: Final = frozenset((0x01, 0x02, 0x03, 0x06))

BUFFER_BYTES: Final = 1024 * 1024
_LEAST_ROOM: Final = 131072  # a chunk goes to its taker when less is left
_PDU_HEADER: Final = struct.Struct(">BxI")
_PDV_HEADER: Final = struct.Struct(">IBB")
_FIXED_LENGTH: Final = 4  # of A-RELEASE-RQ and A-ABORT
_SHORTEST_REQUEST: Final = 68
_MOST_EMPTY_FRAGMENTS: Final = 1024  # one after the other; no other bound would see them


class ProtocolError(Exception):
    """The peer broke the protocol, or a limit: answered with an A-ABORT, then closed."""

    def __init__(self, abort: AbortReason, what: str) -> None:
        super().__init__(what)
        self.abort = abort


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """The header of one presentation data value."""

    context_id: int
    is_command: bool
    is_last: bool
    length: int


def read_request(wire: Wire, *, remaining_s: Callable[[], float]) -> bytes:
    """Read the first PDU of a connection, an A-ASSOCIATE-RQ, before the time is over.

    Raises ProtocolError for anything else, by its first six bytes.
    """
    header = _exactly(wire, _PDU_HEADER.size, remaining_s)
    kind, length = _PDU_HEADER.unpack(header)
    if kind == ABORT:
        raise ConnectionEnded("aborted by the peer")
    if kind != ASSOCIATE_RQ:
        raise ProtocolError(OWN_DECISION, "no association request")
    if not _SHORTEST_REQUEST <= length <= LARGEST_REQUEST_BYTES:
        raise ProtocolError(OWN_DECISION, "an association request of impossible length")
    return bytes(header + _exactly(wire, length, remaining_s))


def _exactly(wire: Wire, count: int, remaining_s: Callable[[], float]) -> bytearray:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        left_s = remaining_s()
        if left_s <= 0:
            raise PeerTooSlow("no association request in time")
        wire.wait_at_most(left_s)
        view = view[wire.receive(view) :]
    return data


class PduReader:
    """The reading side of one association."""

    def __init__(self, wire: Wire, limits: Limits, context_ids: frozenset[int]) -> None:
        self._wire = wire
        self._limits = limits
        self._context_ids = context_ids
        self._room = memoryview(bytearray(BUFFER_BYTES))
        self._start = self._end = 0  # of what is received and not yet looked at
        self._pdu_left = 0
        self._empty_fragments = 0
        self._message_bytes = 0
        self._message_began_s = 0.0  # in waited seconds

    def command(self) -> tuple[int, bytes] | None:
        """Wait for the next message and return its context ID and command set.

        None is a request for release. Raises ConnectionEnded, PeerTooSlow or ProtocolError.
        """
        self._wait_for_message()
        command = bytearray()
        context_id = 0
        while True:
            if not self._pdu_left and not self._next_pdu():
                if context_id:
                    raise ProtocolError(UNEXPECTED_PDU, "a release inside a message")
                return None
            fragment = self._next_fragment(keep=0)
            if not fragment.is_command:
                raise ProtocolError(UNEXPECTED_PARAMETER, "data where a command is due")
            if context_id not in (0, fragment.context_id):
                raise ProtocolError(INVALID_PARAMETER, "a message in two contexts")
            context_id = fragment.context_id
            if len(command) + fragment.length > LARGEST_COMMAND_BYTES:
                raise ProtocolError(OWN_DECISION, "a command set above the limit")
            command += self._take(fragment.length)
            if fragment.is_last:
                return context_id, bytes(command)

    def data_set(self, context_id: int, *, most_bytes: int) -> Iterator[memoryview]:
        """Yield the data set after a command, in chunks that last until the next is asked for.

        Raises as `command`, with ProtocolError where it grows beyond `most_bytes`.
        """
        total = gathered = 0
        is_last = False
        while not is_last:
            if not self._pdu_left and not self._next_pdu(keep=gathered):
                raise ProtocolError(UNEXPECTED_PDU, "a release inside a message")
            fragment = self._next_fragment(keep=gathered)
            if fragment.is_command:
                raise ProtocolError(UNEXPECTED_PARAMETER, "a command inside a data set")
            if fragment.context_id != context_id:
                raise ProtocolError(INVALID_PARAMETER, "a message in two contexts")
            total += fragment.length
            if total > most_bytes:
                raise ProtocolError(OWN_DECISION, "object too large")
            is_last, left = fragment.is_last, fragment.length
            while left:
                moved = self._gather(gathered, left)
                gathered, left = gathered + moved, left - moved
                if gathered > BUFFER_BYTES - _LEAST_ROOM:
                    yield self._room[:gathered]
                    gathered = 0
        if gathered:
            yield self._room[:gathered]

    def _wait_for_message(self) -> None:
        if self._start == self._end:
            self._wire.wait_at_most(self._limits.idle_s)
            self._start = self._end = 0
            self._end = self._wire.receive(self._room)
        self._wire.wait_at_most(self._limits.silence_s)
        self._empty_fragments = 0
        self._message_bytes = 0
        self._message_began_s = self._wire.waited_s

    def _next_pdu(self, *, keep: int = 0) -> bool:
        """Read the header of the next PDU; False for a request for release."""
        self._need(_PDU_HEADER.size, keep)
        kind, length = _PDU_HEADER.unpack_from(self._room, self._start)
        if kind == P_DATA_TF:
            if not _PDV_HEADER.size <= length <= MAXIMUM_PDU_BYTES:
                raise ProtocolError(INVALID_PARAMETER, "a PDU of impossible length")
            self._start += _PDU_HEADER.size
            self._pdu_left = length
            return True
        if kind in _UNEXPECTED:
            raise ProtocolError(UNEXPECTED_PDU, "a PDU that is not expected now")
        if kind not in (RELEASE_RQ, ABORT):
            raise ProtocolError(UNRECOGNISED_PDU, "a PDU of unknown type")
        if length != _FIXED_LENGTH:
            raise ProtocolError(INVALID_PARAMETER, "a PDU of impossible length")
        self._need(_PDU_HEADER.size + length, keep)
        self._start += _PDU_HEADER.size + length
        if kind == ABORT:
            raise ConnectionEnded("aborted by the peer")
        return False

    def _next_fragment(self, *, keep: int) -> Fragment:
        if self._pdu_left < _PDV_HEADER.size:
            raise ProtocolError(INVALID_PARAMETER, "a PDU whose lengths disagree")
        self._need(_PDV_HEADER.size, keep)
        length, context_id, control = _PDV_HEADER.unpack_from(self._room, self._start)
        # The length counts the two bytes after itself.
        if length < 2 or length + 4 > self._pdu_left:
            raise ProtocolError(INVALID_PARAMETER, "a PDU whose lengths disagree")
        if context_id not in self._context_ids:
            raise ProtocolError(INVALID_PARAMETER, "a context that was not accepted")
        self._start += _PDV_HEADER.size
        self._pdu_left -= length + 4
        self._empty_fragments = self._empty_fragments + 1 if length == 2 else 0
        if self._empty_fragments > _MOST_EMPTY_FRAGMENTS:
            raise ProtocolError(OWN_DECISION, "a message of empty fragments")
        return Fragment(
            context_id=context_id,
            is_command=bool(control & 1),
            is_last=bool(control & 2),
            length=length - 2,
        )

    def _take(self, count: int) -> bytes:
        self._need(count, 0)
        self._start += count
        return bytes(self._room[self._start - count : self._start])

    def _gather(self, gathered: int, most: int) -> int:
        """Move up to `most` bytes of payload to the end of what is gathered; wait if none is."""
        if self._start == self._end:
            self._start = self._end = gathered
            self._receive()
        count = min(most, self._end - self._start)
        if self._start != gathered:
            self._room[gathered : gathered + count] = self._room[self._start : self._start + count]
        self._start += count
        return count

    def _need(self, count: int, keep: int) -> None:
        """Have `count` bytes in one piece, leaving alone what stands before `keep`."""
        while (have := self._end - self._start) < count:
            if not have or BUFFER_BYTES - self._start < count:
                self._room[keep : keep + have] = self._room[self._start : self._end]
                self._start, self._end = keep, keep + have
            self._receive()

    def _receive(self) -> None:
        count = self._wire.receive(self._room[self._end :])
        self._end += count
        self._message_bytes += count
        waited_s = self._wire.waited_s - self._message_began_s
        if (
            waited_s > self._limits.silence_s
            and self._message_bytes < waited_s * self._limits.slowest_bytes_per_s
        ):
            raise PeerTooSlow("slower than the slowest sender")
