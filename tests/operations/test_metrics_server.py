"""The port of the metrics answers one question, and whoever asks badly harms nobody else."""

import errno
import http.client
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from structlog.testing import capture_logs

from triage.operations.metrics_server import HANDLERS, Kept, MetricsServer


def serving(answer: object = None, port: int = 0, **changes: float) -> MetricsServer:
    server = MetricsServer(
        "127.0.0.1",
        port,
        answer or (lambda: b"triage_up 1\n"),  # type: ignore[arg-type]
        content_type="text/plain; version=0.0.4",
        **changes,
    )
    server.start()
    return server


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    made = serving()
    yield made
    made.stop()


def ask(server: MetricsServer, path: str = "/metrics", method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.detail()["port"], timeout=10)
    with closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_a_scrape_gets_the_figures(server: MetricsServer) -> None:
    assert ask(server) == (200, b"triage_up 1\n")
    assert ask(server, "/metrics?name=x")[0] == 200


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metrics/../etc/passwd", "/worklist"])
def test_nothing_else_is_there(server: MetricsServer, path: str) -> None:
    assert ask(server, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_but_reading_is_possible(server: MetricsServer, method: str) -> None:
    assert ask(server, method=method)[0] == 501


def test_the_answer_does_not_tell_which_software_serves_it(server: MetricsServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.detail()["port"], timeout=10)
    connection.request("GET", "/metrics")
    assert (connection.getresponse().getheader("Server") or "").strip() == "triage"
    connection.close()


def test_all_who_ask_within_a_second_share_one_look() -> None:
    clock, looks = [0.0], iter(range(10))
    kept = Kept(lambda: str(next(looks)).encode(), fresh_s=1.0, monotonic=lambda: clock[0])
    assert (kept(), kept()) == (b"0", b"0")
    clock[0] = 0.9
    assert kept() == b"0"
    clock[0] = 1.0
    assert kept() == b"1"


def test_a_look_that_fails_is_no_end_of_the_server() -> None:
    answers = iter([RuntimeError("defect"), b"well again"])

    def look() -> bytes:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    server = serving(look)
    with pytest.raises(http.client.RemoteDisconnected):
        ask(server)
    assert ask(server) == (200, b"well again")
    server.stop()


def test_one_who_hangs_up_leaves_no_traceback_in_the_log() -> None:
    def look() -> bytes:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")  # as a write to a closed socket does

    server = serving(look)
    with capture_logs() as logged, pytest.raises(http.client.RemoteDisconnected):
        ask(server)
    server.stop()
    (line,) = [line for line in logged if line["event"].startswith("scrape")]
    assert (line["event"], line["log_level"]) == ("scrape_cut_off", "info")


def test_slow_askers_take_a_few_places_and_the_rest_is_closed_at_once(
    server: MetricsServer,
) -> None:
    address = ("127.0.0.1", server.detail()["port"])
    slow = [socket.create_connection(address, timeout=10) for _ in range(HANDLERS)]
    for each in slow:
        each.sendall(b"GET /met")
    one_more = socket.create_connection(address, timeout=10)
    assert one_more.recv(1) == b""
    for each in (*slow, one_more):
        each.close()
    assert_served_again(server)


def assert_served_again(server: MetricsServer) -> None:
    for _ in range(50):
        try:
            assert ask(server)[0] == 200
            return
        except ConnectionError:
            threading.Event().wait(0.05)
    pytest.fail("the places were not given back")


BEYOND_MEMORY = 1 << 50  # bytes: a thread with such a stack cannot start


def test_threads_that_cannot_start_take_no_places(server: MetricsServer) -> None:
    threading.stack_size(BEYOND_MEMORY)
    try:
        for _ in range(HANDLERS):
            with pytest.raises(ConnectionError):
                ask(server)
    finally:
        threading.stack_size(0)
    assert_served_again(server)


def test_timers_that_cannot_start_take_no_places(server: MetricsServer) -> None:
    def allow_no_more(*_: object) -> None:  # first of all in the handler's thread, and once
        sys.setprofile(None)
        threading.stack_size(BEYOND_MEMORY)

    for _ in range(HANDLERS):
        threading.setprofile(allow_no_more)
        try:
            with pytest.raises(ConnectionError):
                ask(server)
        finally:
            threading.setprofile(None)
            threading.stack_size(0)
    assert_served_again(server)


def test_a_port_that_is_taken_is_told_and_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = serving(port=port, again_s=0.05)
        assert "in use" in server.detail()["fault"]
    for _ in range(100):
        if "port" in server.detail():
            break
        threading.Event().wait(0.05)
    assert server.detail() == {"port": port, "fault": ""}
    assert ask(server)[0] == 200
    server.stop()


def test_an_address_of_another_host_is_told_and_stop_is_quick() -> None:
    server = MetricsServer("192.0.2.1", 9464, lambda: b"", content_type="text/plain")
    server.start()
    assert server.detail()["fault"]
    server.stop()
    assert "metrics" not in {thread.name for thread in threading.enumerate()}


def test_the_port_is_free_again_after_the_stop(server: MetricsServer) -> None:
    ask(server)
    port = server.detail()["port"]
    server.stop()
    again = serving(port=port)
    assert again.detail()["port"] == port
    again.stop()
