"""Audit messages to the collector: syslog over TLS (RFC 5425, RFC 5424; PS3.15 A.6).

Syslog has no answer, so a delivery ends with a closed connection: the collector reads to the end
before it closes its side, and only then are the segments deleted (RFC 5425 section 4.4). A
connection that breaks, or a collector that does not close, delivers nothing: everything is sent
again, so a message may come twice and is never lost.
"""

import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

from triage.config import AuditConfig
from triage.errors import ConfigError
from triage.operations.audit_spool import AuditUnavailable, Segment, Spool

PRIORITY: Final = 10 * 8 + 5  # facility security/authorization (10), severity notice
MESSAGE_ID: Final = "DICOM+RFC3881"
LONGEST_OCTETS: Final = 32768
UTF8_MARK: Final = b"\xef\xbb\xbf"  # RFC 5424 section 6.4
PATIENCE_S: Final = 10.0  # for each of connect, handshake, a write and the close
SEGMENTS_A_CONNECTION: Final = 16
RECEIVE_BYTES: Final = 16384
_DATE_TIME = re.compile(r' EventDateTime="([^"]+)"')


def collector_context(config: AuditConfig) -> ssl.SSLContext:
    """Return the client side of TLS 1.2 or 1.3. Raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks chain and host name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(config.ca)
        if config.certificate:
            context.load_cert_chain(config.certificate, config.key)
    except OSError as error:
        raise ConfigError(
            f"[audit] ca {config.ca}, certificate {config.certificate} or key {config.key}"
            f" cannot be used ({error.strerror or error})"
        ) from error
    return context


def deliver(spool: Spool, config: AuditConfig, *, host: str, patience_s: float = PATIENCE_S) -> int:
    """Send what waits, SEGMENTS_A_CONNECTION at a time; return how many messages were delivered.

    Raises AuditUnavailable or StoreError; what was not confirmed stays in the spool.
    """
    context = collector_context(config)
    delivered = 0
    while waiting := spool.segments()[:SEGMENTS_A_CONNECTION]:
        delivered += _send(waiting, config, context, host=host, patience_s=patience_s)
        for segment in waiting:
            spool.remove(segment)
    return delivered


def reach(config: AuditConfig) -> None:
    """Open a connection as for a delivery and close it. Raises ConfigError, AuditUnavailable."""
    _send([], config, collector_context(config), host="", patience_s=PATIENCE_S)


def _send(
    segments: Sequence[Segment],
    config: AuditConfig,
    context: ssl.SSLContext,
    *,
    host: str,
    patience_s: float,
) -> int:
    collector = f"{config.host} port {config.port}"
    try:
        with socket.create_connection((config.host, config.port), timeout=patience_s) as plain:
            return _converse(plain, context, config.host, _frames(segments, host))
    except TimeoutError as error:
        raise AuditUnavailable(
            f"the audit collector {collector} does not answer or does not confirm by closing"
        ) from error
    except ssl.SSLCertVerificationError as error:
        raise AuditUnavailable(
            f"the certificate of the audit collector {collector} is not trusted"
            f" ({error.verify_message})",
            hint="Set [audit] ca to the authority of the collector and host to its name.",
        ) from error
    except ssl.SSLError as error:
        raise AuditUnavailable(
            f"the audit collector {collector} ends TLS ({error.reason})",
            hint="Set [audit] certificate and key if it asks for them; its log says what it wants.",
        ) from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise AuditUnavailable(f"no way to the audit collector {collector} ({reason})") from error


def _converse(
    plain: socket.socket, context: ssl.SSLContext, name: str, frames: Iterator[bytes]
) -> int:
    """Send everything and wait for the collector to close; return how many frames it has read.

    TLS over buffers and not over the socket: the socket's own closing takes an alert, as that of a
    refused certificate, for a close.
    """
    received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(received, to_send, server_hostname=name)
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            plain.sendall(to_send.read())
            if not (piece := plain.recv(RECEIVE_BYTES)):
                raise ConnectionResetError(0, "closed within the handshake") from None
            received.write(piece)
    sent = 0
    for each in frames:
        tls.write(each)
        plain.sendall(to_send.read())
        sent += 1
    if _closes(tls):
        raise ConnectionResetError(0, "closed before the end")
    with suppress(ssl.SSLWantReadError):
        tls.unwrap()  # writes our close; what the collector says to it is read below
    plain.sendall(to_send.read())
    while piece := plain.recv(RECEIVE_BYTES):
        received.write(piece)
        if _closes(tls):
            break
    return sent


def _closes(tls: ssl.SSLObject) -> bool:
    """Read what is there and pass over it; whether the peer has closed. Raises SSLError."""
    try:
        while tls.read(RECEIVE_BYTES):
            pass
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLZeroReturnError:
        return True
    return True


def _frames(segments: Sequence[Segment], host: str) -> Iterator[bytes]:
    for segment in segments:
        for message in segment.messages():
            yield frame(message, host=host)


def frame(message: str, *, host: str) -> bytes:
    """Return one message as it goes over the line: its length, a space, the syslog message."""
    found = _DATE_TIME.search(message)
    at = found[1] if found else "-"
    header = f"<{PRIORITY}>1 {at} {_token(host)} triage - {MESSAGE_ID} - ".encode("ascii")
    whole = header + UTF8_MARK + message.encode("utf-8")
    return b"%d %b" % (len(whole), whole)


def _token(text: str) -> str:
    """Return a header field: printable ASCII without spaces, `-` for nothing (RFC 5424 6.2)."""
    return re.sub(r"[^!-~]", "?", text)[:255] or "-"
