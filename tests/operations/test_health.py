"""Status tells the truth in one word, and every cause names the next step."""

import copy
import json
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.assurance import requirement
from triage.config import Config, DatabaseConfig, FoldersConfig, ModelConfig, StoreConfig
from triage.operations.causes import KINDS
from triage.operations.health import EXIT_CANNOT_TELL, Health, assess, gather

NOW = datetime(2024, 1, 1, 12, 0, tzinfo=UTC)
CONFIG = Config(models=(ModelConfig(name="chest", bundle=Path("bundle")),))
SERVED = {
    "name": "chest",
    "version": "1",
    "digest": "d",
    "mode": "serve",
    "served": True,
    "reason": "",
    "hint": "",
    "not_for_clinical_use": False,
    "captions": True,
}


def role(name: str, *, silent_s: float = 1.0, **changes: Any) -> dict[str, Any]:
    return {
        "role": name,
        "host": "elsewhere",
        "pid": 1,
        "state": "running",
        "started_at": NOW - timedelta(hours=1),
        "last_turn_at": NOW - timedelta(seconds=silent_s),
        "detail": {"stuck_after_s": 60.0},
    } | changes


def analyse(**changes: Any) -> dict[str, Any]:
    return role("analyse", detail={"models": [SERVED | changes], "stuck_after_s": 60.0})


FACTS: dict[str, Any] = {
    "roles": [role("receive"), role("schedule"), analyse()],
    "alarms": [],
    "queue": {"queued": 0, "leased": 0, "dead": 0, "oldest_due_at": None},
    "studies": {"open": 3},
    "latency": {},
    "receive": {"quarantine_held": 0},
    "senders": [],
    "database": {"dialect": "sqlite"},
}


def judged(config: Config = CONFIG, free_mib: int | None = 100_000, **changes: Any) -> Health:
    facts = copy.deepcopy(FACTS) | changes
    return assess(facts, config=config, free_mib=free_mib, now=NOW)


def codes(health: Health) -> list[str]:
    return [each.code for each in health.causes]


def test_all_is_well_when_every_role_turns_and_a_model_serves() -> None:
    health = judged()
    assert (health.health, health.exit_code, codes(health)) == ("ok", 0, [])


def test_each_host_is_held_to_the_workers_that_its_devices_ask_for() -> None:
    def worker(host: str, pid: int, *, slots: int, silent_s: float = 1.0) -> dict[str, Any]:
        detail = {"models": [SERVED], "stuck_after_s": 60.0, "slots": slots}
        return role("analyse", host=host, pid=pid, detail=detail, silent_s=silent_s)

    doors = [role("receive"), role("schedule")]
    both = [worker("a", 1, slots=2), worker("a", 2, slots=2), worker("b", 3, slots=1)]
    assert codes(judged(roles=[*doors, *both])) == []
    hangs = [both[0], worker("a", 2, slots=2, silent_s=900), both[2]]
    (cause,) = judged(roles=[*doors, *hangs]).causes
    assert cause.code == "worker_missing"
    assert cause.message.startswith("1 of the 2 analysis workers")


CASES: dict[str, tuple[dict[str, Any], str, int]] = {
    "role that was never started": (
        {"roles": [role("schedule"), analyse()]},
        "role_not_running",
        2,
    ),
    "role that hangs": (
        {"roles": [role("receive", silent_s=61), role("schedule"), analyse()]},
        "role_stuck",
        2,
    ),
    "intake that takes nothing in": (
        {
            "roles": [
                role("receive", detail={"fault": "a sync failed"}),
                role("schedule"),
                analyse(),
            ]
        },
        "role_fault",
        2,
    ),
    "worker that still loads": (
        {"roles": [role("receive"), role("schedule"), role("analyse", state="starting")]},
        "role_starting",
        1,
    ),
    "only model fails its known answer": (
        {
            "roles": [
                role("receive"),
                role("schedule"),
                analyse(served=False, reason="another answer", hint="Run `triage check`."),
            ]
        },
        "no_model_served",
        2,
    ),
    "only model is a shadow against its entry": (
        {
            "roles": [
                role("receive"),
                role("schedule"),
                analyse(mode="shadow", reason="not calibrated", hint="Calibrate."),
            ]
        },
        "no_model_served",
        2,
    ),
    "job that failed for good": ({"queue": {"dead": 1}}, "dead_letters", 1),
    "analysis that waits": (
        {"queue": {"dead": 0, "oldest_due_at": "2024-01-01T11:50:00.000000Z"}},
        "queue_late",
        1,
    ),
    "object kept aside": ({"receive": {"quarantine_held": 2}}, "quarantine", 1),
    "alarm": (
        {"alarms": [{"code": "two_patients", "message": "Two.", "next_step": "Look at both."}]},
        "alarm",
        1,
    ),
    "flagged study that nobody read": (
        {"studies": {"expired_unread": {"count": 1, "size_bytes": 5 << 20}}},
        "expired_unread",
        0,
    ),
}


