"""Each cause is brought about in a real database, named by its code and told by the exit code."""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.assurance import Evidence, requirement
from tests.database.table_rows import add_instance, add_job, add_series, add_study
from triage.config import Config, DatabaseConfig, MetricsConfig, ModelConfig, StoreConfig
from triage.database import history
from triage.database.connection import Database, open_database
from triage.database.house import raise_alarm, record_role, record_sender
from triage.database.intake_log import record_quarantined
from triage.database.migrating import downgrade
from triage.operations.causes import KINDS, Weight
from triage.operations.health import EXIT_CANNOT_TELL, gather
from triage.operations.metrics_server import MetricsServer
from triage.records import AlarmCode, Source
from triage.rules.silence import WEEK_HOURS, Habit

EXIT_CODES = {Weight.NOTICE: 0, Weight.DEGRADED: 1, Weight.FAILED: 2}
MIB = 1 << 20


def model(name: str = "chest", **changes: Any) -> dict[str, Any]:
    served = {"served": True, "reason": "", "hint": "", "mode": "serve", "version": "1"}
    return served | {"name": name, "digest": name} | changes


@dataclass
class Site:
    """A migrated database, a store, and roles that turn unless a test says otherwise."""

    directory: Path
    db: Database
    config: Config
    now: datetime

    def turns(
        self, role: str, *, silent_s: float = 0.0, state: str = "running", **detail: Any
    ) -> None:
        with self.db.write() as connection:
            record_role(
                connection,
                role=role,
                host=socket.gethostname(),
                pid=os.getpid(),
                started_at=self.now - timedelta(days=1),
                state=state,
                detail=detail,
                now=self.now - timedelta(seconds=silent_s),
            )


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Iterator[Site]:
    store = tmp_path / "store"
    store.mkdir()
    config = Config(
        models=(ModelConfig(name="chest", bundle=Path("chest")),),
        database=DatabaseConfig(url=sqlite_url),
        store=StoreConfig(path=store, minimum_free_mib=0),
    )
    made = Site(
        directory=tmp_path, db=open_database(sqlite_url), config=config, now=datetime.now(UTC)
    )
    made.turns("receive")
    made.turns("schedule")
    made.turns("analyse", models=[model()])
    yield made
    made.db.dispose()


def unreadable_database(site: Site) -> None:
    (site.directory / "odd.sqlite").write_bytes(b"no database at all" * 100)
    url = f"sqlite:///{site.directory}/odd.sqlite"
    site.config = replace(site.config, database=DatabaseConfig(url=url))


def older_database(site: Site) -> None:
    downgrade(site.config.database.url, to="0001")


def store_gone(site: Site) -> None:
    shutil.rmtree(site.config.store.path)


def margin(share: float) -> Callable[[Site], None]:
    """Return what sets the margin to a share of what is free."""

    def set_margin(site: Site) -> None:
        free_mib = shutil.disk_usage(site.config.store.path).free // MIB
        store = replace(site.config.store, minimum_free_mib=int(free_mib * share))
        site.config = replace(site.config, store=store)

    return set_margin


def role_gone(site: Site) -> None:
    with site.db.write() as connection:
        connection.exec_driver_sql("DELETE FROM roles WHERE role = 'schedule'")


def role_hangs(site: Site) -> None:
    site.turns("schedule", silent_s=3600)


def intake_faulty(site: Site) -> None:
    site.turns("receive", fault="a sync failed")


def worker_starts(site: Site) -> None:
    site.turns("analyse", state="starting")


def one_worker_of_two(site: Site) -> None:
    site.turns("analyse", models=[model()], slots=2)


def no_model(site: Site) -> None:
    site.config = replace(site.config, models=())
    site.turns("analyse", models=[])


def one_of_two(site: Site) -> None:
    failing = model("hand", served=False, reason="another answer", hint="Look.")
    site.turns("analyse", models=[model(), failing])


def uncalibrated(site: Site) -> None:
    shadow = model("hand", mode="shadow", reason="it is a shadow only", hint="Calibrate.")
    site.turns("analyse", models=[model(), shadow])


def none_served(site: Site) -> None:
    failing = model(served=False, reason="another answer", hint="Look.")
    site.turns("analyse", state="failed", models=[failing])


def late(site: Site) -> None:
    add_job(site.db, add_study(site.db), due_at=site.now - timedelta(minutes=6))


def dead(site: Site) -> None:
    add_job(site.db, add_study(site.db), state="dead", finished_at=site.now)


def kept_aside(site: Site) -> None:
    with site.db.write() as connection:
        record_quarantined(
            connection,
            source=Source.C_STORE,
            sender_ae_title="",
            sop_instance_uid="",
            sop_class_uid="",
            path=None,
            original_path=None,
            size_bytes=0,
            reason_code="unparsable",
            reason="it ends early",
            now=site.now,
        )


def raised(code: AlarmCode) -> Callable[[Site], None]:
    def bring_about(site: Site) -> None:
        with site.db.write() as connection:
            raise_alarm(
                connection, code=code, subject="x", message="M.", next_step="N.", now=site.now
            )

    return bring_about


