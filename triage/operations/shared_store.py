"""The proof that several hosts see one store, with locks that hold between them (DESIGN 3.1).

Each host keeps a file of its own in the store: `hosts/<host>.token`, a random token that its roles
also tell the database with every heartbeat. A second host that finds the token of the first in its
own mount sees the same store; one that is refused the file's lock while the first lives sees
honest locks, on which the sweep of half-written files rests. Whether the server of a network file
system keeps what it has synced cannot be seen from a client, and is not claimed.
"""

import fcntl
import os
import secrets
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from triage.errors import StoreError

DETAIL = "store_token"  # the key in a heartbeat's detail
TOKEN_DIGITS = 32  # hexadecimal
HINT = "Mount one store at [store] path on every host, with locks that reach the server."


class HostToken:
    """This host's token, with a shared lock on its file for as long as the process lives."""

    def __init__(self, store: Path, *, host: str = "") -> None:
        """Find or make the token. Raises StoreError."""
        path = token_path(store, host or socket.gethostname())
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            _make_once(path)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            self.text = _read(self._descriptor)
        except OSError as error:
            raise StoreError(f"{path} cannot be used ({error.strerror})") from error

    def detail(self) -> dict[str, Any]:
        """Return what a heartbeat tells of it."""
        return {DETAIL: self.text}

    def close(self) -> None:
        os.close(self._descriptor)


def token_path(store: Path, host: str) -> Path:
    """Return where the token of `host` lies; its name may come from another machine."""
    name = "".join(c if c.isalnum() or c in "-." else "_" for c in host)
    return store / "hosts" / f"{name}.token"


def other_hosts(roles: Iterable[Mapping[str, Any]], *, host: str) -> dict[str, str]:
    """Return the token that each other host tells the database ("" = none); `roles` are living."""
    told: dict[str, str] = {}
    for row in roles:
        token = str((row["detail"] or {}).get(DETAIL, ""))
        if row["host"] != host:
            told[row["host"]] = token or told.get(row["host"], "")
    return told


def prove_own(store: Path, roles: Iterable[Mapping[str, Any]], *, host: str) -> None:
    """Raise StoreError if a living role that calls itself `host` writes to another store.

    It is another machine of the same name, which `other_hosts` cannot tell, or this one's daemon
    with another configuration.
    """
    told = {str((row["detail"] or {}).get(DETAIL, "")) for row in roles if row["host"] == host}
    try:
        held = token_path(store, host).read_text("ascii", "replace")
    except FileNotFoundError:
        held = ""
    except OSError as error:
        raise StoreError(
            f"{token_path(store, host)} cannot be read ({error.strerror})", hint=HINT
        ) from error
    if told - {"", held}:
        raise StoreError(
            f"a role on a machine named {host} writes to another store than this configuration",
            hint="Give each host a name of its own and one [store] path, then restart its daemon.",
        )


def prove(store: Path, others: Mapping[str, str]) -> None:
    """Raise StoreError unless the store of each living host in `others` is this one."""
    for host, token in sorted(others.items()):
        if not token:
            raise StoreError(
                f"host {host} tells no token of its store: it runs an older program",
                hint="Bring all hosts to one version.",
            )
        _prove_one(token_path(store, host), host, token)


def _prove_one(path: Path, host: str, token: str) -> None:
    other = StoreError(f"host {host} writes to another store than this host", hint=HINT)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise other from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror})", hint=HINT) from error
    try:
        if _read(descriptor) != token:
            raise other
        if not _is_locked(descriptor):
            raise StoreError(f"a lock that host {host} holds is not seen by this host", hint=HINT)
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _make_once(path: Path) -> None:
    """Write the token file if there is none; the roles of a host may start at once.

    A lock of its own orders them: one that waited for the token's own lock to become exclusive
    would wait for as long as another role lives.
    """
    order = os.open(path.with_suffix(".order"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(order, fcntl.LOCK_EX)
        if path.exists():
            return
        part = path.with_suffix(".part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, secrets.token_hex(TOKEN_DIGITS // 2).encode("ascii"))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        part.rename(path)
    finally:
        os.close(order)


def _read(descriptor: int) -> str:
    return os.pread(descriptor, TOKEN_DIGITS, 0).decode("ascii", "replace")
