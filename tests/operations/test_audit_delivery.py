"""Delivery by syslog over TLS: framed, confirmed by the close, repeated until it was confirmed."""

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.assurance import requirement
from tests.operations.audit_schema import check
from triage.config import AuditConfig
from triage.errors import ConfigError
from triage.operations.audit_delivery import collector_context, deliver, frame, reach
from triage.operations.audit_spool import AuditUnavailable, Spool

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")

KEY = "ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
MESSAGE = (
    '<AuditMessage><EventIdentification EventDateTime="2026-01-02T09:00:00Z" /></AuditMessage>'
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificates")
    for authority in ("ca", "strange"):
        files = f"-keyout {authority}.key -out {authority}.pem"
        _openssl(directory, f"req -x509 -newkey {KEY} {files} -subj /CN=authority -days 2")
    (directory / "names").write_text("subjectAltName=DNS:localhost")
    for name in ("collector", "triage"):
        _openssl(
            directory, f"req -newkey {KEY} -keyout {name}.key -out {name}.csr -subj /CN={name}"
        )
        signer = "-CA ca.pem -CAkey ca.key -CAcreateserial -extfile names"
        _openssl(directory, f"x509 -req -in {name}.csr {signer} -out {name}.pem -days 2")
    return directory


def _openssl(directory: Path, arguments: str) -> None:
    command = ["openssl", *arguments.split()]
    subprocess.run(command, cwd=directory, check=True, capture_output=True, timeout=60)


class SyslogServer:
    """A collector on loopback; `manner` says how it ends a connection."""

    def __init__(self, certificates: Path, manner: str, *, port: int = 0) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(
            certificates / "collector.pem", certificates / "collector.key"
        )
        self._context.load_verify_locations(certificates / "ca.pem")
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._manner = manner
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port = int(self._socket.getsockname()[1])
        self.received: list[bytes] = []
        self._held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                plain, _ = self._socket.accept()
            except OSError:
                return
            with suppress(OSError):
                self._serve(self._context.wrap_socket(plain, server_side=True))

    def _serve(self, channel: ssl.SSLSocket) -> None:
        if self._manner == "breaks":
            channel.recv(10)
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            channel.close()
            return
        whole = b""
        while piece := channel.recv(65536):
            whole += piece
        self.received.append(whole)
        if self._manner == "polite":
            channel.unwrap()
        if self._manner == "silent":
            self._held.append(channel)
        else:
            channel.close()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for each in self._held:
            each.close()
        self._thread.join(5)

    def messages(self) -> list[bytes]:
        """Take the frames apart by their lengths (RFC 5425 section 4.3)."""
        found, rest = [], b"".join(self.received)
        while rest:
            length, _, rest = rest.partition(b" ")
            found.append(rest[: int(length)])
            rest = rest[int(length) :]
        return found


@contextmanager
def collector(certificates: Path, manner: str = "polite") -> Iterator[SyslogServer]:
    server = SyslogServer(certificates, manner)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "audit", maximum_mib=1)
    made.open()
    for number in range(3):
        made.write("audit_objects", [MESSAGE, f"<b>{number}</b>"], after=number, to=number + 1)
    return made


def config_for(certificates: Path, port: int) -> AuditConfig:
    return AuditConfig(
        enabled=True,
        host="localhost",
        port=port,
        ca=str(certificates / "ca.pem"),
        certificate=str(certificates / "triage.pem"),
        key=str(certificates / "triage.key"),
    )


@requirement("P2")
@pytest.mark.parametrize("manner", ["polite", "closes"])
def test_what_was_delivered_is_deleted_and_came_in_order(
    certificates: Path, spool: Spool, manner: str
) -> None:
    with collector(certificates, manner) as server:
        assert deliver(spool, config_for(certificates, server.port), host="ward7") == 6
        said = server.messages()
    assert spool.segments() == []
    assert said[0].startswith(
        b"<85>1 2026-01-02T09:00:00Z ward7 triage - DICOM+RFC3881 - \xef\xbb\xbf<A"
    )
    assert [each[-8:] for each in said[1::2]] == [b"<b>0</b>", b"<b>1</b>", b"<b>2</b>"]


