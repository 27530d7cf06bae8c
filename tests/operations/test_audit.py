"""From rows to spooled and delivered audit messages: none lost, none twice, nobody waits."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from xml.etree.ElementTree import Element

import pytest
from sqlalchemy import insert, select

from tests.assurance import requirement
from tests.builders import make_arrival, make_ct_header, make_header, new_uid
from tests.database.conftest import Clock, Room
from tests.operations.audit_schema import check
from triage.config import AuditConfig
from triage.database import audit, worklist
from triage.database.audit import Transfer, whole
from triage.database.connection import open_database
from triage.database.history import SETTLED_AFTER
from triage.database.house import record_decision
from triage.database.intake_log import record_event, record_refused
from triage.database.tables import ObjectEvent
from triage.database.tables_house import Alarm, Event
from triage.errors import ConfigError, TransientError
from triage.operations.audit import LONGEST, QUIET, ROWS_A_SEGMENT, AuditTrail, note
from triage.operations.audit_spool import Spool
from triage.operations.audit_xml import Teller
from triage.records import ObjectState, Source
from triage.rules.identity import COMPARED

TELLER = Teller(ae_title="TRIAGE", host="ward7")
QUIET_S = QUIET.total_seconds() + 1
NONE = timedelta()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def house(database_url: str, clock: Clock) -> Iterator[Room]:
    db = open_database(database_url, clock=clock)
    yield Room(db=db, clock=clock)
    db.dispose()


class Collector:
    """Takes what the spool holds, unless it is down."""

    def __init__(self) -> None:
        self.down = False
        self.taken: list[str] = []

    def __call__(self, spool: Spool) -> int:
        if self.down:
            raise TransientError("the collector is down")
        for segment in spool.segments():
            self.taken += segment.messages()
            spool.remove(segment)
        return len(self.taken)


@pytest.fixture
def collector() -> Collector:
    return Collector()


def trail_of(
    house: Room, directory: Path, collector: Collector | None, *, maximum_mib: int = 1
) -> AuditTrail:
    config = AuditConfig(enabled=True, spool=directory / "audit", maximum_spool_mib=maximum_mib)
    return AuditTrail(house.db, config, TELLER, send=collector)


@pytest.fixture
def trail(house: Room, tmp_path: Path, collector: Collector) -> AuditTrail:
    made = trail_of(house, tmp_path, collector)
    made.turn()
    house.clock.advance(1)
    return made


def told(collector: Collector) -> list[Element]:
    return [check(message) for message in collector.taken]


def studies_told(collector: Collector) -> list[tuple[str, int]]:
    """Return (Study Instance UID, objects) of each transfer."""
    found = []
    for message in told(collector):
        first = message.find("ParticipantObjectIdentification")
        counts = [int(each.attrib["NumberOfInstances"]) for each in message.iter("SOPClass")]
        if first is not None:
            found.append((first.attrib["ParticipantObjectID"], sum(counts)))
    return found


def slices(house: Room, study: str, count: int, *, patient_id: str = "P1") -> None:
    series = new_uid()
    for _ in range(count):
        header = make_ct_header(
            study_instance_uid=study, series_instance_uid=series, patient_id=patient_id
        )
        house.arrive(make_arrival(header))


def test_a_long_series_is_one_message_once_it_has_come_to_its_end(
    house: Room, trail: AuditTrail, collector: Collector
) -> None:
    for _ in range(4):
        slices(house, "1.2.3", 10)
        house.clock.advance(QUIET.total_seconds() - 5)
        trail.turn()
    assert collector.taken == []
    last_at = house.clock() - (QUIET - timedelta(seconds=5))
    house.clock.advance(QUIET_S)
    trail.turn()
    assert studies_told(collector) == [("1.2.3", 40)]
    head = told(collector)[0].find("EventIdentification")
    assert head is not None
    assert datetime.fromisoformat(head.attrib["EventDateTime"]) == last_at
    trail.turn()
    assert len(collector.taken) == 1


def test_each_patient_has_a_message_of_its_own(
    house: Room, trail: AuditTrail, collector: Collector
) -> None:
    slices(house, "1.2.3", 2, patient_id="P1")
    slices(house, "1.2.3", 3, patient_id="P2")
    house.clock.advance(QUIET_S)
    trail.turn()
    assert studies_told(collector) == [("1.2.3", 2), ("1.2.3", 3)]
    for message in told(collector):
        patients = [
            each.attrib["ParticipantObjectID"]
            for each in message.findall("ParticipantObjectIdentification")
            if each.attrib["ParticipantObjectTypeCode"] == "1"
        ]
        assert len(patients) == 1


def test_a_sender_that_never_falls_silent_is_told_of_after_a_while(
    house: Room, trail: AuditTrail, collector: Collector
) -> None:
    turns = int(LONGEST.total_seconds() / 20) + 2
    for _ in range(turns):
        slices(house, "1.2.3", 1)
        house.clock.advance(20)
        trail.turn()
    house.clock.advance(QUIET_S)
    trail.turn()
    said = studies_told(collector)
    assert len(said) == 2
    assert sum(objects for _, objects in said) == turns


def test_the_trail_begins_when_it_is_switched_on(
    house: Room, tmp_path: Path, collector: Collector
) -> None:
    house.arrive(make_arrival())
    house.clock.advance(QUIET_S)
    late = trail_of(house, tmp_path, collector)
    late.turn()
    house.arrive(make_arrival(make_header(study_instance_uid="1.9")))
    house.clock.advance(QUIET_S)
    late.turn()
    assert studies_told(collector) == [("1.9", 1)]


def test_refused_objects_and_duplicates_are_told_apart(
    house: Room, trail: AuditTrail, collector: Collector
) -> None:
    once = make_arrival()
    for _ in range(3):
        house.arrive(once)
    with house.db.write() as connection:
        record_refused(
            connection,
            source=Source.C_STORE,
            sender_ae_title="CT1",
            sop_instance_uid="",
            reason="no DICOM",
            now=house.clock(),
        )
    house.clock.advance(QUIET_S)
    trail.turn()
    heads = [message.find("EventIdentification") for message in told(collector)]
    said = [
        (head.attrib["EventActionCode"], head.attrib["EventOutcomeIndicator"])
        for head in heads
        if head is not None
    ]
    assert said == [("C", "0"), ("R", "0"), ("C", "4")]


def test_decisions_are_told_in_order_and_notes_go_once_they_are_told(
    house: Room, trail: AuditTrail, collector: Collector
) -> None:
    outcome = house.arrive(make_arrival(make_header(accession_number="A7")))
    note(house.db, what=audit.STUDY_READ, by="anna", detail={}, study="A7")
    with house.db.write() as connection:
        worklist.acknowledge(
            connection, outcome.study_id, by="anna", policies=house.policies, now=house.clock()
        )
    note(house.db, what=audit.WORKLIST_READ, by="ben", detail={"all": True})
    house.clock.advance(QUIET_S)
    trail.turn()
    assert requestors(collector) == ["SENDER", "anna", "anna", "ben"]
    with house.db.read() as connection:
        left = list(connection.execute(select(Event.what)).scalars())
    assert left == ["acknowledge", audit.WORKLIST_READ]  # the newest row keeps its number


@requirement("P2")
def test_a_decision_after_a_note_that_was_told_is_told_and_the_note_goes(
    house: Room, trail: AuditTrail, collector: Collector
) -> None:
    for person in ("anna", "ben"):
        note(house.db, what=audit.WORKLIST_READ, by=person, detail={})
        house.clock.advance(QUIET_S)
        trail.turn()
    outcome = house.arrive(make_arrival())
    house.acknowledge(outcome.study_id, by="cleo")
    house.clock.advance(QUIET_S)
    trail.turn()
    assert requestors(collector) == ["anna", "ben", "SENDER", "cleo"]
    assert [event.what for event in house.rows(Event)] == ["acknowledge"]


AHEAD_S = 3600.0


@requirement("P2", bound="what a clock that was an hour ahead dated is told at once")
def test_objects_of_a_clock_that_was_ahead_are_told_and_those_after_them_too(
    house: Room, trail: AuditTrail, collector: Collector
) -> None:
    house.clock.advance(AHEAD_S)
    slices(house, "1.1", 2)
    house.clock.advance(-AHEAD_S)
    slices(house, "1.2", 3)
    house.clock.advance(QUIET_S)
    trail.turn()
    assert studies_told(collector) == [("1.1", 2), ("1.2", 3)]


@requirement("P2", bound="what a clock that was an hour ahead dated is told at once")
def test_decisions_of_a_clock_that_was_ahead_are_told_and_those_after_them_too(
    house: Room, trail: AuditTrail, collector: Collector
) -> None:
    house.clock.advance(AHEAD_S)
    note(house.db, what=audit.WORKLIST_READ, by="anna", detail={})
    house.clock.advance(-AHEAD_S)
    note(house.db, what=audit.WORKLIST_READ, by="ben", detail={})
    house.clock.advance(SETTLED_AFTER.total_seconds() + 1)
    trail.turn()
    assert requestors(collector) == ["anna", "ben"]


def test_a_sender_during_a_step_of_the_clock_is_told_of_wholly_though_perhaps_in_parts(
    house: Room, trail: AuditTrail, collector: Collector
) -> None:
    for ahead_s in (AHEAD_S, -AHEAD_S, AHEAD_S, -AHEAD_S):
        house.clock.advance(ahead_s)
        slices(house, "1.1", 5)
        house.clock.advance(SETTLED_AFTER.total_seconds() + 1)
        trail.turn()
    house.clock.advance(QUIET_S)
    trail.turn()
    assert sum(objects for _, objects in studies_told(collector)) == 20


@pytest.mark.parametrize("skew_s", [1.0, -1.0])
def test_the_newest_wait_until_lower_numbers_are_surely_committed(
    house: Room, trail: AuditTrail, collector: Collector, skew_s: float
) -> None:
    settled_s = SETTLED_AFTER.total_seconds()
    note(house.db, what=audit.WORKLIST_READ, by="anna", detail={})
    house.clock.advance(skew_s if skew_s < 0 else settled_s - skew_s)
    trail.turn()
    assert collector.taken == []
    house.clock.advance(settled_s + 2)
    trail.turn()
    assert requestors(collector) == ["anna"]


def requestors(collector: Collector) -> list[str]:
    return [
        participant.attrib["UserID"]
        for message in told(collector)
        for participant in message.findall("ActiveParticipant")
        if participant.attrib["UserIsRequestor"] == "true"
    ]


@requirement("P2")
def test_a_collector_that_is_down_loses_nothing_and_is_an_alarm_until_it_is_back(
    house: Room, trail: AuditTrail, collector: Collector
) -> None:
    collector.down = True
    for number in range(3):
        house.arrive(make_arrival(make_header(study_instance_uid=f"1.{number}")))
        house.clock.advance(QUIET_S)
        trail.turn()
    assert open_alarms(house) == ["audit_waits"]
    collector.down = False
    trail.turn()
    assert [study for study, _ in studies_told(collector)] == ["1.0", "1.1", "1.2"]
    assert open_alarms(house) == []


def test_a_full_spool_leaves_the_rest_in_the_database_and_tells_it_later(
    house: Room, tmp_path: Path, collector: Collector
) -> None:
    collector.down = True
    trail = trail_of(house, tmp_path, collector)
    trail.turn()
    house.clock.advance(1)
    house.arrive(make_arrival(make_header(study_instance_uid="1.1")))
    house.clock.advance(QUIET_S)
    trail.turn()
    (segment,) = (tmp_path / "audit").iterdir()
    with segment.open("ab") as file:
        file.write(b"\n" * 1024 * 1024)  # an empty line is a message of no length
    house.arrive(make_arrival(make_header(study_instance_uid="1.2")))
    house.clock.advance(QUIET_S)
    trail.turn()
    assert list((tmp_path / "audit").iterdir()) == [segment]
    assert open_alarms(house) == ["audit_waits"]
    segment.unlink()  # taken away by hand
    collector.down = False
    trail.turn()
    assert [study for study, _ in studies_told(collector)] == ["1.2"]
    assert open_alarms(house) == []


@requirement("P2")
def test_an_end_between_spool_and_mark_repeats_nothing(
    house: Room, tmp_path: Path, collector: Collector, trail: AuditTrail
) -> None:
    collector.down = True
    house.arrive(make_arrival(make_header(study_instance_uid="1.1")))
    house.clock.advance(QUIET_S)
    with house.db.read() as connection:
        before = audit.mark(connection, audit.OBJECTS)
    trail.turn()
    with house.db.write() as connection:  # as if the program had ended before it moved the mark
        after = audit.mark(connection, audit.OBJECTS)
        assert audit.move(connection, audit.OBJECTS, after=after, to=before)
    house.arrive(make_arrival(make_header(study_instance_uid="1.2")))
    house.clock.advance(QUIET_S)
    collector.down = False
    trail_of(house, tmp_path, collector).turn()
    assert studies_told(collector) == [("1.1", 1), ("1.2", 1)]


def test_two_that_read_the_same_rows_move_the_mark_once(house: Room, trail: AuditTrail) -> None:
    house.arrive(make_arrival())
    with house.db.write() as connection:
        after = audit.mark(connection, audit.OBJECTS)
        assert audit.move(connection, audit.OBJECTS, after=after, to=after + 1)
        assert not audit.move(connection, audit.OBJECTS, after=after, to=after + 1)


@requirement("P2")
def test_the_spool_is_for_its_owner_alone(
    house: Room, tmp_path: Path, collector: Collector
) -> None:
    (tmp_path / "audit").mkdir(mode=0o755)
    collector.down = True
    trail = trail_of(house, tmp_path, collector)
    trail.turn()
    house.clock.advance(1)
    house.arrive(make_arrival())
    house.clock.advance(QUIET_S)
    trail.turn()
    (segment,) = (tmp_path / "audit").iterdir()
    assert (tmp_path / "audit").stat().st_mode & 0o777 == 0o700
    assert segment.stat().st_mode & 0o777 == 0o600


def test_a_spool_that_cannot_be_opened_is_an_alarm_and_not_an_end(
    house: Room, tmp_path: Path, collector: Collector
) -> None:
    (tmp_path / "audit").touch()
    trail = trail_of(house, tmp_path, collector)
    trail.turn()
    assert open_alarms(house) == ["audit_waits"]
    house.clock.advance(1)
    house.arrive(make_arrival(make_header(study_instance_uid="1.5")))
    (tmp_path / "audit").unlink()
    house.clock.advance(QUIET_S)
    trail.turn()
    assert studies_told(collector) == [("1.5", 1)]


def test_a_sender_that_goes_on_is_not_told_of_with_another_that_has_ended(
    house: Room, trail: AuditTrail, collector: Collector
) -> None:
    slices(house, "1.1", 2)
    house.clock.advance(QUIET.total_seconds() - 10)
    slices(house, "1.2", 3)
    house.clock.advance(SETTLED_AFTER.total_seconds() + 1)
    trail.turn()
    assert studies_told(collector) == [("1.1", 2)]
    house.clock.advance(QUIET_S)
    trail.turn()
    assert studies_told(collector) == [("1.1", 2), ("1.2", 3)]


def test_a_burst_that_fills_a_segment_is_told_before_it_has_ended(
    house: Room, trail: AuditTrail, collector: Collector
) -> None:
    event = {
        "at": house.clock(), "sop_instance_uid": "", "instance_id": None, "source": "c-store",
        "sender_ae_title": "CT1", "reason": "no DICOM", "state": "refused",
    }  # fmt: skip
    with house.db.write() as connection:
        connection.execute(insert(ObjectEvent), [event] * ROWS_A_SEGMENT)
    house.clock.advance(SETTLED_AFTER.total_seconds() + 1)
    trail.turn()
    (message,) = collector.taken
    assert f"{ROWS_A_SEGMENT} objects not taken in" in message


def test_a_correction_is_an_update_and_the_verdict_on_pixels_no_transfer(
    house: Room, trail: AuditTrail, collector: Collector
) -> None:
    header = make_header(study_instance_uid="1.1", has_pixels=False)
    house.arrive(make_arrival(header))
    outcome = house.arrive(make_arrival(header, content="corrected"))
    with house.db.write() as connection:
        record_event(
            connection,
            state=ObjectState.CONFLICT,
            sop_instance_uid=header.sop_instance_uid,
            instance_id=outcome.instance_id,
            source=Source.C_STORE,
            sender_ae_title="SENDER",
            reason=COMPARED,
            now=house.clock(),
        )
    house.clock.advance(QUIET_S)
    trail.turn()
    heads = [message.find("EventIdentification") for message in told(collector)]
    actions = [head.attrib["EventActionCode"] for head in heads if head is not None]
    assert (actions, studies_told(collector)) == (["C", "U"], [("1.1", 1), ("1.1", 1)])


def test_a_note_that_is_not_told_yet_is_kept(
    house: Room, trail: AuditTrail, collector: Collector
) -> None:
    for person in ("anna", "ben"):
        note(house.db, what=audit.WORKLIST_READ, by=person, detail={})
        house.clock.advance(SETTLED_AFTER.total_seconds() - 1)
    trail.turn()
    assert requestors(collector) == ["anna"]
    house.clock.advance(QUIET_S)
    trail.turn()
    assert requestors(collector) == ["anna", "ben"]


def test_a_delivery_that_is_configured_wrongly_is_an_alarm_and_not_an_end(
    house: Room, tmp_path: Path
) -> None:
    def refuse(spool: Spool) -> int:
        raise ConfigError("[audit] ca cannot be used")

    config = AuditConfig(enabled=True, spool=tmp_path / "audit")
    AuditTrail(house.db, config, TELLER, send=refuse).turn()
    assert open_alarms(house) == ["audit_waits"]


def test_an_alarm_of_an_earlier_run_is_closed(
    house: Room, tmp_path: Path, collector: Collector
) -> None:
    collector.down = True
    trail_of(house, tmp_path, collector).turn()
    assert open_alarms(house) == ["audit_waits"]
    collector.down = False
    trail_of(house, tmp_path, collector).turn()
    assert open_alarms(house) == []


# --- what is whole


def transfer(first: int, last: int, *, at_s: float, until_s: float) -> Transfer:
    begun = Clock().now
    return Transfer(
        source=Source.C_STORE,
        sender_ae_title="CT1",
        action="C",
        reason="",
        study_id=first,
        first_id=first,
        last_id=last,
        first_at=begun + timedelta(seconds=at_s),
        last_at=begun + timedelta(seconds=until_s),
    )


@pytest.mark.parametrize(
    ("some", "expected"),
    [
        ([], 100),
        ([transfer(1, 50, at_s=0, until_s=10)], 100),
        ([transfer(1, 50, at_s=0, until_s=90)], 0),
        ([transfer(1, 20, at_s=0, until_s=10), transfer(21, 90, at_s=11, until_s=90)], 20),
        # the quiet one ends after the other has begun: both wait
        ([transfer(1, 40, at_s=0, until_s=10), transfer(30, 90, at_s=9, until_s=90)], 0),
        ([transfer(1, 90, at_s=-300, until_s=99)], 100),
        # dated by a clock that was ahead: over, unless by less than the quiet time
        ([transfer(1, 50, at_s=3700, until_s=3700)], 100),
        ([transfer(1, 50, at_s=90, until_s=110)], 0),
    ],
)
def test_no_transfer_is_cut_in_two_before_its_time(some: list[Transfer], expected: int) -> None:
    now = Clock().now + timedelta(seconds=100)
    assert whole(some, to=100, now=now, quiet=QUIET, longest=LONGEST) == expected


def open_alarms(house: Room) -> list[str]:
    with house.db.read() as connection:
        rows = connection.execute(select(Alarm.code).where(Alarm.cleared_at.is_(None)))
        return list(rows.scalars())


def test_a_note_of_no_study_is_no_error(house: Room) -> None:
    note(house.db, what=audit.STUDY_READ, by="anna", detail={}, study="nothing")
    with house.db.write() as connection:
        record_decision(
            connection, study_id=None, what="requeue_dead", by="anna", detail={}, now=house.clock()
        )
