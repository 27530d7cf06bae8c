"""D5: `triage status` tells how SQLite keeps the data; what is unsafe is put right or refused.

Bounds: the journal mode that another program left behind is told as it is while the daemon is down
and is WAL once it runs; a place where SQLite cannot keep a WAL, and a network file system (in
tests/database), are refused with the next step.
"""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.assurance import Evidence, requirement
from tests.flows.program import Program
from triage.database.connection import require_wal
from triage.errors import ConfigError

MODES = ("delete", "truncate", "persist")


@pytest.fixture
def program(sqlite_url: str, tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path, sqlite_url)
    yield made
    if made.process is not None:
        made.stop()


def told(program: Program) -> dict[str, Any]:
    document = json.loads(program.call("status", "--json").stdout)
    found: dict[str, Any] = document["database"]
    return found


@requirement(
    "D5", bound="version, journal mode and synchronous are told; another mode is put right"
)
def test_d5_status_tells_the_modes_and_the_daemon_sets_them(
    program: Program, sqlite_url: str, evidence: Evidence, long: bool
) -> None:
    modes = MODES if long else MODES[:1]
    kept = 0
    for mode in modes:
        other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))
        other.execute(f"PRAGMA journal_mode = {mode}")
        other.close()
        # The file remembers whether it has a WAL, and no other mode: a new connection begins with
        # that which SQLite has for files without one.
        assert told(program)["journal_mode"] == "delete"
        program.start("--role", "receive").port()
        kept += told(program)["journal_mode"] == "wal"
        assert program.stop() == 0
    database = told(program)
    evidence.record(trials=len(modes), losses=len(modes) - kept, worst=database["version"])
    assert kept == len(modes)
    assert database["version"] == sqlite3.sqlite_version
    assert database["synchronous"] == "full"
    assert "lock file" in database["safe_mode"]


@requirement("D5", bound="where SQLite keeps no WAL nothing begins")
def test_d5_a_place_without_a_wal_is_refused() -> None:
    here = sqlite3.connect(":memory:")  # one of the places where SQLite declines
    with pytest.raises(ConfigError, match="journal mode memory") as refused:
        require_wal(here)
    assert "PostgreSQL" in refused.value.hint
    here.close()
