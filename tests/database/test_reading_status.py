"""What `triage status` reads: right, and cheap beside a long history."""

import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from tests.assurance import requirement
from tests.database.table_rows import (
    NOON,
    add_instance,
    add_job,
    add_object_event,
    add_series,
    add_study,
    at,
)
from triage.database import reading
from triage.database.connection import Database
from triage.database.house import clear_alarm, raise_alarm, record_role, record_sender
from triage.database.intake_log import record_event, record_quarantined
from triage.records import ObjectState, Source
from triage.rules.identity import COMPARED

HOUR_S = 3600.0


@pytest.fixture
def reader(database_url: str) -> Iterator[reading.Reader]:
    """Read the test's database as another process would."""
    opened = reading.open_reader(database_url)
    yield opened
    opened.close()


def facts(reader: reading.Reader, **more: Any) -> dict[str, Any]:
    return reading.status_facts(reader, now=NOON, **more)


def test_a_new_database_has_nothing_to_tell(reader: reading.Reader) -> None:
    told = facts(reader)
    assert told["roles"] == told["alarms"] == told["senders"] == []
    assert told["queue"]["by_kind"]["analyse"] == {"queued": 0, "leased": 0, "dead": 0}
    assert told["queue"]["oldest_due_at"] is None
    assert told["studies"]["by_state"] == {
        "arriving": 0,
        "ready": 0,
        "acknowledged": 0,
        "expired": 0,
    }
    assert told["latency"] == {
        "arrival_to_flag": {},
        "first_image_to_flag": {},
        "arrival_to_read": {},
    }
    assert told["receive"]["last_image_at"] is None
    assert told["receive"]["last_24_h"]["stored"] == 0


def test_roles_are_shown_with_their_last_turn(database: Database, reader: reading.Reader) -> None:
    with database.write() as connection:
        record_role(
            connection,
            role="analyse",
            host="h",
            pid=1,
            started_at=at(-60),
            state="running",
            detail={"models": [{"name": "chest"}]},
            now=at(-1),
        )
    assert facts(reader)["roles"] == [
        {
            "role": "analyse",
            "host": "h",
            "pid": 1,
            "started_at": "2026-01-02T11:59:00.000000Z",
            "last_turn_at": "2026-01-02T11:59:59.000000Z",
            "state": "running",
            "detail": {"models": [{"name": "chest"}]},
        }
    ]


def test_only_open_alarms_are_told(database: Database, reader: reading.Reader) -> None:
    with database.write() as connection:
        for code in ("conflict", "two_patients"):
            raise_alarm(connection, code=code, subject="1.2", message="m", next_step="n", now=NOON)
        clear_alarm(connection, code="conflict", subject="1.2", now=NOON)
    (alarm,) = facts(reader)["alarms"]
    assert (alarm["code"], alarm["subject"], alarm["next_step"]) == ("two_patients", "1.2", "n")


def test_the_queue_is_counted_by_kind_without_its_history(
    database: Database, reader: reading.Reader
) -> None:
    study = add_study(database)
    leased = {"owner": "w", "lease_expires_at": at(60)}
    add_job(database, study, 1, due_at=at(-10))
    add_job(database, study, 2, due_at=at(-30), kind="caption")
    add_job(database, study, 3, due_at=at(60))
    add_job(database, study, 4, due_at=at(-50), state="leased", **leased)
    add_job(database, study, 5, state="dead", finished_at=at(-5))
    add_job(database, study, 6, due_at=at(-99), state="done", finished_at=at(-5))
    queue = facts(reader)["queue"]
    assert (queue["queued"], queue["leased"], queue["dead"]) == (3, 1, 1)
    assert queue["by_kind"]["analyse"] == {"queued": 2, "leased": 1, "dead": 1}
    assert queue["by_kind"]["caption"] == {"queued": 1, "leased": 0, "dead": 0}
    # Neither the caption, nor what a worker holds, nor what is not due yet is late.
    assert queue["oldest_due_at"] == "2026-01-02T11:59:50.000000Z"


def test_a_job_that_is_not_due_is_not_late(database: Database, reader: reading.Reader) -> None:
    add_job(database, add_study(database), due_at=at(60))
    assert facts(reader)["queue"]["oldest_due_at"] is None


def test_studies_are_counted_and_unread_flags_apart(
    database: Database, reader: reading.Reader
) -> None:
    add_study(database, "1.1", flagged_at=NOON)
    add_study(database, "1.2", state="arriving", analysis="pending")
    add_study(database, "1.3", state="acknowledged", sort_key=None, flagged_at=NOON)
    add_study(database, "1.4", analysis="not_eligible", sort_key=None, too_old=True)
    studies = facts(reader)["studies"]
    assert (studies["open"], studies["flagged_unread"], studies["too_old"]) == (2, 1, 1)
    assert studies["by_state"] == {"arriving": 1, "ready": 2, "acknowledged": 1, "expired": 0}
    assert studies["by_analysis"] == {
        "pending": 1,
        "analysed": 2,
        "not_eligible": 1,
        "failed": 0,
    }
    assert "expired_unread" not in studies


