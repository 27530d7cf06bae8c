"""Receivers, workers and sweeps at once: nothing is lost, doubled or deadlocked."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from tests.assurance import requirement
from tests.builders import make_arrival, make_ct_header, make_header, new_uid
from tests.database.conftest import Room, analysed
from triage.database import arrivals, queue, worklist
from triage.database.tables import Instance, Study
from triage.database.tables_house import JobRow
from triage.errors import StaleLease
from triage.records import Analysis, ObjectState


@requirement("G1")
def test_one_object_received_by_several_at_once_is_held_once(room: Room) -> None:
    arrival = make_arrival()
    start = threading.Barrier(6)

    def receive(_number: int) -> ObjectState:
        start.wait()
        return room.arrive(arrival).state

    with ThreadPoolExecutor(6) as threads:
        states = sorted(threads.map(receive, range(6)))
    assert states == [ObjectState.DUPLICATE] * 5 + [ObjectState.STORED]
    [instance] = room.rows(Instance)
    assert instance.duplicates == 5


def test_images_of_one_study_received_by_several_at_once_are_one_study(room: Room) -> None:
    study = new_uid()
    headers = [make_header(study_instance_uid=study) for _ in range(12)]
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda header: room.arrive(make_arrival(header)), headers))
    [row] = room.rows(Study)
    assert (row.generation, row.number_of_study_related_instances) == (12, 12)


STUDIES = [new_uid() for _ in range(4)]


def receive(room: Room, number: int) -> None:
    """Receive six groups of two images each, spread over the studies."""
    for turn in range(6):
        study = STUDIES[(number + turn) % len(STUDIES)]
        with room.db.write() as connection:
            for make in (make_header, make_ct_header):
                arrival = make_arrival(make(study_instance_uid=study))
                arrivals.record_arrival(
                    connection, arrival, policies=room.policies, now=room.clock()
                )


def sweep(room: Room) -> None:
    room.clock.advance(2)
    room.close()
    with room.db.write() as connection:
        queue.sweep_expired(connection, policies=room.policies, now=room.clock())
        worklist.refresh_due(connection, policies=room.policies, now=room.clock())


def work(room: Room) -> None:
    for job in room.claim(owner=threading.current_thread().name, limit=3):
        queue.heartbeat(room.db, [job], lease_s=60)
        with suppress(StaleLease):  # the clock of this test runs fast
            room.commit(job, analysed(0.1, flagged=False))


def test_receivers_workers_and_sweeps_together_lose_nothing(room: Room) -> None:
    received = threading.Event()

    def until_received(step: Callable[[Room], None]) -> None:
        while not received.is_set():
            step(room)

    with ThreadPoolExecutor(6) as threads:
        running = [threads.submit(until_received, step) for step in (sweep, work, work)]
        receivers = [threads.submit(receive, room, number) for number in range(3)]
        for each in receivers:
            each.exception()
        received.set()
        for each in [*receivers, *running]:
            each.result()
    for _ in range(3):
        room.clock.advance(3600)
        sweep(room)
        while room.rows(JobRow, JobRow.state == "queued"):
            work(room)
    rows = room.rows(Study)
    assert sorted(row.number_of_study_related_instances for row in rows) == [8, 8, 10, 10]
    assert {row.analysis for row in rows} == {Analysis.ANALYSED}
    assert sum(row.images_analysed for row in rows) == 36
