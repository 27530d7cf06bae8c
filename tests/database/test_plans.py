"""No statement of the daily work reads a long table from end to end."""

from datetime import timedelta

from sqlalchemy import Connection, event

from tests.builders import make_arrival, make_ct_header
from tests.database.conftest import Room
from triage.database import arrivals, drift_blocks, queue, worklist
from triage.records import JobKind

LONG_TABLES = ("studies", "series", "instances", "object_events", "jobs", "job_events", "results")


def test_the_work_of_the_day_uses_indices_only(sqlite_room: Room) -> None:
    room = sqlite_room
    statements: dict[str, object] = {}

    def note(
        _connection: object, _cursor: object, statement: str, values: object, *_: object
    ) -> None:
        statements.setdefault(statement, values)

    with room.db.write() as connection:
        event.listen(connection.engine, "before_cursor_execute", note)
    for arrival in (make_arrival(), make_arrival(make_ct_header())):
        room.arrive(arrival)
        room.arrive(arrival)
    [job] = room.claim()
    queue.heartbeat(room.db, [job], lease_s=60)
    room.commit(job, caption_due=True)
    room.clock.advance(3600)
    room.close()
    room.claim(JobKind.CAPTION, JobKind.ANALYSE)
    with room.db.write() as connection:
        later = room.clock() + timedelta(hours=1)
        queue.sweep_expired(connection, policies=room.policies, now=later)
        worklist.refresh_due(connection, policies=room.policies, now=later)
        worklist.find_study(connection, "A1")
        assert list(arrivals.instance_paths(connection))
        some = drift_blocks.uncounted(connection, now=later, limit=100)
        assert some.first
        assert drift_blocks.gather(connection, some)
        assert drift_blocks.reached(connection).not_counted == 0
    assert len(statements) > 20
    with room.db.read() as connection:
        for statement, values in statements.items():
            for step in plan(connection, statement, values):
                scanned = step.removeprefix("SCAN ").split()[0] if "SCAN" in step else ""
                assert scanned not in LONG_TABLES, statement


def plan(connection: Connection, statement: str, values: object) -> list[str]:
    if not statement.startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
        return []
    row = values[0] if isinstance(values, list) else values
    explained = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", row)  # type: ignore[arg-type]
    return [step.detail for step in explained]
