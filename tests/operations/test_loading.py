"""A load that works may take its time; one that stands still, or never ends, hangs."""

import time
from dataclasses import dataclass, field

from triage.config import Config, StoreConfig
from triage.database.connection import Database
from triage.operations.loading import LONGEST_S, LOOK_S, STILL_S, Loading, process_meter
from triage.operations.parts import AnalysePart
from triage.store import Store


@dataclass
class Machine:
    """A clock and a process whose work the test does."""

    now_s: float = 1000.0
    used: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def clock(self) -> float:
        return self.now_s

    def meter(self) -> tuple[float, int]:
        return self.used[0], int(self.used[1])

    def loading(self) -> Loading:
        return Loading(self.meter, monotonic=self.clock)

    def after(self, wait_s: float, *, cpu_s: float = 0.0, read_mib: float = 0.0) -> None:
        self.now_s += wait_s
        self.used = [self.used[0] + cpu_s, self.used[1] + read_mib * 2**20]


def test_processor_time_is_progress_and_so_are_bytes_from_the_disk() -> None:
    machine = Machine()
    loading = machine.loading()
    machine.after(LOOK_S, cpu_s=LOOK_S)
    assert loading.look()
    machine.after(LOOK_S, read_mib=1)
    assert loading.look()


def test_the_turns_of_the_daemon_itself_are_no_progress() -> None:
    machine = Machine()
    loading = machine.loading()
    machine.after(LOOK_S, cpu_s=0.02 * LOOK_S, read_mib=0.01)
    assert not loading.look()


def test_it_is_looked_at_now_and_then_only() -> None:
    machine = Machine()
    loading = machine.loading()
    machine.after(LOOK_S / 2, cpu_s=LOOK_S)
    assert not loading.look()
    machine.after(LOOK_S / 2)
    assert loading.look()


def test_a_load_that_stands_still_hangs() -> None:
    machine = Machine()
    loading = machine.loading()
    machine.after(STILL_S - 1, cpu_s=STILL_S)
    loading.look()
    machine.after(STILL_S)
    assert not loading.hangs
    machine.after(1)
    assert not loading.look()
    assert loading.hangs


def test_no_load_may_last_for_ever_whatever_it_does() -> None:
    machine = Machine()
    loading = machine.loading()
    while machine.now_s <= 1000 + LONGEST_S:
        assert not loading.hangs
        machine.after(LOOK_S, cpu_s=LOOK_S)
        assert loading.look()
    assert loading.hangs


def test_this_process_is_measured_by_what_it_really_uses() -> None:
    before_s, _ = process_meter()
    until_s = time.process_time() + 0.05
    while time.process_time() < until_s:
        pass
    assert process_meter()[0] - before_s >= 0.05


def test_a_worker_whose_load_hangs_ends_with_a_sentence(database: Database, store: Store) -> None:
    machine = Machine()
    config = Config(store=StoreConfig(path=store.root))
    part = AnalysePart(config, database, store, loading=machine.loading())
    assert part.failure is None
    machine.after(STILL_S + 1)
    assert not part.gets_on()
    assert "stands still" in str(part.failure)
    part.stop()
