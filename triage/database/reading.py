"""What may be asked of the database without the ORM layer: `status`, `worklist`, `show`, pages.

The public face of the `reading_*` modules. Answers are plain dicts, as JSON shows them: times are
ISO 8601 UTC text, DICOM attributes as received. Nothing here writes, and each answer sees one
moment of the database.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from triage import errors
from triage.database.reading_connection import Reader, Row, open_reader, revision, time_text
from triage.database.reading_status import status_facts
from triage.database.reading_study import show

__all__ = [
    "SCHEMA_VERSION",
    "Reader",
    "as_of",
    "dead_letters",
    "open_reader",
    "quarantine_list",
    "revision",
    "show",
    "status_facts",
    "worklist",
]

SCHEMA_VERSION = 1  # of the documents; also the first column of the view `worklist`
# Longer than a change of a study takes that has to wait for the locks of the database.
COMMITTED_WITHIN = timedelta(seconds=15)


def as_of(reader: Reader) -> str:
    """Return the time of a look that begins now: a decision may name it as when it was seen.

    By the database's clock, and a little early: a change that is committed only now bears the time
    at which it was begun, and what is read next may be without it.
    """
    with reader.snapshot():
        postgres = reader.dialect == "postgresql"
        now = reader.value("SELECT clock_timestamp()") if postgres else datetime.now(UTC)
    return time_text(now - COMMITTED_WITHIN)


def worklist(
    reader: Reader,
    *,
    limit: int | None = None,
    all: bool = False,  # noqa: A002
) -> list[Row]:
    """Return the open studies in reading order, each with the columns of the view `worklist`.

    `all` adds, after them and newest first, the studies that are off the list. Nothing is capped
    without `limit`.
    """
    statement = "SELECT * FROM worklist"
    if all:
        # Not every dialect sorts NULL last.
        statement += (
            " ORDER BY reading_order IS NULL, reading_order, received_at DESC, study_instance_uid"
        )
    else:
        statement += " WHERE reading_order IS NOT NULL ORDER BY reading_order"
    parameters: tuple[Any, ...] = ()
    if limit is not None:
        statement, parameters = statement + " LIMIT ?", (max(0, limit),)
    with reader.snapshot():
        return reader.rows(statement, *parameters)


def quarantine_list(
    reader: Reader,
    *,
    all: bool = False,  # noqa: A002
    newest: int | None = None,
) -> list[Row]:
    """Return the objects kept aside, oldest first; `all` adds released and discarded ones.

    With `newest`: so many at most, newest first.
    """
    held = "" if all else "WHERE state = 'held' "
    order = "received_at, id" if newest is None else "received_at DESC, id DESC LIMIT ?"
    statement = f"SELECT * FROM quarantine {held}ORDER BY {order}"  # noqa: S608
    with reader.snapshot():
        return reader.rows(statement, *(() if newest is None else (newest,)))


def dead_letters(reader: Reader, *, newest: int | None = None) -> list[Row]:
    """Return the jobs that failed for good, newest first, each with its `next_step`."""
    statement = (
        "SELECT jobs.id, jobs.kind, jobs.subject, jobs.subject_id, jobs.study_id,"
        " studies.study_instance_uid, jobs.generation, jobs.attempts, jobs.error_kind,"
        " jobs.reason, jobs.created_at, jobs.finished_at"
        " FROM jobs JOIN studies ON studies.id = jobs.study_id"
        " WHERE jobs.state = 'dead' ORDER BY jobs.finished_at DESC, jobs.id DESC"
    )
    parameters: tuple[int, ...] = ()
    if newest is not None:
        statement, parameters = statement + " LIMIT ?", (newest,)
    with reader.snapshot():
        letters = reader.rows(statement, *parameters)
    return [letter | {"next_step": _next_step(letter["error_kind"])} for letter in letters]


def _next_step(error_kind: str) -> str:
    """Return the hint of the error class that the queue recorded."""
    kind = getattr(errors, error_kind, None)
    if isinstance(kind, type) and issubclass(kind, errors.TriageError):
        return kind.hint
    return errors.TriageError.hint