def sender_stops(site: Site) -> None:
    habit = Habit(busy_hours=frozenset(range(WEEK_HOURS)), usual_interval_s=600.0)
    with site.db.write() as connection:
        record_sender(connection, "CT1\x1b[2J", now=site.now - timedelta(hours=2))
        history.write_habit(connection, "CT1\x1b[2J", habit, now=site.now)


def port_taken(site: Site) -> None:
    """Take the port as another program would, and tell what the role then tells."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = MetricsServer("127.0.0.1", port, lambda: b"", content_type="text/plain")
        server.start()
        site.turns("schedule", metrics=server.detail())
        server.stop()
    site.config = replace(site.config, metrics=MetricsConfig(enabled=True, port=port))


def unread(site: Site) -> None:
    long_ago = site.now - timedelta(days=9)
    study = add_study(site.db, flagged_at=long_ago, last_instance_at=long_ago)
    add_instance(site.db, study, add_series(site.db, study), received_at=long_ago)
    store = replace(site.config.store, retention_days=1)
    site.config = replace(site.config, store=store)


def demonstration(site: Site) -> None:
    site.config = replace(site.config, demonstration=True)


CASES: dict[str, Callable[[Site], None]] = {
    "database_unreachable": unreadable_database,
    "database_revision": older_database,
    "store_unreachable": store_gone,
    "store_full": margin(2.0),
    "store_space_low": margin(0.8),
    "role_not_running": role_gone,
    "role_stuck": role_hangs,
    "role_fault": intake_faulty,
    "role_starting": worker_starts,
    "worker_missing": one_worker_of_two,
    "no_model": no_model,
    "model_not_served": one_of_two,
    "model_not_calibrated": uncalibrated,
    "no_model_served": none_served,
    "queue_late": late,
    "dead_letters": dead,
    "quarantine": kept_aside,
    "alarm": raised(AlarmCode.FOLDER_MISSING),
    "sender_silent": sender_stops,
    "metrics_unavailable": port_taken,
    "expired_unread": unread,
    "demonstration": demonstration,
}
CANNOT_TELL = {"database_unreachable"}


def test_a_site_where_all_is_well_has_no_cause(site: Site) -> None:
    health = gather(site.config, now=site.now)
    assert (health.exit_code, health.causes) == (0, ())


@requirement("P4")
def test_every_cause_is_brought_about() -> None:
    assert sorted(CASES) == sorted(KINDS)


@requirement("P4", bound="each cause that can be named is brought about, named, in the exit code")
@pytest.mark.parametrize("code", CASES)
def test_a_cause_is_named_weighed_and_told_by_the_exit_code(
    code: str, site: Site, evidence: Evidence
) -> None:
    CASES[code](site)
    health = gather(site.config, now=site.now)
    right = EXIT_CANNOT_TELL if code in CANNOT_TELL else EXIT_CODES[KINDS[code].weight]
    told = health.exit_code == right and code in {each.code for each in health.causes}
    evidence.record(trials=1, losses=int(not told))
    (named,) = [each for each in health.causes if each.code == code]
    worse = {each.code for each in health.causes if each.weight is not Weight.NOTICE} - {code}
    assert worse <= ({"model_not_served"} if code == "no_model_served" else set())
    assert named.weight is KINDS[code].weight
    assert health.exit_code == right
    document = named.document()
    assert document["message"].isprintable()
    assert "{" not in document["message"] + document["next_step"]
    assert document["runbook"].startswith("RUNBOOK.md#")


@pytest.mark.parametrize(
    ("code", "said"),
    [("role_stuck", "no turn for 60 min"), ("queue_late", "due for 6 min")],
)
def test_a_long_time_is_told_in_words(code: str, said: str, site: Site) -> None:
    CASES[code](site)
    (cause,) = gather(site.config, now=site.now).causes
    assert said in cause.message


@pytest.mark.parametrize("code", AlarmCode)
def test_an_alarm_keeps_its_own_code_beside_that_of_the_cause(code: AlarmCode, site: Site) -> None:
    raised(code)(site)
    (cause,) = gather(site.config, now=site.now).document()["causes"]
    assert (cause["code"], cause["alarm"]) == ("alarm", code)
    assert cause["runbook"] == f"RUNBOOK.md#{code}"


def test_a_silent_sender_is_named_with_its_last_image_and_usual_interval(site: Site) -> None:
    sender_stops(site)
    last = site.now - timedelta(hours=2)
    health = gather(site.config, now=site.now)
    (cause,) = health.causes
    assert f"nothing since {last:%Y-%m-%d %H:%M} UTC" in cause.message
    assert "at least every 10 min" in cause.message
    (sender,) = health.document()["senders"]
    assert (sender["state"], sender["silent"], sender["usual_interval_s"]) == ("silent", True, 600)
    assert sender["silent_since"] == (last + timedelta(minutes=30)).isoformat().replace(
        "+00:00", "Z"
    )


def test_silence_can_be_switched_off_and_is_still_shown(site: Site) -> None:
    sender_stops(site)
    senders = replace(site.config.senders, silence_alarm=False)
    health = gather(replace(site.config, senders=senders), now=site.now)
    assert health.causes == ()
    assert health.senders[0]["silent"]
