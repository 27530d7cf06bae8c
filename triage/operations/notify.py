"""Tell systemd that the service is ready, alive, busy or stopping (sd_notify(3)).

One datagram to the socket that $NOTIFY_SOCKET names. A child of the daemon tells its supervisor
the same, by a pipe that nobody else can write to. Without either every call does nothing.
"""

import os
import socket
from collections.abc import Mapping

# What makes a process speak for the unit; a child that kept them would speak for its parent.
PIPE = "SUPERVISOR_PIPE"  # its number among the descriptors of the child
VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", PIPE)


def notify(state: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send `state` (READY=1, WATCHDOG=1, STOPPING=1); True if it was taken."""
    pipe, address = environ.get(PIPE, ""), environ.get("NOTIFY_SOCKET", "")
    try:
        if pipe:
            os.write(int(pipe), f"{state}\n".encode())
        elif address:
            _send(state, address)
        else:
            return False
    except OSError:
        # The manager went away or restarts, and asks again through its own watchdog; or no
        # descriptor is left, which must not end a daemon that gets some back.
        return False
    return True


def _send(state: str, address: str) -> None:
    if address.startswith("@"):  # abstract namespace, unix(7)
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as door:
        door.sendto(state.encode(), address)


def extend_timeout(for_s: float) -> str:
    """Return the state that asks for `for_s` more to start or to stop, counted from now.

    systemd then waits so long for the next such message even where TimeoutStartSec= or
    TimeoutStopSec= has passed; a process that falls silent is ended.
    """
    return f"EXTEND_TIMEOUT_USEC={round(for_s * 1e6)}"


def watchdog_interval_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """Return how often to ping: half of WATCHDOG_USEC, or None where no watchdog is set."""
    text = environ.get("WATCHDOG_USEC", "")
    pid = environ.get("WATCHDOG_PID", "")
    if not text.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(text) / 2e6
