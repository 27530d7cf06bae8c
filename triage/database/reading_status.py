"""The facts behind `triage status`, counted cheaply; `operations.health` judges them.

Objects, jobs and events are counted from their indices, and of a day at most, so that the answer
takes a fraction of a second beside 100,000 studies and 1,000,000 events.
"""

import math
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from triage.database.reading_connection import Reader, Row
from triage.records import Analysis, JobKind, JobState, ObjectState, Rank, StudyState
from triage.rules.identity import COMPARED

WINDOW = timedelta(hours=24)
LATEST_FLAGS = 2_000  # bounds the latencies of a site that flags more than this in a day
# States that a queue can be in trouble with; done and superseded jobs are history.
COUNTED = (JobState.QUEUED, JobState.LEASED, JobState.DEAD)


def status_facts(
    reader: Reader, *, now: datetime, expired_before: datetime | None = None
) -> dict[str, Any]:
    """Return what the database knows of the daemon's work at `now`.

    `expired_before` (now less the retention) adds `studies.expired_unread`: flagged studies that
    nobody has read and whose images are kept beyond the retention for that.
    """
    with reader.snapshot():
        return {
            "roles": reader.rows("SELECT * FROM roles ORDER BY role, host, pid"),
            "alarms": reader.rows(
                "SELECT code, subject, message, next_step, raised_at FROM alarms"
                " WHERE cleared_at IS NULL ORDER BY raised_at, id"
            ),
            "queue": _queue(reader, now),
            "studies": _studies(reader, expired_before),
            "latency": _latency(reader, now - WINDOW),
            "receive": _receive(reader, now - WINDOW),
            "senders": reader.rows(
                "SELECT senders.ae_title, last_image_at, images, busy_hours, usual_interval_s"
                " FROM senders LEFT JOIN sender_habits"
                " ON sender_habits.ae_title = senders.ae_title ORDER BY senders.ae_title"
            ),
            "database": _database(reader),
        }


# --- queue


def _queue(reader: Reader, now: datetime) -> Row:
    by_kind = {kind.value: {state.value: 0 for state in COUNTED} for kind in JobKind}
    totals = {state.value: 0 for state in COUNTED}
    for state in COUNTED:
        # The state is part of the text: a partial index does not serve a parameter.
        counts = reader.tuples(
            f"SELECT kind, count(*) FROM jobs WHERE state = '{state}' GROUP BY kind"  # noqa: S608
        )
        for kind, count in counts:
            by_kind[kind][state.value] = count
            totals[state.value] += count
    due = reader.rows(
        "SELECT min(due_at) AS oldest_due_at FROM jobs"
        " WHERE state = 'queued' AND kind = 'analyse' AND due_at <= ?",
        reader.time(now),
    )
    return {**totals, "by_kind": by_kind, **due[0]}


# --- studies


def _studies(reader: Reader, expired_before: datetime | None) -> Row:
    by_state = {state.value: 0 for state in StudyState}
    by_analysis = {analysis.value: 0 for analysis in Analysis}
    too_old = 0
    counts = reader.tuples(
        "SELECT state, analysis, too_old, count(*) FROM studies GROUP BY state, analysis, too_old"
    )
    for state, analysis, old, count in counts:
        by_state[state] += count
        by_analysis[analysis] += count
        too_old += count if old else 0
    facts: Row = {
        **_open(reader),
        "too_old": too_old,
        "by_state": by_state,
        "by_analysis": by_analysis,
    }
    if expired_before is not None:
        facts["expired_unread"] = _expired_unread(reader, expired_before)
    return facts


def _open(reader: Reader) -> Row:
    """Count the reading list: all, flagged, by priority, and each study once by its outcome.

    One statement that the index of the open studies answers without touching them.
    """
    by_priority = {rank.value: 0 for rank in Rank}
    by_outcome = {"flagged": 0} | {analysis.value: 0 for analysis in Analysis}
    counts = reader.tuples(
        "SELECT priority, analysis, count(flagged_at), count(*) FROM studies"
        " WHERE sort_key IS NOT NULL GROUP BY priority, analysis"
    )
    for priority, analysis, flagged, count in counts:
        by_priority[priority] += count
        by_outcome["flagged"] += flagged
        by_outcome[analysis] += count - flagged
    return {
        "open": sum(by_priority.values()),
        "flagged_unread": by_outcome["flagged"],
        "by_priority": by_priority,
        "open_by_outcome": by_outcome,
    }


def _expired_unread(reader: Reader, before: datetime) -> Row:
    # A subquery per study: joined, SQLite without statistics would begin with all instances.
    (row,) = reader.rows(
        "SELECT count(*) AS count, CAST(coalesce(sum(size_bytes), 0) AS bigint) AS size_bytes"
        " FROM (SELECT (SELECT sum(size_bytes) FROM instances"
        " WHERE study_id = studies.id AND expired_at IS NULL) AS size_bytes FROM studies"
        " WHERE sort_key IS NOT NULL AND flagged_at IS NOT NULL AND last_instance_at < ?) AS kept"
        " WHERE size_bytes > 0",
        reader.time(before),
    )
    return row


# --- latency


