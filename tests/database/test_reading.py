"""Worklist, study, quarantine and dead letters as programs without the ORM layer read them."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import JSON, Boolean

from tests.builders import make_arrival, make_header
from tests.database.conftest import Room, analysed
from tests.database.table_rows import (
    add_caption,
    add_instance,
    add_job,
    add_job_event,
    add_object_event,
    add_result,
    add_series,
    add_study,
    at,
)
from triage.database import audit, reading
from triage.database.connection import Database
from triage.database.house import record_decision
from triage.database.intake_log import record_quarantined, settle_quarantined
from triage.database.reading_connection import DOCUMENTS, FLAGS
from triage.database.snapshot import METADATA
from triage.errors import KnownAnswerError, PermanentError
from triage.records import Source

# DESIGN section 6, "Worklist entry"; extended, never broken.
ENTRY = """
schema_version reading_order study_instance_uid accession_number patient_id issuer_of_patient_id
patient_name patient_sex patient_birth_date referring_physician_name institution_name station_name
current_patient_location sender_ae_title study_description study_date study_time study_datetime
modalities_in_study body_part_examined number_of_study_related_instances received_at analysed_at
flagged_at acknowledged_at acknowledged_by state generation analysis analysis_reason
images_eligible images_analysed priority priority_source priority_reason order_priority findings
caption models waiting_s not_for_clinical_use
"""
FINDING = {
    "name": "pneumothorax",
    "code": {"value": "36118008", "scheme": "SCT", "meaning": "Pneumothorax"},
    "probability": 0.75,
    "operating_point": 0.5,
    "flagged": True,
}


@pytest.fixture
def reader(database_url: str) -> Iterator[reading.Reader]:
    """Read the test's database as another process would."""
    opened = reading.open_reader(database_url)
    yield opened
    opened.close()


def uids(studies: list[dict[str, Any]]) -> list[str]:
    return [study["study_instance_uid"] for study in studies]


# --- worklist


def test_an_entry_has_the_columns_of_the_contract(
    database: Database, reader: reading.Reader
) -> None:
    add_study(database)
    (entry,) = reading.worklist(reader)
    assert list(entry) == ENTRY.split()
    assert entry["schema_version"] == reading.SCHEMA_VERSION


def test_values_have_the_types_of_json(database: Database, reader: reading.Reader) -> None:
    model = {"name": "chest", "version": "1", "digest": "d1"}
    add_study(
        database,
        findings=[FINDING],
        models=[model],
        modalities_in_study=["DX", "SR"],
        not_for_clinical_use=True,
        study_datetime=at(-0.5),
    )
    (entry,) = reading.worklist(reader)
    assert entry["findings"] == [FINDING]
    assert entry["models"] == [model]
    assert entry["modalities_in_study"] == ["DX", "SR"]
    assert entry["not_for_clinical_use"] is True
    assert entry["study_datetime"] == "2026-01-02T11:59:59.500000Z"
    assert entry["received_at"] == "2026-01-02T12:00:00.000000Z"
    assert entry["analysed_at"] is None
    assert isinstance(entry["waiting_s"], int | float)
    assert entry["waiting_s"] > 0


def test_waiting_ends_at_the_acknowledgement(database: Database, reader: reading.Reader) -> None:
    add_study(database, sort_key=None, state="acknowledged", acknowledged_at=at(90))
    (entry,) = reading.worklist(reader, all=True)
    assert entry["waiting_s"] == pytest.approx(90, abs=1)


def test_the_worklist_is_the_open_studies_in_reading_order(
    database: Database, reader: reading.Reader
) -> None:
    add_study(database, "1.1", sort_key="3")
    add_study(database, "1.2", sort_key=None, state="acknowledged")
    add_study(database, "1.3", sort_key="1")
    add_study(database, "1.4", sort_key="3")
    studies = reading.worklist(reader)
    assert uids(studies) == ["1.3", "1.1", "1.4"]
    assert [study["reading_order"] for study in studies] == [1, 2, 3]


def test_all_adds_what_left_the_list_newest_first(
    database: Database, reader: reading.Reader
) -> None:
    add_study(database, "1.1", sort_key=None, state="acknowledged", received_at=at(-20))
    add_study(database, "1.2", sort_key=None, state="expired", received_at=at(-10))
    add_study(database, "1.3", received_at=at(-30))
    studies = reading.worklist(reader, all=True)
    assert uids(studies) == ["1.3", "1.2", "1.1"]
    assert [study["reading_order"] for study in studies] == [1, None, None]


@pytest.mark.parametrize(("limit", "count"), [(None, 3), (5, 3), (2, 2), (0, 0), (-1, 0)])
def test_a_limit_cuts_the_end_of_the_list(
    database: Database, reader: reading.Reader, limit: int | None, count: int
) -> None:
    for number in range(3):
        add_study(database, f"1.{number}")
    assert uids(reading.worklist(reader, limit=limit)) == ["1.0", "1.1", "1.2"][:count]


