"""Metrics for Prometheus: the figures of `operations.health`, named by Prometheus' conventions.

Judges and counts nothing itself, and holds no patient data: labels are codes of our own, configured
names, AE titles and modalities, the last two cleaned and bounded because they come from outside.
A database that is away gives `triage_up 0` and the cause, not an error. Format and naming:
prometheus.io/docs/instrumenting/exposition_formats and /docs/practices/naming.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from triage.config import Config
from triage.operations.causes import KINDS
from triage.operations.health import Health, gather
from triage.operations.senders import plain_ae_title
from triage.records import AlarmCode, ObjectState, Source

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MIB = 1 << 20
MOST_SENDERS = 100  # the silent, configured peers, then those that sent last
MOST_MODALITIES = 32
QUANTILES = {"p50_s": "0.5", "p95_s": "0.95", "max_s": "1"}


def exposition(config: Config, *, now: datetime | None = None) -> bytes:
    """Return what a scrape gets, from the database and the store. Never raises for a bad state."""
    registry = CollectorRegistry()
    registry.register(HealthCollector(lambda: gather(config, now=now), config=config))
    return generate_latest(registry)


class HealthCollector(Collector):
    """The families of one look at the daemon's health."""

    def __init__(self, look: Callable[[], Health], *, config: Config) -> None:
        self._look = look
        self._config = config

    def describe(self) -> Iterable[Metric]:
        """Name nothing ahead: registering must not look at the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every family; those without a figure are left out."""
        health = self._look()
        yield from _whole(health)
        yield from _causes(health)
        yield from _roles(health)
        yield from _work(health)
        yield from _received(health)
        yield from _senders(health, self._config)
        yield from _latencies(health)
        yield from _places(health)


def _gauge(name: str, says: str, value: float | None) -> Iterator[Metric]:
    if value is not None:
        yield GaugeMetricFamily(f"triage_{name}", says, value=value)


