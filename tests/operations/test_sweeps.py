"""Sweeps tick until stopped; trouble that passes is waited out, a defect ends the daemon."""

import threading
from collections.abc import Callable

import pytest

from tests.assurance import requirement
from triage.database.connection import Database
from triage.errors import DatabaseUnavailable
from triage.operations.sweeps import Sweep, Ticker, standard_sweeps
from triage.rules.policies import Policies

SOON_S = 0.02


def sweep(run: Callable[[], int]) -> Sweep:
    return Sweep(name="one", every_s=SOON_S, run=run)


class Script:
    """Runs of a sweep: each entry is raised or returned; `over` is set when all were."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)
        self.over = threading.Event()

    def __call__(self) -> int:
        if len(self.answers) <= 1:
            self.over.set()
        answer = self.answers.pop(0) if self.answers else 0
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_every_sweep_that_came_to_its_end_is_a_turn_of_the_role() -> None:
    turns = threading.Semaphore(0)
    ticker = Ticker([sweep(Script(1, 0, 1))], turned=turns.release)
    ticker.start()
    assert all(turns.acquire(timeout=5) for _ in range(3))
    assert ticker.alive
    ticker.stop()
    assert not ticker.alive


@requirement("Q4")
def test_a_database_that_is_away_is_waited_out_without_a_turn() -> None:
    turned = threading.Event()
    script = Script(DatabaseUnavailable("away"), DatabaseUnavailable("away"), 1)
    ticker = Ticker([sweep(script)], turned=turned.set)
    ticker.start()
    assert turned.wait(5)
    assert script.over.is_set()
    assert ticker.failure is None
    ticker.stop()


def test_a_defect_in_a_sweep_is_kept_as_the_role_s_failure() -> None:
    script = Script(KeyError("defect"), 0, 0, 0)
    ticker = Ticker([sweep(script)], turned=lambda: None)
    ticker.start()
    assert script.over.wait(5)
    assert isinstance(ticker.failure, KeyError)
    assert not ticker.alive
    ticker.stop()


def test_stop_waits_for_the_sweep_that_runs() -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def slow() -> int:
        begun.set()
        may_end.wait(5)
        ended.set()
        return 0

    ticker = Ticker([sweep(slow)], turned=lambda: None)
    ticker.start()
    assert begun.wait(5)
    stopper = threading.Thread(target=ticker.stop)
    stopper.start()
    may_end.set()
    stopper.join(5)
    assert ended.is_set()


def test_stop_before_start_is_harmless() -> None:
    Ticker([], turned=lambda: None).stop()


@pytest.mark.parametrize("times", [1, 2])
def test_the_sweeps_over_an_empty_database_find_nothing(database: Database, times: int) -> None:
    for _ in range(times):
        assert [each.run() for each in standard_sweeps(database, Policies())] == [0, 0, 0, 0]
