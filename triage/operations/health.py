"""One source for the state of the daemon: status, exit code, watchdog and metrics ask here.

Reads the database by plain DBAPI and the store by statvfs, so it works with the daemon up or down
and without the ORM layer or torch. `assess` is pure: facts and time in, judgement out.
"""

import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from triage.config import Config
from triage.database import reading
from triage.database.revision import HEAD
from triage.errors import RevisionError, TriageError
from triage.operations import senders as senders_room
from triage.operations.causes import Cause, Weight, cause
from triage.operations.judging import MIB, causes_of, moment_of, store_causes

SCHEMA_VERSION = 1
EXIT_CODES = {"ok": 0, "degraded": 1, "failed": 2}
EXIT_CANNOT_TELL = 3
STUCK_AFTER_S = 60.0  # a role without a turn for longer is stuck, unless its turns may take longer
LISTED = 10  # newest dead letters and quarantined objects that are named one by one
RELEASE = "Mend the cause, then `triage quarantine release {number}`, or `discard` it."


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The status of DESIGN section 6. `known` is False where the database gave no answer."""

    health: str  # ok | degraded | failed
    causes: tuple[Cause, ...]
    roles: list[dict[str, Any]]  # role, host, pid, state, started_at, last_turn_at, detail
    queue: dict[str, Any]
    studies: dict[str, Any]
    latency: dict[str, Any]
    receive: dict[str, Any]
    senders: list[dict[str, Any]]
    storage: dict[str, Any]
    database: dict[str, Any]
    models: list[dict[str, Any]]
    totals: list[dict[str, Any]]  # objects and bytes received so far: source, state; for counters
    demonstration: bool
    at: datetime  # when it was looked, by the clock that the roles write with
    known: bool = True

    @property
    def exit_code(self) -> int:
        """0 healthy, 1 degraded, 2 not doing its work, 3 cannot tell."""
        return EXIT_CODES[self.health] if self.known else EXIT_CANNOT_TELL

    def document(self) -> dict[str, Any]:
        """Return the status JSON (plain types only, times as ISO 8601 UTC text)."""
        document = {
            "schema_version": SCHEMA_VERSION,
            "health": self.health,
            "causes": [each.document() for each in self.causes],
            "roles": self.roles,
            "queue": self.queue,
            "studies": self.studies,
            "latency": self.latency,
            "receive": self.receive,
            "senders": self.senders,
            "storage": self.storage,
            "database": self.database,
            "models": self.models,
        }
        return {key: _plain(value) for key, value in document.items()}


def gather(config: Config, *, now: datetime | None = None) -> Health:
    """Look at database and store. Never raises for a daemon that is down or a disk that is away.

    The roles' times are the database's: a host whose own clock is wrong must not call them stuck.
    """
    free_mib = _free_mib(config.store.path)
    try:
        reader = reading.open_reader(config.database.url)
        try:
            found = reading.revision(reader)
            now = now or _now(reader)
            facts = _facts(reader, config, now) if found == HEAD else {}
        finally:
            reader.close()
    except RevisionError:  # no SQLite file yet, or no tables
        odd = cause("database_revision", found="none", needed=HEAD)
        return _unknown(odd, config, free_mib, now, known=True)
    except TriageError as error:
        return _unknown(cause("database_unreachable", reason=str(error)), config, free_mib, now)
    if found != HEAD:
        odd = cause("database_revision", found=found or "none", needed=HEAD)
        return _unknown(odd, config, free_mib, now, known=True)
    return assess(facts, config=config, free_mib=free_mib, now=now)


def _now(reader: reading.Reader) -> datetime:
    """Return the time that all hosts share: the server's, or this host's for SQLite."""
    if reader.dialect == "sqlite":
        return datetime.now(UTC)
    with reader.snapshot():
        moment: datetime = reader.value("SELECT clock_timestamp()")
    return moment.astimezone(UTC)


def _facts(reader: reading.Reader, config: Config, now: datetime) -> dict[str, Any]:
    days = config.store.retention_days
    facts = reading.status_facts(
        reader, now=now, expired_before=now - timedelta(days=days) if days else None
    )
    receive = dict(facts["receive"])
    return {
        **facts,
        "roles": [row for row in facts["roles"] if not _gone(row)],
        "queue": {**facts["queue"], "dead_letters": _dead_letters(reader)},
        "totals": receive.pop("totals"),
        "receive": {**receive, "quarantine": _quarantine(reader)},
    }


def _dead_letters(reader: reading.Reader) -> list[dict[str, Any]]:
    """Return the newest jobs that failed for good, without what identifies a patient."""
    keys = ("id", "kind", "study_instance_uid", "attempts", "finished_at", "reason", "next_step")
    letters = reading.dead_letters(reader, newest=LISTED)
    return [{key: letter[key] for key in keys} for letter in letters]


def _quarantine(reader: reading.Reader) -> list[dict[str, Any]]:
    """Return the newest objects kept aside; no file name, which may be a patient's."""
    keys = ("id", "received_at", "source", "sender_ae_title", "reason_code", "reason")
    return [
        {key: entry[key] for key in keys} | {"next_step": RELEASE.format(number=entry["id"])}
        for entry in reading.quarantine_list(reader, newest=LISTED)
    ]


