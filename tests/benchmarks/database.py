"""Intake beside a million instances against intake into an empty database.

Objects are recorded as the receiver does it: threads hand them to the one writer, which commits
groups. No file is written and no network is read, so that the database's share alone is seen.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial

from tests.benchmarks.history import History, fill
from tests.benchmarks.measuring import Conditions, Note, Row, at_least, by_turns, ratio, say
from tests.benchmarks.stores import another, each_database
from tests.builders import make_arrival, make_ct_header, make_header
from triage.database.arrivals import ArrivalOutcome, record_arrival
from triage.database.connection import Database, migrate, open_database
from triage.ingest.group_commit import GroupCommit
from triage.records import Arrival
from triage.rules.policies import Policies
from triage.store import Store, open_store

TITLE = "Intake beside a million instances"
INSTANCES = 1_000_000
STUDIES = 100_000
OBJECTS = 2_000  # of one run
SENDERS = 4
KEPT = 0.9  # of the rate of an empty database


def measure(conditions: Conditions) -> Iterator[Row | Note]:
    """Yield objects per second for slices of CT series and for radiographs, empty and full."""
    history = History(
        studies=conditions.count(STUDIES),
        instances=conditions.count(INSTANCES),
        events=conditions.count(INSTANCES),
        jobs=conditions.count(STUDIES),
    )
    count = conditions.count(OBJECTS, least=4 * SENDERS)
    for name, url, folder in each_database(conditions):
        store = open_store(folder / "store", minimum_free_mib=0)
        migrate(url)
        full_url = another(url)
        say(f"  {name}: {history.instances:,} instances")
        fill(full_url, history)
        empty, full = open_database(url), open_database(full_url)
        for kind in ("CT", "DX"):
            for db in (empty, full):
                _rate(db, store, kind, 4 * SENDERS)  # statements are compiled, connections open
            beside = f"{name}, {kind}, {history.instances:,} instances"
            turns = {
                "empty": partial(_rate, empty, store, kind, count),
                "full": partial(_rate, full, store, kind, count),
            }
            values = by_turns(turns, conditions)
            kept = ratio(values["full"], to="empty", of=values["empty"], limit=at_least(KEPT))
            yield Row(what=f"{name}, {kind}, empty", values=values["empty"], unit="objects/s")
            yield Row(what=beside, values=values["full"], unit="objects/s", ratios=(kept,))
        empty.dispose()
        full.dispose()
        store.close()
    yield Note(text=f"{SENDERS} senders, one writer; every group is one synced commit.")


def _rate(db: Database, store: Store, kind: str, count: int) -> float:
    policies = Policies()
    writer = GroupCommit(db, store)
    shares = [_arrivals(kind, count // SENDERS) for _ in range(SENDERS)]
    outcomes: list[ArrivalOutcome] = []

    def send(share: Sequence[Arrival]) -> None:
        for arrival in share:
            outcomes.append(
                writer.submit(
                    lambda connection, now, arrival=arrival: record_arrival(  # type: ignore[misc]
                        connection, arrival, policies=policies, now=now
                    )
                )
            )

    writer.start()
    senders = [threading.Thread(target=send, args=(share,)) for share in shares]
    started = time.perf_counter()
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    seconds = time.perf_counter() - started
    writer.stop()
    if len(outcomes) != SENDERS * (count // SENDERS):
        raise RuntimeError("an object was not recorded")
    return len(outcomes) / seconds


def _arrivals(kind: str, count: int) -> list[Arrival]:
    """CT: the slices of one series. DX: each a study of its own."""
    if kind == "DX":
        return [make_arrival(make_header()) for _ in range(count)]
    first = make_ct_header()
    same = {
        "study_instance_uid": first.study_instance_uid,
        "series_instance_uid": first.series_instance_uid,
    }
    return [make_arrival(make_ct_header(**same)) for _ in range(count)]
