"""`triage.toml` and the environment, read once into frozen typed sections.

Owns: where the file is looked for, types, ranges, refusal of what it does not know. Policies that
change a decision live with their rule in `triage.rules` and are only filled here. Does not open
what it names: `triage check` does. The contract is DESIGN section 6.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from triage.config_reading import build
from triage.errors import ConfigError
from triage.records import Mode, Rank
from triage.rules.completion import CompletionPolicy
from triage.rules.eligibility import EligibilityPolicy
from triage.rules.orders import OrdersPolicy
from triage.rules.policies import Policies
from triage.rules.priority import PriorityPolicy
from triage.rules.retry import RetryPolicy
from triage.rules.silence import SilencePolicy

SEARCH_PATH = (Path("triage.toml"), Path("/etc/triage/triage.toml"))
ENVIRONMENT_PREFIX = "TRIAGE_"
NOT_KEYS = {"TRIAGE_CONFIG", "TRIAGE_TEST_DATA"}  # read elsewhere, no keys of the file


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteConfig:
    name: str = ""
    timezone: str = "UTC"  # IANA name; used where an object carries no (0008,0201)

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ConfigError(f"[site] timezone: {self.timezone!r} is no IANA time zone") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConfig:
    """One sender that may store: its name and where it calls from."""

    ae_title: str
    address: str  # IP address or network in CIDR form
    default_priority: Rank | None = None  # order priority where nothing else states one
    certificate_subject: str = ""  # TLS: common name its client certificate must carry


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverConfig:
    enabled: bool = True
    ae_title: str = "TRIAGE"
    host: str = "127.0.0.1"
    port: int = 11112
    maximum_associations: int = 25
    maximum_object_mib: int = 2048
    tls_enabled: bool = False
    tls_port: int = 2762
    certificate: str = ""  # PEM files
    key: str = ""
    client_ca: str = ""
    peers: tuple[PeerConfig, ...] = ()  # none: loopback only

    def __post_init__(self) -> None:
        if not 1 <= len(self.ae_title.strip()) <= 16:
            raise ConfigError("[receiver] ae_title needs 1 to 16 characters (PS3.5 6.2, AE)")
        for name in ("port", "tls_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise ConfigError(f"[receiver] {name} must lie between 0 and 65535")
        if self.maximum_associations < 1 or self.maximum_object_mib < 1:
            raise ConfigError(
                "[receiver] maximum_associations and maximum_object_mib must be at least 1"
            )
        if self.tls_enabled and not (self.certificate and self.key and self.client_ca):
            raise ConfigError("[receiver] tls_enabled needs certificate, key and client_ca")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldersConfig:
    watch: tuple[Path, ...] = ()
    after: str = "keep"  # keep | move | delete, once the object is durable
    stable_s: float = 5.0  # size and mtime unchanged this long: the file is complete
    rescan_s: float = 300.0
    poll: bool = False  # true: no inotify (network mounts are polled in any case)

    def __post_init__(self) -> None:
        if self.after not in ("keep", "move", "delete"):
            raise ConfigError('[folders] after must be "keep", "move" or "delete"')
        if self.stable_s <= 0 or self.rescan_s <= 0:
            raise ConfigError("[folders] stable_s and rescan_s must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    path: Path = Path("/var/lib/triage/store")
    minimum_free_mib: int = 2048  # below it nothing is accepted
    retention_days: int = 0  # 0: pixels are never deleted

    def __post_init__(self) -> None:
        if self.minimum_free_mib < 0 or self.retention_days < 0:
            raise ConfigError("[store] minimum_free_mib and retention_days must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseConfig:
    url: str = field(default="sqlite:////var/lib/triage/triage.sqlite", repr=False)
    url_file: str = ""  # a file that holds the URL, for systemd LoadCredential


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    name: str
    bundle: Path
    devices: tuple[str, ...] = ("auto",)  # auto | cpu | cuda:N
    mode: Mode = Mode.SERVE
    serve_without_local_calibration: bool = False  # else such a bundle is a shadow only


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceConfig:
    batch_size: int = 8  # views per forward pass
    batch_wait_ms: int = 50  # how long the first view of a batch waits for company
    dtype: str = "auto"  # auto (bfloat16 on GPU, float32 on CPU) | bfloat16 | float32
    decode_processes: int = 2

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.batch_wait_ms < 0 or self.decode_processes < 1:
            raise ConfigError(
                "[inference] batch_size and decode_processes must be at least 1,"
                " batch_wait_ms at least 0"
            )
        if self.dtype not in ("auto", "bfloat16", "float32"):
            raise ConfigError('[inference] dtype must be "auto", "bfloat16" or "float32"')


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionConfig:
    enabled: bool = True
    when: str = "flagged"  # flagged | all | never
    max_new_tokens: int = 200

    def __post_init__(self) -> None:
        if self.when not in ("flagged", "all", "never"):
            raise ConfigError('[caption] when must be "flagged", "all" or "never"')
        if not 1 <= self.max_new_tokens <= 2048:
            raise ConfigError("[caption] max_new_tokens must lie between 1 and 2048")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    lease_s: float = 60.0
    heartbeat_s: float = 15.0
    deadline_s: float = 120.0  # longest decoding of one image or series
    known_answer_s: float = 45.0  # how often each model is asked for its known answer

    def __post_init__(self) -> None:
        if not 0 < self.heartbeat_s < self.lease_s or self.deadline_s <= 0:
            raise ConfigError("[worker] needs 0 < heartbeat_s < lease_s and deadline_s above 0")
        if not 0 < self.known_answer_s <= 600:
            raise ConfigError("[worker] known_answer_s must lie above 0 and at most be 600")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """Metrics for Prometheus, served by the role schedule and by no other."""

    enabled: bool = False  # no port is opened that nobody asked for
    host: str = "127.0.0.1"
    port: int = 9464

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError("[metrics] port must lie between 0 and 65535")


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftConfig:
    """The watch for studies that change under a served model, by the role schedule."""

    enabled: bool = True
    window: int = 200  # studies that are judged together; each is judged in two windows
    significance: float = 0.002  # of one comparison of one window

    def __post_init__(self) -> None:
        if not 200 <= self.window <= 10_000 or self.window % 2:
            raise ConfigError("[drift] window must be an even number from 200 to 10000")
        if not 0 < self.significance <= 0.05:
            raise ConfigError("[drift] significance must lie above 0 and at most be 0.05")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditConfig:
    """DICOM audit messages (PS3.15 A.5): spooled, and sent where a collector is named."""

    enabled: bool = False  # the spool holds patient data: not without somebody who takes it off
    spool: Path = Path("/var/lib/triage/audit")
    maximum_spool_mib: int = 256
    host: str = ""  # of the collector, as its certificate names it; empty = spooled only
    port: int = 6514  # syslog over TLS, RFC 5425
    ca: str = ""
    certificate: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        if self.maximum_spool_mib < 1:
            raise ConfigError("[audit] maximum_spool_mib must be at least 1")
        if not 0 < self.port <= 65535:
            raise ConfigError("[audit] port must lie between 1 and 65535")
        if self.enabled and self.host and not self.ca:
            raise ConfigError("[audit] host needs ca, the authority of the collector's certificate")
        if bool(self.certificate) != bool(self.key):
            raise ConfigError("[audit] certificate and key belong together")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggingConfig:
    level: str = "info"  # debug | info | warning | error
    format: str = "auto"  # auto (JSON when not on a terminal) | json | console

    def __post_init__(self) -> None:
        if self.level not in ("debug", "info", "warning", "error"):
            raise ConfigError('[logging] level must be "debug", "info", "warning" or "error"')
        if self.format not in ("auto", "json", "console"):
            raise ConfigError('[logging] format must be "auto", "json" or "console"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole of triage.toml. `source` is the file it came from, None for defaults alone."""

    demonstration: bool = False  # serve the pocket model; never for clinical use
    site: SiteConfig = SiteConfig()
    receiver: ReceiverConfig = ReceiverConfig()
    folders: FoldersConfig = FoldersConfig()
    store: StoreConfig = StoreConfig()
    database: DatabaseConfig = DatabaseConfig()
    completion: CompletionPolicy = CompletionPolicy()
    orders: OrdersPolicy = OrdersPolicy()
    eligibility: EligibilityPolicy = EligibilityPolicy()
    models: tuple[ModelConfig, ...] = ()
    inference: InferenceConfig = InferenceConfig()
    caption: CaptionConfig = CaptionConfig()
    priority: PriorityPolicy = PriorityPolicy()
    retry: RetryPolicy = RetryPolicy()
    worker: WorkerConfig = WorkerConfig()
    senders: SilencePolicy = SilencePolicy()
    metrics: MetricsConfig = MetricsConfig()
    drift: DriftConfig = DriftConfig()
    audit: AuditConfig = AuditConfig()
    logging: LoggingConfig = LoggingConfig()
    source: Path | None = field(default=None, metadata={"key": False})

    def __post_init__(self) -> None:
        names = [model.name for model in self.models]
        if len(set(names)) != len(names):
            raise ConfigError("[[models]] name: two models have the same name")

    @property
    def policies(self) -> Policies:
        """What decisions need, as the database and the worker are given it."""
        peer_priority = {
            peer.ae_title: peer.default_priority
            for peer in self.receiver.peers
            if peer.default_priority is not None
        }
        return Policies(
            completion=self.completion,
            orders=replace(self.orders, peer_priority=peer_priority),
            eligibility=self.eligibility,
            priority=self.priority,
            retry=self.retry,
            site_timezone=self.site.timezone,
        )


