"""Tell systemd that the service is ready, alive or stopping (sd_notify(3)).

One datagram to the socket that $NOTIFY_SOCKET names; without it every call does nothing.
"""

import os
import socket
from collections.abc import Mapping


def notify(state: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send `state` (READY=1, WATCHDOG=1, STOPPING=1); True if systemd took it."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):  # abstract namespace, unix(7)
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as door:
        try:
            door.sendto(state.encode(), address)
        except OSError:
            # The manager went away or restarts; it asks again through its own watchdog.
            return False
    return True


def watchdog_interval_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """Return how often to ping: half of WATCHDOG_USEC, or None where no watchdog is set."""
    text = environ.get("WATCHDOG_USEC", "")
    pid = environ.get("WATCHDOG_PID", "")
    if not text.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(text) / 2e6
