"""When the studies of the worklist arrived and how they were ordered, for a simulation.

Nothing of a patient leaves here: two columns, no identifier. Studies that were old on arrival
(prefetched priors) never waited to be read and are left out.
"""

from datetime import datetime
from typing import Any

from triage.database.reading_connection import Reader
from triage.records import Rank


def arrival_times(
    reader: Reader, *, since: datetime | None = None
) -> tuple[tuple[datetime, Rank], ...]:
    """Return (first image received, order priority) of each study, earliest first.

    `since` (aware) leaves out what arrived before it.
    """
    statement = "SELECT received_at, order_priority FROM studies WHERE NOT too_old"
    parameters: tuple[Any, ...] = ()
    if since is not None:
        statement, parameters = statement + " AND received_at >= ?", (reader.time(since),)
    with reader.snapshot():
        rows = reader.rows(statement + " ORDER BY received_at", *parameters)
    return tuple(
        (datetime.fromisoformat(row["received_at"]), Rank(row["order_priority"])) for row in rows
    )
