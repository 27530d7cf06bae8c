"""Everything that is known of one study, with all that happened to it: `triage show`."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from triage.database.reading_connection import Reader, Row
from triage.errors import PermanentError

Key = tuple[str, int]  # subject and its number
AUDIT_NOTE = "audit_"  # begins the names of `audit.NOTES`, which tell of a look and no decision


def show(reader: Reader, text: str) -> list[Row]:
    """Return one document per study that `text` (Study Instance UID or accession number) names.

    A document holds `study` (its row, with reading_order and waiting_s), `series`, `instances`
    (each with `events`, the dispositions of its SOP Instance UID), `results`, `captions` (current
    and superseded), `jobs` (each with `events`) and `events` (decisions of persons). What is about
    an image or a series names it in `subject_uid`. Raises PermanentError where no study matches.
    """
    sought = text.strip()
    with reader.snapshot():
        studies = _find(reader, sought) if sought else []
        if not studies:
            raise PermanentError(
                "no study has this Study Instance UID or accession number",
                hint="See `triage worklist --all` for the studies that are known.",
            )
        return [_document(reader, study) for study in studies]


def _find(reader: Reader, sought: str) -> list[Row]:
    return reader.rows(
        "SELECT * FROM studies WHERE study_instance_uid = ? OR accession_number = ? ORDER BY id",
        sought,
        sought,
    )


def _document(reader: Reader, study: Row) -> Row:
    number = study["id"]
    series = _of_study(reader, "series", number)
    instances = _of_study(reader, "instances", number)
    subjects: dict[Key, str] = {
        ("series", each["id"]): each["series_instance_uid"] for each in series
    }
    subjects |= {("image", each["id"]): each["sop_instance_uid"] for each in instances}
    jobs = _with_events(_of_study(reader, "jobs", number), _job_events(reader, number))
    return {
        "study": study | _standing(reader, study),
        "series": series,
        "instances": _with_dispositions(instances, _dispositions(reader, number)),
        "results": _named(_of_study(reader, "results", number), subjects),
        "captions": _named(_of_study(reader, "captions", number), subjects),
        "jobs": _named(jobs, subjects),
        "events": [
            each
            for each in _of_study(reader, "events", number)
            if not each["what"].startswith(AUDIT_NOTE)
        ],
    }


def _of_study(reader: Reader, table: str, number: int) -> list[Row]:
    return reader.rows(f"SELECT * FROM {table} WHERE study_id = ? ORDER BY id", number)  # noqa: S608


def _standing(reader: Reader, study: Row) -> Row:
    """Return what only the view knows: the place in the list and the time waited."""
    (standing,) = reader.rows(
        "SELECT reading_order, waiting_s FROM worklist"
        " WHERE study_instance_uid = ? AND patient_id = ? AND issuer_of_patient_id = ?",
        study["study_instance_uid"],
        study["patient_id"],
        study["issuer_of_patient_id"],
    )
    return standing


def _dispositions(reader: Reader, number: int) -> list[Row]:
    return reader.rows(
        "SELECT * FROM object_events WHERE sop_instance_uid IN"
        " (SELECT sop_instance_uid FROM instances WHERE study_id = ?) ORDER BY id",
        number,
    )


def _job_events(reader: Reader, number: int) -> list[Row]:
    return reader.rows(
        "SELECT * FROM job_events WHERE job_id IN (SELECT id FROM jobs WHERE study_id = ?)"
        " ORDER BY id",
        number,
    )


def _with_dispositions(instances: Sequence[Row], events: Iterable[Row]) -> list[Row]:
    """Give each instance its events, and those of objects of its UID that were not held."""
    held: dict[Any, list[Row]] = defaultdict(list)
    for event in events:
        held[event["instance_id"] or event["sop_instance_uid"]].append(event)
    return [
        each
        | {
            "events": sorted(
                held[each["id"]] + held[each["sop_instance_uid"]], key=lambda event: event["id"]
            )
        }
        for each in instances
    ]


def _with_events(jobs: Sequence[Row], events: Iterable[Row]) -> list[Row]:
    by_job: dict[int, list[Row]] = defaultdict(list)
    for event in events:
        by_job[event["job_id"]].append(event)
    return [job | {"events": by_job[job["id"]]} for job in jobs]


def _named(rows: Iterable[Row], subjects: dict[Key, str]) -> list[Row]:
    """Add the UID of the image or series that each row is about."""
    return [
        row | {"subject_uid": subjects.get((row["subject"], row["subject_id"]))} for row in rows
    ]
