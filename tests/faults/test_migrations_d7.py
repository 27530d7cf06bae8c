"""D7: migrations forward and back under live rows, on SQLite and PostgreSQL.

The house has studies that wait, are analysed, acknowledged and expired, a lease that is held, a
dead letter, an alarm and a quarantined object. Bound: no row of a table that both revisions have
differs after the way down and up; a lease that was taken before still counts after. A program that
meets a revision that it does not know changes nothing and says so in one sentence.
"""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, inspect, select, text, update

from tests.assurance import Evidence, requirement
from tests.builders import make_arrival, make_ct_header, make_policies
from tests.database.conftest import analysed
from triage.database import arrivals, queue, results
from triage.database.connection import Database, migrate, require_revision
from triage.database.house import raise_alarm, record_sender
from triage.database.intake_log import record_quarantined
from triage.database.migrating import downgrade, script_directory
from triage.database.retention import expirable_studies, expire_study
from triage.database.revision import HEAD
from triage.database.snapshot import METADATA
from triage.database.tables import Study
from triage.database.worklist import acknowledge
from triage.errors import DecodeError, RevisionError
from triage.records import AlarmCode, Job, JobKind, Source

POLICIES = make_policies()
REVISIONS = [script.revision for script in script_directory().walk_revisions()][::-1]
LIVE = 40  # studies


def live_rows(db: Database) -> Job:
    """Fill the house; return a job whose lease is held."""
    with db.write() as connection:
        now = db.now(connection)
        for number in range(LIVE):
            header = make_ct_header() if number % 4 == 0 else None
            arrivals.record_arrival(connection, make_arrival(header), policies=POLICIES, now=now)
        record_sender(connection, "SENDER", now=now)
        raise_alarm(
            connection, code=AlarmCode.FOLDER_MISSING, subject="/in", message="gone",
            next_step="mount it", now=now,
        )  # fmt: skip
        record_quarantined(
            connection, source=Source.FOLDER, sender_ae_title="", sop_instance_uid="",
            sop_class_uid="", path=None, original_path="/in/a", size_bytes=1,
            reason_code="unparsable", reason="no DICOM", now=now,
        )  # fmt: skip
    first, second, *others = claim(db, 12)
    for job in others:
        results.commit_analysis(
            db, job, [analysed(embedding_keys=("k",))], pixel_digests={}, embeddings={},
            policies=POLICIES, caption_due=True,
        )  # fmt: skip
    with db.write() as connection:
        now = db.now(connection)
        queue.fail(connection, first, DecodeError("no"), policies=POLICIES, jitter=0, now=now)
        _read_and_expire(connection, others[0].study_id, now)
        acknowledge(connection, others[1].study_id, by="reader", policies=POLICIES, now=now)
    return second


def _read_and_expire(connection: Connection, study_id: int, now: Any) -> None:
    acknowledge(connection, study_id, by="reader", policies=POLICIES, now=now)
    past = now - timedelta(days=9)
    aged = update(Study).where(Study.id == study_id)
    connection.execute(aged.values(received_at=past, last_instance_at=past))
    assert expirable_studies(connection, before=now - timedelta(days=1), limit=9) == [study_id]
    assert expire_study(connection, study_id, now=now)


def claim(db: Database, limit: int) -> list[Job]:
    return queue.claim(db, kinds=[JobKind.ANALYSE], owner="w", lease_s=600, limit=limit)


def tables_of(db: Database) -> set[str]:
    with db.read() as connection:
        return set(inspect(connection).get_table_names()) - {"alembic_version"}


def content(db: Database, tables: set[str]) -> dict[str, list[tuple[Any, ...]]]:
    with db.read() as connection:
        return {name: _rows(connection, name) for name in sorted(tables)}


def _rows(connection: Connection, name: str) -> list[tuple[Any, ...]]:
    table = METADATA.tables[name]
    found = connection.execute(select(table).order_by(*table.primary_key))
    return [tuple(row) for row in found]


def worklist(db: Database) -> list[str]:
    with db.read() as connection:
        entries = text(
            "SELECT study_instance_uid FROM worklist WHERE reading_order IS NOT NULL"
            " ORDER BY reading_order"
        )
        return list(connection.execute(entries).scalars())


@requirement("D7", bound="down and up again: no row differs, no lease ends")
@pytest.mark.parametrize("lower", REVISIONS[:-1])
def test_d7_down_and_up_again_changes_no_row_and_ends_no_lease(
    database_url: str, database: Database, lower: str, evidence: Evidence
) -> None:
    held = live_rows(database)
    reading_order = worklist(database)
    above = tables_of(database)
    before = content(database, above)
    downgrade(database_url, to=lower)
    with pytest.raises(RevisionError, match=f"at revision {lower}; this program needs {HEAD}"):
        require_revision(database)
    both = tables_of(database)
    assert both <= above
    assert content(database, both) == {name: before[name] for name in both}
    assert worklist(database) == reading_order
    assert migrate(database_url) == REVISIONS[REVISIONS.index(lower) + 1 :]
    require_revision(database)
    assert tables_of(database) == above
    after = content(database, both)
    rows = {name: (set(map(repr, before[name])), set(map(repr, after[name]))) for name in both}
    evidence.record(
        trials=sum(len(was) for was, _ in rows.values()),
        losses=sum(len(was ^ now) for was, now in rows.values()),
    )
    assert after == {name: before[name] for name in both}
    assert results.commit_analysis(
        database, held, [analysed()], pixel_digests={}, embeddings={},
        policies=POLICIES, caption_due=False,
    )  # fmt: skip
    assert held.id not in {job.id for job in claim(database, 100)}


@requirement("D7")
def test_d7_a_house_that_runs_on_after_each_step_keeps_its_numbers(
    database_url: str, database: Database
) -> None:
    live_rows(database)
    for lower in REVISIONS[-2::-1]:
        downgrade(database_url, to=lower)
    migrate(database_url)
    with database.write() as connection:
        outcome = arrivals.record_arrival(
            connection, make_arrival(), policies=POLICIES, now=database.now(connection)
        )
    assert outcome.study_id == LIVE + 1


@requirement("D7", bound="an unknown revision: nothing is changed, and it is said")
def test_d7_a_program_that_does_not_know_the_revision_does_no_harm(
    database_url: str, database: Database, evidence: Evidence
) -> None:
    live_rows(database)
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    before = content(database, tables_of(database))
    for attempt in (lambda: migrate(database_url), lambda: require_revision(database)):
        with pytest.raises(RevisionError, match="9999"):
            attempt()
    with pytest.raises(Exception, match="9999"):
        downgrade(database_url, to="0001")
    changed = content(database, tables_of(database)) != before
    evidence.record(trials=3, losses=int(changed))
    assert content(database, tables_of(database)) == before
