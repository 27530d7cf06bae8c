"""From facts to causes: what is wrong with store, roles, models, queue and objects.

Pure: figures and rows come in, the entries of `causes` that apply come out. `health` gathers the
facts and weighs the whole.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from triage.config import Config
from triage.operations import senders as senders_room
from triage.operations.causes import Cause, cause

MIB = 1 << 20
LATE_AFTER_S = 300.0  # waiting time of a due analysis that is worth a person's look
SPACE_WARNING = 1.5  # times the margin
MEND = "Mend the cause; the role takes things in again by itself, and senders try again."
MEND_AND_RESTART = "Mend the cause, then restart the daemon; senders try again by themselves."


def causes_of(
    facts: Mapping[str, Any],
    *,
    config: Config,
    free_mib: int | None,
    roles: Sequence[Mapping[str, Any]],
    models: Sequence[Mapping[str, Any]],
    now: datetime,
) -> Iterable[Cause]:
    """Return every cause but those of the senders; `free_mib` is None for an absent store."""
    store = list(store_causes(config, free_mib))
    yield from store
    full = any(each.code == "store_full" for each in store)
    yield from _role_causes(config, roles, full=full)
    yield from _worker_causes(roles)
    yield from _model_causes(config, roles, models)
    yield from _queue_causes(facts, now)
    yield from _object_causes(facts)


def store_causes(config: Config, free_mib: int | None) -> Iterable[Cause]:
    least_mib = config.store.minimum_free_mib
    if free_mib is None:
        yield cause("store_unreachable")
    elif free_mib < least_mib:
        yield cause("store_full", free_mib=free_mib, minimum_free_mib=least_mib)
    elif free_mib < SPACE_WARNING * least_mib:
        yield cause("store_space_low", free_mib=free_mib, minimum_free_mib=least_mib)


def _role_causes(
    config: Config, roles: Sequence[Mapping[str, Any]], *, full: bool
) -> Iterable[Cause]:
    """A role may have several processes; it is down only when none of them turns.

    Of a full store, which `store_full` tells, no role is said to be at fault as well.
    """
    for name in expected_roles(config):
        rows = [row for row in roles if row["role"] == name]
        turning = [row for row in rows if row["state"] in ("running", "failed")]
        if turning:
            for reason, lasts in sorted(_faults(turning)):
                if lasts or not full:
                    step = MEND_AND_RESTART if lasts else MEND
                    yield cause("role_fault", role=name, reason=reason, step=step)
        elif any(row["state"] == "starting" for row in rows):
            yield cause("role_starting", role=name)
        elif rows:
            silent = senders_room.in_words(min(row["silent_s"] for row in rows))
            yield cause("role_stuck", role=name, silent=silent)
        else:
            yield cause("role_not_running", role=name)
    if config.metrics.enabled:
        served = [row["detail"].get("metrics", {}) for row in roles if row["role"] == "schedule"]
        for fault in {each.get("fault") for each in served} - {None, ""}:
            host, port = config.metrics.host, config.metrics.port
            yield cause("metrics_unavailable", host=host, port=port, reason=fault)


def _faults(rows: Iterable[Mapping[str, Any]]) -> set[tuple[str, bool]]:
    """Return what keeps these processes from taking anything in, and whether it lasts."""
    details = [row["detail"] for row in rows if row["detail"].get("fault")]
    return {(each["fault"], bool(each.get("fault_lasts", True))) for each in details}


def _worker_causes(roles: Sequence[Mapping[str, Any]]) -> Iterable[Cause]:
    """Count the workers of each host against the slots that they tell: one for each device.

    A host without any is `role_not_running`, one whose workers tell no slots cannot be judged.
    """
    workers = [row for row in roles if row["role"] == "analyse" and row["state"] != "stuck"]
    for host in sorted({row["host"] for row in workers}):
        here = [row for row in workers if row["host"] == host]
        slots = max(row["detail"].get("slots", 0) for row in here)
        if len(here) < slots:
            yield cause("worker_missing", host=host, slots=slots, missing=slots - len(here))


def expected_roles(config: Config) -> list[str]:
    """Return the roles that this configuration asks for."""
    expected = ["receive"] if config.receiver.enabled else []
    if config.folders.watch:
        expected.append("watch")
    return [*expected, "schedule", "analyse"]


def _model_causes(
    config: Config, roles: Sequence[Mapping[str, Any]], models: Sequence[Mapping[str, Any]]
) -> Iterable[Cause]:
    if not config.models and not config.demonstration:
        yield cause("no_model")
        return
    serving = [model for model in models if model["mode"] == "serve"]
    demoted = [model for model in models if model["mode"] != "serve" and model.get("reason")]
    for model in models:
        if not model["served"]:
            yield cause(
                "model_not_served",
                model=model["name"],
                reason=model["reason"],
                hint=model["hint"],
            )
        elif model in demoted:
            elsewhere = any(each["digest"] == model["digest"] for each in serving)
            yield cause(
                "model_not_calibrated",
                model=model["name"],
                where=" on some of its devices" if elsewhere else "",
                reason=model["reason"],
                hint=model["hint"],
            )
    meant = [*serving, *(model for model in demoted if model["served"])]
    if meant and not any(model["served"] for model in serving):
        yield cause("no_model_served")


def _queue_causes(facts: Mapping[str, Any], now: datetime) -> Iterable[Cause]:
    due_at = moment_of(facts["queue"].get("oldest_due_at"))
    if due_at is not None and (waiting_s := (now - due_at).total_seconds()) > LATE_AFTER_S:
        yield cause("queue_late", waiting=senders_room.in_words(waiting_s))
    if dead := facts["queue"].get("dead", 0):
        yield cause("dead_letters", count=dead)


def _object_causes(facts: Mapping[str, Any]) -> Iterable[Cause]:
    if held := facts["receive"].get("quarantine_held", 0):
        yield cause("quarantine", count=held)
    for alarm in facts["alarms"]:
        yield cause(
            "alarm",
            alarm=alarm["code"],
            message=alarm["message"],
            next_step=alarm["next_step"],
        )
    kept = facts["studies"].get("expired_unread") or {}
    if kept.get("count"):
        size_mib = kept.get("size_bytes", 0) // MIB
        yield cause("expired_unread", count=kept["count"], size_mib=size_mib)


def moment_of(value: Any) -> datetime | None:
    """Return a time that SQLite keeps as text and PostgreSQL as a time."""
    if value is None or isinstance(value, datetime):
        return value
    return datetime.fromisoformat(str(value))
