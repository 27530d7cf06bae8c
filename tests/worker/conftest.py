"""The house that worker tests live in, on both databases."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.house import House, open_house
from triage.imaging.decode_pool import DecodePool


@pytest.fixture(scope="package")
def pool() -> Iterator[DecodePool]:
    with DecodePool(1, timeout_s=60) as opened:
        yield opened


@pytest.fixture
def house(database_url: str, tmp_path: Path, pool: DecodePool) -> Iterator[House]:
    with open_house(database_url, tmp_path, pool) as opened:
        yield opened
