"""The receive role: the listeners, their connections and the end of both.

Owns who is connected and how many; what a connection says is `association`'s, what is done with it
`storage_service`'s. One thread accepts per port, one thread serves per connection, and each waits
in the kernel. Knows neither store nor database.
"""

import errno
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from ssl import SSLContext
from typing import Final

import structlog

from triage.config import ReceiverConfig
from triage.errors import ConfigError
from triage.ingest.association import Association
from triage.ingest.intake import Intake
from triage.ingest.network_guard import Limits, Lobby, Wire
from triage.ingest.storage_service import StorageService
from triage.ingest.tls import server_context

log = structlog.get_logger(__name__)

BACKLOG: Final = 128
IDLE_AT_STOP_S: Final = 5.0  # between two messages of a sender that has more to send
LAST_ANSWERS_S: Final = 10.0  # for what the intake has in hand when the time to drain is over
BREATH_S: Final = 0.1
# No descriptor or memory for one more connection: the listener goes on when some were given back.
_PASSING: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED)


class StorageReceiver:
    """The receive role: listens from `start` to `stop`."""

    def __init__(
        self,
        intake: Intake,
        config: ReceiverConfig,
        *,
        limits: Limits | None = None,
        turned_away: Callable[[str, str, str], None] | None = None,
    ) -> None:
        """`turned_away` hears AE title, address and reason of who was rejected for good."""
        self._turned_away = turned_away
        self._config = config
        self._limits = limits or Limits()
        self._service = StorageService(intake, config)
        self._lobby = Lobby(
            # A router that opens all its associations at once is no flood.
            per_address=max(self._limits.waiting_per_address, config.maximum_associations),
            in_all=self._limits.waiting_in_all,
        )
        self._listeners: list[_Listener] = []
        self._changed = threading.Condition()
        self._accepted: set[Association] = set()
        self._connected: dict[Association, threading.Thread] = {}
        self._port = config.port
        self._tls_port: int | None = None

    def start(self) -> None:
        """Listen. Raises ConfigError if a port or a certificate cannot be used."""
        config = self._config
        context = _tls_context(config)
        self._port = self._listen(config.port, None)
        try:
            if context is not None:
                self._tls_port = self._listen(config.tls_port, context)
        except ConfigError:
            self.stop(drain_s=0)
            raise
        log.info("receiver_listens", host=config.host, port=self.port, tls_port=self._tls_port)

    @property
    def port(self) -> int:
        """The port that is listened on (of interest where [receiver] port is 0)."""
        return self._port

    @property
    def tls_port(self) -> int | None:
        """The TLS port that is listened on, if any."""
        return self._tls_port

    @property
    def alive(self) -> bool:
        """Whether every listener still listens."""
        return bool(self._listeners) and all(listener.is_alive() for listener in self._listeners)

    @property
    def associations(self) -> int:
        """How many associations are open."""
        return len(self._accepted)

    @property
    def connections_waiting(self) -> int:
        """How many connections have no association."""
        return len(self._lobby)

    def stop(self, *, drain_s: float = 20.0) -> None:
        """Stop listening, let open associations end for up to `drain_s`, abort the rest.

        A sender that is in the middle of a study gets its answers first; one that has been idle
        is aborted at once. What the intake has in hand at the end is still answered.
        """
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.stop()
        deadline_s = time.monotonic() + drain_s
        while (left_s := deadline_s - time.monotonic()) > 0 and self._accepted:
            self._cut(idle_s=IDLE_AT_STOP_S)
            with self._changed:
                self._changed.wait(min(left_s, BREATH_S))
        self._cut(idle_s=0)
        self._join()
        log.info("receiver_stopped")

    def admit(self, association: Association) -> bool:
        """Count an association as accepted; False where there are too many."""
        with self._changed:
            if len(self._accepted) >= self._config.maximum_associations:
                return False
            self._accepted.add(association)
        self._lobby.leave(association.address, association.wire)
        return True

    def dismiss(self, association: Association) -> None:
        """Count it no longer, if it was; its connection waits to be closed."""
        with self._changed:
            if association not in self._accepted:
                return
            self._accepted.remove(association)
            self._changed.notify_all()
        self._lobby.enter(association.address, association.wire)

    def _listen(self, port: int, tls: SSLContext | None) -> int:
        try:
            listener = _Listener(self, self._config.host, port, tls)
        except OSError as error:
            raise ConfigError(
                f"[receiver] {self._config.host} port {port} cannot be listened on"
                f" ({error.strerror or error})",
                hint="Choose another port, or stop what uses this one.",
            ) from error
        self._listeners.append(listener)
        listener.start()
        return listener.port

    def turned_away(self, *, calling_ae_title: str, address: str, reason: str) -> None:
        """Pass on who was rejected for good (`Desk`)."""
        if self._turned_away is not None:
            self._turned_away(calling_ae_title, address, reason)

    def connected(self, channel: socket.socket, address: str, tls: SSLContext | None) -> None:
        """Give a new connection its place in the lobby and its thread."""
        if tls is not None:
            channel = tls.wrap_socket(channel, server_side=True, do_handshake_on_connect=False)
        wire = Wire(channel)
        association = Association(
            wire, address, service=self._service, desk=self, limits=self._limits
        )
        thread = threading.Thread(
            target=self._converse, args=(association,), name=f"association-{address}", daemon=True
        )
        with self._changed:
            self._connected[association] = thread
        self._lobby.enter(address, wire)
        try:
            thread.start()
        except RuntimeError:  # the system gives no more threads
            log.warning("connection_refused", address=address, reason="no thread for it")
            self._forget(association)

    def _converse(self, association: Association) -> None:
        try:
            association.run()
        except Exception:
            log.exception("association_failed", address=association.address)
        finally:
            self._forget(association)

    def _forget(self, association: Association) -> None:
        self._lobby.leave(association.address, association.wire)
        association.wire.close()
        with self._changed:
            del self._connected[association]
            self._changed.notify_all()

    def _cut(self, *, idle_s: float) -> None:
        """End what has been idle for so long, and every connection without association."""
        now_s = time.monotonic()
        with self._changed:
            connected = list(self._connected)
        for association in connected:
            since_s = association.idle_since_s
            is_idle = since_s is not None and now_s - since_s >= idle_s
            if not idle_s or is_idle or association not in self._accepted:
                association.wire.cut()

    def _join(self) -> None:
        deadline_s = time.monotonic() + LAST_ANSWERS_S
        with self._changed:
            self._changed.wait_for(lambda: not self._connected, LAST_ANSWERS_S)
            connected = dict(self._connected)
        for association, thread in connected.items():
            association.wire.turn_out()
            thread.join(max(0.0, deadline_s - time.monotonic()))