def test_an_empty_database_gives_an_empty_list(reader: reading.Reader) -> None:
    assert reading.worklist(reader) == []
    assert reading.quarantine_list(reader) == []
    assert reading.dead_letters(reader) == []


def test_columns_that_need_decoding_are_those_of_the_tables() -> None:
    columns = [column for table in METADATA.tables.values() for column in table.columns]
    documents = {column.name for column in columns if isinstance(column.type, JSON)}
    flags = {column.name for column in columns if isinstance(column.type, Boolean)}
    assert documents == DOCUMENTS
    assert flags == FLAGS


def test_the_time_of_a_look_is_before_what_is_not_committed_yet(
    database: Database, reader: reading.Reader
) -> None:
    with database.write() as connection:
        begun_at = database.now(connection)
        looked_at = datetime.fromisoformat(reading.as_of(reader))
    assert looked_at < begun_at < looked_at + timedelta(minutes=1)


# --- show


@pytest.mark.parametrize("text", ["1.2.3", "A1", "  A1 "])
def test_a_study_is_found_by_its_uid_or_accession_number(
    database: Database, reader: reading.Reader, text: str
) -> None:
    number = add_study(database, "1.2.3", accession_number="A1", sort_key="2")
    add_study(database, "1.2.9", accession_number="A2", sort_key="1")
    (document,) = reading.show(reader, text)
    study = document["study"]
    assert (study["id"], study["study_instance_uid"]) == (number, "1.2.3")
    assert study["reading_order"] == 2
    assert study["waiting_s"] > 0
    assert study["two_patients"] is False
    assert study["person_priority_findings"] is None


def test_one_uid_under_two_patients_gives_two_documents(
    database: Database, reader: reading.Reader
) -> None:
    add_study(database, "1.2.3", patient_id="P1", sort_key="1")
    add_study(database, "1.2.3", patient_id="P2", sort_key="2")
    documents = reading.show(reader, "1.2.3")
    assert [document["study"]["patient_id"] for document in documents] == ["P1", "P2"]
    assert [document["study"]["reading_order"] for document in documents] == [1, 2]


@pytest.mark.parametrize("text", ["SECRET-7", "", "  "])
def test_a_text_that_names_no_study_is_refused_without_being_repeated(
    database: Database, reader: reading.Reader, text: str
) -> None:
    add_study(database, accession_number="")
    with pytest.raises(PermanentError, match="no study has") as caught:
        reading.show(reader, text)
    assert "SECRET" not in str(caught.value)


def test_each_instance_tells_what_became_of_the_objects_of_its_uid(
    database: Database, reader: reading.Reader
) -> None:
    study, other = add_study(database, "1.1"), add_study(database, "1.2")
    series = add_series(database, study)
    held = add_instance(database, study, series, "9.1", duplicates=1, header={"modality": "DX"})
    rival = add_instance(database, study, series, "9.1", state="conflict", contests_id=held)
    foreign = add_instance(database, other, add_series(database, other), "9.1")
    add_object_event(database, "9.1", "stored", instance_id=held)
    add_object_event(database, "9.1", "refused")
    add_object_event(database, "9.1", "duplicate", instance_id=held)
    add_object_event(database, "9.1", "conflict", instance_id=rival)
    add_object_event(database, "9.1", "stored", instance_id=foreign)
    add_object_event(database, "9.2", "refused")
    (document,) = reading.show(reader, "1.1")
    first, second = document["instances"]
    assert [event["state"] for event in first["events"]] == ["stored", "refused", "duplicate"]
    assert [event["state"] for event in second["events"]] == ["refused", "conflict"]
    assert (first["duplicates"], second["contests_id"]) == (1, held)
    assert first["header"] == {"modality": "DX"}
    assert [each["series_instance_uid"] for each in document["series"]] == ["1.2.3.4"]


def test_results_are_shown_with_those_that_no_longer_count(
    database: Database, reader: reading.Reader
) -> None:
    study = add_study(database, "1.1")
    image = add_instance(database, study, add_series(database, study), "9.1")
    add_result(database, study, image, current=False)
    add_result(database, study, image, generation=2, findings=[FINDING])
    add_caption(database, study, image, "No acute finding.")
    add_result(database, add_study(database, "1.2"), 99)
    (document,) = reading.show(reader, "1.1")
    old, new = document["results"]
    assert (old["current"], new["current"]) == (False, True)
    assert new["findings"] == [FINDING]
    assert new["not_for_clinical_use"] is True
    assert new["embedding_keys"] == ["k1"]
    assert new["subject_uid"] == "9.1"
    (caption,) = document["captions"]
    assert (caption["text"], caption["subject_uid"]) == ("No acute finding.", "9.1")


