"""The state of the house: alarms, senders, heartbeats of the roles, decisions of persons.

No study is touched here. Messages carry UIDs and paths below the store, never patient data.
"""

from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from triage.database.statements import insert_for, insert_in, insert_row
from triage.database.tables_house import Alarm, Event, RoleRow, Sender
from triage.records import AlarmCode


def record_decision(
    connection: Connection,
    *,
    study_id: int | None,
    what: str,
    by: str,
    detail: dict[str, Any],
    now: datetime,
) -> None:
    """Leave the trace of a person's decision (DESIGN section 4, "Leaving the list")."""
    insert_row(connection, Event, at=now, study_id=study_id, what=what, by=by, detail=detail)


def raise_alarm(
    connection: Connection,
    *,
    code: AlarmCode,
    subject: str,
    message: str,
    next_step: str,
    now: datetime,
) -> None:
    """Open an alarm; one that is open already for (code, subject) stays as it is."""
    statement = insert_for(connection, Alarm).values(
        code=code, subject=subject, message=message, next_step=next_step, raised_at=now
    )
    connection.execute(
        statement.on_conflict_do_nothing(
            index_elements=["code", "subject"], index_where=Alarm.cleared_at.is_(None)
        )
    )


def clear_alarm(connection: Connection, *, code: AlarmCode, subject: str, now: datetime) -> bool:
    """Close an alarm; False where none was open."""
    done = connection.execute(
        update(Alarm)
        .where(Alarm.code == code, Alarm.subject == subject, Alarm.cleared_at.is_(None))
        .values(cleared_at=now)
    )
    return bool(done.rowcount)


def open_subjects(connection: Connection, *, code: AlarmCode) -> list[str]:
    """Return what the open alarms of one code are about, the oldest first."""
    open_ones = select(Alarm.subject).where(Alarm.code == code, Alarm.cleared_at.is_(None))
    return list(connection.execute(open_ones.order_by(Alarm.id)).scalars())


def record_sender(connection: Connection, ae_title: str, *, now: datetime) -> None:
    """Count an image of a sender and note when it came."""
    values = {"ae_title": ae_title, "last_image_at": now, "images": 1}
    connection.execute(_count_image(connection.dialect.name), values)


@cache
def _count_image(dialect: str) -> "sqlite.Insert | postgresql.Insert":
    statement = insert_in(dialect, Sender)
    return statement.on_conflict_do_update(
        index_elements=["ae_title"],
        set_={
            "last_image_at": statement.excluded.last_image_at,
            "images": Sender.images + 1,
        },
    )


def record_role(
    connection: Connection,
    *,
    role: str,
    host: str,
    pid: int,
    started_at: datetime,
    state: str,
    detail: dict[str, Any],
    now: datetime,
) -> None:
    """Write the heartbeat of one role of one process."""
    values = {"started_at": started_at, "last_turn_at": now, "state": state, "detail": detail}
    statement = insert_for(connection, RoleRow).values(role=role, host=host, pid=pid, **values)
    connection.execute(
        statement.on_conflict_do_update(index_elements=["role", "host", "pid"], set_=values)
    )


def remove_role(connection: Connection, *, role: str, host: str, pid: int) -> None:
    """Take the heartbeat of a role that stopped in order off the list."""
    r = RoleRow
    connection.execute(delete(r).where(r.role == role, r.host == host, r.pid == pid))


def remove_silent_roles(connection: Connection, *, before: datetime) -> int:
    """Remove heartbeats of processes that have not turned since `before`."""
    return connection.execute(delete(RoleRow).where(RoleRow.last_turn_at < before)).rowcount