def load_config(path: Path | None, environ: Mapping[str, str] = os.environ) -> Config:
    """Read the file that `path`, $TRIAGE_CONFIG or the search path names, then the environment.

    Raises ConfigError with file, key and reason. Without any file the defaults stand.
    """
    source = _find(path, environ)
    data = _read(source) if source else {}
    where = str(source) if source else "environment"
    for name, text in sorted(environ.items()):
        if name.startswith(ENVIRONMENT_PREFIX) and name not in NOT_KEYS:
            _set(data, name, text)
            where = f"{source} and environment" if source else where
    data["database"] = _with_secret(where, "database", "url", data.get("database", {}))
    return replace(build(Config, data, where=where), source=source)


def _find(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    named = path or (Path(environ["TRIAGE_CONFIG"]) if environ.get("TRIAGE_CONFIG") else None)
    if named is not None:
        return named
    return next((place for place in SEARCH_PATH if place.is_file()), None)


def _read(source: Path) -> dict[str, object]:
    try:
        return tomllib.loads(source.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{source}: cannot be read ({error.strerror})",
            hint="Name a readable file with --config or $TRIAGE_CONFIG.",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: is no TOML ({error})") from error


def _set(data: dict[str, object], name: str, text: str) -> None:
    """TRIAGE_SECTION__KEY (top level TRIAGE_KEY); read as TOML where it is TOML, else text."""
    try:
        value: object = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
    table = data
    for section in sections:
        below = table.setdefault(section, {})
        if not isinstance(below, dict):
            raise ConfigError(f"environment: {name} names a key below {section}, which is no table")
        table = below
    table[key] = value


def _with_secret(where: str, section: str, key: str, table: object) -> object:
    """Replace a secret by the content of its `*_file` twin."""
    if not isinstance(table, dict) or not table.get(f"{key}_file"):
        return table
    if key in table:
        raise ConfigError(f"{where}: [{section}] {key} and {key}_file are both given; keep one")
    secret = Path(str(table[f"{key}_file"]))
    try:
        return {**table, key: secret.read_text("utf-8").strip()}
    except OSError as error:
        raise ConfigError(
            f"{where}: [{section}] {key}_file {secret} cannot be read ({error.strerror})"
        ) from error
