"""Alarms, senders, roles, quarantine and watched files: each kept once, each told when it ends."""

from datetime import timedelta

import pytest

from tests.database.conftest import NINE, Room
from triage.database import house, intake_log
from triage.database.tables_house import Alarm, Event, FolderEntry, Quarantined, RoleRow
from triage.records import Source

FILE = {"size_bytes": 10, "mtime_ns": 2**62}


def raise_alarm(room: Room, subject: str = "store") -> None:
    with room.db.write() as connection:
        house.raise_alarm(
            connection,
            code="objects_missing",
            subject=subject,
            message="Files are missing.",
            next_step="Look.",
            now=room.clock(),
        )


def test_an_alarm_is_open_once_and_may_come_again_after_it_was_cleared(room: Room) -> None:
    raise_alarm(room)
    room.clock.advance(60)
    raise_alarm(room)
    [alarm] = room.rows(Alarm)
    assert (alarm.raised_at, alarm.cleared_at) == (NINE, None)
    with room.db.write() as connection:
        values = {"code": "objects_missing", "subject": "store", "now": room.clock()}
        assert house.clear_alarm(connection, **values)
        assert not house.clear_alarm(connection, **values)
    raise_alarm(room)
    assert [alarm.cleared_at is None for alarm in room.rows(Alarm)] == [False, True]


def test_a_role_beats_in_one_row_until_it_stops_or_falls_silent(room: Room) -> None:
    def beat(pid: int) -> None:
        with room.db.write() as connection:
            house.record_role(
                connection,
                role="receive",
                host="here",
                pid=pid,
                started_at=NINE,
                state="running",
                detail={"port": 11112},
                now=room.clock(),
            )

    beat(1)
    room.clock.advance(60)
    beat(1)
    beat(2)
    assert [(role.pid, role.last_turn_at) for role in room.rows(RoleRow)] == [
        (1, room.clock()),
        (2, room.clock()),
    ]
    assert room.rows(RoleRow)[0].detail == {"port": 11112}
    with room.db.write() as connection:
        house.remove_role(connection, role="receive", host="here", pid=1)
        assert house.remove_silent_roles(connection, before=room.clock()) == 0
        later = room.clock() + timedelta(seconds=1)
        assert house.remove_silent_roles(connection, before=later) == 1


def quarantine(room: Room) -> int:
    with room.db.write() as connection:
        return intake_log.record_quarantined(
            connection,
            source=Source.FOLDER,
            sender_ae_title="",
            sop_instance_uid="",
            sop_class_uid="",
            path="quarantine/ab",
            original_path="in/file.dcm",
            size_bytes=2**33,
            reason_code="unparsable",
            reason="no DICOM " * 100,
            now=room.clock(),
        )


@pytest.mark.parametrize("state", ["released", "discarded"])
def test_a_quarantined_object_is_settled_once_and_by_a_name(room: Room, state: str) -> None:
    number = quarantine(room)
    with room.db.write() as connection:
        values = {"state": state, "by": "admin", "now": room.clock()}
        assert intake_log.settle_quarantined(connection, number, **values)
        assert not intake_log.settle_quarantined(connection, number, **values)
        found = intake_log.quarantined_object(connection, number)
        assert intake_log.quarantined_object(connection, number + 1) is None
    assert found is not None
    assert (found.state, found.source, found.path) == (state, Source.FOLDER, "quarantine/ab")
    [row] = room.rows(Quarantined)
    assert (row.state_by, row.size_bytes) == ("admin", 2**33)
    assert len(row.reason) == intake_log.QUARANTINE_REASON_LENGTH
    [event] = room.rows(Event)
    assert (event.by, event.detail) == ("admin", {"quarantine_id": number})


def test_a_file_is_known_while_its_size_and_time_stand(room: Room) -> None:
    with room.db.write() as connection:
        for outcome in ("stored", "duplicate"):
            intake_log.remember_folder_entry(
                connection, "in/a.dcm", **FILE, outcome=outcome, now=room.clock()
            )
        known = intake_log.known_folder_entry(connection, "in/a.dcm", **FILE)
        changed = intake_log.known_folder_entry(connection, "in/a.dcm", **{**FILE, "size_bytes": 9})
        listed = intake_log.known_folder_entries(connection, ["in/a.dcm", "in/b.dcm"])
    assert (known, changed) == ("duplicate", None)
    assert listed == {"in/a.dcm": (10, 2**62, "duplicate")}
    assert len(room.rows(FolderEntry)) == 1
    with room.db.write() as connection:
        intake_log.forget_folder_entry(connection, "in/a.dcm")
    assert room.rows(FolderEntry) == []
