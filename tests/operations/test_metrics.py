"""A scrape tells what status tells, in bounded series and without patient data."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.assurance import requirement
from tests.builders import make_arrival, make_header, make_policies
from tests.database.table_rows import add_job, add_study
from triage.config import Config, DatabaseConfig, PeerConfig, ReceiverConfig, StoreConfig
from triage.database import history
from triage.database.arrivals import record_arrival
from triage.database.connection import Database
from triage.database.house import raise_alarm, record_role, record_sender
from triage.operations.causes import KINDS
from triage.operations.health import gather
from triage.operations.history import fold_received
from triage.operations.metrics import MOST_MODALITIES, MOST_SENDERS, exposition
from triage.records import AlarmCode, ObjectState, Source
from triage.rules.silence import WEEK_HOURS, Habit

Series = dict[tuple[str, tuple[str, ...]], float]


@pytest.fixture
def config(database_url: str, tmp_path: Path) -> Config:
    return Config(
        demonstration=True,
        database=DatabaseConfig(url=database_url),
        store=StoreConfig(path=tmp_path, minimum_free_mib=7),
    )


def scraped(config: Config, now: datetime | None = None) -> Series:
    """Return every sample by name and label values (by the order of the labels' names)."""
    families = text_string_to_metric_families(exposition(config, now=now).decode())
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def values(series: Series, name: str) -> dict[tuple[str, ...], float]:
    return {labels: value for (found, labels), value in series.items() if found == name}


def test_health_and_causes_are_those_of_status(config: Config, database: Database) -> None:
    with database.write() as connection:
        now = database.now(connection)
        raise_alarm(
            connection,
            code=AlarmCode.TWO_PATIENTS,
            subject="1.2",
            message="m",
            next_step="n",
            now=now,
        )
    series = scraped(config)
    health = gather(config)
    assert series["triage_up", ()] == 1
    assert series["triage_health", ()] == health.exit_code == 2
    assert series["triage_demonstration_mode", ()] == 1
    told = {code: int(count) for (code, _), count in values(series, "triage_cause").items()}
    assert set(told) == set(KINDS)
    named = [each.code for each in health.causes]
    assert {code: count for code, count in told.items() if count} == {
        code: named.count(code) for code in named
    }
    assert values(series, "triage_alarms_open")["two_patients",] == 1
    assert set(values(series, "triage_alarms_open")) == {(code.value,) for code in AlarmCode}


def test_a_database_that_is_away_is_a_figure_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "odd.sqlite").write_bytes(b"no database at all" * 100)
    config = Config(
        database=DatabaseConfig(url=f"sqlite:///{tmp_path}/odd.sqlite"),
        store=StoreConfig(path=tmp_path, minimum_free_mib=0),
    )
    series = scraped(config)
    assert series["triage_up", ()] == 0
    assert series["triage_health", ()] == 3
    assert values(series, "triage_cause")["database_unreachable", "failed"] == 1
    assert series["triage_store_free_bytes", ()] > 0
    # What is not known is left out: a zero would say that the queue is empty.
    assert not values(series, "triage_jobs")
    assert not values(series, "triage_alarms_open")
    assert ("triage_oldest_due_age_seconds", ()) not in series


def test_work_and_roles_are_counted(config: Config, database: Database) -> None:
    with database.write() as connection:
        now = database.now(connection)
        record_role(
            connection,
            role="analyse",
            host="elsewhere",
            pid=1,
            started_at=now,
            state="running",
            detail={
                "models": [
                    {
                        "name": "chest",
                        "version": "2",
                        "digest": "d",
                        "mode": "serve",
                        "served": True,
                    }
                ]
            },
            now=now - timedelta(seconds=20),
        )
    study = add_study(database, priority="STAT", flagged_at=now, analysis="pending")
    add_job(database, study, 1, due_at=now - timedelta(seconds=90))
    add_job(database, study, 2, state="dead", kind="caption", finished_at=now)
    series = scraped(config, now)
    jobs = values(series, "triage_jobs")
    assert (jobs["analyse", "queued"], jobs["caption", "dead"], jobs["deliver", "dead"]) == (
        1,
        1,
        0,
    )
    assert series["triage_oldest_due_age_seconds", ()] == pytest.approx(90)
    assert values(series, "triage_studies")["pending",] == 1
    assert values(series, "triage_studies_open")["STAT",] == 1
    assert series["triage_studies_flagged_unread", ()] == 1
    assert values(series, "triage_role_processes_running") == {("elsewhere", "analyse"): 1}
    assert values(series, "triage_role_last_turn_age_seconds")["elsewhere", "analyse"] == 20
    assert values(series, "triage_model_served") == {("serve", "chest", "2"): 1}
    assert series["triage_store_minimum_free_bytes", ()] == 7 << 20
    assert series["triage_database_size_bytes", ()] > 0


