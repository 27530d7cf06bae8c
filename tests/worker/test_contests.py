"""What comes again under a known UID is told by its pixels, those of expired images included."""

from copy import deepcopy
from typing import Any

from pydicom.dataset import Dataset
from sqlalchemy import select, update

from tests.assurance import requirement
from tests.worker.house import House, drain, names, radiograph
from tests.worker.toys import Toy
from triage.database import worklist
from triage.database.arrivals import ArrivalOutcome
from triage.database.tables import Instance
from triage.database.tables_house import Alarm
from triage.operations.retention import expire_due

DAY_S = 86_400.0
DAYS = 30


def corrected(ds: Dataset, **elements: Any) -> Dataset:
    """Return the same pixels under the same UID with another header."""
    other = deepcopy(ds)
    for keyword, value in ({"PatientBirthDate": "19700101"} | elements).items():
        setattr(other, keyword, value)
    return other


def other_pixels(ds: Dataset) -> Dataset:
    return radiograph(
        0.2,
        study_instance_uid=ds.StudyInstanceUID,
        series_instance_uid=ds.SeriesInstanceUID,
        sop_instance_uid=ds.SOPInstanceUID,
    )


def expire(house: House, outcome: ArrivalOutcome) -> None:
    """Have a person read the study, and let the time of retention pass."""
    with house.db.write() as connection:
        worklist.acknowledge(
            connection, outcome.study_id, by="reader", policies=house.policies, now=house.clock.now
        )
    house.clock.turn((DAYS + 1) * DAY_S)
    assert expire_due(house.db, house.store, retention_days=DAYS) == 1
    assert not list(house.store.object_paths())


def alarms(house: House) -> list[str]:
    return names(house.rows(select(Alarm.__table__)), "code")


@requirement("G1")
def test_a_correction_of_expired_images_is_a_revision_and_stays_off_the_list(house: House) -> None:
    toy, first = Toy(), radiograph(0.9)
    worker = house.worker(toy.loaded())
    held = house.receive(first)
    drain(worker)
    expire(house, held)

    newcomer = house.receive(corrected(first))
    drain(worker)
    study = house.study(held)
    assert house.object_state(newcomer) == "revision"
    assert study["patient_birth_date"] == "19700101"
    assert (study["analysis"], study["state"], study["sort_key"]) == (
        "analysed",
        "acknowledged",
        None,
    )
    assert toy.encoded == [1]
    assert "dead" not in names(house.jobs(held), "state")


@requirement("P3")
def test_a_revision_of_expired_images_is_held_for_the_time_of_retention(house: House) -> None:
    first = radiograph(0.9)
    worker = house.worker(Toy().loaded())
    held = house.receive(first)
    drain(worker)
    expire(house, held)

    newcomer = house.receive(corrected(first))
    drain(worker)
    assert expire_due(house.db, house.store, retention_days=DAYS) == 0
    assert list(house.store.object_paths()) == [house.path(newcomer)]
    house.clock.turn((DAYS + 1) * DAY_S)
    assert expire_due(house.db, house.store, retention_days=DAYS) == 1
    assert not list(house.store.object_paths())


@requirement("G2")
def test_other_pixels_than_those_that_expired_are_a_conflict(house: House) -> None:
    first = radiograph(0.9)
    worker = house.worker(Toy().loaded())
    held = house.receive(first)
    drain(worker)
    expire(house, held)

    newcomer = house.receive(other_pixels(first))
    drain(worker)
    assert house.object_state(newcomer) == "conflict"
    assert house.study(held)["analysis"] == "failed"
    assert alarms(house) == ["pixel_conflict"]
    assert house.instance(held)["pixel_digest"]


def test_what_expired_unseen_before_it_was_compared_is_a_conflict(house: House) -> None:
    worker = house.worker()  # nobody looks, so no pixels are known
    first = radiograph(0.9)
    held = house.receive(first)
    drain(worker)
    newcomer = house.receive(corrected(first, PatientID="SOMEONE ELSE"))
    expired_meanwhile(house, held)
    drain(worker)
    assert house.object_state(newcomer) == "conflict"
    assert "dead" not in names(house.jobs(newcomer), "state")
    assert "pixel_conflict" in alarms(house)


def expired_meanwhile(house: House, held: ArrivalOutcome) -> None:
    with house.db.write() as connection:
        connection.execute(
            update(Instance)
            .where(Instance.id == held.instance_id)
            .values(expired_at=house.clock.now)
        )
    house.store.delete(house.path(held))


def test_pixels_that_are_known_need_no_second_decoding(house: House) -> None:
    worker = house.worker(Toy().loaded())
    first = radiograph(0.9)
    held = house.receive(first)
    drain(worker)
    house.store.delete(house.path(held))
    newcomer = house.receive(corrected(first))
    drain(worker)
    assert house.object_state(newcomer) == "revision"


@requirement("G2")
def test_a_digest_that_another_codec_has_made_raises_no_alarm(house: House) -> None:
    worker = house.worker(Toy().loaded())
    first = radiograph(0.9)
    held = house.receive(first)
    drain(worker)
    known = house.instance(held)["pixel_digest"]
    with house.db.write() as connection:
        connection.execute(update(Instance).values(pixel_digest="of another codec"))
    newcomer = house.receive(corrected(first))
    drain(worker)
    assert house.object_state(newcomer) == "revision"
    assert [house.instance(each)["pixel_digest"] for each in (held, newcomer)] == [known, known]
    assert alarms(house) == []
