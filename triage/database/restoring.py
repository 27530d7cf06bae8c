"""A snapshot becomes the database of a house again, SQLite or PostgreSQL whichever it came from.

Owns what must not survive the journey: leases go back to the queue, heartbeats go, fencing numbers
move on. Until the last transaction commits, the database is marked with a revision that no program
knows, so that a daemon that is started on half of a restore refuses; the mark names the backup, so
that the same restore can be repeated. What was done stays done.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, func, inspect, select, text, update

from triage.database.connection import Database, current_revision, lock_arrivals
from triage.database.house import record_decision
from triage.database.jobs import COLUMNS, NO_LEASE, change
from triage.database.retention import expire_study
from triage.database.revision import HEAD, UNFINISHED
from triage.database.snapshot import METADATA, copy_all
from triage.database.tables import Instance
from triage.database.tables_house import JobRow, Quarantined, RoleRow
from triage.database.worklist import PROGRAM
from triage.errors import RevisionError
from triage.records import JobState

LIVING_S = 30.0  # heartbeats are written every few seconds
# More than a job is ever claimed between a backup and its restore: what a worker of the former
# house still holds is refused by its number.
FENCE_STEP = 1000
MAY_RUN_AGAIN = (JobState.QUEUED, JobState.LEASED, JobState.DEAD)
RETURNED = "restored from a backup"
# Rows that a daemon or a person left; what a daemon writes about itself does not count.
DATA = ("studies", "instances", "object_events", "quarantine", "jobs", "folder_entries", "events")


def mark_of(backup_id: str) -> str:
    """Return the revision that stands in a database while this backup is being restored."""
    return UNFINISHED + backup_id[:8]


def filled_tables(db: Database) -> list[str]:
    """Return the tables that hold data of a house; none where there is no database yet."""
    if current_revision(db) is None:
        return []
    with db.read() as connection:
        there = set(inspect(connection).get_table_names())
        return [
            name
            for name in DATA
            if name in there
            and connection.execute(select(METADATA.tables[name]).limit(1)).first() is not None
        ]


def living_roles(db: Database) -> list[str]:
    """Return the roles that have turned lately: their daemon runs."""
    if current_revision(db) is None:
        return []
    with db.read() as connection:
        if not inspect(connection).has_table(RoleRow.__tablename__):
            return []
        since = db.now(connection) - timedelta(seconds=LIVING_S)
        living = select(RoleRow.role).where(RoleRow.last_turn_at > since).distinct()
        return sorted(connection.execute(living).scalars())


def set_mark(db: Database, backup_id: str) -> None:
    """Mark an empty, migrated database as being restored."""
    with db.write() as connection:
        _set_revision(connection, mark_of(backup_id))


def settle(db: Database, *, backup_id: str, gone: list[str], by: str) -> int:
    """Make a writable snapshot fit to be worked on; return how many leases went back.

    `gone` are files that expired or were settled while the backup ran: their rows follow them.
    """
    with db.write() as connection:
        now = db.now(connection)
        leased = select(*COLUMNS).where(JobRow.state == JobState.LEASED)
        rows = connection.execute(leased).all()
        for row in rows:
            # As `queue.release` does: the attempt was not the job's fault.
            changes: dict[str, Any] = {"state": JobState.QUEUED, "due_at": now} | NO_LEASE
            changes["attempts"] = max(0, row.attempts - 1)
            change(connection, row.id, JobState.LEASED, changes, reason=RETURNED, now=now)
        advanced = update(JobRow).where(JobRow.state.in_(MAY_RUN_AGAIN))
        connection.execute(advanced.values(fence=JobRow.fence + FENCE_STEP))
        connection.execute(delete(RoleRow))
        _let_go(connection, gone, now=now)
        detail = {"backup": backup_id, "leases_returned": len(rows)}
        record_decision(connection, study_id=None, what="restored", by=by, detail=detail, now=now)
        return len(rows)


def fill(db: Database, snapshot: Database, *, backup_id: str) -> None:
    """Put every row of a settled snapshot into the marked database, in one transaction.

    Raises RevisionError where the mark is not there: another program came between.
    """
    with snapshot.read() as source, db.write() as target:
        lock_arrivals(target)
        if _revision(target) != mark_of(backup_id):
            raise RevisionError(
                "the database was changed by another program while it was being restored",
                hint="Stop the daemon, empty the database and restore again.",
            )
        copy_all(source, target)
        if db.dialect == "postgresql":
            _set_sequences(target)
        _set_revision(target, HEAD)


def _let_go(connection: Connection, gone: list[str], *, now: datetime) -> None:
    for path in gone:
        study = select(Instance.study_id).where(Instance.path == path)
        for study_id in connection.execute(study).scalars().all():
            expire_study(connection, study_id, now=now)
    settled = update(Quarantined).where(Quarantined.path.in_(gone), Quarantined.state == "held")
    connection.execute(settled.values(state="discarded", state_at=now, state_by=PROGRAM))


def _set_sequences(connection: Connection) -> None:
    """Let the next number of each table follow the highest that was restored."""
    for table in METADATA.sorted_tables:
        if "id" not in table.columns:
            continue
        sequence = func.pg_get_serial_sequence(table.name, "id")
        highest = func.coalesce(func.max(table.c.id), 0) + 1
        connection.execute(select(func.setval(sequence, highest, False)).select_from(table))


def _revision(connection: Connection) -> str:
    return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one())


def _set_revision(connection: Connection, revision: str) -> None:
    connection.execute(text("UPDATE alembic_version SET version_num = :to"), {"to": revision})