def _latency(reader: Reader, since: datetime) -> Row:
    """Return the latencies; to the flag by modality, a study counts for each that it holds.

    Arrival-to-flag is from the last image of the generation to the commit of its flag: a flag
    older than the last image belongs to an earlier generation and is left out. First image to
    flag is to the first flag, which a later generation does not move.
    """
    arrival: dict[str, list[float]] = defaultdict(list)
    first: dict[str, list[float]] = defaultdict(list)
    rows = reader.rows(
        "SELECT modalities_in_study, received_at, last_instance_at, flagged_at, first_flagged_at"
        " FROM studies WHERE flagged_at >= ? ORDER BY flagged_at DESC LIMIT ?",
        reader.time(since),
        LATEST_FLAGS,
    )
    for row in rows:
        flagged_at = datetime.fromisoformat(row["flagged_at"])
        first_flagged_at = datetime.fromisoformat(row["first_flagged_at"] or row["flagged_at"])
        for modality in row["modalities_in_study"]:
            if (seconds := _seconds(row["last_instance_at"], flagged_at)) >= 0:
                arrival[modality].append(seconds)
            if first_flagged_at >= since:
                first[modality].append(_seconds(row["received_at"], first_flagged_at))
    return {
        "arrival_to_flag": _figures(arrival),
        "first_image_to_flag": _figures(first),
        "arrival_to_read": _figures(_reading_waits(reader, since)),
    }


def _reading_waits(reader: Reader, since: datetime) -> dict[str, list[float]]:
    """Return how long the studies that came since then waited until a person had read them.

    Flagged and unflagged apart: what the flagged gain, the others pay for.
    """
    waits: dict[str, list[float]] = defaultdict(list)
    rows = reader.rows(
        "SELECT received_at, acknowledged_at, first_flagged_at FROM studies"
        " WHERE received_at >= ? AND acknowledged_at IS NOT NULL"
        " ORDER BY received_at DESC LIMIT ?",
        reader.time(since),
        LATEST_FLAGS,
    )
    for row in rows:
        kind = "flagged" if row["first_flagged_at"] else "unflagged"
        read_at = datetime.fromisoformat(row["acknowledged_at"])
        waits[kind].append(_seconds(row["received_at"], read_at))
    return waits


def _seconds(begin: str, end: datetime) -> float:
    return (end - datetime.fromisoformat(begin)).total_seconds()


def _figures(by_modality: dict[str, list[float]]) -> Row:
    return {
        modality: {
            "count": len(values),
            "p50_s": _percentile(values, 0.50),
            "p95_s": _percentile(values, 0.95),
            "max_s": _percentile(values, 1.0),
        }
        for modality, values in sorted(by_modality.items())
    }


def _percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed."""
    return round(sorted(values)[math.ceil(share * len(values)) - 1], 3)


# --- receive and database


def _receive(reader: Reader, since: datetime) -> Row:
    (newest,) = reader.rows("SELECT max(received_at) AS last_image_at FROM instances")
    held = reader.value("SELECT count(*) FROM quarantine WHERE state = 'held'")
    return {
        "last_24_h": _received(reader, since),
        **newest,
        "quarantine_held": held,
        "totals": reader.rows(
            "SELECT source, state, objects, size_bytes FROM received_totals ORDER BY source, state"
        ),
    }


def _received(reader: Reader, since: datetime) -> dict[str, int]:
    """Count the objects received since then by what they are now, each of them once."""
    counts = {state.value: 0 for state in ObjectState}
    counts |= dict(
        reader.tuples(
            "SELECT state, count(*) FROM object_events WHERE at >= ? GROUP BY state",
            reader.time(since),
        )
    )
    if not counts[ObjectState.REVISION] and not counts[ObjectState.CONFLICT]:
        return counts
    # A verdict on pixels is the second trace of an object that came as `stored`, then or earlier.
    verdicts = reader.tuples(
        "SELECT object_events.state, CASE WHEN received_at >= ? THEN 1 ELSE 0 END AS counted,"
        " count(*) FROM object_events JOIN instances ON instances.id = instance_id"
        " WHERE at >= ? AND object_events.state IN (?, ?) AND reason = ?"
        " GROUP BY object_events.state, counted",
        reader.time(since),
        reader.time(since),
        ObjectState.REVISION.value,
        ObjectState.CONFLICT.value,
        COMPARED,
    )
    for state, counted, count in verdicts:
        counts[ObjectState.STORED if counted else state] -= count
    return counts


def _database(reader: Reader) -> Row:
    """Return size and what durability and exclusion rest on (DESIGN sections 3.3 and 3.4)."""
    if reader.dialect == "sqlite":
        pages, page_bytes = reader.value("PRAGMA page_count"), reader.value("PRAGMA page_size")
        return {
            "dialect": "sqlite",
            "version": sqlite3.sqlite_version,
            "size_bytes": pages * page_bytes,
            "journal_mode": reader.value("PRAGMA journal_mode"),
            "synchronous": "full",  # each writer sets it, or does not begin: `connection`
            "safe_mode": "one writer at a time under the lock file, commits synced in full",
        }
    synced = reader.value("SELECT current_setting('fsync')")
    return {
        "dialect": "postgresql",
        "version": reader.value("SELECT current_setting('server_version')"),
        "size_bytes": reader.value("SELECT pg_database_size(current_database())"),
        "safe_mode": f"transactions of the server, fsync {synced}",
    }
