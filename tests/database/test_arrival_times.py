"""The simulation learns when studies came and how they were ordered, and nothing of a patient."""

from datetime import datetime, timedelta

from tests.builders import make_arrival, make_header
from triage.database.arrival_times import arrival_times
from triage.database.arrivals import record_arrival
from triage.database.connection import Database
from triage.database.reading_connection import open_reader
from triage.records import Rank
from triage.rules.orders import OrderRule, OrdersPolicy
from triage.rules.policies import Policies

STAT = OrdersPolicy(rules=(OrderRule(priority=Rank.STAT, study_description="trauma"),))


def test_arrivals_come_earliest_first_with_their_order(
    database: Database, database_url: str
) -> None:
    with database.write() as connection:
        now = database.now(connection)
        for number, (minutes, text) in enumerate([(30, "trauma"), (0, "chest"), (60, "chest")]):
            header = make_header(
                sop_instance_uid=f"1.2.{number}.3",
                series_instance_uid=f"1.2.{number}.2",
                study_instance_uid=f"1.2.{number}",
                study_description=text,
                study_date="",
            )
            record_arrival(
                connection,
                make_arrival(header, content=str(number)),
                policies=Policies(orders=STAT),
                now=now + timedelta(minutes=minutes),
            )
    reader = open_reader(database_url)
    try:
        found = arrival_times(reader)
        later = arrival_times(reader, since=now + timedelta(minutes=10))
    finally:
        reader.close()
    assert [rank for _, rank in found] == [Rank.ROUTINE, Rank.STAT, Rank.ROUTINE]
    times: list[datetime] = [at for at, _ in found]
    assert times == [now + timedelta(minutes=minutes) for minutes in (0, 30, 60)]
    assert [rank for _, rank in later] == [Rank.STAT, Rank.ROUTINE]
