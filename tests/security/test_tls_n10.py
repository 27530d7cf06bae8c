"""N10: the secure port of the real receiver, asked by OpenSSL and DCMTK.

TLS 1.2 and 1.3 only, a client certificate of the configured authority, whose name must be that of
the peer, and no clear text. How each refusal comes about is tried in tests/ingest/test_tls.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.assurance import Evidence, requirement
from tests.benchmarks.measuring import configuration, daemon, free_port
from tests.dicom_files import make_dx, write
from tests.ingest.raw_peer import calling, request
from tests.ingest.test_tls import certificates
from tests.security.receivers import TINY

__all__ = ["certificates"]  # the fixture

OLD = ("-tls1", "-tls1_1")
NEW = ("-tls1_2", "-tls1_3")
CONNECTED_S = 1.0
SECURE = """\
[[receiver.peers]]
ae_title = "CT1"
address = "127.0.0.1"
certificate_subject = "ct1"
"""

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None or shutil.which("storescu") is None,
    reason="openssl or DCMTK is not installed",
)


@pytest.fixture(scope="module")
def secure_port(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("secure")
    port, secure = free_port(), free_port()
    path = configuration(folder, port, more=SECURE)
    keys = (
        f'tls_enabled = true\ntls_port = {secure}\ncertificate = "{certificates}/server.pem"\n'
        f'key = "{certificates}/server.key"\nclient_ca = "{certificates}/ca.pem"\n'
    )
    path.write_text(path.read_text("utf-8").replace("[receiver]\n", "[receiver]\n" + keys), "utf-8")
    with daemon(path, port, "receive"):
        yield secure


def handshake(port: int, certificates: Path, *options: str) -> bool:
    """Whether `openssl s_client` is still connected after a second: who is refused is not.

    Its own security level is lowered, so that it does offer the old versions.
    """
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-brief"]
    command += ["-CAfile", "ca.pem", "-cipher", "ALL:@SECLEVEL=0", *options]
    with subprocess.Popen(
        command,
        cwd=certificates,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            process.wait(CONNECTED_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return True
    return False


def certificate(name: str) -> tuple[str, ...]:
    return ("-cert", f"{name}.pem", "-key", f"{name}.key")


def storescu(port: int, certificates: Path, file: Path, *tls: str, calling: str = "CT1") -> int:
    command = ["storescu", *tls, "-aet", calling, "-aec", "TRIAGE", "127.0.0.1", str(port)]
    done = subprocess.run(
        [*command, str(file)], cwd=certificates, capture_output=True, check=False, timeout=30
    )
    return done.returncode


@requirement("N10", bound="TLS 1.2 and 1.3 agree, TLS 1.0 and 1.1 do not, nor without certificate")
def test_n10_only_current_versions_with_our_certificate(
    secure_port: int, certificates: Path, evidence: Evidence
) -> None:
    ours = certificate("ct1")
    expected = {(version, *ours): True for version in NEW}
    expected |= {(version, *ours): False for version in OLD}
    expected |= {(version, *certificate("stranger")): False for version in NEW}
    expected |= {(version,): False for version in NEW}
    found = {how: handshake(secure_port, certificates, *how) for how in expected}
    wrong = [how for how in expected if found[how] != expected[how]]
    evidence.record(trials=len(expected), losses=len(wrong))
    assert wrong == []


@requirement("N10", bound="a store by DCMTK over TLS, and none otherwise")
def test_n10_dcmtk_stores_over_tls_as_the_peer_of_its_certificate_only(
    secure_port: int, certificates: Path, evidence: Evidence, tmp_path: Path
) -> None:
    file = write(make_dx(TINY), tmp_path / "one.dcm")
    tls = ("+tls", "ct1.key", "ct1.pem", "+cf", "ca.pem")
    assert storescu(secure_port, certificates, file, *tls) == 0
    refused = {
        "under another title": storescu(secure_port, certificates, file, *tls, calling="DX1"),
        "without a certificate": storescu(secure_port, certificates, file, "+tla", "+cf", "ca.pem"),
        "of another authority": storescu(
            secure_port, certificates, file, "+tls", "stranger.key", "stranger.pem", "+cf", "ca.pem"
        ),
        "in clear text": storescu(secure_port, certificates, file),
    }
    let_in = [how for how, code in refused.items() if code == 0]
    evidence.record(trials=1 + len(refused), losses=len(let_in))
    assert let_in == []


@requirement("N10", bound="no answer to clear text")
def test_n10_clear_text_gets_no_dicom_answer(secure_port: int) -> None:
    with calling(secure_port) as peer:
        peer.say(request(calling="CT1"))
        try:
            heard = peer.connection.recv(64)
        except ConnectionError:
            heard = b""
    assert heard[:1] in (b"", b"\x15")  # the end, or an alert of TLS