class _Listener(threading.Thread):
    """Accepts on one port until it is stopped."""

    def __init__(
        self, receiver: StorageReceiver, host: str, port: int, tls: SSLContext | None
    ) -> None:
        super().__init__(name=f"listener-{port}", daemon=True)
        self._receiver = receiver
        self._tls = tls
        self._stopping = threading.Event()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server(
            (host, port),
            family=family,
            backlog=BACKLOG,
            # "::" is every address of this machine, of either family.
            dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
        )
        self.port = int(self._socket.getsockname()[1])

    def run(self) -> None:
        """Accept and hand over; ends when stopped, or loudly."""
        try:
            while not self._stopping.is_set():
                self._accept()
        except Exception:
            log.exception("listener_ended", port=self.port)
        finally:
            self._socket.close()

    def _accept(self) -> None:
        try:
            channel, address = self._socket.accept()
        except OSError as error:
            if self._stopping.is_set():
                return
            if error.errno not in _PASSING:
                raise
            log.warning("connection_refused", reason=error.strerror)
            self._stopping.wait(BREATH_S)
            return
        try:
            self._receiver.connected(channel, str(address[0]), self._tls)
        except OSError as error:  # gone already
            log.info("connection_ended", address=str(address[0]), reason=error.strerror)
            channel.close()

    def stop(self) -> None:
        """Stop accepting and wait for the thread."""
        self._stopping.set()
        with suppress(OSError):  # it may have ended by itself
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the accept
        self.join()


def _tls_context(config: ReceiverConfig) -> SSLContext | None:
    if not config.tls_enabled:
        return None
    return server_context(
        certificate=config.certificate, key=config.key, client_ca=config.client_ca
    )
