"""DICOM over TLS: the server's context, and who a client certificate says it is.

Profile: BCP 195 (PS3.15 B.12), TLS 1.2 and 1.3, a client certificate signed by the configured
authority is demanded. There is no way down to clear text on this port.
"""

import socket
import ssl

from triage.errors import ConfigError


def server_context(*, certificate: str, key: str, client_ca: str) -> ssl.SSLContext:
    """Build the context from three PEM files. Raises ConfigError naming the unusable one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        raise ConfigError(
            f"[receiver] certificate {certificate} and key {key} cannot be used"
            f" ({error.strerror or error})"
        ) from error
    try:
        context.load_verify_locations(client_ca)
    except OSError as error:
        raise ConfigError(
            f"[receiver] client_ca {client_ca} cannot be used ({error.strerror or error})"
        ) from error
    return context


def peer_common_name(connection: socket.socket | None) -> str:
    """Return the common name of the peer's certificate; empty without TLS or without a name."""
    if not isinstance(connection, ssl.SSLSocket):
        return ""
    certificate = connection.getpeercert() or {}
    for relative_name in certificate.get("subject", ()):
        for attribute in relative_name:
            if isinstance(attribute, tuple) and attribute[0] == "commonName":
                return str(attribute[1])
    return ""