@pytest.mark.parametrize(("change", "code", "exit_code"), CASES.values(), ids=CASES)
def test_a_cause_has_its_code_and_weight(change: dict[str, Any], code: str, exit_code: int) -> None:
    health = judged(**change)
    assert code in codes(health)
    assert health.exit_code == exit_code
    assert all(each.message and each.next_step for each in health.causes)


@pytest.mark.parametrize(
    ("free_mib", "code", "exit_code"),
    [(None, "store_unreachable", 2), (2047, "store_full", 2), (2500, "store_space_low", 1)],
)
def test_the_store_is_judged_by_its_margin(free_mib: int | None, code: str, exit_code: int) -> None:
    health = judged(free_mib=free_mib)
    assert (codes(health), health.exit_code) == ([code], exit_code)


def test_no_model_is_said_and_does_not_stop_the_rest() -> None:
    health = judged(Config(), roles=[role("receive"), role("schedule"), role("analyse")])
    assert (codes(health), health.exit_code) == (["no_model"], 1)


@requirement("M2")
def test_one_failing_bundle_of_two_degrades_and_is_named() -> None:
    models = [SERVED, SERVED | {"name": "hand", "digest": "e", "served": False, "hint": "Look."}]
    worker = role("analyse", detail={"models": models})
    health = judged(roles=[role("receive"), role("schedule"), worker])
    assert (codes(health), health.exit_code) == (["model_not_served"], 1)
    assert "hand" in health.causes[0].message


def test_a_model_that_is_a_shadow_on_one_of_two_devices_is_told_beside_where_it_serves() -> None:
    shadow = {"mode": "shadow", "reason": "it runs here at float32", "hint": "Calibrate."}
    workers = [analyse(), analyse(**shadow) | {"pid": 2}]
    for some in (workers, workers[::-1]):
        health = judged(roles=[role("receive"), role("schedule"), *some])
        assert (codes(health), health.exit_code) == (["model_not_calibrated"], 1)
        assert "flags nothing on some of its devices: it runs here" in health.causes[0].message
        assert sorted(each["mode"] for each in health.models) == ["serve", "shadow"]
    meant = judged(roles=[role("receive"), role("schedule"), analyse(mode="shadow")])
    assert meant.health == "ok"  # as its entry says


def test_a_replaced_process_does_not_count_as_stuck() -> None:
    old = role("receive", silent_s=3600, pid=2)
    health = judged(roles=[old, role("receive"), role("schedule"), analyse()])
    assert health.health == "ok"
    assert len(health.roles) == 3


def test_a_slow_role_may_say_how_long_its_turns_take() -> None:
    patient = analyse()
    patient["detail"]["stuck_after_s"] = 600.0
    patient["last_turn_at"] = NOW - timedelta(seconds=500)
    assert judged(roles=[role("receive"), role("schedule"), patient]).health == "ok"


def test_only_configured_roles_are_missed() -> None:
    config = Config(models=CONFIG.models, folders=FoldersConfig(watch=(Path("in"),)))
    assert codes(judged(config)) == ["role_not_running"]


def test_demonstration_is_said_without_harm_to_health() -> None:
    health = judged(Config(demonstration=True))
    assert (codes(health), health.exit_code) == (["demonstration"], 0)


def test_the_worst_cause_comes_first() -> None:
    health = judged(free_mib=0, queue={"dead": 1}, config=Config(demonstration=True))
    assert codes(health) == ["store_full", "dead_letters", "demonstration"]


def test_the_document_is_plain_json_with_utc_times() -> None:
    document = judged().document()
    assert json.loads(json.dumps(document)) == document
    assert document["roles"][0]["last_turn_at"] == "2024-01-01T11:59:59Z"
    assert list(document) == [
        "schema_version",
        "health",
        "causes",
        "roles",
        "queue",
        "studies",
        "latency",
        "receive",
        "senders",
        "storage",
        "database",
        "models",
    ]


