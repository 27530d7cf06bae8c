"""W1: nothing stands below its order, and no study leaves the list without a person.

First the rule alone, on studies, times and policies that hypothesis makes up. Then houses that live
through random days: images arrive, late ones too, models flag, do not flag, fail, find nothing to
look at, people read and decide, and time passes. Bound: after each step every study that no person
has acknowledged is on the list, and none has a priority below its order's.
"""

import random
from datetime import datetime
from typing import Any

from hypothesis import HealthCheck, given, settings

from tests.assurance import Evidence, requirement
from tests.builders import make_arrival, make_header, make_policies, new_uid
from tests.database.conftest import Clock, Room, analysed
from tests.rules.test_reading_order import policies, studies, times
from triage.database import queue, worklist
from triage.database.connection import open_database
from triage.database.tables import Study
from triage.errors import DecodeError
from triage.records import Rank
from triage.rules.orders import OrderRule, OrdersPolicy
from triage.rules.priority import PriorityPolicy, StudyFacts, effective
from triage.rules.ranks import urgency

SEED = 20260108
STEPS = 60


@requirement("W1", bound="the rule: never below the order's priority")
def test_w1_the_rule_never_puts_a_study_below_its_order(evidence: Evidence, long: bool) -> None:
    tried, below = 0, 0

    @settings(max_examples=20_000 if long else 300, deadline=None, database=None,
              derandomize=True, suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(facts=studies, now=times, policy=policies)
    def attempt(facts: StudyFacts, now: datetime, policy: PriorityPolicy) -> None:
        nonlocal tried, below
        tried += 1
        below += urgency(effective(facts, now, policy).priority) > urgency(facts.order.rank)

    attempt()
    evidence.record(trials=tried, losses=below)
    assert below == 0


class House:
    """Random days in one house, on a clock to turn."""

    def __init__(self, url: str, seed: int) -> None:
        self.chance = random.Random(seed)
        clock = Clock()
        rules = (
            OrderRule(priority=Rank.STAT, study_description="stroke"),
            OrderRule(priority=Rank.HIGH, study_description="trauma"),
            OrderRule(priority=Rank.LOW, study_description="control"),
        )
        policies = make_policies(
            orders=OrdersPolicy(rules=rules),
            priority=PriorityPolicy(ageing_s=3600, ceiling_s=4 * 3600),
        )
        self.room = Room(db=open_database(url, clock=clock), clock=clock, policies=policies)
        self.uids: list[str] = []
        self.priorities: set[str] = set()  # that were ever seen

    def arrive(self) -> None:
        if not self.uids or self.chance.random() < 0.6:
            self.uids.append(new_uid())
        said = self.chance.choice(["stroke", "trauma", "control", "chest"])
        study = self.chance.choice(self.uids)
        header = make_header(study_instance_uid=study, study_description=said)
        self.room.arrive(make_arrival(header))

    def look(self) -> None:
        for job in self.room.claim(limit=2):
            if self.chance.random() < 0.2:
                with self.room.db.write() as connection:
                    queue.fail(
                        connection, job, DecodeError("no"), policies=self.room.policies,
                        jitter=0, now=self.room.clock(),
                    )  # fmt: skip
            else:
                flagged = self.chance.random() < 0.4
                self.room.commit(job, analysed(0.9 if flagged else 0.1, flagged=flagged))

    def read(self) -> None:
        if listed := self.open_studies():
            self.room.acknowledge(self.chance.choice(listed).id)

    def decide(self) -> None:
        if listed := self.open_studies():
            rank = self.chance.choice([*Rank, None])
            with self.room.db.write() as connection:
                worklist.set_priority(
                    connection, self.chance.choice(listed).id, rank, by="reader",
                    policies=self.room.policies, now=self.room.clock(),
                )  # fmt: skip

    def pass_time(self) -> None:
        self.room.clock.advance(self.chance.choice([1, 60, 1800, 7200]))
        self.room.close()
        with self.room.db.write() as connection:
            worklist.refresh_due(connection, policies=self.room.policies, now=self.room.clock())

    def open_studies(self) -> list[Any]:
        return self.room.rows(Study, Study.acknowledged_at.is_(None))

    def broken(self) -> int:
        """Count studies that are missing on the list, or stand below their order."""
        listed = set(self.room.reading_order())
        missing = {row.study_instance_uid for row in self.open_studies()} - listed
        studies = self.room.rows(Study)
        self.priorities |= {row.priority for row in studies}
        below = [
            row
            for row in studies
            if urgency(Rank(row.priority)) > urgency(Rank(row.order_priority))
        ]
        return len(missing) + len(below)


@requirement("W1", bound="whole houses: after each step every unread study is on the list")
def test_w1_no_study_leaves_the_list_without_a_person(
    database_url: str, evidence: Evidence, long: bool
) -> None:
    steps, broken = (20 * STEPS if long else STEPS), 0
    house = House(database_url, SEED)
    ways = [house.arrive] * 4 + [house.look] * 4 + [house.pass_time] * 3
    ways += [house.read, house.decide]
    try:
        for _ in range(steps):
            house.chance.choice(ways)()
            broken += house.broken()
        states = {row.state for row in house.room.rows(Study)}
    finally:
        house.room.db.dispose()
    evidence.record(trials=steps, losses=broken)
    assert broken == 0
    assert len(states) > 1
    assert len(house.priorities) > 2
