"""What `triage check` tries, one function per thing that can be wrong with an installation.

Each really does what the daemon will do: writes and syncs, binds, opens, computes. Nothing is
left behind but, when asked for, a recorded known answer.
"""

import errno
import hashlib
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

from triage.cli.checked import Checked, tried
from triage.cli.checks_models import check_model, configured_models
from triage.cli.verbs import writing
from triage.config import Config, FoldersConfig

ECHO_TIMEOUT_S = 5.0
ECHO_TRIES = 3
CALLING_UNKNOWN = (1, 3)  # source and reason of A-ASSOCIATE-RJ: calling AE title not recognised
LIVING_S = 30.0  # heartbeats are written every few seconds
FIRST_FREE_PORT = 1024  # below it Linux asks for CAP_NET_BIND_SERVICE, which the unit may have
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104


def check_all(config: Config, *, record: bool) -> list[Checked]:
    """Try everything; a failure of one never keeps the others from being tried."""
    results = [
        Checked(name="configuration", passed=True, message=_configuration(config)),
        tried("database", lambda: _database(config)),
        tried("store", lambda: _store(config)),
        tried("space", lambda: _space(config)),
        tried("hosts", lambda: _hosts(config)),
        *(_folder(path, config.folders) for path in config.folders.watch),
        *_ports(config),
    ]
    if config.audit.enabled:
        results.append(tried("audit", lambda: _audit(config)))
    models = configured_models(config)
    if not models:
        message = "none is configured: studies are listed, nothing looks at them"
        step = "Name a bundle under [[models]], or set demonstration = true to try things out."
        results.append(Checked(name="models", passed=False, message=message, next_step=step))
    for model in models:
        results += check_model(model, config, record=record)
    return results


def _configuration(config: Config) -> str:
    return f"read from {config.source}" if config.source else "no file found: defaults"


def _database(config: Config) -> str:
    """Open for writing at the right revision, take the write lock, give it back."""
    from triage.database.revision import HEAD

    with writing(config) as database, database.write() as connection:
        database.now(connection)
        return f"{database.dialect} at revision {HEAD}, takes writes"


def _store(config: Config) -> str:
    """Write a file with sync, read it back, remove it."""
    from triage.errors import StoreError
    from triage.store import open_store

    store = open_store(config.store.path, minimum_free_mib=0)
    try:
        data = secrets.token_bytes(4096)
        staged = store.stage([data], digest=hashlib.sha256(data).hexdigest())
        try:
            if staged.temporary.read_bytes() != data:
                raise StoreError(f"{config.store.path} gives back other bytes than were written")
        finally:
            store.discard(staged)
    finally:
        store.close()
    return f"{config.store.path}: written, synced and read back"


def _audit(config: Config) -> str:
    """Look at the spool, and open and close a connection to the collector."""
    from triage.errors import StoreError
    from triage.operations.audit_delivery import reach

    spool = config.audit.spool
    if not os.access(spool if spool.exists() else spool.parent, os.W_OK | os.X_OK):
        raise StoreError(
            f"{spool} cannot be written by this user",
            hint="Give the daemon's user the right to write in [audit] spool.",
        )
    if not config.audit.host:
        return f"messages stay in {spool}; no collector is named"
    reach(config.audit)
    return f"{config.audit.host} port {config.audit.port} takes messages, TLS as configured"


def _space(config: Config) -> str:
    from triage.errors import OutOfSpace
    from triage.store import open_store

    store = open_store(config.store.path, minimum_free_mib=0)
    try:
        free_mib = store.free_mib()
    finally:
        store.close()
    margin_mib = config.store.minimum_free_mib
    if free_mib < margin_mib:
        raise OutOfSpace(f"{free_mib} MiB are free; below {margin_mib} MiB nothing is accepted")
    return f"{free_mib} MiB free, margin {margin_mib} MiB"


