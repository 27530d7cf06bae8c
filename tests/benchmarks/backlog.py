"""A backlog of routine radiographs: true rows with true jobs, over files that repeat.

Ten thousand files of their own would be ten gigabytes that no figure depends on: rows and jobs
are made by the rules, one for each study, and share a few hundred files in the store.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import generate_uid
from sqlalchemy import func, select

from tests.dicom_files import make_dx, to_bytes
from triage.config import load_config
from triage.database.arrivals import record_arrival
from triage.database.connection import Database, open_database
from triage.database.tables_house import JobRow
from triage.ingest.header import HeaderLimits, read_header
from triage.ingest.part10 import split
from triage.records import Arrival, JobState, Source
from triage.store import open_store

FILES = 200
ROWS_PER_COMMIT = 500


def queue_up(config_path: Path, pixels: Sequence[NDArray[np.uint16]], studies: int) -> None:
    """Store the files and queue one image of each of `studies` studies; no daemon runs yet."""
    config = load_config(config_path)
    store = open_store(config.store.path, minimum_free_mib=0)
    db = open_database(config.database.url)
    today = datetime.now(UTC).strftime("%Y%m%d")
    first = []
    for number in range(min(FILES, studies)):
        shifted = np.roll(pixels[number % len(pixels)][::2, ::2], number, axis=0)
        data = to_bytes(make_dx(shifted, bits_stored=12, StudyDate=today))
        staged = store.stage((data,), digest=f"{number:064x}")
        store.commit([staged])
        first.append(
            Arrival(
                header=read_header(split(data), HeaderLimits()),
                digest=staged.digest,
                path=staged.path,
                size_bytes=staged.size_bytes,
                source=Source.C_STORE,
                sender_ae_title="ROUTINE",
            )
        )
    arrivals = (_another(first[number % len(first)], number) for number in range(studies))
    while group := list(itertools.islice(arrivals, ROWS_PER_COMMIT)):
        with db.write() as connection:
            now = db.now(connection)
            for arrival in group:
                record_arrival(connection, arrival, policies=config.policies, now=now)
    db.dispose()
    store.close()


def still_queued(db: Database) -> int:
    """Return how many jobs wait."""
    waiting = select(func.count()).where(JobRow.state == JobState.QUEUED)
    with db.read() as connection:
        return int(connection.execute(waiting).scalar_one())


def _another(arrival: Arrival, number: int) -> Arrival:
    """The same file as an image of another study."""
    header = replace(
        arrival.header,
        study_instance_uid=generate_uid(),
        series_instance_uid=generate_uid(),
        sop_instance_uid=generate_uid(),
    )
    return replace(arrival, header=header, digest=f"{number:064d}")
