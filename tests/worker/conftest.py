"""The house that worker tests live in, on both databases."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.house import POLICIES, Clock, House
from triage.database.connection import open_database
from triage.imaging.decode_pool import DecodePool
from triage.ingest.header import HeaderLimits
from triage.ingest.intake import Intake
from triage.store import open_store


@pytest.fixture(scope="package")
def pool() -> Iterator[DecodePool]:
    with DecodePool(1, timeout_s=60) as opened:
        yield opened


@pytest.fixture
def house(database_url: str, tmp_path: Path, pool: DecodePool) -> Iterator[House]:
    clock = Clock()
    db = open_database(database_url, clock=clock)
    store = open_store(tmp_path / "store", minimum_free_mib=0)
    intake = Intake(db, store, policies=POLICIES, limits=HeaderLimits())
    intake.start()
    yield House(db=db, store=store, intake=intake, pool=pool, clock=clock)
    intake.stop()
    store.close()
    db.dispose()
