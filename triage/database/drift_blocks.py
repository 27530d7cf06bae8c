"""Blocks of studies for drift: results are counted by group, full blocks are summed up.

A sweep goes through `results` in the order of their numbers, from where it last stopped. The first
look of a served bundle at a study counts, once for its device and once for all devices; what is
looked at again later does not. The device is Station Name, else the AE title that sent it: the
manufacturer is not kept. A look is one row until its block is summed up, so what is written follows
from what is new. Knows no statistics: `operations.drift_watch` sums up.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Select, delete, func, or_, select, update

from triage.database.results import LITTLE_ENDIAN
from triage.database.statements import insert_for, insert_id, insert_row, insert_rows
from triage.database.tables import Instance, ResultRow
from triage.database.tables_history import HistoryMark
from triage.database.tables_house import Alarm, Event
from triage.database.tables_learning import DriftBlock, DriftGroup, DriftLook
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
    read: int
    first: tuple[FirstLook, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FullGroup:
    """A group with a block to be summed up, as it was found."""

    group_id: int
    key: GroupKey
    blocks: int  # summed up before


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """How far counting has come. Times are those at which the results were written."""

    counted_to: datetime | None  # None: nothing was counted
    not_counted: int  # results, of which not all are first looks
    oldest_not_counted: datetime | None


def uncounted(connection: Connection, *, now: datetime, limit: int) -> Looks:
    """Return the next settled results, at most `limit`, reduced to first looks at studies."""
    after = _marked(connection)
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
        read=len(rows),
        first=tuple(_first_looks(connection, first)),
    )


def reached(connection: Connection) -> Reached:
    """Return how far counting has come and what waits; reads an entry for each that waits."""
    mark = _marked(connection)
    r = ResultRow
    last = select(r.created_at).where(r.id <= mark).order_by(r.id.desc()).limit(1)
    oldest = select(r.created_at).where(r.id > mark).order_by(r.id).limit(1)
    waiting = select(func.count()).select_from(r).where(r.id > mark)
    return Reached(
        counted_to=connection.execute(last).scalar_one_or_none(),
        not_counted=connection.execute(waiting).scalar_one(),
        oldest_not_counted=connection.execute(oldest).scalar_one_or_none(),
    )


def gather(connection: Connection, some: Looks, *, most_groups: int = MOST_GROUPS) -> bool:
    """Write first looks down for their groups; False where another was quicker."""
    begun = insert_for(connection, HistoryMark).values(name=MARK, event_id=0)
    connection.execute(begun.on_conflict_do_nothing(index_elements=["name"]))
    moved = connection.execute(
        update(HistoryMark)
        .where(HistoryMark.name == MARK, HistoryMark.event_id == some.after)
        .values(event_id=some.last)
    )
    if not moved.rowcount:
        return False
    by_group: dict[GroupKey, list[int]] = defaultdict(list)
    for look in some.first:
        for key in look.groups:
            by_group[key].append(look.result_id)
    known = _numbers(connection, {look.bundle_digest for look in some.first})
    held = Counter(digest for digest, *_ in known)
    rows = []
    for key, result_ids in sorted(by_group.items()):
        if key not in known:
            if key[3] and held[key[0]] >= most_groups:
                continue
            known[key] = _new_group(connection, key)
            held[key[0]] += 1
        rows += [{"group_id": known[key], "result_id": each} for each in result_ids]
        _add(connection, known[key], waiting=len(result_ids))
    insert_rows(connection, DriftLook, rows)
    return True


def full_group(connection: Connection, *, block: int) -> FullGroup | None:
    """Return a group of which `block` studies wait, if there is one."""
    g = DriftGroup
    row = connection.execute(
        select(g.id, g.bundle_digest, g.modality, g.body_part_examined, g.device, g.blocks)
        .where(g.waiting >= block)
        .order_by(g.id)
        .limit(1)
    ).first()
    if row is None:
        return None
    return FullGroup(group_id=row.id, key=(row[1], row[2], row[3], row[4]), blocks=row.blocks)


def looks_of(connection: Connection, group: FullGroup, *, block: int) -> list[Any]:
    """Return what was said of the first `block` studies that wait, in the order of counting.

    Each with id, subject, analysis, findings, distance, embedding_keys and created_at.
    """
    r, waits = ResultRow, DriftLook
    return list(
        connection.execute(
            select(
                r.id, r.subject, r.analysis, r.findings, r.distance, r.embedding_keys, r.created_at
            )
            .join(waits, waits.result_id == r.id)
            .where(waits.group_id == group.group_id)
            .order_by(waits.result_id)
            .limit(block)
        )
    )


def close_block(
    connection: Connection,
    group: FullGroup,
    looks: Sequence[Any],
    *,
    figures: Mapping[str, Any],
    features: NDArray[np.float32] | None,
) -> bool:
    """Keep the sums of these looks in their place; False where another sweep has been quicker."""
    g, waits = DriftGroup, DriftLook
    taken = connection.execute(
        update(g)
        .where(g.id == group.group_id, g.blocks == group.blocks)
        .values(blocks=g.blocks + 1, waiting=g.waiting - len(looks))
    )
    if not taken.rowcount:
        return False
    connection.execute(
        delete(waits).where(
            waits.group_id == group.group_id,
            waits.result_id.between(looks[0].id, looks[-1].id),
        )
    )
    data = b"" if features is None else np.ascontiguousarray(features, LITTLE_ENDIAN).tobytes()
    insert_row(
        connection,
        DriftBlock,
        group_id=group.group_id,
        started_at=looks[0].created_at,
        ended_at=looks[-1].created_at,
        figures=dict(figures),
        features=data,
    )
    return True


def closed_blocks(
    connection: Connection,
    key: GroupKey,
    *,
    since: datetime | None,
    first: int | None = None,
    last: int | None = None,
) -> list[Any]:
    """Return blocks of a group that began after `since`, oldest first.

    With `first` and `last`: so many from the beginning and so many from the end.
    """
    b = DriftBlock
    number = _group(key).scalar_subquery()
    wanted = select(b.id, b.started_at, b.ended_at, b.figures, b.features).where(
        b.group_id == number
    )
    if since is not None:
        wanted = wanted.where(b.started_at > since)
    if first is None or last is None:
        return list(connection.execute(wanted.order_by(b.id)))
    rows = {row.id: row for row in connection.execute(wanted.order_by(b.id).limit(first))}
    newest = connection.execute(wanted.order_by(b.id.desc()).limit(last))
    return [row for _, row in sorted({**rows, **{row.id: row for row in newest}}.items())]


def groups(connection: Connection, bundle_digests: Sequence[str]) -> list[tuple[GroupKey, int]]:
    """Return each group of these bundles with the studies that wait for its next block."""
    g = DriftGroup
    rows = connection.execute(
        select(g.bundle_digest, g.modality, g.body_part_examined, g.device, g.waiting).where(
            g.bundle_digest.in_(bundle_digests)
        )
    )
    return sorted(((row[0], row[1], row[2], row[3]), row.waiting) for row in rows)


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


def _marked(connection: Connection) -> int:
    marked = select(HistoryMark.event_id).where(HistoryMark.name == MARK)
    return connection.execute(marked).scalar_one_or_none() or 0


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
            )
        )
    return looks


def _name(text: str) -> str:
    """Return a part of a group's name: it is shown, and named on a command line."""
    shown = "".join(each if each.isprintable() and each != "/" else " " for each in text.upper())
    return " ".join(shown.split())[:NAME_CHARACTERS]


def _group(key: GroupKey) -> Select[int]:
    g = DriftGroup
    digest, modality, body_part, device = key
    return select(g.id).where(
        g.bundle_digest == digest,
        g.modality == modality,
        g.body_part_examined == body_part,
        g.device == device,
    )


def _numbers(connection: Connection, digests: set[str]) -> dict[GroupKey, int]:
    g = DriftGroup
    rows = connection.execute(
        select(g.bundle_digest, g.modality, g.body_part_examined, g.device, g.id).where(
            g.bundle_digest.in_(sorted(digests))
        )
    )
    return {(row[0], row[1], row[2], row[3]): row.id for row in rows}


def _new_group(connection: Connection, key: GroupKey) -> int:
    digest, modality, body_part, device = key
    return insert_id(
        connection,
        DriftGroup,
        bundle_digest=digest,
        modality=modality,
        body_part_examined=body_part,
        device=device,
        waiting=0,
        blocks=0,
    )


def _add(connection: Connection, group_id: int, *, waiting: int) -> None:
    g = DriftGroup
    connection.execute(update(g).where(g.id == group_id).values(waiting=g.waiting + waiting))