@requirement("P2")
@pytest.mark.parametrize("manner", ["breaks", "silent"])
def test_without_a_confirmation_everything_stays_for_the_next_time(
    certificates: Path, spool: Spool, manner: str
) -> None:
    before = spool.segments()
    with collector(certificates, manner) as server, pytest.raises(AuditUnavailable):
        deliver(spool, config_for(certificates, server.port), host="ward7", patience_s=0.5)
    assert spool.segments() == before
    with collector(certificates) as server:
        deliver(spool, config_for(certificates, server.port), host="ward7")
        assert len(server.messages()) == 6


def test_a_collector_of_another_authority_gets_nothing(certificates: Path, spool: Spool) -> None:
    with collector(certificates) as server:
        config = config_for(certificates, server.port)
        strange = replace(config, ca=str(certificates / "strange.pem"))
        with pytest.raises(AuditUnavailable, match="not trusted"):
            deliver(spool, strange, host="ward7")
        elsewhere = replace(config, host="127.0.0.1")  # not the name in its certificate
        with pytest.raises(AuditUnavailable, match="not trusted"):
            deliver(spool, elsewhere, host="ward7")
        assert server.received == []
    assert len(spool.segments()) == 3


def test_a_collector_that_asks_for_a_certificate_refuses_us_without_one(
    certificates: Path, spool: Spool
) -> None:
    with collector(certificates) as server:
        nameless = replace(config_for(certificates, server.port), certificate="", key="")
        with pytest.raises(AuditUnavailable):
            deliver(spool, nameless, host="ward7")
        assert server.received == []
    assert len(spool.segments()) == 3


def test_a_collector_that_is_not_there_is_named(certificates: Path, spool: Spool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(AuditUnavailable, match=f"localhost port {port}"):
        deliver(spool, config_for(certificates, port), host="ward7")


def test_the_way_to_the_collector_is_tried_without_a_message(certificates: Path) -> None:
    with collector(certificates) as server:
        reach(config_for(certificates, server.port))
        assert server.messages() == []


def test_certificates_that_cannot_be_read_are_a_sentence(tmp_path: Path) -> None:
    config = AuditConfig(enabled=True, host="localhost", ca=str(tmp_path / "none.pem"))
    with pytest.raises(ConfigError, match=r"none\.pem"):
        collector_context(config)


def test_no_version_below_tls_1_2_is_offered(certificates: Path) -> None:
    context = collector_context(config_for(certificates, 1))
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_a_frame_counts_octets_and_not_characters() -> None:
    whole = frame("<a>Ärztin 岡</a>", host="a host")
    length, _, rest = whole.partition(b" ")
    assert int(length) == len(rest)
    assert b" a?host triage " in rest


@pytest.mark.parametrize(
    "keys",
    [
        {"maximum_spool_mib": 0},
        {"port": 0},
        {"enabled": True, "host": "log"},
        {"certificate": "a.pem"},
    ],
)
def test_impossible_settings_are_refused(keys: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        AuditConfig(**keys)  # type: ignore[arg-type]


def test_the_checker_of_the_schema_refuses_what_the_schema_refuses() -> None:
    with pytest.raises(AssertionError):
        check(MESSAGE)


def test_segments_wait_in_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", maximum_mib=1)
    spool.open()
    spool.write("audit_objects", ["one"], after=0, to=900)
    spool.write("audit_decisions", ["two"], after=0, to=5)
    spool.write("audit_objects", ["three"], after=900, to=901)
    said = [message for segment in spool.segments() for message in segment.messages()]
    assert said == ["one", "two", "three"]


def test_what_a_crash_left_half_written_is_no_segment_and_goes_at_the_next_start(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "spool"
    directory.mkdir()
    (directory / "new.part").write_text("<AuditMessage>half")
    spool = Spool(directory, maximum_mib=1)
    assert spool.segments() == []
    spool.open()
    assert list(directory.iterdir()) == []