@pytest.mark.parametrize("code", KINDS)
def test_every_kind_of_cause_has_a_next_step_for_a_person(code: str) -> None:
    assert KINDS[code].next_step.endswith((".", "}"))


def config_at(path: Path, url: str) -> Config:
    return Config(
        demonstration=True,
        database=DatabaseConfig(url=url),
        store=StoreConfig(path=path, minimum_free_mib=0),
    )


def test_a_database_that_is_away_leaves_the_state_unknown(tmp_path: Path) -> None:
    (tmp_path / "odd.sqlite").write_bytes(b"no database at all" * 100)
    health = gather(config_at(tmp_path, f"sqlite:///{tmp_path}/odd.sqlite"))
    assert codes(health) == ["database_unreachable"]
    assert health.exit_code == EXIT_CANNOT_TELL


def test_a_database_that_was_never_made_names_the_migration(tmp_path: Path) -> None:
    health = gather(config_at(tmp_path, f"sqlite:///{tmp_path}/none.sqlite"))
    assert codes(health) == ["database_revision"]
    assert "triage migrate" in health.causes[0].next_step
    assert health.exit_code == 2


def test_with_the_daemon_down_the_roles_are_missed(database_url: str, tmp_path: Path) -> None:
    health = gather(config_at(tmp_path, database_url))
    assert set(codes(health)) == {"role_not_running", "demonstration"}
    assert health.exit_code == 2


def test_a_host_with_a_wrong_clock_calls_no_role_stuck(postgres_url: str, tmp_path: Path) -> None:
    """The roles write the server's time; here it is an hour behind that of this host."""
    from tests.conftest import run_on_server
    from triage.database.connection import open_database
    from triage.database.house import record_role

    run_on_server(
        postgres_url,
        "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS"
        " 'SELECT pg_catalog.clock_timestamp() - interval ''1 hour'''",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog',"
        " current_database()); END $$",
    )
    db = open_database(postgres_url)
    with db.write() as connection:
        now = db.now(connection)
        record_role(
            connection,
            role="schedule",
            host="elsewhere",
            pid=1,
            started_at=now,
            state="running",
            detail={},
            now=now,
        )
    db.dispose()
    health = gather(config_at(tmp_path, postgres_url))
    assert datetime.now(UTC) - health.at > timedelta(minutes=59)
    assert [row["state"] for row in health.roles] == ["running"]


def test_a_killed_process_of_this_host_is_missed_at_once(sqlite_url: str, tmp_path: Path) -> None:
    from triage.database.connection import open_database
    from triage.database.house import record_role

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    db = open_database(sqlite_url)
    with db.write() as connection:
        now = db.now(connection)
        for name, pid in (("receive", gone.pid), ("schedule", os.getpid())):
            record_role(
                connection,
                role=name,
                host=socket.gethostname(),
                pid=pid,
                started_at=now,
                state="running",
                detail={},
                now=now,
            )
    db.dispose()
    health = gather(config_at(tmp_path, sqlite_url))
    assert [row["role"] for row in health.roles] == ["schedule"]
    missed = [each.message for each in health.causes if each.code == "role_not_running"]
    assert missed == ["The role receive is not running.", "The role analyse is not running."]


def test_neither_the_orm_layer_nor_torch_is_imported() -> None:
    program = (
        "import sys, triage.operations.health;"
        "print(sorted({'sqlalchemy', 'torch', 'transformers', 'pynetdicom', 'numpy'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


FULL = {"fault": "the store has 1 MiB free", "fault_lasts": False}
BROKEN = {"fault": "a sync failed", "fault_lasts": True}


@requirement("P4")
def test_a_full_store_is_told_once_and_never_asks_for_a_restart() -> None:
    doors = [role("receive", detail=FULL), role("schedule"), analyse()]
    (cause,) = judged(free_mib=1, roles=doors).causes
    assert cause.code == "store_full"
    assert "restart" not in cause.next_step


@requirement("P4")
def test_a_disk_that_broke_is_told_beside_the_space_that_is_gone() -> None:
    doors = [role("receive", detail=BROKEN), role("schedule"), analyse()]
    health = judged(free_mib=1, roles=doors)
    assert codes(health) == ["store_full", "role_fault"]
    assert "restart" in health.causes[1].next_step


def test_a_fault_that_passes_by_itself_asks_for_no_restart() -> None:
    away = {"fault": "the database did not answer", "fault_lasts": False}
    (cause,) = judged(roles=[role("receive", detail=away), role("schedule"), analyse()]).causes
    assert cause.code == "role_fault"
    assert "by itself" in cause.next_step
