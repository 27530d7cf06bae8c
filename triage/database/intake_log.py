"""What intake leaves beside the studies: dispositions, refusals, quarantine, folder entries.

No bytes are touched here; the store does that. Reasons and messages carry no patient data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, select, update

from triage.database.house import record_decision
from triage.database.statements import insert_for, insert_id, insert_row
from triage.database.tables import ObjectEvent
from triage.database.tables_house import FolderEntry, Quarantined
from triage.records import ObjectState, Source

QUARANTINE_REASON_LENGTH = 500


def record_event(
    connection: Connection,
    *,
    state: ObjectState,
    sop_instance_uid: str,
    instance_id: int | None,
    source: Source,
    sender_ae_title: str,
    reason: str,
    now: datetime,
) -> None:
    """Leave the trace of one disposition."""
    insert_row(
        connection,
        ObjectEvent,
        at=now,
        sop_instance_uid=sop_instance_uid,
        instance_id=instance_id,
        state=state,
        source=source,
        sender_ae_title=sender_ae_title,
        reason=reason[:QUARANTINE_REASON_LENGTH],
    )


def record_refused(
    connection: Connection,
    *,
    source: Source,
    sender_ae_title: str,
    sop_instance_uid: str,
    reason: str,
    now: datetime,
) -> None:
    """Record an object that was not taken in and not kept."""
    record_event(
        connection,
        state=ObjectState.REFUSED,
        sop_instance_uid=sop_instance_uid,
        instance_id=None,
        source=source,
        sender_ae_title=sender_ae_title,
        reason=reason,
        now=now,
    )


def record_quarantined(
    connection: Connection,
    *,
    source: Source,
    sender_ae_title: str,
    sop_instance_uid: str,
    sop_class_uid: str,
    path: str | None,
    original_path: str | None,
    size_bytes: int,
    reason_code: str,
    reason: str,
    now: datetime,
) -> int:
    """Record an object that was kept aside; returns its number in the quarantine.

    `path` is relative to the store and None where the bytes were not kept. UIDs may be empty or
    ill-formed: they are shown, never used as a path.
    """
    record_event(
        connection,
        state=ObjectState.QUARANTINED,
        sop_instance_uid=sop_instance_uid,
        instance_id=None,
        source=source,
        sender_ae_title=sender_ae_title,
        reason=reason,
        now=now,
    )
    return insert_id(
        connection,
        Quarantined,
        received_at=now,
        source=source,
        sender_ae_title=sender_ae_title,
        sop_instance_uid=sop_instance_uid,
        sop_class_uid=sop_class_uid,
        path=path,
        original_path=original_path,
        size_bytes=size_bytes,
        reason_code=reason_code,
        reason=reason[:QUARANTINE_REASON_LENGTH],
        state="held",
        state_at=now,
        state_by="",
    )


def is_kept_aside(connection: Connection, path: str) -> bool:
    """Whether the quarantine lists this file.

    A writer that acts on the answer takes `lock_arrivals` first: no arrival comes between then.
    """
    q = Quarantined
    held = select(q.id).where(q.path == path, q.state == "held").limit(1)
    return connection.execute(held).first() is not None


def was_kept_aside(connection: Connection, path: str) -> bool:
    """Whether the quarantine has ever listed this file."""
    return (
        connection.execute(select(Quarantined.id).where(Quarantined.path == path)).first()
        is not None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedObject:
    """One line of the quarantine."""

    id: int
    path: str | None
    original_path: str | None
    source: Source
    sender_ae_title: str
    sop_instance_uid: str
    state: str  # held | released | discarded
    reason: str


def quarantined_object(connection: Connection, quarantine_id: int) -> QuarantinedObject | None:
    """Return one line of the quarantine, None where there is no such number."""
    q = Quarantined
    row = connection.execute(
        select(
            q.id,
            q.path,
            q.original_path,
            q.source,
            q.sender_ae_title,
            q.sop_instance_uid,
            q.state,
            q.reason,
        ).where(q.id == quarantine_id)
    ).one_or_none()
    if row is None:
        return None
    values = dict(row._mapping)
    return QuarantinedObject(**{**values, "source": Source(values["source"])})


def settle_quarantined(
    connection: Connection, quarantine_id: int, *, state: str, by: str, now: datetime
) -> bool:
    """Mark a held object `released` or `discarded`; False where it is held no longer."""
    done = connection.execute(
        update(Quarantined)
        .where(Quarantined.id == quarantine_id, Quarantined.state == "held")
        .values(state=state, state_at=now, state_by=by)
    )
    if done.rowcount:
        record_decision(
            connection,
            study_id=None,
            what=f"quarantine_{state}",
            by=by,
            detail={"quarantine_id": quarantine_id},
            now=now,
        )
    return bool(done.rowcount)


# --- watched folders


def known_folder_entry(
    connection: Connection, path: str, *, size_bytes: int, mtime_ns: int
) -> str | None:
    """Return the outcome of a file that was read at this size and mtime, else None."""
    f = FolderEntry
    return connection.execute(
        select(f.outcome).where(f.path == path, f.size_bytes == size_bytes, f.mtime_ns == mtime_ns)
    ).scalar_one_or_none()


def known_folder_entries(
    connection: Connection, paths: Sequence[str]
) -> dict[str, tuple[int, int, str]]:
    """Return (size_bytes, mtime_ns, outcome) of those paths that were read; at most 500 a call."""
    f = FolderEntry
    rows = connection.execute(
        select(f.path, f.size_bytes, f.mtime_ns, f.outcome).where(f.path.in_(paths))
    )
    return {row.path: (row.size_bytes, row.mtime_ns, row.outcome) for row in rows}


def remember_folder_entry(
    connection: Connection,
    path: str,
    *,
    size_bytes: int,
    mtime_ns: int,
    outcome: str,
    now: datetime,
) -> None:
    """Remember that a file was read, so that a rescan passes over it."""
    values = {
        "size_bytes": size_bytes,
        "mtime_ns": mtime_ns,
        "outcome": outcome,
        "seen_at": now,
    }
    statement = insert_for(connection, FolderEntry).values(path=path, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["path"], set_=values))


def forget_folder_entry(connection: Connection, path: str) -> None:
    """Forget a file that is gone."""
    connection.execute(delete(FolderEntry).where(FolderEntry.path == path))
