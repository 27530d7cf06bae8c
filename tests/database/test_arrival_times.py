"""The simulation learns when studies came and how they were ordered, and nothing of a patient."""

from datetime import timedelta

from tests.builders import make_arrival, make_header
from triage.database.arrival_times import arrival_times
from triage.database.arrivals import record_arrival
from triage.database.connection import Database
from triage.database.reading_connection import open_reader
from triage.records import Rank
from triage.rules.orders import OrderRule, OrdersPolicy
from triage.rules.policies import Policies

STAT = OrdersPolicy(rules=(OrderRule(priority=Rank.STAT, study_description="trauma"),))


def test_arrivals_come_page_by_page_with_their_order(database: Database, database_url: str) -> None:
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
        found = list(arrival_times(reader, page=2))
        later = list(arrival_times(reader, since=now + timedelta(minutes=10), page=1))
    finally:
        reader.close()
    came = {minutes: now + timedelta(minutes=minutes) for minutes in (0, 30, 60)}
    assert sorted(found) == [
        (came[0], Rank.ROUTINE),
        (came[30], Rank.STAT),
        (came[60], Rank.ROUTINE),
    ]
    assert sorted(later) == [(came[30], Rank.STAT), (came[60], Rank.ROUTINE)]
