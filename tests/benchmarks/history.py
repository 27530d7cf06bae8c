"""A database that has been in service for long: rows by the million, written without the rules.

Digests, paths and UIDs are random, as they are in life: a new row lands anywhere in its index.
Times are spread over the past `DAYS`, so a day's share is what a day's share is. Syncs are off
while the rows are written and on again afterwards; the file systems' own caches are as warm as
the writing left them.
"""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

from tests.builders import make_ct_header
from triage.database.connection import migrate
from triage.database.documents import header_document
from triage.database.url import PostgresTarget, SqliteTarget, parse_url

DAYS = 30
SPAN_S = DAYS * 86_400
FINDINGS = [
    {
        "name": "pneumothorax",
        "code": {"value": "36118008", "scheme": "SCT", "meaning": "Pneumothorax"},
        "probability": 0.91,
        "operating_point": 0.5,
        "flagged": True,
    }
]
MODELS = [{"name": "chest", "version": "1", "digest": "d" * 64}]
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {count})"

# What the dialects say differently.
SQLITE = {
    "hex": "lower(hex(randomblob(32)))",
    "ago": "strftime('%Y-%m-%dT%H:%M:%S', {now} - ({seconds}), 'unixepoch') || '.000000Z'",
    "json": "{text}",
}
POSTGRES = {
    "hex": "md5(random()::text) || md5(random()::text)",
    "ago": "to_timestamp({now} - ({seconds}))",
    "json": "CAST({text} AS jsonb)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """How much there is. Studies have one series each; half of them are open, a tenth flagged."""

    studies: int
    instances: int
    events: int  # of received objects
    jobs: int = 0  # finished


def fill(url: str, history: History) -> None:
    """Migrate the empty database that `url` names and write the rows."""
    migrate(url)
    target = parse_url(url)
    if isinstance(target, SqliteTarget):
        _fill_sqlite(target, history)
    else:
        _fill_postgres(target, history)


def _fill_sqlite(target: SqliteTarget, history: History) -> None:
    with closing(sqlite3.connect(target.path, isolation_level=None)) as connection:
        for pragma in ("synchronous = OFF", "cache_size = -1000000", "temp_store = MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        for statement in _statements(history, SQLITE):
            connection.execute(statement)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _fill_postgres(target: PostgresTarget, history: History) -> None:
    import pg8000.native

    arguments = target.arguments(application_name="", timeout_s=3600)
    with closing(pg8000.native.Connection(**arguments)) as connection:
        connection.run("SET synchronous_commit = off")
        for statement in _statements(history, POSTGRES):
            connection.run(statement)
        connection.run("VACUUM ANALYZE")  # as autovacuum has done long ago
        connection.run("CHECKPOINT")


def _statements(history: History, words: Mapping[str, str]) -> list[str]:
    """Return the INSERTs in the order of their references."""
    return [
        _insert("studies", history.studies, _study(history, words)),
        _insert("series", history.studies, _series(history, words)),
        _insert("instances", history.instances, _instance(history, words)),
        _insert("object_events", history.events, _event(history, words)),
        _insert("jobs", history.jobs, _job(history, words)),
        "UPDATE history_marks SET event_id = (SELECT coalesce(max(id), 0) FROM object_events)",
    ]


def _insert(table: str, count: int, values: Mapping[str, str]) -> str:
    select = f"SELECT {', '.join(values.values())} FROM n"
    if not count:
        select += " WHERE 1 = 0"
    return (
        f"INSERT INTO {table} ({', '.join(values)}) {NUMBERS.format(count=max(1, count))} {select}"
    )


def _ago(words: Mapping[str, str], count: int) -> str:
    """Return the time of row `i` of `count`, oldest first, up to now."""
    seconds = f"(CAST({count} AS bigint) - i) * {SPAN_S} / {max(1, count)}"
    return words["ago"].format(now=int(datetime.now(UTC).timestamp()), seconds=seconds)


def _json(words: Mapping[str, str], document: object) -> str:
    return words["json"].format(text=_text(json.dumps(document)))


def _text(words: str) -> str:
    return "'" + words.replace("'", "''") + "'"


def _study(history: History, words: Mapping[str, str]) -> dict[str, str]:
    at = _ago(words, history.studies)
    flagged, listed = "i % 10 = 0", "i % 2 = 0"
    findings, none = _json(words, FINDINGS), _json(words, [])
    return {
        "study_instance_uid": f"'2.25.' || substr({words['hex']}, 1, 30)",
        "patient_id": "'P' || i",
        "issuer_of_patient_id": "''",
        "patient_name": "'FAMILY' || i || '^GIVEN'",
        "accession_number": "'A' || i",
        "study_description": "'Chest PA'",
        "modalities_in_study": _json(words, ["DX"]),
        "number_of_study_related_instances": "1",
        "received_at": at,
        "waiting_since": at,
        "last_instance_at": at,
        "window_at": at,
        "state": f"CASE WHEN {listed} THEN 'ready' ELSE 'acknowledged' END",
        "acknowledged_at": f"CASE WHEN {listed} THEN NULL ELSE {at} END",
        "acknowledged_by": f"CASE WHEN {listed} THEN NULL ELSE 'reader' END",
        "generation": "1",
        "too_old": "FALSE",
        "two_patients": "FALSE",
        "analysis": "'analysed'",
        "images_eligible": "1",
        "images_analysed": "1",
        "analysed_at": at,
        "flagged_at": f"CASE WHEN {flagged} THEN {at} END",
        "first_flagged_at": f"CASE WHEN {flagged} THEN {at} END",
        "findings": f"CASE WHEN {flagged} THEN {findings} ELSE {none} END",
        "models": _json(words, MODELS),
        "not_for_clinical_use": "FALSE",
        "priority": f"CASE WHEN {flagged} THEN 'HIGH' ELSE 'ROUTINE' END",
        "priority_source": f"CASE WHEN {flagged} THEN 'model' ELSE 'default' END",
        "order_priority": "'ROUTINE'",
        "order_priority_source": "'default'",
        "sort_key": f"CASE WHEN {listed} THEN '232' || (100000000000000000 + i) END",
    }


def _series(history: History, words: Mapping[str, str]) -> dict[str, str]:
    at = _ago(words, history.studies)
    return {
        "study_id": "i + 1",
        "series_instance_uid": f"'2.25.' || substr({words['hex']}, 1, 30)",
        "modality": "'DX'",
        "window_at": at,
        "first_instance_at": at,
        "last_instance_at": at,
        "images": "0",
        "generation": "0",
    }


def _instance(history: History, words: Mapping[str, str]) -> dict[str, str]:
    parent = f"i % {max(1, history.studies)} + 1"
    return {
        "study_id": parent,
        "series_id": parent,
        "sop_instance_uid": f"'2.25.' || substr({words['hex']}, 1, 30)",
        "sop_class_uid": "'1.2.840.10008.5.1.4.1.1.2'",
        "transfer_syntax_uid": "'1.2.840.10008.1.2.1'",
        "digest": words["hex"],
        "path": f"'objects/' || {words['hex']} || '.dcm'",
        "size_bytes": "526000",
        "source": "'c-store'",
        "sender_ae_title": "'CT1'",
        "received_at": _ago(words, history.instances),
        "state": "'stored'",
        "subject": "'image'",
        "header": _json(words, header_document(make_ct_header())),
        "generation": "1",
    }


def _event(history: History, words: Mapping[str, str]) -> dict[str, str]:
    return {
        "at": _ago(words, history.events),
        "sop_instance_uid": f"'2.25.' || substr({words['hex']}, 1, 30)",
        "instance_id": f"i % {max(1, history.instances)} + 1",
        "state": "'stored'",
        "source": "'c-store'",
        "sender_ae_title": "'CT1'",
        "reason": "''",
    }


def _job(history: History, words: Mapping[str, str]) -> dict[str, str]:
    at = _ago(words, history.jobs)
    return {
        "kind": "'analyse'",
        "subject": "'image'",
        "subject_id": f"i % {max(1, history.instances)} + 1",
        "study_id": f"i % {max(1, history.studies)} + 1",
        "generation": "1",
        "state": "'done'",
        "rank": "3",
        "due_at": at,
        "attempts": "1",
        "fence": "1",
        "created_at": at,
        "finished_at": at,
    }
