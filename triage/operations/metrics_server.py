"""The loopback port on which Prometheus scrapes: GET /metrics and nothing else.

A thread of its own, a few handlers with a time limit, and one look at the database for all
scrapes within a second: slow or many scrapers cost the sweeps nothing. A port that is taken ends
nothing either: it is told through the heartbeat of the role, and tried again.
"""

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6, SHUT_RDWR, socket
from socketserver import TCPServer
from typing import Any

import structlog

log = structlog.get_logger(__name__)

AGAIN_S = 15.0
CLIENT_S = 15.0  # a scrape that takes longer is cut off
HANDLERS = 4
FRESH_S = 1.0
JOIN_S = 5.0
TICK_S = 0.2
PATH = "/metrics"


class Kept:
    """One answer for all who ask within `fresh_s`."""

    def __init__(
        self,
        make: Callable[[], bytes],
        *,
        fresh_s: float = FRESH_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make = make
        self._fresh_s = fresh_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._answer: bytes | None = None
        self._made_s = 0.0

    def __call__(self) -> bytes:
        with self._lock:
            now_s = self._monotonic()
            if self._answer is None or now_s - self._made_s >= self._fresh_s:
                self._answer = self._make()
                self._made_s = self._monotonic()
            return self._answer


class MetricsServer:
    """Serves `answer` on host and port from `start` to `stop`; never raises for a taken port."""

    def __init__(
        self,
        host: str,
        port: int,
        answer: Callable[[], bytes],
        *,
        content_type: str,
        again_s: float = AGAIN_S,
    ) -> None:
        self._address = host, port
        self._handler = _handler(Kept(answer), content_type)
        self._again_s = again_s
        self._stop = threading.Event()
        self._server: _Server | None = None
        self._fault = ""
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        """Open the port if it is free, and serve; else go on trying."""
        self._open()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(JOIN_S)
        if self._server is not None:
            self._server.server_close()

    def detail(self) -> dict[str, Any]:
        """Return what the heartbeat tells: the port that is open, or why none is."""
        if self._server is None:
            return {"fault": self._fault}
        return {"port": self._server.server_port, "fault": ""}

    def _open(self) -> None:
        try:
            self._server = _Server(self._address, self._handler)
        except (OSError, OverflowError) as error:
            self._fault = getattr(error, "strerror", None) or str(error)
            log.warning("metrics_unavailable", port=self._address[1], reason=self._fault)
            return
        log.info("metrics_served", host=self._address[0], port=self._server.server_port)

    def _run(self) -> None:
        while self._server is None:
            if self._stop.wait(self._again_s):
                return
            self._open()
        while not self._stop.is_set():
            self._server.handle_request()


class _Server(ThreadingHTTPServer):
    """A few handlers at a time; one connection more is closed at once."""

    daemon_threads = True
    block_on_close = False
    timeout = TICK_S  # of one wait for a connection

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._places = threading.BoundedSemaphore(HANDLERS)
        self.address_family = AF_INET6 if ":" in address[0] else AF_INET
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Bind without the parent's look-up of a host name, which may hang."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.socket.getsockname()[:2]

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except (RuntimeError, MemoryError):  # no thread can be had at present
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        limit = threading.Timer(CLIENT_S, _cut_off, [request])
        limit.daemon = True
        limit.start()
        try:
            super().finish_request(request, client_address)
        finally:
            limit.cancel()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say it in the log: the parent prints a traceback. One who hangs up is no defect."""
        error = sys.exception()
        if isinstance(error, OSError):
            log.info("scrape_cut_off", reason=error.strerror or type(error).__name__)
        else:
            log.warning("scrape_failed", exc_info=True)


def _cut_off(request: socket) -> None:
    with suppress(OSError):  # it ended in this moment
        request.shutdown(SHUT_RDWR)


def _handler(answer: Callable[[], bytes], content_type: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = CLIENT_S
        server_version = "triage"
        sys_version = ""

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != PATH:
                self.send_error(404)
                return
            body = answer()
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing: a scrape every few seconds is no news."""

    return Handler
