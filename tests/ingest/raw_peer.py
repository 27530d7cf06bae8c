"""A sender written by hand, byte by byte, for what no proper sender would say.

Encodes by PS3.8 section 9.3 and PS3.7 section 6.3 on its own, without the code under test and
without the library that this uses.
"""

import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from pydicom import uid

DX = str(uid.DigitalXRayImageStorageForPresentation)
VERIFICATION = "1.2.840.10008.1.1"
EXPLICIT = str(uid.ExplicitVRLittleEndian)
IMPLICIT = str(uid.ImplicitVRLittleEndian)
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
RELEASE_RQ = struct.pack(">BxII", 5, 4, 0)
ABORT = struct.pack(">BxII", 7, 4, 0)
REJECTED, DATA, RELEASED, ABORTED = 3, 4, 6, 7

Proposal = tuple[int, str, Sequence[str]]  # context ID, abstract syntax, transfer syntaxes
ONE_CONTEXT: tuple[Proposal, ...] = ((1, DX, (EXPLICIT,)),)


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def pdu(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxI", kind, len(value)) + value


def request(
    contexts: Iterable[Proposal] = ONE_CONTEXT,
    *,
    calling: str = "RAW",
    called: str = "TRIAGE",
    maximum_length: int = 0,
    version: int = 1,
    application: str = APPLICATION_CONTEXT,
    more: bytes = b"",
) -> bytes:
    """An A-ASSOCIATE-RQ; `more` are further user information items."""
    proposed = b"".join(
        item(
            0x20,
            bytes((number, 0, 0, 0))
            + item(0x30, abstract.encode())
            + b"".join(item(0x40, syntax.encode()) for syntax in syntaxes),
        )
        for number, abstract, syntaxes in contexts
    )
    user = item(0x51, struct.pack(">I", maximum_length)) + item(0x52, b"1.2.3.4") + more
    titles = called.ljust(16).encode() + calling.ljust(16).encode()
    fixed = struct.pack(">HH", version, 0) + titles + bytes(32)
    return pdu(1, fixed + item(0x10, application.encode()) + proposed + item(0x50, user))


def elements(*values: tuple[int, int | str]) -> bytes:
    """A command set without group length: numbers are US, strings UI."""
    encoded = b""
    for element, value in values:
        raw = struct.pack("<H", value) if isinstance(value, int) else value.encode()
        raw += b"\0" * (len(raw) % 2)
        encoded += struct.pack("<HHI", 0, element, len(raw)) + raw
    return encoded


def store_rq(message_id: int = 1, *, sop_class: str = DX, instance: str = "1.2.3") -> bytes:
    return elements(
        (0x0002, sop_class),
        (0x0100, 0x0001),
        (0x0110, message_id),
        (0x0700, 0),
        (0x0800, 0x0001),
        (0x1000, instance),
    )


def echo_rq(message_id: int = 1) -> bytes:
    return elements((2, VERIFICATION), (0x0100, 0x0030), (0x0110, message_id), (0x0800, 0x0101))


def fragment(data: bytes, *, command: bool, last: bool, context_id: int = 1) -> bytes:
    """One presentation data value item."""
    return struct.pack(">IBB", len(data) + 2, context_id, command | last << 1) + data


def p_data(*fragments: bytes) -> bytes:
    return pdu(DATA, b"".join(fragments))


def message(command: bytes, data: bytes | None = None, *, context_id: int = 1) -> bytes:
    """A command, and a data set in pieces of 16 KiB."""
    pdus = [p_data(fragment(command, command=True, last=True, context_id=context_id))]
    if data is not None:
        size = 16384
        for start in range(0, max(1, len(data)), size):
            last = start + size >= len(data)
            piece = data[start : start + size]
            pdus.append(p_data(fragment(piece, command=False, last=last, context_id=context_id)))
    return b"".join(pdus)


class RawPeer:
    """A connected socket that reads whole PDUs."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.settimeout(10)

    def say(self, *data: bytes) -> None:
        self.connection.sendall(b"".join(data))

    def hear(self) -> tuple[int, bytes] | None:
        """Type and value of the next PDU; None when the other side has closed."""
        header = self._exactly(6)
        if len(header) < 6:
            return None
        kind, length = struct.unpack(">BxI", header)
        return kind, self._exactly(length)

    def hear_status(self) -> int:
        """The status of the next response."""
        return self.hear_response()[0x0900]

    def hear_response(self) -> dict[int, int]:
        """The elements of two bytes of the next response, which must be one fragment."""
        heard = self.hear()
        assert heard is not None
        assert heard[0] == DATA, heard
        body, numbers, offset = heard[1][6:], {}, 0
        while offset < len(body):
            _, element, length = struct.unpack_from("<HHI", body, offset)
            offset += 8
            if length == 2:
                numbers[element] = int(struct.unpack_from("<H", body, offset)[0])
            offset += length
        return numbers

    def is_closed(self) -> bool:
        """Wait for the other side to close, reading away what it still says."""
        try:
            while self.connection.recv(65536):
                pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True

    def abort_of(self) -> tuple[int, int]:
        """Source and reason of the A-ABORT that comes next."""
        heard = self.hear()
        assert heard is not None
        assert heard[0] == ABORTED, heard
        return heard[1][2], heard[1][3]

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.connection.recv(count - len(data))
            if not part:
                break
            data += part
        return data


@contextmanager
def calling(port: int, *, within_s: float = 10.0) -> Iterator[RawPeer]:
    """A connection without association; OSError where none is made within the time."""
    with socket.create_connection(("127.0.0.1", port), within_s) as connection:
        yield RawPeer(connection)


def hear_first(port: int, said: bytes) -> tuple[int, bytes]:
    """Type and value of the first PDU that answers what is `said` on a new connection."""
    with calling(port) as peer:
        peer.say(said)
        heard = peer.hear()
    assert heard is not None
    return heard


@contextmanager
def established(port: int, contexts: Iterable[Proposal] = ONE_CONTEXT) -> Iterator[RawPeer]:
    """An association of one DX context, unless told otherwise."""
    with calling(port) as peer:
        peer.say(request(contexts))
        heard = peer.hear()
        assert heard is not None
        assert heard[0] == 2, heard
        yield peer
