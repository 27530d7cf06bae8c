"""Leases are renewed for as long as the loop turns, and left to end when it hangs."""

from dataclasses import replace

from tests.assurance import requirement
from tests.worker.house import SETTINGS, Clock, House, radiograph
from triage.database import queue
from triage.records import Job, JobKind
from triage.worker.leases import LeaseKeeper


class Monotonic:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def claimed(house: House, owner: str = "one") -> list[Job]:
    return queue.claim(house.db, kinds=[JobKind.ANALYSE], owner=owner, lease_s=60.0, limit=8)


def keeper(house: House, monotonic: Monotonic) -> LeaseKeeper:
    return LeaseKeeper(house.db, SETTINGS, monotonic=monotonic)


def wait(clock: Clock, one: LeaseKeeper, monotonic: Monotonic, *, times: int) -> None:
    """Let 50 s pass between renewals, each just in time."""
    for _ in range(times):
        clock.turn(50)
        monotonic.now_s += 50
        one.renew()


def test_a_renewed_job_is_nobody_elses(house: House) -> None:
    house.receive(radiograph(0.9))
    monotonic = Monotonic()
    one = keeper(house, monotonic)
    one.keep(claimed(house))
    wait(house.clock, one, monotonic, times=5)
    assert claimed(house, "two") == []


@requirement("Q2")
def test_a_hung_loop_loses_its_jobs(house: House) -> None:
    house.receive(radiograph(0.9))
    monotonic = Monotonic()
    one = keeper(house, monotonic)
    one.keep(claimed(house))
    wait(house.clock, one, monotonic, times=14)
    assert len(claimed(house, "two")) == 1


def test_turns_keep_a_slow_loop_from_counting_as_hung(house: House) -> None:
    house.receive(radiograph(0.9))
    monotonic = Monotonic()
    one = keeper(house, monotonic)
    one.keep(claimed(house))
    wait(house.clock, one, monotonic, times=11)
    one.turned()
    wait(house.clock, one, monotonic, times=5)
    assert claimed(house, "two") == []


def test_a_job_taken_by_another_worker_is_known_to_be_lost(house: House) -> None:
    house.receive(radiograph(0.9))
    one = keeper(house, Monotonic())
    (job,) = claimed(house)
    one.keep([job])
    house.clock.turn(61)
    assert len(claimed(house, "two")) == 1
    assert not one.lost(job)
    one.renew()
    assert one.lost(job)
    one.drop(job)
    assert not one.lost(job)


def test_the_thread_renews_by_itself_and_stops(house: House) -> None:
    one = LeaseKeeper(house.db, replace(SETTINGS, heartbeat_s=0.01))
    one.start()
    one.turned()
    one.stop()
    one.stop()