def test_unread_flags_that_outlive_the_retention_tell_their_space(
    database: Database, reader: reading.Reader
) -> None:
    old = {"last_instance_at": at(-HOUR_S)}
    flagged = add_study(database, "1.1", flagged_at=NOON, **old)
    unflagged = add_study(database, "1.2", **old)
    read = add_study(database, "1.3", flagged_at=NOON, sort_key=None, **old)
    young = add_study(database, "1.4", flagged_at=NOON)
    for study in (flagged, unflagged, read, young):
        series = add_series(database, study)
        for number in range(2):
            add_instance(database, study, series, f"9.{study}.{number}", size_bytes=3 << 30)
        add_instance(database, study, series, f"9.{study}.9", expired_at=NOON)
    told = facts(reader, expired_before=NOON - timedelta(minutes=30))
    assert told["studies"]["expired_unread"] == {"count": 1, "size_bytes": 6 << 30}
    told = facts(reader, expired_before=NOON - timedelta(hours=2))
    assert told["studies"]["expired_unread"] == {"count": 0, "size_bytes": 0}


@requirement("W7")
def test_latency_is_from_the_last_and_from_the_first_image_to_the_flag(
    database: Database, reader: reading.Reader
) -> None:
    for number in range(1, 11):
        flag = at(-HOUR_S + number)
        add_study(
            database,
            f"1.{number}",
            received_at=at(-HOUR_S - 10),
            last_instance_at=at(-HOUR_S),
            flagged_at=flag,
            first_flagged_at=flag,
        )
    latency = facts(reader)["latency"]
    assert latency["arrival_to_flag"] == {
        "DX": {"count": 10, "p50_s": 5.0, "p95_s": 10.0, "max_s": 10.0}
    }
    assert latency["first_image_to_flag"]["DX"]["p50_s"] == 15.0


def test_a_later_generation_moves_arrival_to_flag_but_not_the_first_flag(
    database: Database, reader: reading.Reader
) -> None:
    add_study(
        database,
        modalities_in_study=["CT", "SR"],
        received_at=at(-5 * HOUR_S),
        first_flagged_at=at(-5 * HOUR_S + 4),
        last_instance_at=at(-60),
        flagged_at=at(-57.5),
    )
    latency = facts(reader)["latency"]
    one = {"count": 1, "p50_s": 2.5, "p95_s": 2.5, "max_s": 2.5}
    assert latency["arrival_to_flag"] == {"CT": one, "SR": one}
    assert latency["first_image_to_flag"]["CT"]["max_s"] == 4.0


def test_a_flag_older_than_the_last_image_is_not_its_flag(
    database: Database, reader: reading.Reader
) -> None:
    add_study(database, flagged_at=at(-20), first_flagged_at=at(-20), received_at=at(-30))
    latency = facts(reader)["latency"]
    assert latency["arrival_to_flag"] == {}
    assert latency["first_image_to_flag"]["DX"]["max_s"] == 10.0


def test_latency_covers_24_hours_and_flagged_studies_only(
    database: Database, reader: reading.Reader
) -> None:
    yesterday = at(-25 * HOUR_S)
    add_study(
        database,
        "1.1",
        last_instance_at=yesterday,
        flagged_at=yesterday,
        first_flagged_at=yesterday,
    )
    add_study(database, "1.2", analysed_at=at(-1))
    # Flagged first the day before, again today.
    add_study(
        database,
        "1.3",
        received_at=at(-26 * HOUR_S),
        first_flagged_at=yesterday,
        last_instance_at=at(-9),
        flagged_at=at(-8),
    )
    latency = facts(reader)["latency"]
    assert latency["arrival_to_flag"]["DX"]["count"] == 1
    assert latency["first_image_to_flag"] == {}


def test_received_objects_are_counted_over_24_hours(
    database: Database, reader: reading.Reader
) -> None:
    study = add_study(database)
    series = add_series(database, study)
    add_instance(database, study, series, "9.1", received_at=at(-30 * HOUR_S))
    add_instance(database, study, series, "9.2", received_at=at(-5))
    for state, when in (("stored", -30 * HOUR_S), ("stored", -5.0), ("refused", -4.0)):
        add_object_event(database, "9.1", state, when=at(when))
    with database.write() as connection:
        record_sender(connection, "CR1", now=at(-5))
        record_quarantined(
            connection,
            source=Source.C_STORE,
            sender_ae_title="CR1",
            sop_instance_uid="",
            sop_class_uid="",
            path=None,
            original_path=None,
            size_bytes=0,
            reason_code="unparsable",
            reason="",
            now=at(-3),
        )
    told = facts(reader)
    assert told["receive"]["last_24_h"] == {
        "stored": 1,
        "duplicate": 0,
        "revision": 0,
        "conflict": 0,
        "quarantined": 1,
        "refused": 1,
    }
    assert told["receive"]["last_image_at"] == "2026-01-02T11:59:55.000000Z"
    assert told["receive"]["quarantine_held"] == 1
    assert told["senders"] == [
        {
            "ae_title": "CR1",
            "last_image_at": "2026-01-02T11:59:55.000000Z",
            "images": 1,
            "busy_hours": None,
            "usual_interval_s": None,
        }
    ]