def test_received_objects_are_counters_with_bytes(config: Config, database: Database) -> None:
    with database.write() as connection:
        now = database.now(connection)
        record_arrival(connection, make_arrival(size_bytes=1234), policies=make_policies(), now=now)
        connection.exec_driver_sql("UPDATE object_events SET at = '2020-01-01T00:00:00.000000Z'")
    fold_received(database)
    series = scraped(config)
    objects = values(series, "triage_objects_received_total")
    assert {labels for labels, count in objects.items() if count} == {("c-store", "stored")}
    assert objects["folder", "refused"] == 0  # there from the start, so that a rate is right
    assert len(objects) == len(Source) * len(ObjectState)
    assert values(series, "triage_received_bytes_total")["c-store",] == 1234
    assert series["triage_last_image_timestamp_seconds", ()] == pytest.approx(now.timestamp())


@requirement("W7")
def test_latencies_are_quantiles_by_modality_and_their_number_is_bounded(
    config: Config, database: Database
) -> None:
    now = datetime.now(UTC)
    for number in range(MOST_MODALITIES + 3):
        for _ in range(2 if number == 0 else 1):
            add_study(
                database,
                f"1.{number}.{_}",
                modalities_in_study=["DX" if number == 0 else f"M\x1b{number}"],
                received_at=now - timedelta(seconds=40),
                last_instance_at=now - timedelta(seconds=30),
                flagged_at=now - timedelta(seconds=20),
                first_flagged_at=now - timedelta(seconds=20),
            )
    series = scraped(config, now)
    flags = values(series, "triage_arrival_to_flag_seconds")
    assert flags["DX", "0.95"] == pytest.approx(10)
    assert values(series, "triage_first_image_to_flag_seconds")["DX", "1"] == pytest.approx(20)
    assert len(flags) == 3 * MOST_MODALITIES


def test_senders_are_bounded_and_cleaned_and_peers_come_first(
    config: Config, database: Database
) -> None:
    now = datetime.now(UTC)
    with database.write() as connection:
        for number in range(MOST_SENDERS + 20):
            when = now - timedelta(seconds=number)
            record_sender(connection, f"CT{number:03}", now=when)
        record_sender(connection, "OLD_PEER", now=now - timedelta(days=20))
        record_sender(connection, 'A"\n\x1b\\', now=now)
        habit = Habit(busy_hours=frozenset(range(WEEK_HOURS)), usual_interval_s=300.0)
        history.write_habit(connection, "OLD_PEER", habit, now=now)
        record_role(
            connection,
            role="receive",
            host="elsewhere",
            pid=1,
            started_at=now - timedelta(days=40),
            state="running",
            detail={},
            now=now,
        )
    peer = PeerConfig(ae_title="OLD_PEER", address="192.0.2.1")
    series = scraped(replace(config, receiver=ReceiverConfig(peers=(peer,))), now)
    ages = values(series, "triage_sender_last_image_age_seconds")
    assert len(ages) == MOST_SENDERS
    assert ages["OLD_PEER",] == pytest.approx(20 * 86_400)
    assert ('A"??\\',) in ages
    assert values(series, "triage_sender_usual_interval_seconds") == {("OLD_PEER",): 300}
    silent = values(series, "triage_sender_silent")
    assert {labels for labels, value in silent.items() if value} == {("OLD_PEER",)}


def test_a_silent_sender_is_never_the_one_that_is_left_out(
    config: Config, database: Database
) -> None:
    now = datetime.now(UTC)
    with database.write() as connection:
        for number in range(MOST_SENDERS + 20):
            record_sender(connection, f"CT{number:03}", now=now)
        for sender in ("S\x1b", "S\x07"):  # both are shown as S?
            record_sender(connection, sender, now=now - timedelta(days=2))
        habit = Habit(busy_hours=frozenset(range(WEEK_HOURS)), usual_interval_s=300.0)
        history.write_habit(connection, "S\x1b", habit, now=now)
        record_role(
            connection,
            role="receive",
            host="elsewhere",
            pid=1,
            started_at=now - timedelta(days=40),
            state="running",
            detail={},
            now=now,
        )
    silent = values(scraped(config, now), "triage_sender_silent")
    assert len(silent) == MOST_SENDERS
    assert {labels for labels, value in silent.items() if value} == {("S?",)}


@requirement("P1")
def test_no_patient_data_is_told(config: Config, database: Database) -> None:
    secrets = {
        "patient_name": "SECRET^NAME",
        "patient_id": "SECRET1",
        "patient_birth_date": "19010203",
        "accession_number": "SECRET2",
        "study_description": "SECRET3",
        "institution_name": "SECRET4",
    }
    with database.write() as connection:
        record_arrival(
            connection,
            make_arrival(make_header(**secrets)),
            policies=make_policies(),
            now=database.now(connection),
        )
    text = exposition(config).decode()
    assert not [value for value in secrets.values() if value in text]


def test_names_and_helps_follow_the_conventions(config: Config) -> None:
    families = list(text_string_to_metric_families(exposition(config).decode()))
    assert len(families) > 15
    for family in families:
        assert re.fullmatch(r"triage_[a-z_]+", family.name)
        assert family.documentation.endswith("."), family.name
        assert not re.search(r"_(ms|mib|days|count)$", family.name)
