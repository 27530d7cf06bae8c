"""What `[database] url` names: a SQLite file or a PostgreSQL server. No driver is imported.

Messages never repeat the URL: it may hold a password.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from triage.errors import ConfigError

MOUNTS = Path("/proc/self/mounts")
# File systems whose locks and shared memory SQLite's WAL cannot rest on (sqlite.org/wal.html).
NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "ceph", "afs", "glusterfs", "fuse.sshfs", "lustre")


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteTarget:
    """A database in one file of this host."""

    path: Path

    @property
    def lock_path(self) -> Path:
        """The lock file that every writer of every process takes (DESIGN section 3.4)."""
        return self.path.with_name(self.path.name + ".lock")

    def uri(self, mode: str) -> str:
        """Return the `file:` URI for sqlite3; `mode` is ro, rw or rwc."""
        return f"{self.path.absolute().as_uri()}?mode={mode}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresTarget:
    """A database of a server. `host` is a directory for a Unix socket."""

    user: str
    password: str | None
    host: str
    port: int
    database: str
    sslmode: str = ""
    sslrootcert: str = ""

    def arguments(self, *, application_name: str, timeout_s: float) -> dict[str, Any]:
        """Return the keyword arguments of pg8000's `connect`."""
        arguments: dict[str, Any] = {
            "user": self.user,
            "password": self.password,
            "database": self.database,
            "application_name": application_name,
            "timeout": timeout_s,
        }
        if self.host.startswith("/"):
            arguments["unix_sock"] = f"{self.host}/.s.PGSQL.{self.port}"
            arguments["ssl_context"] = False
        else:
            arguments |= {"host": self.host, "port": self.port, "ssl_context": self._tls()}
        return arguments

    def _tls(self) -> Any:
        """Return pg8000's `ssl_context`: None offers TLS, True insists, a context verifies."""
        if self.sslmode in ("", "prefer", "allow"):
            return None
        if self.sslmode == "disable":
            return False
        if self.sslmode == "require":
            return True
        context = ssl.create_default_context(cafile=self.sslrootcert or None)
        context.check_hostname = self.sslmode == "verify-full"
        return context


def parse_url(url: str) -> SqliteTarget | PostgresTarget:
    """Read `sqlite:///relative`, `sqlite:////absolute` or `postgresql://…`; raises ConfigError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError("[database] url is no URL") from error
    scheme = parts.scheme.partition("+")[0]
    if scheme == "sqlite":
        return _sqlite(parts)
    if scheme in ("postgresql", "postgres"):
        return _postgres(parts, port)
    raise ConfigError("[database] url must begin with sqlite:// or postgresql://")


def _sqlite(parts: SplitResult) -> SqliteTarget:
    path = unquote(parts.path)
    if parts.netloc or len(path) < 2 or path == "/:memory:":
        raise ConfigError("[database] url: SQLite needs a file, as in sqlite:////var/lib/triage/db")
    target = SqliteTarget(path=Path(path[1:]))
    kind = file_system_of(target.path)
    if kind.startswith(NETWORK_FILE_SYSTEMS):
        raise ConfigError(
            f"[database] url: SQLite cannot be kept safely on a network file system ({kind})",
            hint="Put the file on a local disk, or use PostgreSQL.",
        )
    return target


def _postgres(parts: SplitResult, port: int | None) -> PostgresTarget:
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    known = {"host", "port", "user", "password", "sslmode", "sslrootcert"}
    if query.keys() - known:
        raise ConfigError(f"[database] url knows only these parameters: {', '.join(sorted(known))}")
    sslmode = query.get("sslmode", "")
    if sslmode not in ("", "disable", "allow", "prefer", "require", "verify-ca", "verify-full"):
        raise ConfigError("[database] url: sslmode is none of PostgreSQL's")
    user = unquote(parts.username or "") or query.get("user", "")
    database = unquote(parts.path.lstrip("/"))
    if not user or not database:
        raise ConfigError("[database] url needs a user and a database name")
    return PostgresTarget(
        user=user,
        password=unquote(parts.password or "") or query.get("password"),
        host=query.get("host") or parts.hostname or "localhost",
        port=int(query.get("port", port or 5432)),
        database=database,
        sslmode=sslmode,
        sslrootcert=query.get("sslrootcert", ""),
    )


def file_system_of(path: Path) -> str:
    """Return the type of the file system that holds `path` ("" where the system does not say)."""
    try:
        mounts = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    resolved = path.absolute().parent.resolve()
    best, kind = Path(), ""
    for line in mounts:
        _, point, file_system, *_ = line.split(" ")
        mount = Path(point.replace("\\040", " "))
        # Later lines lie over earlier ones at the same point.
        if resolved.is_relative_to(mount) and len(mount.parts) >= len(best.parts):
            best, kind = mount, file_system
    return kind