def test_jobs_are_shown_with_their_steps_and_decisions_with_their_person(
    database: Database, reader: reading.Reader
) -> None:
    study = add_study(database, "1.1")
    series = add_series(database, study)
    job = add_job(database, study, series, subject="series")
    other = add_job(database, add_study(database, "1.2"), 7)
    for number in (job, other):
        add_job_event(database, number, "queued", reason="made")
    with database.write() as connection:
        decision: dict[str, Any] = {"what": "acknowledged", "by": "reader1", "now": at(5)}
        record_decision(connection, study_id=study, detail={"generation": 1}, **decision)
    (document,) = reading.show(reader, "1.1")
    (shown,) = document["jobs"]
    assert (shown["id"], shown["subject_uid"]) == (job, "1.2.3.4")
    (step,) = shown["events"]
    assert (step["from_state"], step["to_state"], step["reason"]) == (None, "queued", "made")
    (event,) = document["events"]
    assert (event["what"], event["by"]) == ("acknowledged", "reader1")
    assert event["detail"] == {"generation": 1}
    assert event["at"] == "2026-01-02T12:00:05.000000Z"


@pytest.mark.parametrize("what", audit.NOTES)
def test_a_note_for_the_audit_trail_is_not_shown_as_a_decision(
    database: Database, reader: reading.Reader, what: str
) -> None:
    study = add_study(database, "1.1")
    with database.write() as connection:
        audit.note(connection, study_id=study, what=what, by="reader1", detail={}, now=at(5))
    (document,) = reading.show(reader, "1.1")
    assert document["events"] == []


# --- quarantine and dead letters


def quarantine(db: Database, uid: str, seconds: float) -> int:
    with db.write() as connection:
        return record_quarantined(
            connection,
            source=Source.FOLDER,
            sender_ae_title="",
            sop_instance_uid=uid,
            sop_class_uid="",
            path=None,
            original_path="/in/a.dcm",
            size_bytes=7,
            reason_code="unparsable",
            reason="the data set ends early",
            now=at(seconds),
        )


def test_quarantine_lists_what_is_held_and_with_all_what_was(
    database: Database, reader: reading.Reader
) -> None:
    late, early, settled = (
        quarantine(database, uid, s) for uid, s in (("3", 9), ("1", 1), ("2", 5))
    )
    with database.write() as connection:
        settle_quarantined(connection, settled, state="discarded", by="admin", now=at(20))
    assert [entry["id"] for entry in reading.quarantine_list(reader)] == [early, late]
    everything = reading.quarantine_list(reader, all=True)
    assert [entry["id"] for entry in everything] == [early, settled, late]
    assert [entry["id"] for entry in reading.quarantine_list(reader, newest=1)] == [late]
    assert everything[1]["state_by"] == "admin"
    assert everything[0]["received_at"] == "2026-01-02T12:00:01.000000Z"


def test_a_dead_letter_names_its_study_its_reason_and_the_next_step(
    database: Database, reader: reading.Reader
) -> None:
    study = add_study(database, "1.1")
    add_job(database, study, 1)
    dead: dict[str, Any] = {"state": "dead", "attempts": 5}
    add_job(database, study, 2, error_kind="KnownAnswerError", finished_at=at(1), **dead)
    add_job(database, study, 3, error_kind="LeaseLost", reason="hung", finished_at=at(2), **dead)
    newer, older = reading.dead_letters(reader)
    assert (newer["study_instance_uid"], newer["reason"]) == ("1.1", "hung")
    assert newer["next_step"]
    assert older["next_step"] == KnownAnswerError.hint
    assert reading.dead_letters(reader, newest=1) == [newer]


# --- with the write side


def test_what_the_write_side_did_is_read_back(room: Room, database_url: str) -> None:
    arrived = room.arrive(
        make_arrival(make_header(study_instance_uid="1.1", accession_number="A7"))
    )
    (job,) = room.claim()
    room.clock.advance(2.5)
    room.commit(job, analysed(0.9))
    reader = reading.open_reader(database_url)
    (entry,) = reading.worklist(reader)
    assert (entry["study_instance_uid"], entry["priority"], entry["analysis"]) == (
        "1.1",
        "HIGH",
        "analysed",
    )
    assert [(each["name"], each["flagged"]) for each in entry["findings"]] == [
        ("pneumothorax", True)
    ]
    (document,) = reading.show(reader, "A7")
    assert document["study"]["id"] == arrived.study_id
    assert [event["state"] for event in document["instances"][0]["events"]] == ["stored"]
    assert [step["to_state"] for step in document["jobs"][0]["events"]] == [
        "queued",
        "leased",
        "done",
    ]
    told = reading.status_facts(reader, now=room.clock())
    assert told["latency"]["arrival_to_flag"]["DX"]["max_s"] == 2.5
    assert told["studies"]["flagged_unread"] == 1
    reader.close()
