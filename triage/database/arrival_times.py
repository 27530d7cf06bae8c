"""When the studies of the worklist arrived and how they were ordered, for a simulation.

Nothing of a patient leaves here: two columns, no identifier. Studies that were old on arrival
(prefetched priors) never waited to be read and are left out.
"""

from collections.abc import Generator
from datetime import datetime
from typing import Any

from triage.database.reading_connection import Reader
from triage.records import Rank

STUDIES_A_PAGE = 10_000


def arrival_times(
    reader: Reader, *, since: datetime | None = None, page: int = STUDIES_A_PAGE
) -> Generator[tuple[datetime, Rank], None, None]:
    """Yield (first image received, order priority) of each study, in the order of their rows.

    `since` (aware) leaves out what arrived before it. Only a page is held at a time, and all pages
    are of one moment: close the iterator where it is not read to its end.
    """
    wanted, limits = "NOT too_old", list[Any]()
    if since is not None:
        wanted, limits = f"{wanted} AND received_at >= ?", [reader.time(since)]
    statement = (
        "SELECT id, received_at, order_priority FROM studies"  # noqa: S608
        f" WHERE id > ? AND {wanted} ORDER BY id LIMIT ?"
    )
    last = 0
    with reader.snapshot():
        while rows := reader.rows(statement, last, *limits, page):
            for row in rows:
                yield datetime.fromisoformat(row["received_at"]), Rank(row["order_priority"])
            last = rows[-1]["id"]
