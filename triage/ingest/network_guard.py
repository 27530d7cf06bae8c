"""The guard at the socket: how long a peer may take, how much it may say, how many may wait.

Owns every timeout and bound of the network, the deadlines of each read and write, and the lobby of
connections that have no association yet. Knows no PDU. What a peer sends is waited for in the
kernel (SO_RCVTIMEO, SO_SNDTIMEO), so nothing polls.

AE titles and requests are cheap to forge and connections cost a thread each: those that have no
accepted association are counted per address and in all, and the oldest has to go when one too many
comes (requirements N8 and N9). An accepted association is never turned out: one router may carry
the whole hospital.
"""

import select
import socket
import ssl
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from triage.ingest.tls import peer_common_name

MAXIMUM_PDU_BYTES: Final = 131072
# 128 contexts with 30 transfer syntaxes each take 110 KiB; extended negotiation adds to that.
LARGEST_REQUEST_BYTES: Final = 262144
LARGEST_COMMAND_BYTES: Final = 65536
MOST_CONTEXTS: Final = 128
MOST_SYNTAXES: Final = 128  # per context; the Standard knows about seventy
DRAIN_BYTES: Final = 65536

Channel = socket.socket | ssl.SSLSocket


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long and how many; the defaults are what the daemon runs with."""

    opening_s: float = 30.0  # TLS handshake and association request together
    idle_s: float = 60.0  # an association between two messages
    silence_s: float = 30.0  # inside a message, or a response that is not taken
    closing_s: float = 5.0  # for the peer to close first
    slowest_bytes_per_s: int = 1024
    waiting_per_address: int = 32
    waiting_in_all: int = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortReason:
    """Source and reason of an A-ABORT (PS3.8 9.3.8) and what brings it about."""

    source: int  # 0 service user, 2 service provider
    reason: int
    meaning: str  # the Standard's words
    when: str


OWN_DECISION: Final = AbortReason(
    source=0,
    reason=0,
    meaning="service user",
    when=(
        "silence, too slow a sender, an object of twice the limit, a malformed message, the end"
        " of the program, or anything but an association request on a new connection"
    ),
)
UNRECOGNISED_PDU: Final = AbortReason(
    source=2, reason=1, meaning="unrecognized PDU", when="a PDU type that the Standard lacks"
)
UNEXPECTED_PDU: Final = AbortReason(
    source=2,
    reason=2,
    meaning="unexpected PDU",
    when="a PDU that the state of the association does not allow",
)
UNEXPECTED_PARAMETER: Final = AbortReason(
    source=2,
    reason=5,
    meaning="unexpected PDU parameter",
    when="a data fragment where a command is due, or a command fragment inside a data set",
)
INVALID_PARAMETER: Final = AbortReason(
    source=2,
    reason=6,
    meaning="invalid PDU parameter value",
    when="a PDU above the announced length, lengths that disagree, a context not accepted",
)
ABORT_REASONS: Final = (
    OWN_DECISION,
    UNRECOGNISED_PDU,
    UNEXPECTED_PDU,
    UNEXPECTED_PARAMETER,
    INVALID_PARAMETER,
)


class ConnectionEnded(Exception):
    """The peer closed, the network failed or this side was told to stop: nobody to answer."""


class PeerTooSlow(Exception):
    """The peer let a deadline pass; the connection may still carry an A-ABORT."""


class Wire:
    """One connection, plain or TLS, whose every wait for the peer has an end.

    Used by one thread, except `cut` and `turn_out`. A plain socket waits with one system call per
    read; TLS takes the timeout of its own object, which counts the whole of a read.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._is_tls = isinstance(channel, ssl.SSLSocket)
        self._wait_s = 0.0
        self._cut = False
        self._ending = threading.Lock()  # a number that was closed may be another connection's
        self.waited_s = 0.0  # for the peer, in all reads
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)
        if not self._is_tls:
            channel.settimeout(None)
        self._is_tcp = channel.family in (socket.AF_INET, socket.AF_INET6)
        if self._is_tcp:
            with suppress(OSError):  # the peer may have gone already
                channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                channel.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def handshake(self, *, within_s: float) -> None:
        """Finish the TLS handshake, if this is TLS; the time counts as a whole."""
        if not isinstance(self._channel, ssl.SSLSocket):
            return
        self.wait_at_most(within_s)
        try:
            self._channel.do_handshake()
        except TimeoutError as error:
            raise ConnectionEnded("no TLS handshake in time") from error
        except (OSError, ValueError) as error:
            raise ConnectionEnded("the TLS handshake failed") from error

    @property
    def peer_common_name(self) -> str:
        """The common name of the peer's certificate; empty without TLS or without a name."""
        return peer_common_name(self._channel)

    def wait_at_most(self, seconds: float) -> None:
        """Bound each following read and write. A zero would mean "for ever" to the kernel."""
        seconds = max(seconds, 0.001)
        if seconds == self._wait_s:
            return
        self._wait_s = seconds
        if self._is_tls:
            self._channel.settimeout(seconds)
            return
        interval = struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._channel.setsockopt(socket.SOL_SOCKET, option, interval)

    def receive(self, room: memoryview) -> int:
        """Fill `room` with what is there, waiting for the first byte. Returns at least 1."""
        if self._cut:  # the kernel still hands over what came before
            raise ConnectionEnded("this side ended it")
        started_s = time.monotonic()
        try:
            if self._is_tcp:
                # A sender that gathers small writes (RFC 896), as DCMTK does, holds a data set back
                # until its command is acknowledged, which the kernel else puts off for 40 ms.
                self._channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            if isinstance(self._channel, ssl.SSLSocket):
                count = self._receive_tls(self._channel, room)
            else:
                count = self._channel.recv_into(room)
        except (TimeoutError, BlockingIOError, ssl.SSLWantReadError) as error:
            raise PeerTooSlow("silent") from error
        except (OSError, ValueError) as error:
            raise ConnectionEnded("the connection broke") from error
        self.waited_s += time.monotonic() - started_s
        if count == 0:
            raise ConnectionEnded(
                "this side ended it" if self._cut else "the peer closed the connection"
            )
        return count

    def _receive_tls(self, channel: ssl.SSLSocket, room: memoryview) -> int:
        """Wait for bytes before TLS looks at them: a read that is cut leaves it unable to write."""
        if channel.pending():
            return channel.recv_into(room)
        began_s = time.monotonic()
        if not self._poll.poll(self._wait_s * 1000):
            raise TimeoutError
        if self._cut:
            return 0
        channel.settimeout(max(began_s + self._wait_s - time.monotonic(), 0.001))
        try:
            return channel.recv_into(room)
        finally:
            channel.settimeout(self._wait_s)

    def send(self, data: bytes) -> None:
        """Send all of `data`."""
        try:
            self._channel.sendall(data)
        except (TimeoutError, BlockingIOError, ssl.SSLWantWriteError) as error:
            raise ConnectionEnded("the peer does not take its response") from error
        except (OSError, ValueError) as error:
            raise ConnectionEnded("the connection broke") from error

    @property
    def is_cut(self) -> bool:
        """Whether `cut` was called."""
        return self._cut

    def cut(self) -> None:
        """End the reading, from any thread; what is in hand can still be answered."""
        self._shut(socket.SHUT_RD)

    def turn_out(self) -> None:
        """End reading and writing, from any thread."""
        self._shut(socket.SHUT_RDWR)

    def _shut(self, how: int) -> None:
        self._cut = True
        with self._ending, suppress(OSError):
            # Of the plain class: an SSLSocket would drop its TLS state under the reading thread.
            socket.socket.shutdown(self._channel, how)

    def close(self, *, wait_s: float = 0.0) -> None:
        """Close, after the peer did or `wait_s` passed.

        What comes meanwhile is thrown away: closing over unread bytes resets the connection, and
        the peer would lose the last thing that was said to it.
        """
        deadline_s = time.monotonic() + wait_s
        with suppress(ConnectionEnded, PeerTooSlow, OSError):
            room = memoryview(bytearray(DRAIN_BYTES if wait_s else 0))
            while not self._cut and (left_s := deadline_s - time.monotonic()) > 0:
                self.wait_at_most(left_s)
                self.receive(room)
        with self._ending, suppress(OSError):
            self._channel.close()