def _hosts(config: Config) -> str:
    """See that every living host of the database keeps its images where this one does."""
    from triage.operations.health import gather
    from triage.operations.shared_store import other_hosts, prove, prove_own

    roles = [row for row in gather(config).roles if row["silent_s"] <= LIVING_S]
    prove_own(config.store.path, roles, host=socket.gethostname())
    others = other_hosts(roles, host=socket.gethostname())
    if not others:
        return "no other host runs a role on this database: nothing to prove"
    prove(config.store.path, others)
    names = ", ".join(sorted(others))
    return f"one store, with locks that hold between this host and {names}"


def _folder(path: Path, folders: FoldersConfig) -> Checked:
    name = f"folder {path}"
    needed = os.R_OK | os.X_OK | (0 if folders.after == "keep" else os.W_OK)
    if not path.is_dir():
        return Checked(
            name=name,
            passed=False,
            message="is no directory",
            next_step="Create it, mount it, or take it out of [folders] watch.",
        )
    if not os.access(path, needed):
        right = "read" if folders.after == "keep" else f"read and changed (after = {folders.after})"
        return Checked(
            name=name,
            passed=False,
            message=f"may not be {right} by this user",
            next_step="Correct the rights of the directory for the user that runs the daemon.",
        )
    return Checked(name=name, passed=True, message=f"can be read, after = {folders.after}")


def _ports(config: Config) -> Iterator[Checked]:
    receiver = config.receiver
    if not receiver.enabled:
        return
    yield _port("receiver", receiver.host, receiver.port, receiver.ae_title)
    if receiver.tls_enabled:
        for key in ("certificate", "key", "client_ca"):
            path = Path(getattr(receiver, key))
            passed = path.is_file() and os.access(path, os.R_OK)
            yield Checked(
                name=f"receiver {key}",
                passed=passed,
                message=f"{path} {'can' if passed else 'cannot'} be read",
                next_step="" if passed else f"Correct [receiver] {key} or the rights of the file.",
            )
        yield _port("receiver TLS", receiver.host, receiver.tls_port, "")


def _port(name: str, host: str, port: int, ae_title: str) -> Checked:
    """Bind the port as the daemon will; where it is taken, see whether a daemon answers."""
    where = f"{host}:{port}"
    step = "Choose another [receiver] host or port, or stop the program that holds it."
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
        return Checked(name=name, passed=True, message=f"{where} is free")
    except OSError as error:
        reserved = error.errno == errno.EACCES and port < FIRST_FREE_PORT
        if reserved and not _listens(ANY_ADDRESS.get(host, host), port):
            message = f"{where} is free; this user may not open it, a unit with port-104.conf may"
            return Checked(name=name, passed=True, message=message)
        if not (reserved or error.errno == errno.EADDRINUSE) or not ae_title:
            message = f"{where} cannot be used ({error.strerror})"
            return Checked(name=name, passed=False, message=message, next_step=step)
    if _answers(ANY_ADDRESS.get(host, host), port, ae_title):
        message = f"{where} is in use and answers as {ae_title}"
        return Checked(name=name, passed=True, message=message)
    message = f"{where} is held by a program that does not answer as {ae_title}"
    return Checked(name=name, passed=False, message=message, next_step=step)


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=ECHO_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _answers(host: str, port: int, ae_title: str) -> bool:
    from pynetdicom import AE
    from pynetdicom.sop_class import Verification  # type: ignore[attr-defined, unused-ignore]

    if not _listens(host, port):
        return False
    entity = AE(ae_title="TRIAGE_CHECK")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = ECHO_TIMEOUT_S
    entity.connection_timeout = ECHO_TIMEOUT_S
    entity.add_requested_context(Verification)
    for _ in range(ECHO_TRIES):  # the library now and then loses the answer
        association = entity.associate(host, port, ae_title=ae_title)
        if association.is_rejected or association.is_established:
            break
    if association.is_rejected:
        # A daemon whose [[receiver.peers]] leave this host out says so; another AE title, or
        # another program, is refused for other reasons (PS3.8 9.3.4).
        answer = association.acceptor.primitive
        return answer is not None and (answer.result_source, answer.diagnostic) == CALLING_UNKNOWN
    if not association.is_established:
        return False
    status = association.send_c_echo()
    association.release()
    return "Status" in status and status.Status == 0
