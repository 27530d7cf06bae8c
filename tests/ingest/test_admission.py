"""Nobody stores but this machine, or a peer by name, address and, where asked for, certificate."""

import pytest

from tests.assurance import requirement
from triage.config import PeerConfig
from triage.errors import ConfigError
from triage.ingest.admission import (
    UNKNOWN_CALLER,
    WRONG_CALLED,
    Caller,
    Peer,
    Rejection,
    peers_of,
    rejection,
)

CT1 = PeerConfig(ae_title="CT1", address="10.1.2.0/24")
DX1 = PeerConfig(ae_title="DX1", address="2001:db8::7", certificate_subject="dx1.hospital")


def answer(
    peers: tuple[Peer, ...],
    *,
    calling: str = "CT1",
    called: str = "TRIAGE",
    address: str = "10.1.2.9",
    subject: str = "",
) -> Rejection | None:
    caller = Caller(
        calling_ae_title=calling,
        called_ae_title=called,
        address=address,
        certificate_subject=subject,
    )
    return rejection(caller, ae_title="TRIAGE", peers=peers)


PEERS = peers_of((CT1, DX1))


def test_a_peer_from_its_network_is_admitted() -> None:
    assert answer(PEERS) is None
    assert answer(PEERS, calling="CT1  ", called="TRIAGE          ") is None


REJECTED = {
    "wrong called AE title": ({"called": "ORTHANC"}, WRONG_CALLED),
    "unknown calling AE title": ({"calling": "CT2"}, UNKNOWN_CALLER),
    "another's address": ({"address": "10.1.3.9"}, UNKNOWN_CALLER),
    "loopback is no peer": ({"address": "127.0.0.1"}, UNKNOWN_CALLER),
    "no certificate": ({"calling": "DX1", "address": "2001:db8::7"}, UNKNOWN_CALLER),
    "another's certificate": (
        {"calling": "DX1", "address": "2001:db8::7", "subject": "ct1.hospital"},
        UNKNOWN_CALLER,
    ),
}


@requirement("N6")
@pytest.mark.parametrize(("how", "expected"), REJECTED.values(), ids=REJECTED)
def test_rejected(how: dict[str, str], expected: Rejection) -> None:
    assert answer(PEERS, **how) is expected


def test_the_right_certificate_is_admitted() -> None:
    assert answer(PEERS, calling="DX1", address="2001:db8::7", subject="dx1.hospital") is None


@requirement("N6")
def test_without_peers_only_this_machine_may_call() -> None:
    assert answer((), calling="ANY", address="127.0.0.1") is None
    assert answer((), calling="ANY", address="::ffff:127.0.0.1") is None
    assert answer((), calling="ANY", address="::1") is None
    assert answer((), address="10.1.2.9") is UNKNOWN_CALLER


@requirement("N6")
def test_the_reject_codes_are_those_of_the_standard() -> None:
    """PS3.8 table 9-21."""
    assert (WRONG_CALLED.result, WRONG_CALLED.source, WRONG_CALLED.diagnostic) == (1, 1, 7)
    assert (UNKNOWN_CALLER.result, UNKNOWN_CALLER.source, UNKNOWN_CALLER.diagnostic) == (1, 1, 3)


def test_an_address_that_is_none_is_refused_at_start() -> None:
    with pytest.raises(ConfigError, match="neither an IP address"):
        peers_of((PeerConfig(ae_title="A", address="ct1.hospital"),))
