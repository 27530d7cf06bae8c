"""What must hold after any number of kills, asked of the database and the store from outside."""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, case, func, select, text

from tests.faults.killing import Sent, body_digest
from triage.database.connection import Database
from triage.database.tables import Embedding, Instance, ObjectEvent, ResultRow, Study
from triage.database.tables_house import JobEvent, JobRow
from triage.records import Analysis, JobKind, JobState, Mode, ObjectState, StudyState, Subject

AGAIN = "trial_embedded_again"
ENCODED = '"views_encoded"'  # the event of the worker
# An embedding that is offered under a key that is there was computed a second time. One that the
# worker found in the cache and computed nevertheless is offered to nobody: see _encoded_again.
WATCH = {
    "sqlite": (
        f"CREATE TABLE {AGAIN} (key TEXT)",
        f"CREATE TRIGGER {AGAIN}_note BEFORE INSERT ON embeddings"
        " WHEN EXISTS (SELECT 1 FROM embeddings WHERE key = NEW.key)"
        f" BEGIN INSERT INTO {AGAIN} VALUES (NEW.key); END",
    ),
    "postgresql": (
        f"CREATE TABLE {AGAIN} (key TEXT)",
        f"CREATE FUNCTION {AGAIN}_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF EXISTS (SELECT 1 FROM embeddings WHERE key = NEW.key)"
        f" THEN INSERT INTO {AGAIN} VALUES (NEW.key); END IF; RETURN NEW; END $$",
        f"CREATE TRIGGER {AGAIN}_note BEFORE INSERT ON embeddings"
        f" FOR EACH ROW EXECUTE FUNCTION {AGAIN}_note()",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Counts of broken promises; all 0 is what must be."""

    missing: int = 0  # answered 0x0000, without a row or a file
    altered: int = 0  # held with another data set than was sent
    doubled: int = 0  # more than one row
    undisposed: int = 0  # studies that still wait, objects without an event
    stuck: int = 0  # jobs that neither ended nor can
    finished_twice: int = 0  # jobs with two ends
    two_results: int = 0  # subjects with two results of one bundle and generation
    two_current: int = 0  # subjects of which two served results count: the trials serve one bundle
    mismatched: int = 0  # settled studies that say other than their current results
    computed_again: int = 0  # embeddings that were committed
    leftovers: int = 0  # half-written files

    @property
    def losses(self) -> int:
        return sum(asdict(self).values())

    def __str__(self) -> str:
        broken = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name)}
        return ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in broken.items()) or "none"


def watch_embeddings(db: Database) -> None:
    """Have the database of a trial count embeddings that are offered twice."""
    with db.write() as connection:
        for statement in WATCH[connection.dialect.name]:
            connection.exec_driver_sql(statement)


def is_settled(db: Database) -> bool:
    """Whether no study waits for anything and no analysis is queued or running."""
    with db.read() as connection:
        return not _stuck(connection) and not _waiting(connection)


def leased_to(db: Database, pid: int) -> int:
    """How many analyses the worker with this process ID has in hand."""
    with db.read() as connection:
        owned = JobRow.owner.endswith(f":{pid}")
        return count(connection, JobRow.id, JobRow.state == JobState.LEASED, owned)


def dead_letters(db: Database) -> int:
    with db.read() as connection:
        return count(connection, JobRow.id, JobRow.state == JobState.DEAD)


def studies_by_analysis(db: Database) -> dict[str, int]:
    """Return how many studies ended analysed, not eligible, failed."""
    with db.read() as connection:
        counted = select(Study.analysis, func.count().label("studies")).group_by(Study.analysis)
        return {row.analysis: row.studies for row in connection.execute(counted)}


def examine(
    db: Database,
    store: Path,
    sent: Iterable[Sent],
    answered: Collection[str],
    *,
    watched: bool,
    log: Path | None = None,
) -> Findings:
    """Compare what was answered with what is there, once all is settled.

    `log` is of a daemon that tells what it encodes: at level debug.
    """
    wanted = {each.uid: each for each in sent if each.uid in answered}
    with db.read() as connection:
        rows = connection.execute(select(Instance.sop_instance_uid, Instance.path)).all()
        events = {uid for (uid,) in connection.execute(select(ObjectEvent.sop_instance_uid))}
        held = {row.sop_instance_uid: store / row.path for row in rows}
        missing = _missing(held, wanted)
        rows_of = Counter(row.sop_instance_uid for row in rows)
        return Findings(
            missing=len(missing),
            altered=sum(
                1 for uid in wanted.keys() - set(missing)
                if body_digest(held[uid].read_bytes()) != wanted[uid].body
            ),
            doubled=sum(1 for count in rows_of.values() if count > 1),
            undisposed=_waiting(connection) + len(wanted.keys() - events),
            stuck=_stuck(connection),
            finished_twice=_groups(
                connection, select(JobEvent.job_id)
                .where(JobEvent.to_state == JobState.DONE).group_by(JobEvent.job_id)
            ),
            two_results=_groups(
                connection, select(ResultRow.subject_id).group_by(
                    ResultRow.subject, ResultRow.subject_id, ResultRow.generation,
                    ResultRow.bundle_digest, ResultRow.mode,
                )
            ),
            two_current=_groups(
                connection, select(ResultRow.subject_id)
                .group_by(ResultRow.subject, ResultRow.subject_id, ResultRow.mode),
                of=func.sum(case((ResultRow.current, 1), else_=0)),
            ),
            mismatched=_mismatched(connection),
            computed_again=(
                connection.execute(text(f"SELECT count(*) FROM {AGAIN}")).scalar_one()
                if watched else 0
            ) + (_encoded_again(connection, log) if log else 0),
            leftovers=sum(1 for path in (store / "incoming").rglob("*.part") if path.is_file()),
        )  # fmt: skip


def _encoded_again(connection: Connection, log: Path) -> int:
    """How many views a worker encoded when their embeddings had been committed."""
    rows = connection.execute(select(Embedding.key, Embedding.created_at))
    committed = {row.key: row.created_at for row in rows}
    again = 0
    for line in log.read_text("utf-8", errors="replace").splitlines():
        if ENCODED in line:
            event = json.loads(line)
            at = datetime.fromisoformat(event["timestamp"])
            again += sum(1 for key in event["keys"] if key in committed and committed[key] < at)
    return again


def unheld(db: Database, store: Path, answered: Collection[str]) -> dict[str, int]:
    """Count what was answered with success and has not one row, no file, or no disposition."""
    with db.read() as connection:
        rows = connection.execute(select(Instance.sop_instance_uid, Instance.path)).all()
        events = {uid for (uid,) in connection.execute(select(ObjectEvent.sop_instance_uid))}
        waiting = _waiting(connection) + _stuck(connection)
    rows_of = Counter(row.sop_instance_uid for row in rows)
    held = {row.sop_instance_uid: store / row.path for row in rows}
    counts = {
        "without a row or a file": len(_missing(held, answered)),
        "with two rows": sum(1 for uid in answered if rows_of[uid] > 1),
        "without a disposition": sum(1 for uid in answered if uid not in events),
        "studies and analyses still waiting": waiting,
    }
    return {what: count for what, count in counts.items() if count}


def _missing(held: Mapping[str, Path], wanted: Iterable[str]) -> list[str]:
    return [uid for uid in wanted if uid not in held or not held[uid].is_file()]


def _stuck(connection: Connection) -> int:
    open_states = (JobState.QUEUED, JobState.LEASED)
    return count(
        connection, JobRow.id, JobRow.kind == JobKind.ANALYSE, JobRow.state.in_(open_states)
    )


def _waiting(connection: Connection) -> int:
    arriving, pending = Study.state == StudyState.ARRIVING, Study.analysis == Analysis.PENDING
    return count(connection, Study.id, arriving | pending)


def count(connection: Connection, column: object, *conditions: object) -> int:
    return int(connection.execute(select(func.count(column)).where(*conditions)).scalar_one())  # type: ignore[arg-type]


def _groups(connection: Connection, grouped: object, *, of: object = None) -> int:
    """How many groups have more than one row, or a sum above one."""
    counted = func.count() if of is None else of
    many = grouped.having(counted > 1).subquery()  # type: ignore[attr-defined, operator]
    return int(connection.execute(select(func.count()).select_from(many)).scalar_one())


def _mismatched(connection: Connection) -> int:
    """How many settled studies say other than their current served results, read one by one.

    The rule is told here again, so that a mistake in the program's own cannot hide itself: with a
    failure or a conflict a study has failed, else with a part that was looked at it is analysed;
    every image and series has a result; what is flagged of a part is flagged of the study.
    """
    said: dict[int, list[Row[Any]]] = defaultdict(list)
    results = select(
        ResultRow.study_id, ResultRow.subject, ResultRow.subject_id, ResultRow.analysis,
        ResultRow.findings, ResultRow.mode, ResultRow.current,
    )  # fmt: skip
    for row in connection.execute(results):
        if row.current and row.mode == Mode.SERVE:
            said[row.study_id].append(row)
    subjects: dict[int, set[tuple[str, int]]] = defaultdict(set)
    conflicts: set[int] = set()
    held = select(
        Instance.study_id, Instance.subject, Instance.id, Instance.series_id, Instance.state
    )
    for row in connection.execute(held):
        if row.subject is not None:
            of = row.id if row.subject == Subject.IMAGE else row.series_id
            subjects[row.study_id].add((row.subject, of))
        if row.state == ObjectState.CONFLICT:
            conflicts.add(row.study_id)
    settled = select(Study.id, Study.analysis, Study.findings).where(
        Study.state != StudyState.ARRIVING, Study.analysis != Analysis.PENDING
    )
    return sum(
        1 for study in connection.execute(settled)
        if not subjects[study.id] <= {(row.subject, row.subject_id) for row in said[study.id]}
        or study.analysis != _analysis_of(said[study.id], conflict=study.id in conflicts)
        or _flagged(study.findings) != set().union(*(_flagged(r.findings) for r in said[study.id]))
    )  # fmt: skip


def _analysis_of(results: Iterable[Row[Any]], *, conflict: bool) -> Analysis:
    states = {row.analysis for row in results} | ({Analysis.FAILED} if conflict else set())
    order = (Analysis.FAILED, Analysis.ANALYSED)
    return next((state for state in order if state in states), Analysis.NOT_ELIGIBLE)


def _flagged(findings: Iterable[Mapping[str, Any]]) -> set[str]:
    return {finding["name"] for finding in findings if finding["flagged"]}
