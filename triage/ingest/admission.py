"""Who may open an association: AE title and address, and a certificate where one is asked for.

Owns the decision and its reject codes (PS3.8 9.3.4). An AE title is a name, not a credential: it
counts together with the address that it calls from. Without any peer in the configuration only
this machine may call.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from triage.config import PeerConfig
from triage.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks for an association."""

    calling_ae_title: str
    called_ae_title: str
    address: str
    certificate_subject: str = ""  # common name; empty without TLS


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """The three fields of an A-ASSOCIATE-RJ, and the reason for our log."""

    result: int  # 1 permanent, 2 transient
    source: int  # 1 service user, 2 and 3 service provider (ACSE, presentation)
    diagnostic: int
    reason: str

    @property
    def retry(self) -> bool:
        """Whether the same request can be accepted later."""
        return self.result == 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One configured sender, ready to compare."""

    ae_title: str
    network: IPv4Network | IPv6Network
    certificate_subject: str


WRONG_CALLED = Rejection(result=1, source=1, diagnostic=7, reason="called AE title not ours")
UNKNOWN_CALLER = Rejection(
    result=1, source=1, diagnostic=3, reason="calling AE title, address or certificate unknown"
)
WRONG_CONTEXT = Rejection(
    result=1, source=1, diagnostic=2, reason="application context name not that of DICOM"
)
WRONG_VERSION = Rejection(result=1, source=2, diagnostic=2, reason="protocol version not supported")
OUT_OF_SERVICE = Rejection(result=2, source=3, diagnostic=1, reason="nothing can be stored now")
TOO_MANY = Rejection(
    result=2, source=3, diagnostic=2, reason="[receiver] maximum_associations are open"
)
REJECTIONS = (
    WRONG_CALLED,
    UNKNOWN_CALLER,
    WRONG_CONTEXT,
    WRONG_VERSION,
    OUT_OF_SERVICE,
    TOO_MANY,
)


def peers_of(configured: Sequence[PeerConfig]) -> tuple[Peer, ...]:
    """Parse the addresses of [[receiver.peers]]. Raises ConfigError."""
    return tuple(_peer(peer) for peer in configured)


def rejection(caller: Caller, *, ae_title: str, peers: Sequence[Peer]) -> Rejection | None:
    """Return how to reject `caller`, None to admit."""
    if caller.called_ae_title.strip() != ae_title.strip():
        return WRONG_CALLED
    address = _address(caller.address)
    if not peers:
        return None if address.is_loopback else UNKNOWN_CALLER
    if any(_is(caller, address, peer) for peer in peers):
        return None
    return UNKNOWN_CALLER


def _is(caller: Caller, address: IPv4Address | IPv6Address, peer: Peer) -> bool:
    return (
        caller.calling_ae_title.strip() == peer.ae_title
        and address in peer.network
        and (not peer.certificate_subject or caller.certificate_subject == peer.certificate_subject)
    )


def _peer(peer: PeerConfig) -> Peer:
    try:
        network = ip_network(peer.address, strict=False)
    except ValueError as error:
        raise ConfigError(
            f"[[receiver.peers]] address: {peer.address!r} is neither an IP address nor a network"
        ) from error
    return Peer(
        ae_title=peer.ae_title.strip(),
        network=network,
        certificate_subject=peer.certificate_subject,
    )


def _address(text: str) -> IPv4Address | IPv6Address:
    address = ip_address(text)
    # A dual-stack socket shows IPv4 callers as ::ffff:a.b.c.d.
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address
