"""Intake beside a million instances against intake into an empty database.

Objects are held as the receiver does it: threads write and sync a file each and hand it to the one
writer, which renames, syncs directories and commits groups. Beside that, rows alone, without any
file: the database's own share, which a sender never sees by itself. No network is read.
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
OBJECTS = 2_000  # of one run of rows alone
SIZES = {"CT": (800, 512 * 1024), "DX": (60, 10 * 1024 * 1024)}  # files: objects of a run, bytes
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
            files, size_bytes = SIZES[kind]
            for what, objects, payload in (
                ("intake", conditions.count(files, least=4 * SENDERS), bytes(size_bytes)),
                ("rows alone", count, None),
            ):
                turns = {
                    "empty": partial(_rate, empty, store, kind, objects, payload),
                    "full": partial(_rate, full, store, kind, objects, payload),
                }
                values = by_turns(turns, conditions)
                limit = at_least(KEPT) if payload else None
                kept = ratio(values["full"], to="empty", of=values["empty"], limit=limit)
                label = f"{name}, {kind}, {what}"
                yield Row(what=f"{label}, empty", values=values["empty"], unit="objects/s")
                yield Row(
                    what=f"{label}, {history.instances:,} instances",
                    values=values["full"],
                    unit="objects/s",
                    ratios=(kept,),
                )
        empty.dispose()
        full.dispose()
        store.close()
    yield Note(text=f"{SENDERS} senders, one writer; every group is one synced commit.")


def _rate(db: Database, store: Store, kind: str, count: int, payload: bytes | None = None) -> float:
    policies = Policies()
    writer = GroupCommit(db, store)
    shares = [_arrivals(kind, count // SENDERS) for _ in range(SENDERS)]
    outcomes: list[ArrivalOutcome] = []

    def send(share: Sequence[Arrival]) -> None:
        for arrival in share:
            staged = store.stage((payload,), digest=arrival.digest) if payload else None
            outcomes.append(
                writer.submit(
                    lambda connection, now, arrival=arrival: record_arrival(  # type: ignore[misc]
                        connection, arrival, policies=policies, now=now
                    ),
                    staged=staged,
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
