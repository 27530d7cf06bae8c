"""Blocks of studies for drift: results are gathered by group, full blocks are summed up.

A sweep goes through `results` in the order of their numbers, from where it last stopped. The first
look of a served bundle at a study counts, once for its device and once for all devices; what is
looked at again later does not. The device is Station Name, else the AE title that sent it: the
manufacturer is not kept. Knows no statistics: `operations.drift_watch` sums up.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, or_, select, update

from triage.database.results import LITTLE_ENDIAN
from triage.database.statements import insert_for, insert_id, update_row
from triage.database.tables import Instance, ResultRow
from triage.database.tables_history import HistoryMark
from triage.database.tables_house import Alarm, Event
from triage.database.tables_learning import DriftBlock
from triage.records import AlarmCode, Analysis, Mode, Subject

MARK = "drift"
SETTLED_AFTER = timedelta(seconds=15)  # on PostgreSQL a lower number may still be committed
MOST_GROUPS = 300  # of one bundle; a further device counts with all devices only
NAME_CHARACTERS = 64  # of one part of a group's name
ACCEPTED = "drift_accepted"  # the decision of a person

GroupKey = tuple[str, str, str, str]  # bundle digest, modality, body part, device


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstLook:
    """The first look of a served bundle at a study."""

    result_id: int
    bundle_digest: str
    modality: str
    body_part_examined: str
    device: str
    at: datetime

    @property
    def groups(self) -> tuple[GroupKey, ...]:
        """All devices together, then its own; one where no device is named."""
        kind = (self.bundle_digest, self.modality, self.body_part_examined)
        return ((*kind, ""), (*kind, self.device)) if self.device else ((*kind, ""),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """Some results, read and not counted yet."""

    after: int  # the mark as it was found
    last: int  # the mark as it shall be
    first: tuple[FirstLook, ...]


def uncounted(connection: Connection, *, now: datetime, limit: int) -> Looks:
    """Return the next settled results, at most `limit`, reduced to first looks at studies."""
    marked = select(HistoryMark.event_id).where(HistoryMark.name == MARK)
    after = connection.execute(marked).scalar_one_or_none() or 0
    r = ResultRow
    rows = connection.execute(
        select(
            r.id, r.study_id, r.subject, r.subject_id, r.bundle_digest, r.mode, r.analysis,
            r.distance, r.created_at,
        )
        .where(r.id > after)
        .order_by(r.id)
        .limit(limit)
    ).all()  # fmt: skip
    young = (n for n, row in enumerate(rows) if abs(now - row.created_at) <= SETTLED_AFTER)
    rows = rows[: next(young, len(rows))]
    looked = [
        row
        for row in rows
        if row.mode == Mode.SERVE and row.bundle_digest and _judged(row.analysis, row.distance)
    ]
    earliest = _earliest(connection, sorted({row.study_id for row in looked}))
    first = [row for row in looked if earliest[row.study_id, row.bundle_digest] == row.id]
    return Looks(
        after=after,
        last=rows[-1].id if rows else after,
        first=tuple(_first_looks(connection, first)),
    )


def gather(connection: Connection, some: Looks, *, most_groups: int = MOST_GROUPS) -> bool:
    """Add first looks to the open blocks of their groups; False where another was quicker."""
    begun = insert_for(connection, HistoryMark).values(name=MARK, event_id=0)
    connection.execute(begun.on_conflict_do_nothing(index_elements=["name"]))
    moved = connection.execute(
        update(HistoryMark)
        .where(HistoryMark.name == MARK, HistoryMark.event_id == some.after)
        .values(event_id=some.last)
    )
    if not moved.rowcount:
        return False
    by_group: dict[GroupKey, list[FirstLook]] = defaultdict(list)
    for look in some.first:
        for group in look.groups:
            by_group[group].append(look)
    known = _groups_of(connection, {look.bundle_digest for look in some.first})
    for group, looks in sorted(by_group.items()):
        if group[3] and group not in known and len(known) >= most_groups:
            continue
        known.add(group)
        _append(connection, group, looks)
    return True


def full_blocks(connection: Connection, *, block: int, limit: int) -> list[Any]:
    """Return open blocks that have `block` studies or more: id, group and `result_ids`."""
    b = DriftBlock
    rows = connection.execute(
        select(b.id, b.bundle_digest, b.modality, b.body_part_examined, b.device, b.result_ids)
        .where(b.ended_at.is_(None))
        .order_by(b.id)
    )
    return [row for row in rows if len(row.result_ids) >= block][:limit]


def looks_of(connection: Connection, result_ids: Sequence[int]) -> list[Any]:
    """Return what was said: analysis, findings, distance, embedding_keys and created_at."""
    r = ResultRow
    return list(
        connection.execute(
            select(
                r.id, r.subject, r.analysis, r.findings, r.distance, r.embedding_keys, r.created_at
            )
            .where(r.id.in_(result_ids))
            .order_by(r.id)
        )
    )


def close_block(
    connection: Connection,
    row: Any,
    *,
    figures: Mapping[str, Any],
    features: NDArray[np.float32] | None,
    taken: int,
    ended_at: datetime,
    next_at: datetime | None,
) -> bool:
    """Keep the sums of a full block's first `taken` results; the others begin the next one.

    False where another sweep has been quicker.
    """
    b = DriftBlock
    data = b"" if features is None else np.ascontiguousarray(features, LITTLE_ENDIAN).tobytes()
    closed = connection.execute(
        update(b)
        .where(b.id == row.id, b.ended_at.is_(None))
        .values(figures=dict(figures), features=data, result_ids=[], ended_at=ended_at)
    )
    if not closed.rowcount:
        return False
    if left := row.result_ids[taken:]:
        _open(connection, tuple(row[1:5]), left, started_at=next_at or ended_at)
    return True


def closed_blocks(
    connection: Connection,
    group: GroupKey,
    *,
    since: datetime | None,
    first: int | None = None,
    last: int | None = None,
) -> list[Any]:
    """Return closed blocks of a group that began after `since`, oldest first.

    With `first` and `last`: so many from the beginning and so many from the end.
    """
    b = DriftBlock
    digest, modality, body_part, device = group
    wanted = (
        select(b.id, b.started_at, b.ended_at, b.figures, b.features)
        .where(
            b.bundle_digest == digest,
            b.modality == modality,
            b.body_part_examined == body_part,
            b.device == device,
            b.ended_at.is_not(None),
        )
    )  # fmt: skip
    if since is not None:
        wanted = wanted.where(b.started_at > since)
    if first is None or last is None:
        return list(connection.execute(wanted.order_by(b.id)))
    rows = {row.id: row for row in connection.execute(wanted.order_by(b.id).limit(first))}
    newest = connection.execute(wanted.order_by(b.id.desc()).limit(last))
    return [row for _, row in sorted({**rows, **{row.id: row for row in newest}}.items())]


def groups(connection: Connection, bundle_digests: Sequence[str]) -> list[tuple[GroupKey, int]]:
    """Return each group of these bundles with the studies that wait in its open block."""
    b = DriftBlock
    rows = connection.execute(
        select(b.bundle_digest, b.modality, b.body_part_examined, b.device)
        .where(b.bundle_digest.in_(bundle_digests))
        .distinct()
    )
    keys = sorted((row[0], row[1], row[2], row[3]) for row in rows)
    open_ones = connection.execute(
        select(b.bundle_digest, b.modality, b.body_part_examined, b.device, b.result_ids).where(
            b.ended_at.is_(None), b.bundle_digest.in_(bundle_digests)
        )
    )
    waiting = {(row[0], row[1], row[2], row[3]): len(row.result_ids) for row in open_ones}
    return [(key, waiting.get(key, 0)) for key in keys]


def accepted_at(connection: Connection) -> dict[GroupKey, datetime]:
    """Return when a person last accepted each group that one has."""
    rows = connection.execute(
        select(Event.at, Event.detail)
        .where(Event.study_id.is_(None), Event.what == ACCEPTED)
        .order_by(Event.id)
    )
    return {
        (
            row.detail["bundle_digest"],
            row.detail["modality"],
            row.detail["body_part_examined"],
            row.detail["device"],
        ): row.at
        for row in rows
    }


def open_alarms(connection: Connection) -> dict[str, str]:
    """Return what the open alarms of drift are about, each with its message."""
    a = Alarm
    rows = connection.execute(
        select(a.subject, a.message).where(a.code == AlarmCode.DRIFT, a.cleared_at.is_(None))
    )
    return {row.subject: row.message for row in rows}


# --- rows


def _judged(analysis: str, distance: float | None) -> bool:
    """Whether the pixels were looked at: by the head, or by the gate alone."""
    return analysis == Analysis.ANALYSED or distance is not None


def _earliest(connection: Connection, study_ids: Sequence[int]) -> dict[tuple[int, str], int]:
    r = ResultRow
    rows = connection.execute(
        select(r.study_id, r.bundle_digest, func.min(r.id))
        .where(
            r.study_id.in_(study_ids),
            r.mode == Mode.SERVE,
            or_(r.analysis == Analysis.ANALYSED, r.distance.is_not(None)),
        )
        .group_by(r.study_id, r.bundle_digest)
    )
    return {(row[0], row[1]): row[2] for row in rows}


def _first_looks(connection: Connection, rows: Sequence[Any]) -> list[FirstLook]:
    i = Instance
    images = sorted({row.subject_id for row in rows if row.subject == Subject.IMAGE})
    series = sorted({row.subject_id for row in rows if row.subject == Subject.SERIES})
    of_series = select(func.min(i.id)).where(i.series_id.in_(series)).group_by(i.series_id)
    found = connection.execute(
        select(i.id, i.series_id, i.header, i.sender_ae_title).where(
            or_(i.id.in_(images), i.id.in_(of_series))
        )
    ).all()
    by_image = {row.id: row for row in found}
    by_series = {row.series_id: row for row in found}
    looks = []
    for row in rows:
        held = (by_image if row.subject == Subject.IMAGE else by_series).get(row.subject_id)
        if held is None:
            continue
        header = held.header
        looks.append(
            FirstLook(
                result_id=row.id,
                bundle_digest=row.bundle_digest,
                modality=_name(header.get("modality", "")),
                body_part_examined=_name(header.get("body_part_examined", "")),
                device=_name(header.get("station_name", "") or held.sender_ae_title),
                at=row.created_at,
            )
        )
    return looks


def _name(text: str) -> str:
    """Return a part of a group's name: it is shown, and named on a command line."""
    shown = "".join(each if each.isprintable() and each != "/" else " " for each in text.upper())
    return " ".join(shown.split())[:NAME_CHARACTERS]


def _groups_of(connection: Connection, digests: set[str]) -> set[GroupKey]:
    return {key for key, _ in groups(connection, sorted(digests))}


def _append(connection: Connection, group: GroupKey, looks: Sequence[FirstLook]) -> None:
    b = DriftBlock
    digest, modality, body_part, device = group
    row = connection.execute(
        select(b.id, b.result_ids).where(
            b.bundle_digest == digest,
            b.modality == modality,
            b.body_part_examined == body_part,
            b.device == device,
            b.ended_at.is_(None),
        )
    ).first()
    added = [look.result_id for look in looks]
    if row is None:
        _open(connection, group, added, started_at=looks[0].at)
    else:
        update_row(connection, b, row.id, result_ids=[*row.result_ids, *added])


def _open(
    connection: Connection, group: GroupKey, result_ids: Sequence[int], *, started_at: datetime
) -> None:
    digest, modality, body_part, device = group
    insert_id(
        connection,
        DriftBlock,
        bundle_digest=digest,
        modality=modality,
        body_part_examined=body_part,
        device=device,
        started_at=started_at,
        ended_at=None,
        result_ids=list(result_ids),
        figures={},
        features=b"",
    )