def _family(
    name: str, says: str, labels: tuple[str, ...], rows: Iterable[tuple[tuple[str, ...], float]]
) -> Iterator[Metric]:
    family = GaugeMetricFamily(f"triage_{name}", says, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    if family.samples:
        yield family


def _whole(health: Health) -> Iterator[Metric]:
    up = bool(health.database)
    yield from _gauge("up", "1 where the database could be read at this program's revision.", up)
    yield from _gauge(
        "health",
        "Exit code of `triage status`: 0 healthy, 1 degraded, 2 not doing its work, 3 cannot tell.",
        health.exit_code,
    )
    yield from _gauge(
        "demonstration_mode",
        "1 where the built-in model serves, which is not for clinical use.",
        health.demonstration,
    )
    labels = {
        "version": _version(),
        "revision": str(health.database.get("revision", "")),
        "dialect": str(health.database.get("dialect", "")),
    }
    yield from _family(
        "build_info", "Versions of program and database.", (*labels,), [((*labels.values(),), 1)]
    )


def _causes(health: Health) -> Iterator[Metric]:
    counts = dict.fromkeys(KINDS, 0)
    alarms: dict[str, int] = dict.fromkeys(AlarmCode, 0)
    for each in health.causes:
        counts[each.code] += 1
        if each.alarm in alarms:
            alarms[each.alarm] += 1
    yield from _family(
        "cause",
        "Causes that `triage status` names, by code; 0 where all is well.",
        ("code", "weight"),
        (((code, KINDS[code].weight.value), count) for code, count in counts.items()),
    )
    if health.database:
        yield from _family(
            "alarms_open",
            "Open alarms by their own code.",
            ("alarm",),
            (((str(code),), count) for code, count in alarms.items()),
        )


def _roles(health: Health) -> Iterator[Metric]:
    ages: dict[tuple[str, str], float] = {}
    turning: dict[tuple[str, str], int] = defaultdict(int)
    for row in health.roles:
        key = row["role"], row["host"]
        ages[key] = min(row["silent_s"], ages.get(key, row["silent_s"]))
        turning[key] += row["state"] == "running"
    yield from _family(
        "role_processes_running",
        "Processes of a role that make their turns.",
        ("role", "host"),
        turning.items(),
    )
    yield from _family(
        "role_last_turn_age_seconds",
        "Time since the last turn of a role, of its liveliest process.",
        ("role", "host"),
        ages.items(),
    )
    models = {
        (each["name"], each["version"], each["mode"]): each["served"] for each in health.models
    }
    yield from _family(
        "model_served",
        "1 where a model holds its known answer and serves.",
        ("name", "version", "mode"),
        models.items(),
    )


def _work(health: Health) -> Iterator[Metric]:
    yield from _family(
        "jobs",
        "Jobs by kind and state; dead ones are dead letters.",
        ("kind", "state"),
        _pairs(health.queue.get("by_kind", {})),
    )
    if health.queue:
        due_at = _time(health.queue.get("oldest_due_at"))
        yield from _gauge(
            "oldest_due_age_seconds",
            "How long the oldest waiting analysis has been due; 0 where none waits.",
            max(0.0, (health.at - due_at).total_seconds()) if due_at else 0.0,
        )
    studies = health.studies
    yield from _family(
        "studies",
        "Studies by state of their analysis.",
        ("analysis",),
        (((key,), count) for key, count in studies.get("by_analysis", {}).items()),
    )
    yield from _family(
        "studies_open",
        "Studies on the reading list by priority.",
        ("priority",),
        (((key,), count) for key, count in studies.get("by_priority", {}).items()),
    )
    yield from _gauge(
        "studies_flagged_unread",
        "Studies on the reading list with a flagged finding.",
        studies.get("flagged_unread"),
    )


def _received(health: Health) -> Iterator[Metric]:
    yield from _gauge(
        "quarantine_held",
        "Objects that were not taken in and are kept aside.",
        health.receive.get("quarantine_held"),
    )
    if not health.database:
        return
    objects = CounterMetricFamily(
        "triage_objects_received",
        "Objects received by what became of them; about half a minute late.",
        labels=("source", "state"),
    )
    held = CounterMetricFamily(
        "triage_received_bytes", "Size of the objects that were taken in.", labels=("source",)
    )
    rows = {(row["source"], row["state"]): row for row in health.totals}
    for source in Source:
        size_bytes = 0
        for state in ObjectState:
            row = rows.get((source, state), {"objects": 0, "size_bytes": 0})
            objects.add_metric((source, state), row["objects"])
            size_bytes += row["size_bytes"]
        held.add_metric((source,), size_bytes)
    yield objects
    yield held
    last_image_at = _time(health.receive.get("last_image_at"))
    if last_image_at is not None:
        yield from _gauge(
            "last_image_timestamp_seconds",
            "When the last image came, of any sender.",
            last_image_at.timestamp(),
        )


def _senders(health: Health, config: Config) -> Iterator[Metric]:
    shown: dict[str, Mapping[str, Any]] = {}
    for row in _foremost(health.senders, config):
        shown.setdefault(plain_ae_title(row["ae_title"]), row)
    ages = {
        sender: max(0.0, (health.at - last_image_at).total_seconds())
        for sender, row in shown.items()
        if (last_image_at := _time(row["last_image_at"]))
    }
    labels = ("sender",)
    yield from _family(
        "sender_last_image_age_seconds",
        "Time since a sender's last image.",
        labels,
        (((sender,), age_s) for sender, age_s in ages.items()),
    )
    yield from _family(
        "sender_usual_interval_seconds",
        "What a sender usually sends within in its busy hours; absent while it is learnt.",
        labels,
        (
            ((sender,), row["usual_interval_s"])
            for sender, row in shown.items()
            if row["usual_interval_s"] is not None
        ),
    )
    yield from _family(
        "sender_silent",
        "1 where a sender is silent against its habit.",
        labels,
        (((sender,), row["silent"]) for sender, row in shown.items()),
    )


def _foremost(senders: Iterable[Mapping[str, Any]], config: Config) -> list[Mapping[str, Any]]:
    """Return at most MOST_SENDERS: silent ones first, then configured ones, then the newest."""
    peers = {peer.ae_title for peer in config.receiver.peers}
    ranked = sorted(senders, key=lambda row: str(row["last_image_at"]), reverse=True)
    ranked.sort(key=lambda row: (not row["silent"], row["ae_title"] not in peers))
    return ranked[:MOST_SENDERS]


def _latencies(health: Health) -> Iterator[Metric]:
    says = {
        "arrival_to_flag": "Last image of a generation to its flag, over 24 hours.",
        "first_image_to_flag": "First image of a study to its first flag, over 24 hours.",
    }
    for name, text in says.items():
        figures = health.latency.get(name, {})
        most = sorted(figures, key=lambda modality: -figures[modality]["count"])[:MOST_MODALITIES]
        yield from _family(
            f"{name}_seconds",
            text,
            ("modality", "quantile"),
            (
                ((plain_ae_title(modality), quantile), figures[modality][key])
                for modality in most
                for key, quantile in QUANTILES.items()
            ),
        )
    read = health.latency.get("arrival_to_read", {})
    yield from _family(
        "arrival_to_read_seconds",
        "First image of a study to its acknowledgement, of studies that came within 24 hours.",
        ("flag", "quantile"),
        (
            ((flag, quantile), figures[key])
            for flag, figures in read.items()
            for key, quantile in QUANTILES.items()
        ),
    )


def _places(health: Health) -> Iterator[Metric]:
    free_mib = health.storage["free_mib"]
    if free_mib is not None:
        yield from _gauge(
            "store_free_bytes", "Free space on the store's file system.", free_mib * MIB
        )
    yield from _gauge(
        "store_minimum_free_bytes",
        "Free space below which nothing is accepted.",
        health.storage["minimum_free_mib"] * MIB,
    )
    yield from _gauge(
        "database_size_bytes", "Size of the database.", health.database.get("size_bytes")
    )


def _pairs(
    nested: Mapping[str, Mapping[str, float]],
) -> Iterator[tuple[tuple[str, ...], float]]:
    for outer, below in nested.items():
        for inner, value in below.items():
            yield (outer, inner), value


def _time(value: Any) -> datetime | None:
    if value is None or isinstance(value, datetime):
        return value
    return datetime.fromisoformat(str(value))


def _version() -> str:
    try:
        return version("triage")
    except PackageNotFoundError:
        return "checkout"
