"""DICOM over TLS: only with a certificate of our authority, and as the name that it carries."""

import random
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.association import Association

from tests.assurance import requirement
from tests.dicom_files import make_dx
from tests.ingest.doors import Door, eventually, listening
from tests.ingest.raw_peer import EXPLICIT, REJECTED, RawPeer, hear_first, request
from tests.ingest.test_storage_scp import DX
from triage.config import PeerConfig
from triage.errors import ConfigError
from triage.ingest.network_guard import Limits
from triage.ingest.tls import server_context

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
UNKNOWN_CALLER = REJECTED, bytes((0, 1, 1, 3))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an authority, certificates of server and sender, and one of a stranger."""
    directory = tmp_path_factory.mktemp("certificates")
    for authority in ("ca", "strange-ca"):
        files = f"-keyout {authority}.key -out {authority}.pem"
        _openssl(directory, f"req -x509 -newkey {KEY} {files} -subj /CN=authority -days 2")
    for name, authority in (("server", "ca"), ("ct1", "ca"), ("stranger", "strange-ca")):
        files = f"-keyout {name}.key -out {name}.csr"
        _openssl(directory, f"req -newkey {KEY} {files} -subj /CN={name}")
        signer = f"-CA {authority}.pem -CAkey {authority}.key -CAcreateserial"
        _openssl(directory, f"x509 -req -in {name}.csr {signer} -out {name}.pem -days 2")
    return directory


KEY = "ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"


def _openssl(directory: Path, arguments: str) -> None:
    command = ["openssl", *arguments.split()]
    subprocess.run(command, cwd=directory, check=True, capture_output=True, timeout=60)


def receiver_config(certificates: Path, subject: str = "ct1") -> dict[str, object]:
    return {
        "tls_enabled": True,
        "tls_port": 0,
        "certificate": str(certificates / "server.pem"),
        "key": str(certificates / "server.key"),
        "client_ca": str(certificates / "ca.pem"),
        "peers": (PeerConfig(ae_title="CT1", address="127.0.0.1", certificate_subject=subject),),
    }


def client_context(certificates: Path, name: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    context.check_hostname = False
    if name is not None:
        context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    return context


def associate(port: int | None, context: ssl.SSLContext) -> Association:
    entity = AE(ae_title="CT1")
    entity.add_requested_context(DX)
    return entity.associate("127.0.0.1", port, ae_title="TRIAGE", tls_args=(context, "server"))


@requirement("N10")
def test_a_sender_with_its_certificate_is_admitted(certificates: Path) -> None:
    with listening(Door(), **receiver_config(certificates)) as receiver:
        association = associate(receiver.tls_port, client_context(certificates, "ct1"))
        assert association.is_established
        association.release()


@requirement("N10")
def test_a_certificate_of_another_name_is_rejected(certificates: Path) -> None:
    with (
        listening(Door(), **receiver_config(certificates, subject="dx1")) as receiver,
        socket.create_connection(("127.0.0.1", receiver.tls_port or 0)) as plain,
        client_context(certificates, "ct1").wrap_socket(plain, server_hostname="server") as secure,
    ):
        peer = RawPeer(secure)
        peer.say(request(calling="CT1"))
        assert peer.hear() == UNKNOWN_CALLER


@requirement("N10")
@pytest.mark.parametrize("name", [None, "stranger"])
def test_without_a_certificate_of_our_authority_there_is_no_connection(
    certificates: Path, name: str | None
) -> None:
    """With TLS 1.3 the client learns of it at its first read."""
    context = client_context(certificates, name)
    with (
        listening(Door(), **receiver_config(certificates)) as receiver,
        socket.create_connection(("127.0.0.1", receiver.tls_port or 0)) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
        context.wrap_socket(plain) as connection,
    ):
        connection.recv(1)


@requirement("N10")
def test_a_peer_that_must_show_a_certificate_cannot_come_in_clear_text(certificates: Path) -> None:
    with listening(Door(), **receiver_config(certificates)) as receiver:
        assert hear_first(receiver.port, request(calling="CT1")) == UNKNOWN_CALLER


def test_a_silent_connection_does_not_hold_up_the_next_one(certificates: Path) -> None:
    with (
        listening(Door(), **receiver_config(certificates)) as receiver,
        socket.create_connection(("127.0.0.1", receiver.tls_port or 0)),
    ):
        association = associate(receiver.tls_port, client_context(certificates, "ct1"))
        assert association.is_established
        association.release()


def test_an_object_comes_whole_over_tls(certificates: Path) -> None:
    door, ds = Door(), make_dx()
    ds.PixelData = random.Random(0).randbytes(3 * 1024 * 1024)
    with listening(door, **receiver_config(certificates)) as receiver:
        association = associate(receiver.tls_port, client_context(certificates, "ct1"))
        assert association.send_c_store(ds).Status == 0x0000
        association.release()
    assert door.taken[0][0].endswith(ds.PixelData)


def test_silence_and_the_end_of_the_program_are_told_over_tls(certificates: Path) -> None:
    limits = Limits(idle_s=0.3, closing_s=1)
    with listening(Door(), limits=limits, **receiver_config(certificates)) as receiver:
        with over_tls(receiver.tls_port, certificates) as silent:
            assert silent.abort_of() == (0, 0)
        with over_tls(receiver.tls_port, certificates) as peer:
            stopper = threading.Thread(target=receiver.stop, kwargs={"drain_s": 0})
            stopper.start()
            assert peer.abort_of() == (0, 0)
            stopper.join()


@contextmanager
def over_tls(port: int | None, certificates: Path) -> Iterator[RawPeer]:
    context = client_context(certificates, "ct1")
    with (
        socket.create_connection(("127.0.0.1", port or 0)) as plain,
        context.wrap_socket(plain) as connection,
    ):
        peer = RawPeer(connection)
        peer.say(request(((1, DX, (EXPLICIT,)),), calling="CT1"))
        heard = peer.hear()
        assert heard is not None
        assert heard[0] == 2
        yield peer


def test_a_handshake_that_does_not_end_is_ended(certificates: Path) -> None:
    """Clear text on this port is no handshake either."""
    limits = Limits(opening_s=0.3, closing_s=0.2)
    with listening(Door(), limits=limits, **receiver_config(certificates)) as receiver:
        for said in (b"", b"\x16\x03\x01\x02\x00", request()):
            with socket.create_connection(("127.0.0.1", receiver.tls_port or 0)) as plain:
                plain.sendall(said)
                assert RawPeer(plain).is_closed()
        assert eventually(lambda: receiver.connections_waiting == 0)


@requirement("N10")
def test_old_versions_of_tls_are_refused(certificates: Path) -> None:
    context = client_context(certificates, "ct1")
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA256")  # no forward secrecy: outside BCP 195
    with (
        listening(Door(), **receiver_config(certificates)) as receiver,
        socket.create_connection(("127.0.0.1", receiver.tls_port or 0)) as plain,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(plain)


def test_unusable_files_are_named(certificates: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.pem"):
        server_context(certificate=str(certificates / "absent.pem"), key="x", client_ca="x")
    with pytest.raises(ConfigError, match="client_ca"):
        server_context(
            certificate=str(certificates / "server.pem"),
            key=str(certificates / "server.key"),
            client_ca=str(certificates / "server.key"),
        )