def test_an_object_whose_pixels_were_compared_is_counted_once(
    database: Database, reader: reading.Reader
) -> None:
    study = add_study(database)
    series = add_series(database, study)
    # (received, verdict): today, today though received before, received and not compared yet.
    for number, (received_s, verdict) in enumerate(
        [(-60.0, "revision"), (-25 * HOUR_S, "conflict"), (-30.0, None), (-20.0, "conflict")]
    ):
        uid = f"9.{number}"
        instance = add_instance(database, study, series, uid, received_at=at(received_s))
        add_object_event(database, uid, "stored", instance_id=instance, when=at(received_s))
        if verdict is not None:
            with database.write() as connection:
                record_event(
                    connection,
                    state=ObjectState(verdict),
                    sop_instance_uid=uid,
                    instance_id=instance,
                    source=Source.C_STORE,
                    sender_ae_title="",
                    reason=COMPARED,
                    now=at(-1),
                )
    # One that was a revision by its bytes alone left one trace only.
    plain = add_instance(database, study, series, "9.9", received_at=at(-5))
    add_object_event(database, "9.9", "revision", instance_id=plain, when=at(-5))
    counts = facts(reader)["receive"]["last_24_h"]
    assert {state: count for state, count in counts.items() if count} == {
        "stored": 1,
        "revision": 2,
        "conflict": 1,
    }


def test_open_studies_are_counted_by_priority(database: Database, reader: reading.Reader) -> None:
    add_study(database, "1.1", priority="STAT")
    add_study(database, "1.2")
    add_study(database, "1.3", priority="STAT", sort_key=None)
    by_priority = facts(reader)["studies"]["by_priority"]
    assert by_priority == {"STAT": 1, "HIGH": 0, "MEDIUM": 0, "ROUTINE": 1, "LOW": 0}


def test_each_open_study_is_counted_once_by_what_became_of_it(
    database: Database, reader: reading.Reader
) -> None:
    add_study(database, "1.1", analysis="analysed", flagged_at=NOON)
    add_study(database, "1.2", analysis="failed", flagged_at=NOON)
    add_study(database, "1.3", analysis="failed")
    add_study(database, "1.4", analysis="analysed")
    add_study(database, "1.5", analysis="analysed", sort_key=None)
    studies = facts(reader)["studies"]
    outcomes = {"flagged": 2, "pending": 0, "analysed": 1, "not_eligible": 0, "failed": 1}
    assert studies["open_by_outcome"] == outcomes
    assert (studies["open"], studies["flagged_unread"]) == (4, 2)


@requirement("D5")
def test_the_database_tells_its_size_and_what_protects_it(reader: reading.Reader) -> None:
    told = facts(reader)["database"]
    assert told["dialect"] == reader.dialect
    assert told["size_bytes"] > 0
    assert told["safe_mode"]


@pytest.mark.parametrize("table", ["instances", "jobs", "object_events", "quarantine"])
def test_no_figure_reads_a_long_table_from_end_to_end(sqlite_url: str, table: str) -> None:
    connection = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    reader = reading.Reader(connection, dialect="sqlite", errors=(sqlite3.Error,))
    facts(reader, expired_before=NOON)
    connection.set_trace_callback(None)
    plans = [
        row[3]
        for statement in statements
        if statement.startswith("SELECT") and f" {table}" in statement
        for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")
    ]
    connection.close()
    assert plans
    assert not [plan for plan in plans if plan == f"SCAN {table}"]


@requirement("W7")
def test_what_the_unflagged_wait_is_told_beside_what_the_flagged_gain(
    database: Database, reader: reading.Reader
) -> None:
    for number in range(1, 11):
        came = at(-HOUR_S)
        add_study(
            database,
            f"1.{number}",
            state="acknowledged",
            received_at=came,
            acknowledged_at=at(-HOUR_S + 60 * number),
            first_flagged_at=at(-HOUR_S + 5) if number <= 2 else None,
        )
    add_study(database, "2.1", received_at=at(-HOUR_S))  # not read yet
    told = facts(reader)["latency"]["arrival_to_read"]
    assert told["flagged"] == {"count": 2, "p50_s": 60.0, "p95_s": 120.0, "max_s": 120.0}
    assert told["unflagged"] == {"count": 8, "p50_s": 360.0, "p95_s": 600.0, "max_s": 600.0}
