"""One installation per test, migrated and stopped at the end, whatever happened."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.program import Program


@pytest.fixture
def program(sqlite_url: str, tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path, sqlite_url)
    yield made
    if made.process is not None:
        made.stop()
