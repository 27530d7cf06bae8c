"""The sweep that folds what was received, and learns from it what each sender usually does.

A status or a scrape then reads a few rows; the receive path pays nothing (`database.history`).
"""

import time
from collections.abc import Callable
from datetime import timedelta, tzinfo

from triage.database import history
from triage.database.connection import Database
from triage.operations.sweeps import Sweep
from triage.rules.silence import learn

EVERY_S = 15.0
TURN_S = 2.0  # then the other sweeps have their turn; what is left follows in the next
EVENTS_A_TRANSACTION = 2_000
LEARN_EVERY = timedelta(hours=1)
SENDERS_A_TURN = 20


def history_sweep(db: Database, zone: tzinfo) -> Sweep:
    """Return the sweep; `zone` is the site's, whose hours of the week a habit is made of."""

    def run() -> int:
        return fold_received(db) + learn_habits(db, zone)

    return Sweep(name="history", every_s=EVERY_S, run=run)


def fold_received(db: Database, *, monotonic: Callable[[], float] = time.monotonic) -> int:
    """Fold for about TURN_S; return how many events. Raises TransientError."""
    ends_s, folded = monotonic() + TURN_S, 0
    while True:
        # Read outside of the write transaction: arrivals wait for a few small rows only.
        with db.read() as connection:
            now = db.now(connection)
            some = history.unfolded(connection, now=now, limit=EVENTS_A_TRANSACTION)
        if not some.events:
            return folded
        with db.write() as connection:
            if not history.fold(connection, some, now=now):
                return folded
        folded += len(some.events)
        if len(some.events) < EVENTS_A_TRANSACTION or monotonic() >= ends_s:
            return folded


def learn_habits(db: Database, zone: tzinfo) -> int:
    """Learn anew what senders usually do, SENDERS_A_TURN at most; return how many."""
    with db.read() as connection:
        now = db.now(connection)
        due = history.habits_due(connection, now=now, every=LEARN_EVERY, limit=SENDERS_A_TURN)
        hours = {each: history.active_hours(connection, each, now=now) for each in due}
    if not due:
        return 0
    habits = {ae_title: learn(each, zone) if each else None for ae_title, each in hours.items()}
    with db.write() as connection:
        for ae_title, habit in habits.items():
            history.write_habit(connection, ae_title, habit, now=now)
            history.forget_hours(connection, ae_title, now=now)
    return len(due)