def assess(
    facts: Mapping[str, Any], *, config: Config, free_mib: int | None, now: datetime
) -> Health:
    """Judge what was read. `free_mib` is None where the store cannot be read."""
    roles = current_roles(facts["roles"], now)
    models = _models(roles)
    senders = senders_room.judged(facts["senders"], roles=roles, config=config, now=now)
    causes = [
        *causes_of(facts, config=config, free_mib=free_mib, roles=roles, models=models, now=now),
        *senders_room.causes(senders, config),
    ]
    if config.demonstration:
        causes.append(cause("demonstration"))
    return Health(
        health=_worst(causes),
        causes=tuple(sorted(causes, key=lambda each: -_WEIGHTS.index(each.weight))),
        roles=roles,
        queue=dict(facts["queue"]),
        studies=dict(facts["studies"]),
        latency=dict(facts["latency"]),
        receive=dict(facts["receive"]),
        senders=senders,
        storage=_storage(config, free_mib),
        database={"revision": HEAD, **facts.get("database", {})},
        models=models,
        totals=list(facts.get("totals", [])),
        demonstration=config.demonstration,
        at=now,
    )


# --- causes

_WEIGHTS = (Weight.NOTICE, Weight.DEGRADED, Weight.FAILED)


def _worst(causes: Iterable[Cause]) -> str:
    weights = {each.weight for each in causes}
    if Weight.FAILED in weights:
        return "failed"
    return "degraded" if Weight.DEGRADED in weights else "ok"


# --- sections


def current_roles(rows: Iterable[Mapping[str, Any]], now: datetime) -> list[dict[str, Any]]:
    """Return the rows as shown: with their silence, and without those that were replaced."""
    seen = [_role(row, now) for row in rows]
    alive = {(row["role"], row["host"]) for row in seen if row["state"] != "stuck"}
    return [
        row for row in seen if row["state"] != "stuck" or (row["role"], row["host"]) not in alive
    ]


def is_stuck(silent_s: float, stuck_after_s: float = STUCK_AFTER_S) -> bool:
    """Whether a role without a turn for so long is stuck: the rule of status and watchdog alike."""
    return silent_s > stuck_after_s


def _gone(row: Mapping[str, Any]) -> bool:
    """Whether the role's process is known to have ended: only this host's can be asked about."""
    if row["host"] != socket.gethostname():
        return False
    try:
        os.kill(row["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # it runs as another user
    return False


def _role(row: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    detail = dict(row["detail"] or {})
    last_turn_at = moment_of(row["last_turn_at"]) or now
    silent_s = max(0.0, (now - last_turn_at).total_seconds())
    stuck = is_stuck(silent_s, float(detail.pop("stuck_after_s", STUCK_AFTER_S)))
    return {
        **row,
        "detail": detail,
        "state": "stuck" if stuck else row["state"],
        "silent_s": round(silent_s, 1),
    }


def _models(roles: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return each model once in each mode that it runs in; served where any worker serves it.

    A bundle may serve on one device and be a shadow on another: neither hides the other.
    """
    models: dict[tuple[str, str], dict[str, Any]] = {}
    for row in roles:
        for model in row["detail"].get("models", []) if row["role"] == "analyse" else []:
            key = (model["digest"], model["mode"])
            held = models.get(key)
            if held is None or (model["served"] and not held["served"]):
                models[key] = dict(model)
    return list(models.values())


def _storage(config: Config, free_mib: int | None) -> dict[str, Any]:
    return {
        "path": str(config.store.path),
        "free_mib": free_mib,
        "minimum_free_mib": config.store.minimum_free_mib,
        "retention_days": config.store.retention_days,
    }


def _free_mib(path: Path) -> int | None:
    try:
        state = os.statvfs(path)
    except OSError:
        return None
    return state.f_bavail * state.f_frsize // MIB


def _unknown(
    odd: Cause,
    config: Config,
    free_mib: int | None,
    now: datetime | None,
    *,
    known: bool = False,
) -> Health:
    causes = (odd, *store_causes(config, free_mib))
    return Health(
        health="failed",
        causes=causes,
        roles=[],
        queue={},
        studies={},
        latency={},
        receive={},
        senders=[],
        storage=_storage(config, free_mib),
        database={},
        models=[],
        totals=[],
        demonstration=config.demonstration,
        at=now or datetime.now(UTC),
        known=known,
    )


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