class Lobby:
    """The connections that have no accepted association, oldest first."""

    def __init__(self, *, per_address: int, in_all: int) -> None:
        self._per_address = per_address
        self._in_all = max(in_all, per_address)
        self._lock = threading.Lock()
        self._waiting: dict[str, OrderedDict[Wire, None]] = {}
        self._count = 0

    def __len__(self) -> int:
        """Return how many wait."""
        return self._count

    def enter(self, address: str, wire: Wire) -> None:
        """Add a connection; the oldest of the busiest place goes if it is one too many."""
        with self._lock:
            turned_out = None
            if len(self._waiting.get(address, ())) >= self._per_address:
                turned_out = self._oldest(address)
            elif self._count >= self._in_all:
                busiest = max(self._waiting, key=lambda place: len(self._waiting[place]))
                turned_out = self._oldest(busiest)
            self._waiting.setdefault(address, OrderedDict())[wire] = None
            self._count += 1
        if turned_out is not None:
            turned_out.turn_out()

    def leave(self, address: str, wire: Wire) -> None:
        """Remove a connection; one that was turned out is gone already."""
        with self._lock:
            self._remove(address, wire)

    @contextmanager
    def waiting(self, address: str, wire: Wire) -> Iterator[None]:
        """Stay in the lobby for the duration."""
        self.enter(address, wire)
        try:
            yield
        finally:
            self.leave(address, wire)

    def _oldest(self, address: str) -> Wire:
        wire = next(iter(self._waiting[address]))
        self._remove(address, wire)
        return wire

    def _remove(self, address: str, wire: Wire) -> None:
        at_address = self._waiting.get(address)
        if at_address is None or wire not in at_address:
            return
        del at_address[wire]
        self._count -= 1
        if not at_address:
            del self._waiting[address]
